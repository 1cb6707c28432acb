# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Per-image loss of a classifier's head."""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.amp.autocast_mode import autocast

from mtkdrl_mm.structures.step_terms import at_least_float32
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.errors import first_line

# Errors of mmpretrain's heads and losses if configs or labels do not fit.
HEAD_ERRORS = (
    AssertionError,
    IndexError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


class PerImageLoss(nn.Module):
    """Wrapper of a head's ``loss_module`` that records the loss of every image.

    Losses with one value per class (binary cross entropy, focal loss) are
    summed over the classes, because mmpretrain divides their sum by the number
    of images. The loss is computed in float32, also under automatic mixed
    precision.

    Args:
        loss_module (nn.Module): The loss module of the head.

    Attributes:
        total (Tensor, optional): The loss of every image, shape (B,). Set by
            :meth:`forward`, read after ``head.loss``.
    """

    def __init__(self, loss_module: nn.Module) -> None:
        super().__init__()
        self.__dict__['inner'] = loss_module  # no submodule: it stays that of the head
        self.total: Tensor | None = None

    def forward(self, scores: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
        """Record the loss of every image; return the mean, as the wrapped module does.

        Raises:
            InputError: If the loss does not accept the labels.
        """
        kwargs.pop('avg_factor', None)
        with autocast(scores.device.type, enabled=False):
            scores = at_least_float32(scores)
            if target.shape == scores.shape:
                # mmpretrain's one-hot labels are whole numbers, unless they are blended.
                target = target.to(scores.dtype)
            try:
                losses = self.inner(scores, target, reduction_override='none', **kwargs)
            except (AssertionError, IndexError, RuntimeError) as error:
                if str(error).startswith('CUDA'):  # out of memory, or an earlier step's error
                    raise
                raise _label_error(self.inner, target, error) from error
            if losses.ndim > 1:
                losses = losses.flatten(1)
                averaged = self.inner.reduction == 'none'  # mmengine takes the mean of all
                losses = losses.mean(dim=1) if averaged else losses.sum(dim=1)
            # Heads with several classifiers add their losses.
            self.total = losses if self.total is None else self.total + losses
            return losses.mean()


@contextmanager
def per_image_loss(head: nn.Module) -> Iterator[PerImageLoss]:
    """Record the per-image loss of a head.

    Args:
        head (nn.Module): A head with a ``loss_module``.

    Yields:
        PerImageLoss: Its ``total`` is the loss, shape (B,), after ``head.loss``.
    """
    loss_module = head.loss_module
    head.loss_module = PerImageLoss(loss_module)
    try:
        yield head.loss_module
    finally:
        head.loss_module = loss_module


def check_head_loss(head: nn.Module, features: Any, with_scores: bool) -> None:
    """Raise an error if the loss of a student's head cannot be computed per image.

    Args:
        head (nn.Module): The student's head, with ``pre_logits``.
        features (tuple): The outputs of backbone and neck for two images.
        with_scores (bool): Whether the labels are scores of all classes, as
            after batch augmentations.

    Raises:
        InputError: If the head cannot be trained, its loss has no per-image
            form, or it adds other terms to that of its loss module.
    """
    name = type(head).__name__
    loss = getattr(head, 'loss_module', None)
    kind = type(loss).__name__
    if loss is None:
        raise InputError(
            f"The student's head {name} has no `loss_module`, which the cross-entropy term of the "
            'distillation needs. Use a head such as LinearClsHead.'
        )
    parameters = inspect.signature(loss.forward).parameters
    if 'reduction_override' not in parameters or not hasattr(loss, 'reduction'):
        raise InputError(
            f"The student's loss {kind} cannot be computed per image: it takes no "
            '`reduction_override`. Use CrossEntropyLoss, LabelSmoothLoss, FocalLoss, '
            'AsymmetricLoss or SeesawLoss of mmpretrain.'
        )
    if loss.reduction == 'sum':
        raise InputError(
            f"The student's loss {kind} has reduction='sum', with which mmpretrain's heads "
            "cannot be trained: use 'mean'."
        )
    # A copy, because losses may count labels, and BatchNorm updates its statistics.
    head = copy.deepcopy(head).train()
    error = _try_loss(head, features, with_scores)
    if error is None:
        return
    # The data may contain scores; if it does not, the first step raises the error.
    if not with_scores and _try_loss(head, features, True) is None:
        return
    if isinstance(error, InputError):
        raise error
    advice = ''
    if isinstance(error, NotImplementedError):
        advice = (
            " Disable the classifier of its distillation token: cfg_options={'model.head."
            "distillation': False} of the student."
        )
    raise InputError(
        f"The student's head {name} cannot be trained: {first_line(error)}.{advice}"
    ) from error


def _try_loss(head: nn.Module, features: Any, with_scores: bool) -> Exception | None:
    """Compute the loss of two images; return an error, or None."""
    samples = [DataSample().set_gt_label(0) for _ in range(2)]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            if with_scores:
                scores = head(features)
                scores = scores[0] if isinstance(scores, (tuple, list)) else scores
                for sample in samples:
                    sample.set_gt_score(torch.eye(scores.shape[1])[0])
            with per_image_loss(head) as loss:
                losses = head.loss(features, samples)
    except HEAD_ERRORS as error:
        return error
    parts = {key: value for key, value in losses.items() if 'loss' in key}
    total = sum(parts.values(), torch.zeros(()))
    if loss.total is not None and torch.allclose(loss.total.mean(), total, equal_nan=True):
        return None
    return InputError(
        f"The loss of the student's head {type(head).__name__} ({', '.join(parts)}) is not "
        'the mean of its loss module over the images, and cannot be the cross-entropy term of '
        'a distillation. Use a head such as LinearClsHead.'
    )


def _label_error(loss: nn.Module, target: Tensor, error: Exception) -> InputError:
    """The error for labels that a loss does not accept."""
    given = 'labels' if target.ndim == 1 else 'scores of all classes'
    over_classes = getattr(loss, 'use_sigmoid', False) or getattr(loss, 'use_soft', False)
    if isinstance(error, IndexError):
        advice = 'Labels must be below the number of classes.'
    elif target.ndim == 1 and over_classes:
        advice = (
            'A loss with `use_sigmoid` or `use_soft` needs `to_onehot=True` in `data_preprocessor`.'
        )
    elif target.ndim == 1:
        advice = 'Check its arguments.'
    else:
        advice = 'Check its arguments, and that it works with mixup and cutmix.'
    return InputError(
        f"The student's loss {type(loss).__name__} does not accept the {given} of the data: "
        f'{first_line(error)}. {advice}'
    )
