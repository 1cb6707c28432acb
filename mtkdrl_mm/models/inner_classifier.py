# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Recording of layers inside backbones that contain the classifier, such as VGG."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass
class InnerOutputs:
    """Recorded tensors of a backbone.

    Attributes:
        last_input (Tensor, optional): Input of the last linear layer, (B, d).
        last_output (Tensor, optional): Output of this layer, (B, C).
        feature_map (Tensor, optional): Output of the last layer that returns a
            map of more than one position, (B, c, h, w).
    """

    last_input: Tensor | None = None
    last_output: Tensor | None = None
    feature_map: Tensor | None = None


@contextmanager
def inner_outputs(backbone: nn.Module) -> Iterator[InnerOutputs]:
    """Record the last layers of a backbone while it runs.

    Args:
        backbone (nn.Module): A backbone with a classifier: AlexNet, VGG,
            InceptionV3, ...

    Yields:
        InnerOutputs: The tensors, set when the backbone runs.
    """
    outputs = InnerOutputs()

    def keep_linear(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        outputs.last_input, outputs.last_output = inputs[0], output

    def keep_map(module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output[0, 0].numel() > 1:
            outputs.feature_map = output

    # VGG calls the layers of its Sequential one by one.
    layers = list(backbone.children())
    layers += [layer for child in layers if isinstance(child, nn.Sequential) for layer in child]
    handles = [layer.register_forward_hook(keep_map) for layer in layers]
    linear = [layer for layer in backbone.modules() if isinstance(layer, nn.Linear)]
    if linear:
        handles.append(linear[-1].register_forward_hook(keep_linear))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
