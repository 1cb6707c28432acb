# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Changes to a config before anything is built from it, with a log line each."""

import inspect
import logging
import os
import os.path as osp
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from .class_names import (
    class_names,
    find_class_folders,
    order_class_folders,
    read_class_names,
    shorten,
)
from .data_checks import (
    dataset_class,
    is_coco_dataset,
    list_file,
    read_coco_categories,
    split_folder,
)
from .data_settings import LOADERS, loader_datasets
from .errors import InputError, check_flag
from .hook_configs import hook_configs, kind_of

# Hooks of every training and test, by their keys in `default_hooks`.
_HOOKS = {
    'label_check': 'LabelCheckHook',
    'backbone_check': 'BackboneCheckHook',
    'topk_limit': 'TopKLimitHook',
    'left_out_images': 'LeftOutImagesHook',
}


def set_dataloader_defaults(cfg: Config, no_pin_memory: bool) -> None:
    """Set the defaults of OpenMMLab's tools in every loader.

    Args:
        cfg (Config): The config; changed in place.
        no_pin_memory (bool): Whether to disable pinned memory.
    """
    pin_memory = torch.cuda.is_available() and not no_pin_memory
    for name in LOADERS:
        loader = cfg.get(name)
        if not isinstance(loader, dict):
            continue
        if cfg.get('default_scope') == 'mmpretrain':
            loader.setdefault('collate_fn', ConfigDict(type='default_collate'))
        loader.setdefault('pin_memory', pin_memory)
        if no_pin_memory:
            loader['pin_memory'] = False
        if loader.get('num_workers', 0) > 0:
            loader.setdefault('persistent_workers', True)
        else:
            loader.pop('persistent_workers', None)


def add_checks(cfg: Config) -> None:
    """Add the hooks that check data and evaluators, unless the config has them.

    Args:
        cfg (Config): The config; changed in place.
    """
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    types = {kind_of(hook) for hook in hook_configs(cfg)}
    for key, name in _HOOKS.items():
        if name not in types:
            hooks.setdefault(key, ConfigDict(type=f'mtkdrl_mm.{name}'))


def leave_out_damaged_images(cfg: Config) -> None:
    """Wrap all data sets by ``IntactImages`` if ``skip_damaged_images`` is True.

    Args:
        cfg (Config): The config; changed in place.

    Raises:
        InputError: If the setting is neither True nor False.
    """
    if not check_flag('skip_damaged_images', cfg.get('skip_damaged_images', False)):
        return
    # Two loaders may share one dict.
    datasets = {id(dataset): dataset for _, dataset in loader_datasets(cfg)}
    for dataset in datasets.values():
        # Changed in place, because several keys may refer to the same dict.
        inner = ConfigDict(dataset)
        dataset.clear()
        dataset.update(type='mtkdrl_mm.IntactImages', dataset=inner)


