# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Putting a checkpoint's weights into a teacher, all of them or none."""

from mmpretrain.models import BaseClassifier
from torch import Tensor

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.checkpoint import extract_state_dict, read_checkpoint, summarise


def load_teacher(network: BaseClassifier, location: str, name: str) -> int:
    """Load a teacher's weights from an mmpretrain or torchvision checkpoint.

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
    weights = from_torchvision(weights)
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


def from_torchvision(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename torchvision's ResNet, Wide-ResNet and ResNeXt keys to mmpretrain's.

    Args:
        weights (dict[str, Tensor]): Any state dict.

    Returns:
        dict[str, Tensor]: Renamed if it has torchvision's keys, else unchanged.
    """
    if not {'conv1.weight', 'layer1.0.conv1.weight', 'fc.weight'} <= weights.keys():
        return weights
    return {
        ('head.' if key.startswith('fc.') else 'backbone.') + key: value
        for key, value in weights.items()
    }


def _check_classes(
    network: BaseClassifier, weights: dict[str, Tensor], location: str, name: str
) -> None:
    own = network.state_dict()
    for key in ('head.fc.weight', 'head.layers.head.weight'):
        if key in own and key in weights and own[key].shape[0] != weights[key].shape[0]:
            raise InputError(
                f'Teacher "{name}": "{location}" has {weights[key].shape[0]} classes, but the '
                f'config says {own[key].shape[0]}. Teachers, student and data must have the '
                'same classes.'
            )


def _list_keys(label: str, keys: list[str]) -> str:
    return f'{label}: {summarise(keys)}. ' if keys else ''
