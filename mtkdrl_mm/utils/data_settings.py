# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Settings of a config that follow from its data sets.

mmdet's and mmseg's configs have the data folder in six keys and the number of
classes in every head. On the command line one of them is enough: the others
follow, unless they are set too.
"""

import os.path as osp
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from .class_names import read_class_names
from .errors import InputError

LOADERS = ('train_dataloader', 'held_out_dataloader', 'val_dataloader', 'test_dataloader')


def follow_data(cfg: Config, before: Config, options: dict[str, Any]) -> None:
    """Propagate data settings of the command line to the rest of the config.

    - ``data_root=FOLDER`` sets the root of all loaders' data sets and of the
      evaluators' annotation files.
    - The data set's root and ``ann_file`` set the evaluator's ``ann_file``.
    - ``metainfo.classes=a,b``, or ``train_dataloader.dataset.metainfo.classes``,
      sets the classes of all data sets.
    - The classes set the number of classes of every head.

    Args:
        cfg (Config): The config with the command line's settings; changed in place.
        before (Config): The config without them.
        options (dict): The command line's settings, with dotted keys.

    Raises:
        InputError: If the classes and a given number of classes disagree.
    """
    if 'data_root' in options:
        _replace_root(cfg, before.get('data_root'), str(options['data_root']), options)
    for split in ('val', 'test'):
        _follow_annotations(cfg, before, split, options)
    classes = _given_classes(cfg, options)
    if classes is not None:
        _set_classes(cfg, classes, options)
        _set_num_classes(cfg, len(classes), options)


def innermost_datasets(dataset: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Iterate over the data sets inside wrappers, with their config keys.

    Args:
        dataset (dict): Config of a data set, or of a wrapper such as
            ``RepeatDataset`` or ``ConcatDataset``.
        key (str): Its config key.

    Yields:
        tuple[str, dict]: Config key and config of a data set that reads files.
    """
    if not isinstance(dataset, dict):
        return
    inner = [('dataset', dataset['dataset'])] if 'dataset' in dataset else []
    inner += [(f'datasets.{i}', part) for i, part in enumerate(dataset.get('datasets') or [])]
    for name, part in inner:
        yield from innermost_datasets(part, f'{key}.{name}')
    if not inner:
        yield key, dataset