def adapt_classes(
    cfg: Config, loaders: tuple[str, ...], trained_classes: Sequence[str] | None = None
) -> None:
    """Let every split use the class names of the training data.

    The classes are ``metainfo.classes`` of the training set, or else the names
    of its class folders; or, if it is a list and another split has class folders,
    of the folders in the list. In every split, the label of a folder is the index of
    its name in this list; or, if the folders have other names, that of the training
    images in folders of these names. A split may lack a class, but must not have
    others.

    Args:
        cfg (Config): The config; changed in place.
        loaders (tuple[str, ...]): Names of the loaders that are used.
        trained_classes (Sequence[str], optional): Classes of a checkpoint,
            which take precedence over those of the config. Defaults to None.

    Raises:
        InputError: If a split has a class that the training data does not have,
            nothing says which label its folders are, or names of label maps differ.
    """
    scope = cfg.get('default_scope')
    training = list(loader_datasets(cfg, ('train_dataloader',)))
    declared, source = _declared_classes(training)
    named = declared
    if trained_classes:
        named, source = list(trained_classes), 'the checkpoint'
    folders, location = _training_folders(training, scope, named or [])
    listed: list[str] = []
    lists = ''
    used = list(loader_datasets(cfg, loaders))
    for part in used:
        _declared_classes([part])  # Names that cannot be read are refused in every data set.
    if any(_reads_folders(dataset_class(dataset, scope), dataset) for _, dataset in used):
        listed, lists = _listed_folders(training, scope, named or ())
    if named is None and not folders:
        folders, location = listed, f'{lists}, the paths of the images'
    try:
        order = order_class_folders(folders, named, location) if folders else named
        where = location if folders else source
        contradiction = _contradiction(listed, lists, order or (), where)
        if contradiction and folders:
            raise InputError(contradiction)
    except InputError:
        if not trained_classes:
            raise
        # The training data has changed since then: the checkpoint takes precedence.
        order, listed, contradiction = named, [], ''
    if contradiction and not trained_classes:
        # Labels may be wrong on purpose. The names say what a label means.
        print_log(contradiction, 'current', logging.WARNING)
    orders = [] if order is None else [order]
    if not folders and named is not None and len(listed) == len(named):
        # Names of classes, such as "tench", for folders called n01440764.
        orders += [] if set(listed) & set(named) else [listed]
    # Other names for folders get their order if the training data is numbered so too.
    sorted_alike = not training or any(
        _reads_folders(dataset_class(dataset, scope), dataset) for _, dataset in training
    )
    classes = named
    if named is None and folders and not _is_imagenet(training, scope, folders):
        classes = folders
        print_log(f'{location}: the {len(folders)} folders are the classes.', 'current')
    for key, dataset in used:
        cls = dataset_class(dataset, scope)
        by_list, by_folder = _reads_lists(cls, dataset), _reads_folders(cls, dataset)
        # mmdet and mmseg have names too. mmpretrain's other data sets have numbers as labels,
        # which mean their own classes.
        by_name = declared is not None and not _is_mmpretrain_dataset(cls)
        if classes is not None and (by_list or by_folder or by_name):
            _set_classes(key, dataset, cls, classes, source)
        if by_list:
            _adapt_list(key, dataset, cls)
        elif by_folder:
            unnamed = lists if order is None else '' if sorted_alike else lists or training[0][0]
            if unnamed:
                _refuse_unnamed(key, dataset, scope, unnamed, orders)
            _adapt_folders(key, dataset, cls, orders, trained_by_folders=bool(folders))
        if is_coco_dataset(cls):
            _adapt_coco(key, dataset, cls, training)


def _declared_classes(datasets: Any) -> tuple[list[str] | None, str]:
    """The first class names that data sets declare, and their config key."""
    for key, dataset in datasets:
        for name, value in (
            ('metainfo.classes', (dataset.get('metainfo') or {}).get('classes')),
            ('classes', dataset.get('classes')),
        ):
            if value is None or (isinstance(value, str) and '://' in value):
                continue
            return read_class_names(f'{key}.{name}', value), f'{key}.{name}'
    return None, 'train_dataloader.dataset'


def _training_folders(
    datasets: list[tuple[str, dict[str, Any]]], scope: str | None, keep: Sequence[str]
) -> tuple[list[str], str]:
    """Class folders of all training sets, sorted, and the paths of these sets."""
    found: set[str] = set()
    paths = []
    for _, dataset in datasets:
        if _reads_folders(dataset_class(dataset, scope), dataset):
            path = split_folder(dataset)
            if osp.isdir(path):
                found.update(find_class_folders(path, keep))
                paths.append(f'"{path}"')
    return sorted(found), ' and '.join(paths)


