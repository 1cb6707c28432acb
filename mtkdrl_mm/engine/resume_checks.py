# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Checks that a checkpoint belongs to the training that is resumed."""

import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from mmengine.optim import OptimWrapper
from torch import nn

from mtkdrl_mm.registry import HOOKS
from mtkdrl_mm.teacher_outputs import TeacherRecord, first_difference
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.class_names import class_names
from mtkdrl_mm.utils.errors import summarise
from mtkdrl_mm.utils.hook_configs import find_hook

# Hooks that are part of a distillation method: their keys in `default_hooks`, and classes.
_METHOD_HOOKS = dict(agent='AgentHook', meta_learning='MetaLearningHook')
# Keys that may change: paths, what is compared when the weights are loaded, what only makes a
# training faster, and stored outputs, which are compared with the store.
_IGNORED_KEYS = (
    'cfg_path',
    'checkpoint',
    'init_cfg',
    'pretrained',
    'centers',
    'data_preprocessor',
    'teacher_inference',
    'teacher_outputs',
)
_REMEDY = (
    'Resume with the same config, set another --work-dir for this training, or start it from the '
    'weights alone with `load_from`.'
)


def describe_training(cfg: dict[str, Any]) -> dict[str, str]:
    """Collect the settings that identify a training: model, teachers, method and optimiser.

    Numbers such as learning rates may change when a training is resumed, except
    for the number of classes. Shapes are compared when the weights are loaded.

    Args:
        cfg (dict): The whole config.

    Returns:
        dict[str, str]: Config keys, and their values as text.
    """
    model = cfg.get('model')
    if not isinstance(model, dict):
        return {}
    facts: dict[str, str] = {}
    if isinstance(model.get('teachers'), (list, tuple)):
        names = [teacher_name(teacher) for teacher in model['teachers']]
        facts['model.teachers'] = ', '.join(names)
        model = {k: v for k, v in model.items() if k not in ('teachers', 'student')}
    facts.update(_walk('model', model))
    for name, hook in _method_hooks(cfg):
        facts.update(_walk(f'default_hooks.{name}', hook))
    wrapper = cfg.get('optim_wrapper')
    facts.update(_optimizer_types('optim_wrapper', wrapper if isinstance(wrapper, dict) else {}))
    return facts


