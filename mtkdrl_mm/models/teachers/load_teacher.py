# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Putting a checkpoint's weights into a teacher, all of them or none."""

from mmpretrain.models import BaseClassifier
from torch import Tensor

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.checkpoint import extract_state_dict, read_checkpoint, summarise

from .checkpoint_keys import adapt_keys, classifier_key


def load_teacher(network: BaseClassifier, location: str, name: str) -> int:
    """Load a teacher's weights from a file of mmpretrain, torchvision or timm.

    Args:
        network (BaseClassifier): The built teacher.
        location (str): Path or URL of the checkpoint.
        name (str): The teacher's name, for messages.

    Returns:
        int: Number of tensors loaded.

    Raises:
        InputError: If the file is unusable, or does not hold exactly the
            teacher's weights.
    """
    role = f'teacher "{name}"'
    weights = extract_state_dict(read_checkpoint(location, role), location, role)
    weights = adapt_keys(network, weights)
    _check_classes(network, weights, location, name)
    try:
        # The loading hooks of some backbones rename or resize weights, so the
        # result is judged after them.
        outcome = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        shapes = [line.strip() for line in str(error).split('\n')[1:] if line.strip()]
        raise InputError(
            f'Teacher "{name}": "{location}" is of another architecture, the shapes differ: '
            f'{summarise(shapes, 2)}'
        ) from error
    missing = [key for key in outcome.missing_keys if not key.endswith('num_batches_tracked')]
    unexpected = [key for key in outcome.unexpected_keys if not key.startswith('data_preproc')]
    if missing or unexpected:
        raise InputError(
            f'Teacher "{name}": "{location}" is of another architecture than its config. '
            + _list_keys('Not in the file', missing)
            + _list_keys('Only in the file', unexpected)
            + 'Give the config that the checkpoint was trained with.'
        )
    return len(weights)


def _check_classes(
    network: BaseClassifier, weights: dict[str, Tensor], location: str, name: str
) -> None:
    key = classifier_key(network)
    if key is None or key not in weights:
        return
    expected = network.state_dict()[key].shape[0]
    if expected != weights[key].shape[0]:
        raise InputError(
            f'Teacher "{name}": "{location}" has {weights[key].shape[0]} classes, but the '
            f'config says {expected}. Teachers, student and data must have the same classes; '
            "where the teacher knows more, give its config the file's number, and the teacher a "
            '`class_map`.'
        )


def _list_keys(label: str, keys: list[str]) -> str:
    return f'{label}: {summarise(keys)}. ' if keys else ''