def _listed_folders(
    datasets: list[tuple[str, dict[str, Any]]], scope: str | None, names: Sequence[str]
) -> tuple[list[str], str]:
    """The folders with the images of every label, by the training lists, and the lists' paths.

    No folders if the images of a label are in several, or those of several labels in one.
    """
    from mmpretrain.datasets import CustomDataset

    from mtkdrl_mm.datasets.labelled_images import read_list

    labels: dict[str, set[int]] = {}
    paths = []
    for _, dataset in datasets:
        path = list_file(dataset)
        cls = dataset_class(dataset, scope)
        if not _reads_lists(cls, dataset) or path is None or not osp.isfile(path):
            continue
        default = inspect.signature(CustomDataset).parameters['extensions'].default
        samples = list(read_list(path, dataset.get('extensions', default), names))
        parents = [osp.normpath(name).split('/')[:-1] for name, _ in samples]
        # All are in one folder of this depth.
        pairs = zip(min(parents, default=[]), max(parents, default=[]))
        depth = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        for parts, (_, label) in zip(parents, samples):
            labels.setdefault('/'.join(parts[depth : depth + 1]), set()).add(label)
        paths.append(f'"{path}"')
    folder_of = {min(found): folder for folder, found in labels.items()}
    clear = '' not in labels and all(len(found) == 1 for found in labels.values())
    clear = clear and sorted(folder_of) == list(range(len(labels)))
    folders = [folder_of[label] for label in range(len(labels))] if clear else []
    return folders, ' and '.join(paths)


def _contradiction(listed: list[str], lists: str, order: Sequence[str], source: str) -> str:
    """Phrase that a list gives the images of a class folder the label of another class, or ''."""
    for label, folder in enumerate(listed):
        if folder in order and order.index(folder) != label:
            return (
                f'The images in the folder "{folder}" have the label {label} in {lists}, but '
                f'"{folder}" is class {order.index(folder)} of {shorten(order)} ({source}). If '
                'that is not meant, set the names in the order of the labels in the list: '
                '--cfg-options metainfo.classes=NAME,NAME'
            )
    return ''


def _refuse_unnamed(
    key: str,
    dataset: dict[str, Any],
    scope: str | None,
    source: str,
    orders: list[list[str]],
) -> None:
    """Refuse class folders of which the training data does not tell which labels they are."""
    path = split_folder(dataset)
    if 'class_folders' in dataset or not osp.isdir(path):
        return
    folders = find_class_folders(path, [name for order in orders for name in order])
    if any(set(folders) & set(order) for order in orders):
        return
    if _is_imagenet([(key, dataset)], scope, folders):
        return
    start = f'{key} takes labels from the folders in "{path}", and the training data from {source}'
    if orders:
        raise InputError(
            f'{start}, which does not tell which of the classes {shorten(orders[-1])} the folders '
            f'{shorten(folders)} are. Call the folders as the classes; or, before training, the '
            'classes as the folders, in the order of the labels: --cfg-options '
            'metainfo.classes=NAME,NAME'
        )
    raise InputError(
        f'{start}, which does not tell what its numbers are called. Set the names of the folders '
        'in the order of these numbers: --cfg-options metainfo.classes=NAME,NAME'
    )


def _is_imagenet(datasets: Any, scope: str | None, folders: list[str]) -> bool:
    """Whether the folders are the classes in mmpretrain's METAINFO of ImageNet."""
    return len(folders) == 1000 and all(
        getattr(dataset_class(dataset, scope), 'METAINFO', None) for _, dataset in datasets
    )


def _is_mmpretrain_dataset(cls: Any) -> bool:
    from mmpretrain.datasets import BaseDataset

    return isinstance(cls, type) and issubclass(cls, BaseDataset)


def _is_custom_dataset(cls: Any) -> bool:
    from mmpretrain.datasets import CustomDataset

    return isinstance(cls, type) and issubclass(cls, CustomDataset)


