# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Renaming of the tensors in torchvision's and timm's files to mmpretrain's names."""

import re

from mmpretrain.models import BaseClassifier, VisionTransformer
from torch import Tensor

from ..backbones import TimmFeatures

Weights = dict[str, Tensor]

# timm's vision transformers (and Facebook's DeiT files) to mmpretrain's.
_TRANSFORMER_NAMES = (
    (r'^head\.', 'head.layers.head.'),
    (r'^head_dist\.', 'head.layers.head_dist.'),
    (r'^(?!head)', 'backbone.'),
    (r'\.patch_embed\.proj\.', '.patch_embed.projection.'),
    (r'\.blocks\.(\d+)\.norm(\d)\.', r'.layers.\1.ln\2.'),
    (r'\.blocks\.(\d+)\.mlp\.fc1\.', r'.layers.\1.ffn.layers.0.0.'),
    (r'\.blocks\.(\d+)\.mlp\.fc2\.', r'.layers.\1.ffn.layers.1.'),
    (r'\.blocks\.(\d+)\.', r'.layers.\1.'),
    (r'^backbone\.norm\.', 'backbone.ln1.'),
    (r'^backbone\.norm_pre\.', 'backbone.pre_norm.'),
)


def adapt_keys(network: BaseClassifier, weights: Weights) -> Weights:
    """Rename the weights of a file to the names in a network.

    Args:
        network (BaseClassifier): The network.
        weights (dict[str, Tensor]): Weights with the names of mmpretrain,
            torchvision or timm.

    Returns:
        dict[str, Tensor]: The weights, renamed if they have the names of
        torchvision or timm.
    """
    if any(key.startswith('backbone.') for key in weights):
        return weights
    if isinstance(network.backbone, TimmFeatures):
        return _from_timm(network, weights)
    if isinstance(network.backbone, VisionTransformer) and 'patch_embed.proj.weight' in weights:
        return _renamed_transformer(weights)
    return from_torchvision(weights)


def from_torchvision(weights: Weights) -> Weights:
    """Rename the ResNet, Wide-ResNet and ResNeXt keys of torchvision and timm to mmpretrain's.

    Args:
        weights (dict[str, Tensor]): Any state dict.

    Returns:
        dict[str, Tensor]: The weights, renamed if they have these keys.
    """
    if not {'conv1.weight', 'layer1.0.conv1.weight', 'fc.weight'} <= weights.keys():
        return weights
    return {
        ('head.' if key.startswith('fc.') else 'backbone.') + key: value
        for key, value in weights.items()
    }


def classifier_key(network: BaseClassifier) -> str | None:
    """Key of the last layer's weight in a classifier; None if the head is another one."""
    keys = network.state_dict()
    return next((k for k in ('head.fc.weight', 'head.layers.head.weight') if k in keys), None)


def _from_timm(network: BaseClassifier, weights: Weights) -> Weights:
    """Rename timm's classifier to the head, and put the rest below ``backbone.model``.

    Weights with the names of the network's authors are converted by timm first.
    The weight of a 1x1 convolution as the classifier becomes that of a linear layer.
    """
    key_of_classifier = classifier_key(network) or 'head.fc.weight'
    head = key_of_classifier.removesuffix('weight')
    classifier = f'{network.backbone.classifier_name}.'

    def rename(weights: Weights) -> Weights:
        renamed = {
            head + key.removeprefix(classifier)
            if key.startswith(classifier)
            else f'backbone.model.{key}': value
            for key, value in weights.items()
        }
        weight = renamed.get(key_of_classifier)
        if weight is not None and weight.shape[2:] == (1, 1):
            renamed[key_of_classifier] = weight.flatten(1)
        return renamed

    renamed, expected = rename(weights), network.state_dict()
    missing = expected.keys() - renamed.keys()
    if key_of_classifier in expected and any(
        not key.endswith('num_batches_tracked') for key in missing
    ):
        num_classes = len(expected[key_of_classifier])
        converted = network.backbone.convert_weights(weights, num_classes)
        if converted is not None:
            return rename(converted)
    return renamed


def _renamed_transformer(weights: Weights) -> Weights:
    renamed = {}
    for key, value in weights.items():
        for pattern, replacement in _TRANSFORMER_NAMES:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed
