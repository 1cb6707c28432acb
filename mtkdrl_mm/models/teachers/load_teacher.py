# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Loading of a teacher's weights into its network."""

from typing import NamedTuple

from mmengine.logging import print_log
from torch import nn

from mtkdrl_mm.utils.class_names import checkpoint_classes
from mtkdrl_mm.weights.checkpoint import read_checkpoint
from mtkdrl_mm.weights.state_dict import find_weights

from ..load_weights import load_found_weights


class LoadedTeacher(NamedTuple):
    """What :func:`load_teacher` has loaded.

    Attributes:
        num_tensors (int): Number of loaded tensors.
        classes (list[str], optional): The classes that the file names, in the order of
            the logits; None if it names none.
    """

    num_tensors: int
    classes: list[str] | None


def load_teacher(
    network: nn.Module, checkpoint: str, name: str, weights: 'str | None' = None
) -> LoadedTeacher:
    """Load a teacher's weights from a file, all of them or none.

    Args:
        network (nn.Module): The built network; changed in place.
        checkpoint (str): Path or URL of its weights.
        name (str): The teacher's name, for messages.
        weights (str, optional): 'ema' or 'raw', where the file has both.
            Defaults to None: the averaged ones.

    Returns:
        LoadedTeacher: Number of loaded tensors, and the file's classes.

    Raises:
        InputError: If the file is missing, damaged, unsafe, or of another
            architecture.
    """
    role = f'teacher "{name}"'
    contents = read_checkpoint(checkpoint, role)
    found = find_weights(contents, checkpoint, role, weights)
    loaded = load_found_weights(network, found, checkpoint, role, which=weights)
    print_log(str(loaded), 'current')
    return LoadedTeacher(loaded.count, checkpoint_classes(contents))