def _reads_folders(cls: Any, dataset: dict[str, Any]) -> bool:
    """Whether a data set takes its labels from class folders."""
    if not _is_custom_dataset(cls) or not dataset.get('with_label', True):
        return False
    from mmpretrain.datasets import CustomDataset

    from mtkdrl_mm.datasets import LabelledImageDataset

    known_reader = cls.load_data_list in (
        CustomDataset.load_data_list,
        LabelledImageDataset.load_data_list,
    )
    unlabelled = dataset.get('split') == 'test' and cls.__name__ == 'ImageNet'
    remote = '://' in split_folder(dataset)
    return known_reader and not unlabelled and not remote and list_file(dataset) is None


def _reads_lists(cls: Any, dataset: dict[str, Any]) -> bool:
    return (
        _is_custom_dataset(cls)
        and dataset.get('with_label', True)
        and list_file(dataset) is not None
    )


def _convert(key: str, dataset: dict[str, Any], cls: Any) -> None:
    """Replace a data set of mmpretrain by ``LabelledImageDataset``."""
    if cls.__name__ not in ('ImageNet', 'CustomDataset', 'LabelledImageDataset'):
        raise InputError(
            f'{key}: a {cls.__name__} numbers the class folders, or reads the list, in a way that '
            'does not fit this data. Use `type="CustomDataset"`.'
        )
    listed = list_file(dataset)
    if 'split' in dataset:
        split = dataset.pop('split')
        dataset['data_prefix'] = dataset.get('data_prefix') or split
        if listed and not dataset.get('ann_file'):
            dataset['ann_file'] = osp.join('meta', f'{split}.txt')
    if cls.__name__ == 'ImageNet' and _declared_classes([(key, dataset)])[0] is None:
        metainfo = ConfigDict(dataset.get('metainfo') or {})
        dataset['metainfo'] = ConfigDict({**cls.METAINFO, **metainfo})
    dataset['type'] = 'mtkdrl_mm.LabelledImageDataset'


def _adapt_list(key: str, dataset: dict[str, Any], cls: type) -> None:
    from mtkdrl_mm.datasets.labelled_images import is_plain_list

    path = list_file(dataset)
    if path and osp.isfile(path) and not is_plain_list(path):
        _convert(key, dataset, cls)


def _adapt_folders(
    key: str,
    dataset: dict[str, Any],
    cls: type,
    orders: list[list[str]],
    trained_by_folders: bool,
) -> None:
    """Read class folders in the order that has most of them."""
    from mtkdrl_mm.datasets.labelled_images import unknown_folders

    path = split_folder(dataset)
    if not osp.isdir(path):
        return
    folders = find_class_folders(path, [name for order in orders for name in order])
    order = max(orders, key=lambda names: len(set(folders) & set(names)), default=None)
    other_names = not set(folders) & set(order or ()) and len(folders) == len(order or ())
    if order is None or (other_names and not trained_by_folders):
        # Names of classes, such as "tench", whose folders are called n01440764. Nothing but
        # folders of the training data could tell which folder is which class.
        order = folders
    unknown = [name for name in folders if name not in order]
    if unknown:
        raise InputError(f'{key}: {unknown_folders(path, unknown, order)}')
    lacking = [name for name in order if name not in folders]
    if lacking:
        print_log(
            f'{key}: "{path}" has no folder for {len(lacking)} of the {len(order)} classes: '
            f'{shorten(lacking)}.',
            'current',
        )
    everything = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    if everything != list(order) or any(_holds_hidden_folder(path, name) for name in folders):
        hidden = [name for name in everything if name not in folders]
        if hidden:
            print_log(f'{key}: the folders {shorten(hidden)} are no classes.', 'current')
        _convert(key, dataset, cls)
        dataset['class_folders'] = tuple(order)


def _holds_hidden_folder(path: str, name: str) -> bool:
    # Notebooks leave copies of images in this folder.
    return osp.isdir(osp.join(path, name, '.ipynb_checkpoints'))


