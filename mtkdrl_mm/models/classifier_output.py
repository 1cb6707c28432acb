# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Forward pass of any mmpretrain classifier, with embedding and feature map."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from mmpretrain.models import BaseClassifier, ConformerHead, VisionTransformer
from torch import Tensor, nn

from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.errors import first_line

from .head_loss import HEAD_ERRORS, per_image_loss
from .inner_classifier import InnerOutputs, inner_outputs
from .token_map import has_token_map, run_with_token_map


def run_classifier(
    classifier: BaseClassifier,
    inputs: Tensor,
    token_maps: bool = False,
    data_samples: Sequence[Any] | None = None,
    role: str = 'network',
) -> NetworkOutput:
    """Run backbone, neck and head once; return logits, embedding and feature map.

    Args:
        classifier (BaseClassifier): A classifier with a backbone and a head, as
            mmpretrain's ``ImageClassifier``.
        inputs (Tensor): Preprocessed images, shape (B, c, H, W).
        token_maps (bool): Whether a transformer's patch tokens count as its
            map. Defaults to False: transformers have an embedding only.
        data_samples (Sequence[DataSample], optional): The images' labels, for
            the loss of the head. Defaults to None: no loss is computed.
        role (str): "student" or the teacher's name, for messages.

    Returns:
        NetworkOutput: Logits (B, C), embedding (B, d), the backbone's last
        map (B, c, h, w), None for backbones without a map, and the head's loss
        (B,) if there are labels.

    Raises:
        InputError: If the network does not run on images of this shape, or the
            loss of the head does not accept the labels.
    """
    with _inner_outputs(classifier) as inner:
        features, feature_map = _run_body(classifier, inputs, token_maps, role)
    output = _run_head(classifier.head, features, data_samples)
    output.feature_map = feature_map
    if output.logits is output.embedding and inner is not None:
        # The head has no layer: the last layer is in the backbone.
        if inner.last_input is not None and inner.last_output is output.logits:
            output.embedding = inner.last_input
        if feature_map is None:
            output.feature_map = inner.feature_map
    return output


def _inner_outputs(classifier: BaseClassifier) -> Any:
    """Record the layers of the backbone if the head has no layer."""
    if any(True for _ in classifier.head.parameters()):
        return nullcontext[InnerOutputs | None](None)
    return inner_outputs(classifier.backbone)


def _run_body(
    classifier: BaseClassifier, inputs: Tensor, token_maps: bool, role: str
) -> tuple[Any, Tensor | None]:
    """Run backbone and neck; return the input of the head, and the map."""
    backbone = classifier.backbone
    last: Any
    with _explained(classifier, inputs, role):
        if token_maps and isinstance(backbone, VisionTransformer):
            features, last = run_with_token_map(backbone, inputs)
        else:
            features = backbone(inputs)
            last = features[-1] if isinstance(features, (tuple, list)) else features
            if isinstance(last, (tuple, list)):  # TimmFeatures returns [map, embedding]
                ignore_map = has_token_map(backbone) and not token_maps
                last = None if ignore_map else last[0]
        feature_map = last if isinstance(last, Tensor) and last.ndim == 4 else None
        if classifier.with_neck:
            features = classifier.neck(features)
    return features, feature_map


@contextmanager
def _explained(classifier: BaseClassifier, inputs: Tensor, role: str) -> Iterator[None]:
    """Turn a network's errors on images of a new shape into one sentence."""
    shape = tuple(inputs.shape[1:])
    tried = classifier.__dict__.setdefault('_working_shapes', set())
    if shape in tried:
        yield
        return
    try:
        yield
    except (InputError, torch.cuda.OutOfMemoryError):
        raise
    except HEAD_ERRORS as error:
        channels, height, width = shape
        advice = (
            'Resize the images in the data pipeline to a size that it was designed for.'
            if role == 'student'
            else 'Set its `input_size` to the one that it was designed for.'
        )
        raise InputError(
            f'The {role} ({type(classifier.backbone).__name__}) does not run on images of '
            f'{height}x{width} pixels with {channels} channels: {first_line(error)}. {advice}'
        ) from error
    tried.add(shape)


def _run_head(head: nn.Module, features: Any, data_samples: Sequence[Any] | None) -> NetworkOutput:
    """Run the head once; return embedding, logits and, with labels, the loss."""
    raw: list[tuple[bool, Any]] = []

    def keep(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        raw.append((len(args) + len(kwargs) == 1, output))

    handle = head.register_forward_hook(keep, with_kwargs=True)
    loss, logs = None, {}
    try:
        with _recorded_pre_logits(head) as embeddings:
            if data_samples is None:
                head(features)
            else:
                with per_image_loss(head) as module:
                    losses = head.loss(features, list(data_samples))
                loss = module.total
                logs = {key: value for key, value in losses.items() if 'loss' not in key}
                if not raw or not raw[-1][0]:
                    # ArcFace's scores in training have a margin that depends on the label.
                    head(features)
    finally:
        handle.remove()
    scores = raw[-1][1]
    embedding = embeddings[0] if embeddings else head.pre_logits(features)
    return NetworkOutput(
        logits=_join_scores(head, scores),
        embedding=_join_embedding(head, embedding),
        loss=loss,
        logs=logs,
    )


@contextmanager
def _recorded_pre_logits(head: nn.Module) -> Iterator[list[Any]]:
    """Record the results of ``pre_logits`` while the head runs.

    A separate call would run hidden layers twice, with another dropout mask and
    a second update of BatchNorm's statistics.
    """
    original: Callable[..., Any] = head.pre_logits
    kept: list[Any] = []

    def record(*args: Any, **kwargs: Any) -> Any:
        kept.append(original(*args, **kwargs))
        return kept[-1]

    head.__dict__['pre_logits'] = record
    try:
        yield kept
    finally:
        del head.__dict__['pre_logits']


def _join_scores(head: nn.Module, scores: Any) -> Tensor:
    """The logits of the head's prediction."""
    if isinstance(head, ConformerHead):  # the sum of its two classifiers
        return scores[0] + scores[1]
    if not isinstance(scores, Tensor):
        raise InputError(
            f'The head {type(head).__name__} returns {type(scores).__name__} and not a tensor of '
            'logits, and cannot be distilled. Use a head such as LinearClsHead.'
        )
    return scores


def _join_embedding(head: nn.Module, embedding: Any) -> Tensor:
    """The input of the last linear layer, as one vector per image."""
    if isinstance(embedding, (tuple, list)):
        if isinstance(head, ConformerHead):  # one vector per classifier
            return torch.cat(list(embedding), dim=1)
        embedding = embedding[0]  # DeiT's class and distillation tokens
    return embedding.flatten(2).mean(dim=2) if embedding.ndim > 2 else embedding


def check_classifier(classifier: BaseClassifier, role: str) -> None:
    """Raise an error for classifiers that :func:`run_classifier` cannot run.

    Args:
        classifier (BaseClassifier): The network.
        role (str): "student" or the teacher's name, for the message.

    Raises:
        InputError: If it has no backbone, or no head with ``pre_logits``.
    """
    kind = type(classifier).__name__
    if getattr(classifier, 'backbone', None) is None:
        raise InputError(
            f'The {role} is a {kind}, which has no `backbone`. Use an mmpretrain classifier.'
        )
    head = getattr(classifier, 'head', None)
    if not hasattr(head, 'pre_logits'):
        kind = '' if head is None else f' (its head is a {type(head).__name__})'
        raise InputError(
            f'The {role} has no classification head with `pre_logits`{kind}. Use an mmpretrain '
            'classifier with a head such as LinearClsHead.'
        )
