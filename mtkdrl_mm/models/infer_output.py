# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The sizes of a network's outputs, from dummy images."""

from typing import Any

import torch
from mmpretrain.models import BaseClassifier
from torch import nn

from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.utils import InputError

from .classifier_output import run_classifier

# Small ones first: most networks run at any size, and others at one of these.
COMMON_SIZES = (64, 224, 256, 32, 28, 384, 512)


def infer_output(
    classifier: BaseClassifier,
    role: str,
    input_size: tuple[int, int] | None = None,
    token_maps: bool = False,
) -> NetworkOutput:
    """Run a network in eval mode on two dummy images.

    Args:
        classifier (BaseClassifier): The network; it is left in its mode.
        role (str): "student" or the teacher's name, for messages.
        input_size (tuple[int, int], optional): Height and width. Defaults to
            None: the network's own size, or else the first common one that it
            runs with.
        token_maps (bool): See :func:`run_classifier`.

    Returns:
        NetworkOutput: For B = 2 images, without gradient.

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
    # The student's initialisation must not depend on what its size is.
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, input_channels(classifier), *size, generator=generator)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return run_classifier(classifier, inputs, token_maps, role=role)


def dummy_input_sizes(classifier: BaseClassifier) -> list[tuple[int, int]]:
    """Heights and widths to try a network with, its own ``img_size`` first."""
    own: Any = getattr(classifier.backbone, 'img_size', None)
    if isinstance(own, int):
        own = (own, own)
    sizes = [(size, size) for size in COMMON_SIZES]
    return sizes if own is None else [(int(own[0]), int(own[1])), *sizes]


def input_channels(classifier: nn.Module) -> int:
    """Channels of the images that a network takes, those of its first convolution."""
    for module in classifier.backbone.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return 3
