# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""One way to run any mmpretrain classifier, student or teacher."""

from mmpretrain.models import BaseClassifier
from torch import Tensor

from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.utils import InputError


def run_classifier(classifier: BaseClassifier, inputs: Tensor) -> NetworkOutput:
    """Run backbone, neck and head once and keep what distillation needs.

    Args:
        classifier (BaseClassifier): A classifier with a backbone and a head, as
            mmpretrain's ``ImageClassifier``.
        inputs (Tensor): Preprocessed images, shape (B, 3, H, W).

    Returns:
        NetworkOutput: Logits (B, C), embedding (B, d), and the backbone's last
        map (B, c, h, w) or None where the backbone gives no map.
    """
    features = classifier.backbone(inputs)
    last = features[-1] if isinstance(features, (tuple, list)) else features
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