def loader_datasets(
    cfg: Config, loaders: tuple[str, ...] = LOADERS
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Iterate over the data sets of a config's loaders, see :func:`innermost_datasets`."""
    for name in loaders:
        loader = cfg.get(name)
        if isinstance(loader, dict):
            yield from innermost_datasets(loader.get('dataset'), f'{name}.dataset')


def evaluators(cfg: Config, split: str) -> list[tuple[str, dict[str, Any]]]:
    """List the metrics of an evaluator with their config keys."""
    key = f'{split}_evaluator'
    value = cfg.get(key)
    if isinstance(value, (list, tuple)):
        return [(f'{key}.{i}', part) for i, part in enumerate(value) if isinstance(part, dict)]
    return [(key, value)] if isinstance(value, dict) else []


def _replace_root(cfg: Config, old: Any, new: str, options: dict[str, Any]) -> None:
    nodes = list(loader_datasets(cfg))
    nodes += [node for split in ('val', 'test') for node in evaluators(cfg, split)]
    replaced = False
    for key, node in nodes:
        for name in ('data_root', 'ann_file'):
            value = node.get(name)
            if not isinstance(value, str) or f'{key}.{name}' in options:
                continue
            rest = osp.relpath(value, old) if value and isinstance(old, str) and old else '..'
            if not rest.startswith('..'):
                node[name] = new if rest == '.' else osp.join(new, rest)
                replaced = True
            elif name == 'data_root':
                node[name] = new
                replaced = True
    if not replaced:
        raise InputError(
            f'data_root={new} has no effect: no data set of the config has a `data_root`. Set '
            'train_dataloader.dataset.data_root, or edit the config.'
        )


def _annotation_path(cfg: Config, split: str) -> str | None:
    """Path of the annotations of a loader's only data set."""
    datasets = list(loader_datasets(cfg, (f'{split}_dataloader',)))
    if len(datasets) != 1 or not isinstance(datasets[0][1].get('ann_file'), str):
        return None
    return osp.normpath(osp.join(datasets[0][1].get('data_root') or '', datasets[0][1]['ann_file']))


def _follow_annotations(cfg: Config, before: Config, split: str, options: dict[str, Any]) -> None:
    old, new = _annotation_path(before, split), _annotation_path(cfg, split)
    if old is None or new is None or old == new:
        return
    for key, evaluator in evaluators(cfg, split):
        value = evaluator.get('ann_file')
        if (
            isinstance(value, str)
            and osp.normpath(value) == old
            and f'{key}.ann_file' not in options
        ):
            evaluator['ann_file'] = new
            print_log(f'{key}.ann_file: {new}, as in the data set.', 'current')


def _given_classes(cfg: Config, options: dict[str, Any]) -> list[str] | None:
    """The classes that the command line sets, under any of the keys."""
    names = ['metainfo.classes', *(f'{key}.metainfo.classes' for key, _ in loader_datasets(cfg))]
    for name in names:
        if name in options:
            # mmengine reads a single word as the path of a file, or as its letters.
            return read_class_names(name, options[name], single=True)
    return None


def _set_classes(cfg: Config, classes: list[str], options: dict[str, Any]) -> None:
    for key, dataset in loader_datasets(cfg):
        name = f'{key}.metainfo.classes'
        if name in options and isinstance(options[name], (list, tuple)):
            if list(map(str, options[name])) != classes:
                raise InputError(
                    f'{name} are {", ".join(map(str, options[name]))}, but other data sets have '
                    f'{", ".join(classes)}: all need the same classes.'
                )
        dataset.setdefault('metainfo', ConfigDict())
        if len(dataset['metainfo'].get('palette') or ()) != len(classes):
            dataset['metainfo'].pop('palette', None)
        dataset['metainfo']['classes'] = tuple(classes)
        palette = options.get('metainfo.palette')
        if palette is not None:
            dataset['metainfo']['palette'] = palette


def _set_num_classes(cfg: Config, num_classes: int, options: dict[str, Any]) -> None:
    model = cfg.get('model')
    if isinstance(model, dict) and str(model.get('type')).endswith('MultiTeacherDistiller'):
        # The distiller passes the number on to the heads of student and teachers.
        if 'num_classes' not in model:
            _set_number('model', model, num_classes)
    nodes = list(_heads(model, 'model'))
    preprocessor = cfg.get('data_preprocessor')
    if isinstance(preprocessor, dict) and isinstance(preprocessor.get('num_classes'), int):
        nodes.append(('data_preprocessor', preprocessor))
    for key, head in nodes:
        old = head['num_classes']
        if old == num_classes:
            continue
        if f'{key}.num_classes' in options:
            raise InputError(
                f'{key}.num_classes is {old}, but the data sets have {num_classes} classes. '
                'Omit it: it follows from `metainfo.classes`.'
            )
        _set_number(key, head, num_classes)


def _set_number(key: str, node: dict[str, Any], num_classes: int) -> None:
    node['num_classes'] = num_classes
    print_log(f'{key}.num_classes: {num_classes}, the number of `metainfo.classes`.', 'current')


def _heads(node: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Iterate over the heads whose number of classes is that of the data."""
    if isinstance(node, dict):
        has_classes = isinstance(node.get('num_classes'), int)
        if has_classes and ('head' in key or key == 'model'):
            yield key, node
        for name, value in node.items():
            if name not in ('rpn_head', 'init_cfg', 'teachers', 'student'):
                yield from _heads(value, f'{key}.{name}')
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _heads(value, f'{key}.{index}')
