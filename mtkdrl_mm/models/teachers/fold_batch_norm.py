# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Folding of BatchNorm into the layers before it."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_LAYER_FUNCTIONS = {'conv1d', 'conv2d', 'conv3d', 'linear'}
# Entries of a weight that are folded at once.
_FOLDED_ENTRIES = 2**20
# What reads a tensor's shape or kind only, and not its numbers.
_METADATA = {
    Tensor.dim,
    Tensor.size,
    *(getattr(Tensor, name).__get__ for name in ('ndim', 'shape', 'dtype', 'device', 'is_cuda')),
}


class _DataFlow(TorchFunctionMode):
    """Records which tensors layers produce, and how often every tensor is used."""

    def __init__(self) -> None:
        super().__init__()
        self.uses: Counter[int] = Counter()
        #: Of the output of a layer: its weight.
        self.weights: dict[int, int] = {}
        #: Of the mean of a BatchNorm: the inputs of its calls.
        self.normed: dict[int, list[int]] = {}
        # A tensor that was freed would leave its id to another one.
        self._alive: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _METADATA:
            return result
        for tensor in _tensors([args, kwargs]):
            self.uses[id(tensor)] += 1
            self._alive.append(tensor)
        name = getattr(func, '__name__', '')
        if name in _LAYER_FUNCTIONS and len(args) > 1 and isinstance(result, Tensor):
            self.weights[id(result)] = id(args[1])
            self._alive.append(result)
        elif name == 'batch_norm' and len(args) > 1 and not kwargs.get('training', False):
            self.normed.setdefault(id(args[1]), []).append(id(args[0]))
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for child in value.values():
            yield from _tensors(child)
    elif isinstance(value, (list, tuple)):
        for child in value:
            yield from _tensors(child)


@torch.no_grad()
def fold_batch_norms(network: nn.Module, run: Callable[[], Any]) -> int:
    r"""Fold every BatchNorm that directly follows a convolution or linear layer into it.

    .. math::
        W' = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} W, \qquad
        b' = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} (b - \mu) + \beta

    Which layer a BatchNorm follows is not read from the order of the modules,
    which need not be the order of their calls, but observed in one forward
    pass. A pair is folded if the layer's output is used by this BatchNorm and
    nothing else, and if the layer's weight and the BatchNorm are used once. All
    others stay: BatchNorm before a convolution, after a sum, or shared by
    several layers; shared or recomputed weights.

    Args:
        network (nn.Module): The network in eval mode, changed in place.
        run (Callable): Runs the network once, on any images.

    Returns:
        int: Number of folded BatchNorms.
    """
    flow = _DataFlow()
    with flow:
        run()
    layers = _layers_by_weight(network)
    pairs: list[tuple[nn.Module, _BatchNorm]] = []
    replaced: dict[int, nn.Module] = {}
    for norm in {id(m): m for m in network.modules() if isinstance(m, _BatchNorm)}.values():
        follower = _without_norm(norm)
        inputs = flow.normed.get(id(norm.running_mean), [])
        if follower is None or len(inputs) != 1 or flow.uses[inputs[0]] != 1:
            continue
        layer = layers.get(flow.weights.get(inputs[0], 0))
        if layer is None or flow.uses[id(layer.weight)] != 1:
            continue
        if layer.bias is not None and flow.uses[id(layer.bias)] != 1:
            continue
        pairs.append((layer, norm))
        replaced[id(norm)] = follower
    # It holds all activations and weights, of which none would be freed while they are folded.
    del flow
    for layer, norm in pairs:
        _fold(layer, norm)
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if id(child) in replaced:
                parent._modules[name] = replaced[id(child)]
    return len(replaced)


def _layers_by_weight(network: nn.Module) -> dict[int, nn.Module]:
    """Layers by the identity of their weight, without those that share it."""
    found: dict[int, list[nn.Module]] = {}
    for module in network.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                found.setdefault(id(parameter), []).append(module)
    return {
        key: modules[0]
        for key, modules in found.items()
        # A weight that a parametrization computes is no parameter of the layer.
        if len(modules) == 1
        and isinstance(modules[0], _LAYERS)
        and id(modules[0]._parameters.get('weight')) == key
    }


def _without_norm(norm: _BatchNorm) -> nn.Module | None:
    """What remains of a BatchNorm that was folded; None if that is not known."""
    if norm.training or norm.running_mean is None or norm.running_var is None:
        return None
    if norm._forward_hooks or norm._forward_pre_hooks:
        return None
    if type(norm).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
        return nn.Identity()
    # timm's BatchNorm with an activation.
    if set(norm._modules) == {'drop', 'act'}:
        return nn.Sequential(norm.drop, norm.act)
    return None


def _fold(layer: nn.Module, norm: _BatchNorm) -> None:
    """Fold a BatchNorm into a layer; computed in float64, so that it is rounded once."""
    weight = layer.weight
    tensors = (weight, layer.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    folded = torch.empty_like(weight), weight.new_empty(len(weight))
    # Some output channels at a time: copies of all weights in float64 would need much memory.
    step = max(1, _FOLDED_ENTRIES // max(1, weight[0].numel()))
    for start in range(0, len(weight), step):
        rows = slice(start, start + step)
        w, b, mean, var, gamma, beta = (t if t is None else t[rows].double() for t in tensors)
        parts = fuse_conv_bn_weights(w, b, mean, var, norm.eps, gamma, beta)
        for tensor, part in zip(folded, parts):
            tensor[rows] = part
    for name, tensor in zip(('weight', 'bias'), folded):
        setattr(layer, name, nn.Parameter(tensor, requires_grad=False))