def _reads_numbers(cls: Any) -> bool:
    """Whether a data set has label maps, and no names from which mmseg could renumber them."""
    bases = {base.__name__ for base in getattr(cls, '__mro__', ())}
    return 'BaseSegDataset' in bases and not (cls.METAINFO or {}).get('classes')


def _set_classes(
    key: str, dataset: dict[str, Any], cls: Any, classes: Sequence[str], source: str
) -> None:
    declared, name_of_key = _declared_classes([(key, dataset)])
    if declared is not None and declared != list(classes):
        unknown = [name for name in declared if name not in classes]
        if unknown:
            raise InputError(
                f'{name_of_key} names {shorten(unknown)}, but the training data ({source}) has the '
                f'classes {shorten(classes)}. Set the same `metainfo.classes` in all data sets.'
            )
        if _reads_numbers(cls):
            raise InputError(
                f'{name_of_key} are {shorten(declared)}, but the training data ({source}) has the '
                f'classes {shorten(classes)}, and the label maps of a {cls.__name__} have numbers, '
                'which would mean other classes. Set the same `metainfo.classes` in all data sets, '
                'and renumber the label maps that do not follow them.'
            )
        print_log(f'{name_of_key}: {shorten(classes)}, as in the training data.', 'current')
    dataset.pop('classes', None)
    metainfo = ConfigDict(dataset.get('metainfo') or {})
    if len(metainfo.get('palette') or classes) != len(classes):
        metainfo.pop('palette')
    metainfo['classes'] = tuple(classes)
    dataset['metainfo'] = metainfo


def _adapt_coco(
    key: str, dataset: dict[str, Any], cls: Any, training: list[tuple[str, dict[str, Any]]]
) -> None:
    """Use labels by category name if mmdet's numbering would differ.

    A class that is derived from mmdet's stays as it is: its labels are compared with the names
    when it is built, by ``LabelCheckHook``.
    """
    from mmdet.datasets import CocoDataset

    metainfo = dataset.get('metainfo') or {}
    classes = class_names(metainfo)
    # LVIS and others number all categories of their files, by other names than those of METAINFO.
    if 'classes' not in metainfo and cls.load_data_list is CocoDataset.load_data_list:
        classes = class_names(cls.METAINFO)
    path = list_file(dataset)
    if classes is None or path is None:
        return
    categories = read_coco_categories(key, path) if osp.isfile(path) else None
    if categories is not None:
        _check_categories(key, dataset, path, classes, categories, training)
    ordered = [name for name in categories or () if name in classes]
    if cls is CocoDataset and ordered != classes:
        # Also where the file cannot be read here: these labels are right for any order.
        import mtkdrl_mm.datasets.coco_by_names  # noqa: F401

        dataset['type'] = 'mtkdrl_mm.CocoByNames'


def _check_categories(
    key: str,
    dataset: dict[str, Any],
    path: str,
    classes: Sequence[str],
    categories: Sequence[str],
    training: list[tuple[str, dict[str, Any]]],
) -> None:
    """Refuse a COCO file whose categories are not the classes."""
    trains = any(dataset is other for _, other in training)
    if not trains:
        known = set(classes)
        for name, other in training:
            other_path = list_file(other)
            if other_path and osp.isfile(other_path):
                known |= set(read_coco_categories(name, other_path) or categories)
        unknown = [name for name in categories if name not in known]
        if unknown and training:
            raise InputError(
                f'The annotation file "{path}" ({key}) has the categories {shorten(unknown)}, '
                f'which the training data does not have; its classes are {shorten(classes)}. '
                'Rename them in the file, or remove them.'
            )
    lacking = [name for name in classes if name not in categories]
    if lacking and (len(lacking) == len(classes) or trains):
        raise InputError(
            f'Of the classes {shorten(classes)}, the annotation file "{path}" ({key}) lacks '
            f'{shorten(lacking)}; its `categories` are {shorten(categories)}. Use '
            'the names of its `categories` in `metainfo.classes` of all data sets.'
        )
