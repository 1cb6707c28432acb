# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Per-sample terms of a training step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.amp.autocast_mode import autocast

from mtkdrl_mm.utils import InputError

from .network_output import NetworkOutput
from .projection import Projection
from .teacher_weights import TeacherWeights

# Shortest length of a vector in a cosine, as in torch's.
_EPS = 1e-8


@dataclass
class StepTerms:
    """Per-sample terms of one training step, for B images, M teachers and C classes.

    The distiller makes one record per step. The student's loss, the weighting
    strategy, the state and the reward all read it. Every term is computed when
    it is first read and then kept, so that no term is computed twice and a
    method pays only for the terms that it reads.

    All terms are float32, also under automatic mixed precision.

    Args:
        student (NetworkOutput): The student's outputs, with gradient.
        teachers (Sequence[NetworkOutput]): The M teachers' outputs, without.
        labels (Tensor): Hard labels of shape (B,), int64, or soft labels
            (mixup, cutmix, label smoothing) of shape (B, C).
        projections (list[Projection], optional): What the M connectors return:
            the student's features in each teacher's shape, and the teacher's.
            None without feature distillation.
        logit_loss_fn (Callable, optional): Loss on the logits; takes this
            record, returns (B, M). Defaults to None: no logit loss can be read.
        feature_loss_fn (Callable, optional): Loss on the features, likewise.
            None without feature distillation.
        logit_loss_weight (float): Coefficient alpha of the logit term in the
            student's loss. Defaults to 1.
        feature_loss_weight (float): Coefficient beta of the feature term.
            Defaults to 5.
        temperature (float): Softening temperature T of the logit term.
            Defaults to 4.
        inputs (Tensor, optional): The images as normalised for the student,
            shape (B, 3, H, W); for methods that run the student once more.
        data_samples (Sequence, optional): The images' labels as the data gives
            them, which the student's own head reads; for the same methods.
        data_labels (Tensor, optional): The labels without the smoothing of the
            student's head, for what asks for an image's class or whether a teacher
            is right: shape (B,), or (B, C) after mixup or cutmix. Defaults to None:
            ``labels``.
    """

    student: NetworkOutput
    teachers: Sequence[NetworkOutput]
    labels: Tensor
    projections: list[Projection] | None = None
    logit_loss_fn: 'LossFunction | None' = field(default=None, repr=False)
    feature_loss_fn: 'LossFunction | None' = field(default=None, repr=False)
    logit_loss_weight: float = 1.0
    feature_loss_weight: float = 5.0
    temperature: float = 4.0
    inputs: Tensor | None = field(default=None, repr=False)
    data_samples: Sequence[Any] | None = field(default=None, repr=False)
    data_labels: Tensor = field(default=None, repr=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.data_labels is None:
            self.data_labels = self.labels  # type: ignore[unreachable]
        self._student_log_probs: dict[float, Tensor] = {}
        self._teacher_log_probs: dict[tuple[float, Tensor | None], Tensor] = {}

    @property
    def num_teachers(self) -> int:
        """Number of teachers M."""
        return len(self.teachers)

    # The first reader may run without gradient, as a reward does. What is kept for
    # the student's loss must have its gradient all the same.

    @cached_property
    @torch.enable_grad()
    def student_logits(self) -> Tensor:
        """z^S in at least float32, with gradient, shape (B, C)."""
        return at_least_float32(self.student.logits)

    @cached_property
    def teacher_logits(self) -> Tensor:
        """z^m of all teachers, shape (B, M, C)."""
        return torch.stack([at_least_float32(t.logits) for t in self.teachers], dim=1)

    @torch.enable_grad()
    def student_log_probs(self, temperature: float = 1.0) -> Tensor:
        """Log softmax(z^S / T), with gradient, shape (B, C)."""
        cache = self._student_log_probs
        if temperature not in cache:
            cache[temperature] = self.student_logits.div(temperature).log_softmax(dim=-1)
        return cache[temperature]

    def teacher_log_probs(
        self, temperature: float = 1.0, teacher_temperatures: Tensor | None = None
    ) -> Tensor:
        """Log softmax(z^m / (tau_m T)) of all teachers, shape (B, M, C).

        Args:
            temperature (float): T. Defaults to 1.
            teacher_temperatures (Tensor, optional): tau_m of every teacher, shape (M,).
                What is computed is kept for this very tensor. Defaults to None: 1 for
                all.
        """
        cache, key = self._teacher_log_probs, (temperature, teacher_temperatures)
        if key not in cache:
            logits = self.teacher_logits.div(temperature)
            if teacher_temperatures is not None:
                logits = logits / teacher_temperatures[:, None]
            cache[key] = logits.log_softmax(dim=-1)
        return cache[key]

    @cached_property
    def soft_labels(self) -> Tensor:
        """The labels as distributions, shape (B, C), smoothed as the student's loss needs them."""
        return self._as_distribution(self.labels)

    @cached_property
    def soft_data_labels(self) -> Tensor:
        """The labels without smoothing as distributions, shape (B, C).

        Of a blended image (mixup, cutmix) they have several classes.
        """
        return self._as_distribution(self.data_labels)

    def _as_distribution(self, labels: Tensor) -> Tensor:
        if labels.ndim == 1:
            labels = F.one_hot(labels, self.student_logits.shape[-1])
        return labels.to(self.student_logits.dtype)

    @cached_property
    @torch.enable_grad()
    def student_ce(self) -> Tensor:
        """CE_i, with gradient, shape (B,).

        The loss that the student's own head has been configured with, where it
        was computed, else H(y_i, z^S_i). The teachers' cross entropy is that of
        H, whatever the head's loss is.
        """
        if self.student.loss is not None:
            return self.student.loss
        return cross_entropy(self.student_log_probs(), self.labels)

    @cached_property
    def teacher_ce(self) -> Tensor:
        """H(y_i, z^m_i) of all teachers, shape (B, M)."""
        return cross_entropy(self.teacher_log_probs(), self.labels)

    @cached_property
    @torch.enable_grad()
    def logit_loss(self) -> Tensor:
        """KL_i^m, or the loss configured in its place, with gradient, shape (B, M)."""
        if self.logit_loss_fn is None:
            raise ValueError('These step terms were made without `logit_loss_fn`.')
        return self.compute_loss(self.logit_loss_fn)

    @cached_property
    @torch.enable_grad()
    def feature_loss(self) -> Tensor:
        """D_i^m, with gradient, shape (B, M); zeros without feature distillation."""
        if self.projections is None or self.feature_loss_fn is None:
            return torch.zeros_like(self.teacher_logits[..., 0])
        return self.compute_loss(self.feature_loss_fn)

    def compute_loss(self, loss_fn: 'LossFunction') -> Tensor:
        """Compute a loss of every image and teacher in full precision, shape (B, M).

        Args:
            loss_fn (Callable): Takes this record.

        Raises:
            InputError: If it returns something of another shape.
        """
        with autocast(self.labels.device.type, enabled=False):
            losses = loss_fn(self)
        name = getattr(loss_fn, '__name__', type(loss_fn).__name__)
        check_shape(losses, (len(self.labels), self.num_teachers), name)
        return losses

    @cached_property
    def feature_cosine(self) -> Tensor:
        """cos(pool(r_m(F^S)), pool(F^m)), detached, shape (B, M).

        Zeros without feature distillation.
        """
        if self.projections is None:
            return torch.zeros_like(self.teacher_logits[..., 0])
        with torch.no_grad():
            pairs = [(pooled(p.features), pooled(p.target)) for p in self.projections]
            products = torch.stack([(own * other).sum(dim=1) for own, other in pairs], dim=1)
            own, other = (
                torch.stack([torch.linalg.vector_norm(pair[side], dim=1) for pair in pairs], dim=1)
                for side in (0, 1)
            )
            # An embedding of zeros has no direction: its cosine is 0.
            return products / (own.clamp_min(_EPS) * other.clamp_min(_EPS))

    @cached_property
    def teacher_losses(self) -> Tensor:
        """Loss of following teacher m alone, CE_i + alpha KL_i^m + beta D_i^m.

        Detached, shape (B, M).
        """
        logit = self.logit_loss_weight * self.logit_loss
        feature = self.feature_loss_weight * self.feature_loss
        return (self.student_ce[:, None] + logit + feature).detach()

    def student_losses(self, weights: TeacherWeights) -> Tensor:
        """The student's loss on every image, with gradient, shape (B,).

        CE_i + alpha sum_m wl_i^m KL_i^m + beta sum_m wf_i^m D_i^m.

        Args:
            weights (TeacherWeights): wl and wf, each of shape (B, M).
        """
        logit = (weights.logit * self.logit_loss).sum(dim=1)
        feature = (weights.feature * self.feature_loss).sum(dim=1)
        return self.student_ce + self.logit_loss_weight * logit + self.feature_loss_weight * feature


LossFunction = Callable[[StepTerms], Tensor]


def check_shape(tensor: Tensor, shape: tuple[int, ...], what: str) -> None:
    """Check what a loss or a weighting returned, which may be a user's own.

    Args:
        tensor (Tensor): What it returned.
        shape (tuple[int, ...]): The shape that it must have.
        what (str): What returned it, for the message.

    Raises:
        InputError: If it has another shape.
    """
    if tensor.shape != shape:
        per = 'image and teacher' if len(shape) == 2 else 'image'
        raise InputError(
            f'{what} must be one number per {per}, of shape {shape}, but has shape '
            f'{tuple(tensor.shape)}.'
        )


def at_least_float32(tensor: Tensor) -> Tensor:
    """Promote half precisions to float32; leave float32 and float64 alone."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def pooled(features: Tensor) -> Tensor:
    """Average a map (B, c, h, w) over its positions; pass embeddings (B, d) on."""
    features = at_least_float32(features)
    return features.mean(dim=(2, 3)) if features.ndim == 4 else features


def cross_entropy(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of hard or soft labels, without reduction.

    Args:
        log_probs (Tensor): Log probabilities, shape (B, C) or (B, M, C).
        labels (Tensor): Shape (B,) int64, or (B, C).

    Returns:
        Tensor: Shape (B,) or (B, M).
    """
    if log_probs.ndim == 3:
        labels = labels[:, None]
    if labels.ndim == log_probs.ndim:
        return -(labels.to(log_probs.dtype) * log_probs).sum(dim=-1)
    index = labels[..., None].expand(*log_probs.shape[:-1], 1)
    return -log_probs.gather(-1, index).squeeze(-1)