def _method_hooks(cfg: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The hooks of the method, wherever they stand, by their keys in `default_hooks`."""
    default = cfg.get('default_hooks') or {}
    for name, kind in _METHOD_HOOKS.items():
        hook = default.get(name) or find_hook(cfg, kind)
        if isinstance(hook, dict):
            yield name, hook


def _optimizer_types(key: str, wrapper: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The kind of the optimiser, or of each if there are several."""
    for name, child in wrapper.items():
        if name == 'optimizer' and isinstance(child, dict):
            kind = child.get('type')
            yield f'{key}.optimizer.type', kind if isinstance(kind, str) else str(kind)
        elif isinstance(child, dict) and 'optimizer' in child:
            yield from _optimizer_types(f'{key}.{name}', child)


def teacher_name(teacher: dict[str, Any]) -> str:
    """The name in a teacher's config, or that of its config file or of timm."""
    if teacher.get('name'):
        return str(teacher['name'])
    if not teacher.get('cfg_path') and teacher.get('model_name'):
        # Of an address of the hub, the repository without its revision.
        return str(teacher['model_name']).rsplit('/', 1)[-1].split('@')[0]
    path = str(teacher.get('cfg_path') or teacher.get('type') or '?')
    return path.rsplit('/', 1)[-1].removesuffix('.py')


def _walk(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, child in value.items():
            if name not in _IGNORED_KEYS:
                yield from _walk(f'{key}.{name}', child)
    elif isinstance(value, (list, tuple)) and any(isinstance(v, dict) for v in value):
        for index, child in enumerate(value):
            yield from _walk(f'{key}.{index}', child)
    elif isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        yield key, ', '.join(value)
    elif isinstance(value, (str, bool)) or key.endswith('num_classes'):
        yield key, str(value)


def check_same_training(cfg: dict[str, Any], path: str, contents: dict[str, Any]) -> None:
    """Raise an error if a checkpoint is of another training than the config.

    Args:
        cfg (dict): The config of the training.
        path (str): Path of the checkpoint, for the message.
        contents (dict): Contents of the checkpoint. Those of other programs have
            no description of the training, and are not compared.

    Raises:
        InputError: If model, teachers or method differ.
    """
    before = contents['meta'].get('training')
    if not isinstance(before, dict):
        return
    now = describe_training(cfg)
    defaults = _hook_defaults(cfg)
    before, now = {**defaults, **before}, {**defaults, **now}
    if not any(key.startswith('optim_wrapper.') for key in before):  # of an earlier version
        now = {key: value for key, value in now.items() if not key.startswith('optim_wrapper.')}
    keys = [key for key in before.keys() | now.keys() if before.get(key) != now.get(key)]
    if 'model.type' in keys:
        keys = ['model.type']  # the other differences follow from it
    differences = [
        f'`{key}` was {_phrase(before.get(key))} and is {_phrase(now.get(key))}'
        for key in sorted(keys, key=lambda key: (not key.startswith('model'), key))
    ]
    if differences:
        raise InputError(f'"{path}" is of another training: {summarise(differences, 3)}. {_REMEDY}')


def _hook_defaults(cfg: dict[str, Any]) -> dict[str, str]:
    """What the hooks' arguments are that a config, or an earlier version, does not set."""
    defaults: dict[str, str] = {}
    for name, hook in _method_hooks(cfg):
        if not hook.get('type'):
            continue
        kind = HOOKS.get(hook['type']) if isinstance(hook['type'], str) else hook['type']
        if kind is None:  # which is an error of its own when the hook is built
            continue
        for argument, parameter in inspect.signature(kind).parameters.items():
            if not isinstance(hook.get(argument), dict):
                defaults.update(_walk(f'default_hooks.{name}.{argument}', parameter.default))
    return defaults


def _phrase(value: str | None) -> str:
    return 'not set' if value is None else f'"{value}"'


def check_same_groups(optim_wrapper: OptimWrapper, saved: Any, path: str) -> None:
    """Raise an error if the parameters of a checkpoint's optimiser are grouped otherwise.

    Args:
        optim_wrapper (OptimWrapper): That of the training that is resumed.
        saved (Any): The state of the checkpoint's optimiser.
        path (str): Path of the checkpoint, for the message.

    Raises:
        InputError: If the numbers of groups, or of tensors in them, differ.
    """
    here, there = (_group_sizes(state) for state in (optim_wrapper.state_dict(), saved))
    if here == there or not there:
        return
    raise InputError(
        f'"{path}" is of another training: its optimiser has {summarise(there, 3)}, and that of '
        f'the config {summarise(here, 3)}. Was `optim_wrapper.paramwise_cfg` changed, or what is '
        f'frozen? {_REMEDY}'
    )


def _group_sizes(state: Any) -> list[str]:
    if not isinstance(state, dict):
        return []
    if 'param_groups' not in state:
        return [f'{name}: {size}' for name in sorted(state) for size in _group_sizes(state[name])]
    sizes = Counter(len(group['params']) for group in state['param_groups'])
    return [
        f'{count} group{"s" * (count > 1)} of {size} parameter{"s" * (size > 1)}'
        for size, count in sizes.items()
    ]


def check_same_classes(before: Any, now: Any, path: str) -> None:
    """Raise an error if a checkpoint has other classes than the training data.

    Args:
        before (dict | None): The checkpoint's ``dataset_meta``.
        now (dict | None): The data set's ``metainfo``.
        path (str): Path of the checkpoint, for the message.

    Raises:
        InputError: If number, names or order differ.
    """
    old, new = class_names(before), class_names(now)
    if not old or not new or old == new:
        return
    if len(old) != len(new):
        difference = f'{len(old)} classes, and the training data has {len(new)}'
    else:
        index = next(i for i, (a, b) in enumerate(zip(old, new)) if a != b)
        difference = (
            f'other classes than the training data: number {index} was "{old[index]}" and is '
            f'"{new[index]}"'
        )
    raise InputError(f'"{path}" was saved with {difference}. {_REMEDY}')


def describe_teachers(records: Sequence[TeacherRecord]) -> list[dict[str, Any]]:
    """Describe teachers for a checkpoint, see :func:`check_same_teachers`.

    Args:
        records (Sequence[TeacherRecord]): The teachers.

    Returns:
        list[dict[str, Any]]: Plain data.
    """
    return [asdict(record) for record in records]


def check_same_teachers(before: Any, now: Sequence[TeacherRecord], path: str) -> None:
    """Raise an error if a training was begun with other teachers of the same names.

    Weights are compared by their contents, so that files may be moved, unless they
    are on this machine no more.

    Args:
        before (Any): What :func:`describe_teachers` put into the checkpoint; None in
            checkpoints of other programs or versions.
        now (Sequence[TeacherRecord]): The teachers of the training that is resumed.
        path (str): Path of the checkpoint, for the message.

    Raises:
        InputError: If weights, class map, preprocessing, resolution or network of
            a teacher differ.
    """
    saved = {}
    for entry in before if isinstance(before, list) else []:
        try:
            saved[entry['name']] = TeacherRecord(**entry)
        except (KeyError, TypeError):  # of another version
            return
    for record in now:
        if record.name not in saved:
            continue
        old = saved[record.name]
        for what, there, here in _known(old, record).compared(_known(record, old)):
            difference = first_difference(there, here, what)
            if difference is not None:
                name, then, today = difference
                raise InputError(
                    f'"{path}" was trained by teacher "{record.name}" with another {name}: '
                    f'{then} then, {today} now. {_REMEDY}'
                )


def _known(record: TeacherRecord, other: TeacherRecord) -> TeacherRecord:
    """A record without the digests that another one lacks, because files are gone."""
    classes = record.class_map
    if isinstance(classes, dict) and 'text_sha256' in classes:
        theirs = other.class_map if isinstance(other.class_map, dict) else {}
        classes = {k: v for k, v in classes.items() if k != 'text_embeddings'}
        if not (classes['text_sha256'] and theirs.get('text_sha256')):
            classes['text_sha256'] = ''
    both = record.weights_sha256 and other.weights_sha256
    return replace(record, class_map=classes, weights_sha256=record.weights_sha256 if both else '')


def load_whole(model: nn.Module, state: dict[str, Any], path: str, remedy: str = _REMEDY) -> str:
    """Load the complete state of a model, as on resuming.

    Args:
        model (nn.Module): The model.
        state (dict): The saved state.
        path (str): Path of the checkpoint, for the message.
        remedy (str): What to do if it does not fit, for the message. Defaults to
            the advice for resuming.

    Returns:
        str: A line for the log.

    Raises:
        InputError: If a tensor is missing, unexpected, or of another shape.
    """
    state = {key.removeprefix('module.'): value for key, value in state.items()}
    expected = model.state_dict()
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    shapes = [
        f'{key} was {tuple(state[key].shape)} and is {tuple(expected[key].shape)}'
        for key in expected
        if key in state
        and hasattr(expected[key], 'shape')
        and state[key].shape != expected[key].shape
    ]
    parts = [
        f'{label} {summarise(keys, 3)}'
        for label, keys in (
            ('not in the checkpoint:', missing),
            ('only in the checkpoint:', unexpected),
            ('of another shape:', shapes),
        )
        if keys
    ]
    if parts:
        raise InputError(f'"{path}" is of another training: {"; ".join(parts)}. {remedy}')
    model.load_state_dict(state)
    return f'{type(model).__name__}: resumed {len(expected)}/{len(expected)} tensors of {path}'
