# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Weights of mmpretrain's ResNets under torchvision's names."""

import torch
import torchvision
from torch import Tensor, nn

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.errors import summarise

# torchvision's residual networks: ResNets, ResNeXts and Wide ResNets.
_NAMES = ('resnet*', 'resnext*', 'wide_resnet*')


def to_torchvision(
    student: nn.Module, weights: dict[str, Tensor], path: str
) -> tuple[str, dict[str, Tensor]]:
    """Rename the weights of an mmpretrain ResNet for the network of torchvision that equals it.

    Args:
        student (nn.Module): The classifier with its weights. It is left in
            evaluation mode and in double precision.
        weights (dict[str, Tensor]): The weights to rename, those of ``student``
            or of its backbone (``backbone.*``) alone.
        path (str): Where they come from, for messages.

    Returns:
        tuple[str, dict[str, Tensor]]: The network's name in
        ``torchvision.models``, and all its weights; without ``fc`` for a
        backbone alone.

    Raises:
        InputError: If no network of torchvision has these tensors, or if it
            computes something else from them.
    """
    renamed = {
        key.removeprefix('backbone.').replace('head.fc.', 'fc.'): value
        for key, value in weights.items()
    }
    name, network = _network_of(renamed, path)
    network.to_empty(device='cpu').load_state_dict(renamed)
    difference, size = _compare(student, network)
    if not difference <= 1e-6 * size:
        raise InputError(
            f'"{path}" has the tensors of torchvision\'s {name}, but computes something else from '
            f'them (outputs of up to {size:.3g} differ by {difference:.3g}), as with '
            "style='caffe' or other strides: export it without --format torchvision."
        )
    return name, renamed


def _network_of(weights: dict[str, Tensor], path: str) -> tuple[str, nn.Module]:
    """The network of torchvision with tensors of these names and shapes, without values."""
    shapes = {key: value.shape for key, value in weights.items()}
    num_classes = len(weights['fc.bias']) if 'fc.bias' in weights else 1
    differences = {}
    for name in torchvision.models.list_models(torchvision.models, include=_NAMES):
        with torch.device('meta'):
            network = torchvision.models.get_model(name, num_classes=num_classes)
        if 'fc.weight' not in weights:
            network.fc = nn.Identity()
        expected = {key: value.shape for key, value in network.state_dict().items()}
        if expected == shapes:
            return name, network
        differences[name] = sorted({key for key, _ in expected.items() ^ shapes.items()})
    closest = min(differences, key=lambda name: len(differences[name]))
    raise InputError(
        f"--format torchvision is for torchvision's networks {', '.join(differences)}, but "
        f'"{path}" holds none of them: it differs from {closest} in '
        f'{summarise(differences[closest])}.'
    )


def _compare(student: nn.Module, network: nn.Module) -> tuple[float, float]:
    """The largest difference of the outputs for a batch, and the largest output."""
    student, network = student.double().eval(), network.double().eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 64, 64, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        outputs = network(images)
        if isinstance(network.fc, nn.Identity):
            wanted = student.backbone(images)[-1].mean(dim=(2, 3))
        else:
            wanted = student(images)
    return float((outputs - wanted).abs().max()), float(wanted.abs().max())
