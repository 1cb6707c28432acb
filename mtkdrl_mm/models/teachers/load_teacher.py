# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Putting a checkpoint's weights into a teacher, all of them or none."""

from mmengine.logging import print_log
from mmpretrain.models import BaseClassifier

from mtkdrl_mm.utils.checkpoint import find_weights, read_checkpoint

from ..load_weights import load_found_weights


def load_teacher(
    network: BaseClassifier, location: str, name: str, which: str | None = None
) -> int:
    """Load a teacher's weights from a file of mmpretrain, torchvision or timm.

    Args:
        network (BaseClassifier): The built teacher.
        location (str): Path or URL of the checkpoint.
        name (str): The teacher's name, for messages.
        which (str, optional): 'ema' or 'raw', where the file has both averaged
            and raw weights. Defaults to the averaged ones.

    Returns:
        int: Number of tensors loaded.

    Raises:
        InputError: If the file is unusable, or does not hold exactly the
            teacher's weights.
    """
    role = f'teacher "{name}"'
    found = find_weights(read_checkpoint(location, role), location, role, which)
    loaded = load_found_weights(network, found, location, role, which=which)
    print_log(str(loaded), 'current')
    return loaded.count
