# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""One way to run any mmpretrain classifier, student or teacher."""

from typing import Any

from mmpretrain.models import BaseClassifier, VisionTransformer
from torch import Tensor

from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.utils import InputError

from .token_map import has_token_map, run_with_token_map


def run_classifier(
    classifier: BaseClassifier, inputs: Tensor, token_maps: bool = False
) -> NetworkOutput:
    """Run backbone, neck and head once and keep what distillation needs.

    Args:
        classifier (BaseClassifier): A classifier with a backbone and a head, as
            mmpretrain's ``ImageClassifier``.
        inputs (Tensor): Preprocessed images, shape (B, 3, H, W).
        token_maps (bool): Whether a transformer's patch tokens count as its
            map. Defaults to False: it has an embedding only.

    Returns:
        NetworkOutput: Logits (B, C), embedding (B, d), and the backbone's last
        map (B, c, h, w) or None where the backbone gives no map.
    """
    backbone = classifier.backbone
    last: Any
    if token_maps and isinstance(backbone, VisionTransformer):
        features, last = run_with_token_map(backbone, inputs)
    else:
        features = backbone(inputs)
        last = features[-1] if isinstance(features, (tuple, list)) else features
        if isinstance(last, (tuple, list)):  # [map, embedding] of TimmFeatures
            hidden = has_token_map(backbone) and not token_maps
            last = None if hidden else last[0]
    feature_map = last if isinstance(last, Tensor) and last.ndim == 4 else None
    if classifier.with_neck:
        features = classifier.neck(features)
    embedding = classifier.head.pre_logits(features)
    if isinstance(embedding, (tuple, list)):  # DeiT's class and distillation tokens
        embedding = embedding[0]
    logits = classifier.head(features)
    return NetworkOutput(logits=logits, embedding=embedding, feature_map=feature_map)


def check_classifier(classifier: BaseClassifier, role: str) -> None:
    """Refuse classifiers that :func:`run_classifier` cannot run.

    Args:
        classifier (BaseClassifier): The built network.
        role (str): "student" or the teacher's name, for the message.

    Raises:
        InputError: If it has no backbone, or no head with ``pre_logits``.
    """
    kind = type(classifier).__name__
    if getattr(classifier, 'backbone', None) is None:
        raise InputError(
            f'The {role} is a {kind}, which has no `backbone`. Give an mmpretrain classifier.'
        )
    if not hasattr(getattr(classifier, 'head', None), 'pre_logits'):
        raise InputError(
            f'The {role} has no classification head with `pre_logits`. Give an mmpretrain '
            'classifier with a head such as LinearClsHead.'
        )
