# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Shapes of a network's outputs, inferred from dummy images."""

import torch
from mmengine.utils import to_2tuple
from mmpretrain.models import BaseClassifier
from torch import nn

from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.utils import InputError

from .classifier_output import run_classifier

# Small sizes come first: most networks run at any size, and the others at one of these.
COMMON_SIZES = (64, 224, 256, 32, 28, 384, 512)


def infer_output(
    classifier: BaseClassifier,
    role: str,
    input_size: tuple[int, int] | None = None,
    token_maps: bool = False,
) -> NetworkOutput:
    """Run a network in eval mode on two dummy images.

    Args:
        classifier (BaseClassifier): The network. Its training mode is restored.
        role (str): "student" or the teacher's name, for messages.
        input_size (tuple[int, int], optional): Height and width. Defaults to
            None: the size that the backbone was designed for, else the first
            common size at which it runs.
        token_maps (bool): See :func:`run_classifier`.

    Returns:
        NetworkOutput: The outputs for B = 2 images, without gradient.

    Raises:
        InputError: If the network does not run at the given size, or at any of
            the common ones.
    """
    sizes = [input_size] if input_size is not None else dummy_input_sizes(classifier)
    modes = {module: module.training for module in classifier.modules()}
    classifier.eval()
    problems = []
    try:
        for size in sizes:
            try:
                return _run(classifier, role, size, token_maps)
            except InputError as error:
                problems.append(error)
    finally:
        for module, training in modes.items():
            module.training = training
    raise problems[0]


def _run(
    classifier: BaseClassifier, role: str, size: tuple[int, int], token_maps: bool
) -> NetworkOutput:
    # No global random number is drawn: the student's initialisation must not depend on its size.
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, input_channels(classifier), *size, generator=generator)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return run_classifier(classifier, inputs, token_maps, role=role)


def dummy_input_sizes(classifier: BaseClassifier) -> list[tuple[int, int]]:
    """Heights and widths to try a network with, its designed size first."""
    designed = designed_size(classifier.backbone)
    sizes = [(size, size) for size in COMMON_SIZES]
    return sizes if designed is None else [designed, *sizes]


def designed_size(backbone: nn.Module) -> tuple[int, int] | None:
    """Height and width that a transformer was designed for; None for other backbones."""
    size = getattr(backbone, 'img_size', None)
    if size is None:
        return None
    height, width = to_2tuple(size)
    return int(height), int(width)


def input_channels(classifier: nn.Module) -> int:
    """Number of input channels of a network, those of its first convolution if it has no other."""
    channels = getattr(classifier.backbone, 'image_channels', None)
    if channels is not None:
        return int(channels)
    for module in classifier.backbone.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return 3
