# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Whether a checkpoint is of the training that is to be resumed."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.checkpoint import summarise

# The hooks that belong to a method.
_METHOD_HOOKS = ('agent', 'meta_learning')
# Where files are may change; what is in them is compared elsewhere.
_PLACES = ('cfg_path', 'checkpoint', 'init_cfg', 'pretrained', 'centers', 'data_preprocessor')
_REMEDY = (
    'Resume with the config of before, give this training another --work-dir, or start it from '
    'the weights alone with `load_from`.'
)


def describe_training(cfg: dict[str, Any]) -> dict[str, str]:
    """What makes a training that one and not another: model, teachers, method.

    Numbers such as learning rates may change between two parts of a training,
    except for the number of classes. Shapes are compared when the weights are
    loaded.

    Args:
        cfg (dict): The whole config.

    Returns:
        dict[str, str]: Config keys and their values as text.
    """
    model = cfg.get('model')
    if not isinstance(model, dict):
        return {}
    facts: dict[str, str] = {}
    if isinstance(model.get('teachers'), (list, tuple)):
        names = [_teacher_name(teacher) for teacher in model['teachers']]
        facts['model.teachers'] = ', '.join(names)
        model = {k: v for k, v in model.items() if k not in ('teachers', 'student')}
    facts.update(_walk('model', model))
    hooks = cfg.get('default_hooks') or {}
    for name in _METHOD_HOOKS:
        if isinstance(hooks.get(name), dict):
            facts.update(_walk(f'default_hooks.{name}', hooks[name]))
    return facts


def _teacher_name(teacher: dict[str, Any]) -> str:
    path = str(teacher.get('cfg_path', teacher.get('type', '?')))
    return str(teacher.get('name') or path.rsplit('/', 1)[-1].removesuffix('.py'))


def _walk(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, child in value.items():
            if name not in _PLACES:
                yield from _walk(f'{key}.{name}', child)
    elif isinstance(value, (list, tuple)) and any(isinstance(v, dict) for v in value):
        for index, child in enumerate(value):
            yield from _walk(f'{key}.{index}', child)
    elif isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        yield key, ', '.join(value)
    elif isinstance(value, (str, bool)) or key.endswith('num_classes'):
        yield key, str(value)


def check_same_training(cfg: dict[str, Any], path: str, contents: dict[str, Any]) -> None:
    """Compare a config with that of a checkpoint.

    Args:
        cfg (dict): The config of the training that is to be resumed.
        path (str): The checkpoint, for the message.
        contents (dict): What is in it. Checkpoints of other programs have no
            description and are not compared.

    Raises:
        InputError: If model, teachers or method are others.
    """
    before = contents['meta'].get('training')
    if not isinstance(before, dict):
        return
    now = describe_training(cfg)
    keys = [key for key in before.keys() | now.keys() if before.get(key) != now.get(key)]
    if 'model.type' in keys:
        keys = ['model.type']  # all else differs for that reason
    differences = [
        f'`{key}` was {_phrase(before.get(key))} and is {_phrase(now.get(key))}'
        for key in sorted(keys, key=lambda key: (not key.startswith('model'), key))
    ]
    if differences:
        raise InputError(f'"{path}" is of another training: {summarise(differences, 3)}. {_REMEDY}')


def _phrase(value: str | None) -> str:
    return 'not set' if value is None else f'"{value}"'


def check_same_classes(before: Any, now: Any, path: str) -> None:
    """Compare the classes of the training data with those of a checkpoint.

    Args:
        before (dict | None): The checkpoint's ``dataset_meta``.
        now (dict | None): The data set's ``metainfo``.
        path (str): The checkpoint, for the message.

    Raises:
        InputError: If number, names or order differ.
    """
    old, new = (list((meta or {}).get('classes') or ()) for meta in (before, now))
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


def load_whole(model: nn.Module, state: dict[str, Any], path: str) -> str:
    """Load a model's state on resuming: all of it.

    Args:
        model (nn.Module): The model.
        state (dict): Its saved state.
        path (str): The checkpoint, for the message.

    Returns:
        str: What was loaded, for the log.

    Raises:
        InputError: If anything is missing, left over, or of another shape.
    """
    state = {key.removeprefix('module.'): value for key, value in state.items()}
    own = model.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    shapes = [
        f'{key} was {tuple(state[key].shape)} and is {tuple(own[key].shape)}'
        for key in own
        if key in state and hasattr(own[key], 'shape') and state[key].shape != own[key].shape
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
        raise InputError(f'"{path}" is of another training: {"; ".join(parts)}. {_REMEDY}')
    model.load_state_dict(state)
    return f'{type(model).__name__}: resumed {len(own)}/{len(own)} tensors of {path}'
