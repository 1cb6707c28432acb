# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The record that a training step is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .network_output import NetworkOutput
from .projection import VJP


@dataclass
class StepTerms:
    """Per-sample terms of one step, for B images, M teachers and C classes.

    The distiller makes one record per step. The student's loss, the weighting
    strategy, the state and the reward all read it, and no term is computed
    twice: terms that not every method needs (the teachers' cross entropy, the
    cosine, probabilities, gradients) are computed when first read, and kept.

    All terms are float32, also under automatic mixed precision.

    Attributes:
        student (NetworkOutput): The student's outputs, with gradient.
        teachers (Sequence[NetworkOutput]): The M teachers' outputs, without.
        labels (Tensor): Hard labels of shape (B,), int64, or soft labels
            (mixup, cutmix, label smoothing) of shape (B, C).
        projections (List[Tensor], optional): The student's features brought to
            each teacher's shape by the connectors, r_m(F^S): M tensors of shape
            (B, c_m, h_m, w_m) or (B, d_m). None without feature distillation.
        targets (List[Tensor], optional): The teachers' features F^m of the
            same shapes.
        alpha (float): Coefficient of the logit term in the loss.
        beta (float): Coefficient of the feature term in the loss.
        temperature (float): Softening temperature T of the logit term.
        inputs (Tensor, optional): The images as normalised for the student,
            shape (B, 3, H, W); for methods that run the student once more.
        data_samples (Sequence, optional): The images' labels as the data gives
            them, which the student's own head reads; for the same methods.
        vjps (list[VJP | None], optional): Short ways back from the
            M projections, where the connectors know one.
        logit_loss (Tensor): KL_i^m or what stands in for it, shape (B, M); set
            by the distiller.
        feature_loss (Tensor): D_i^m, shape (B, M); set by the distiller.
    """

    student: NetworkOutput
    teachers: Sequence[NetworkOutput]
    labels: Tensor
    projections: list[Tensor] | None = None
    targets: list[Tensor] | None = None
    alpha: float = 1.0
    beta: float = 5.0
    temperature: float = 4.0
    inputs: Tensor | None = None
    data_samples: Sequence[Any] | None = field(default=None, repr=False)
    vjps: Sequence[VJP | None] | None = field(default=None, repr=False)
    logit_loss: Tensor = field(init=False, repr=False)
    feature_loss: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._student_log_probs: dict[float, Tensor] = {}
        self._teacher_log_probs: dict[float, Tensor] = {}

    @property
    def num_teachers(self) -> int:
        """Number of teachers M."""
        return len(self.teachers)

    # Whoever reads the student's terms first may do so without gradient, a reward
    # for instance. What is kept for the loss must have its gradient all the same.

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

    def teacher_log_probs(self, temperature: float = 1.0) -> Tensor:
        """Log softmax(z^m / T) of all teachers, shape (B, M, C)."""
        cache = self._teacher_log_probs
        if temperature not in cache:
            cache[temperature] = self.teacher_logits.div(temperature).log_softmax(dim=-1)
        return cache[temperature]

    @cached_property
    def soft_labels(self) -> Tensor:
        """The labels as distributions, shape (B, C)."""
        if self.labels.ndim == 2:
            return self.labels.to(self.student_logits.dtype)
        return F.one_hot(self.labels, self.student_logits.shape[-1]).to(self.student_logits.dtype)

    @cached_property
    @torch.enable_grad()
    def student_ce(self) -> Tensor:
        """CE_i, with gradient, shape (B,).

        The loss that the student's own head has been configured with, where it
        was computed, else H(y_i, z^S_i). The teachers' cross entropy and the
        gradients in rewards are those of H, whatever the head's loss is.
        """
        if self.student.loss is not None:
            return self.student.loss
        return cross_entropy(self.student_log_probs(), self.labels)

    @cached_property
    def teacher_ce(self) -> Tensor:
        """H(y_i, z^m_i) of all teachers, shape (B, M)."""
        return cross_entropy(self.teacher_log_probs(), self.labels)

    @cached_property
    def feature_cosine(self) -> Tensor:
        """cos(pool(r_m(F^S)), pool(F^m)), detached, shape (B, M).

        Zeros without feature distillation.
        """
        if self.projections is None or self.targets is None:
            return torch.zeros_like(self.logit_loss)
        with torch.no_grad():
            return torch.stack(
                [
                    F.cosine_similarity(pooled(p), pooled(t), dim=1)
                    for p, t in zip(self.projections, self.targets)
                ],
                dim=1,
            )

    @cached_property
    def feature_gradients(self) -> Tensor:
        """mean_i dD^m/dF_i of every teacher, detached, shape (M, K).

        D^m is the sum of its losses over the batch, F the student's features
        (its map, or its embedding if no connector reads the map) with K entries
        per image. One backward pass for all teachers goes no further than each
        connector's pull-back; only their means go on. Where there is no such
        way, every teacher has a backward pass of its own through its connector.
        """
        gradients = self._pulled_back_gradients()
        return self._differentiated_gradients() if gradients is None else gradients

    def _pulled_back_gradients(self) -> Tensor | None:
        ways = [way for way in self.vjps or [] if way is not None]
        same = all(way.source is ways[0].source for way in ways)
        if len(ways) < self.num_teachers or not same:
            return None
        # As sums over the entries: their means are too small for half precision.
        sizes = [way.mixed[0].numel() for way in ways]
        total = (self.feature_loss * self.feature_loss.new_tensor(sizes)).sum()
        gradients = torch.autograd.grad(
            total, [way.mixed for way in ways], retain_graph=True, allow_unused=True
        )
        if any(gradient is None for gradient in gradients):  # the loss reads something else
            return None
        means = [at_least_float32(gradient).mean(dim=0) for gradient in gradients]
        return torch.stack(
            [way.transpose(mean).flatten().div(size) for way, mean, size in zip(ways, means, sizes)]
        )

    def _differentiated_gradients(self) -> Tensor:
        source: Tensor | None = self.student.embedding
        if any(projection.ndim == 4 for projection in self.projections or []):
            source = self.student.feature_map
        assert source is not None
        gradients = []
        for loss in self.feature_loss.sum(dim=0):
            (gradient,) = torch.autograd.grad(loss, source, retain_graph=True)
            gradients.append(at_least_float32(gradient).mean(dim=0).flatten())
        return torch.stack(gradients)

    @cached_property
    def teacher_losses(self) -> Tensor:
        """Loss of following teacher m alone, detached, shape (B, M).

        CE_i + alpha KL_i^m + beta D_i^m.
        """
        return (
            self.student_ce[:, None] + self.alpha * self.logit_loss + self.beta * self.feature_loss
        ).detach()


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
