# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Meta-gradients through one step of gradient descent."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call  # type: ignore[attr-defined]

from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.models.classifier_output import run_classifier
from mtkdrl_mm.structures import StepTerms, TeacherWeights
from mtkdrl_mm.structures.step_terms import cross_entropy
from mtkdrl_mm.utils.distributed import all_reduce_mean

Vectors = list[Tensor]


class _Student(nn.Module):
    """Student and connectors as one function, for ``functional_call``."""

    def __init__(self, distiller: MultiTeacherDistiller) -> None:
        super().__init__()
        self.student = distiller.student
        self.connectors = distiller.connectors
        self.__dict__['distiller'] = distiller

    def forward(self, inputs: Tensor, terms: StepTerms | None) -> Any:
        """The student's logits, or a step's record if given that of the step."""
        samples = None if terms is None else terms.data_samples
        output = run_classifier(self.student, inputs, self.distiller.token_maps, samples)
        if terms is None:
            return output.logits
        return self.distiller.make_terms(
            inputs, output, terms.teachers, terms.labels, samples, terms.data_labels
        )


class LookAhead:
    r"""Directional derivatives of the per-image losses along the hard images' gradient.

    With :math:`\theta' = \theta - \eta \nabla_\theta L(w)` and v the gradient
    of the cross entropy on hard images at :math:`\theta'`, they are
    :math:`\langle v, \nabla_\theta KL_i^m \rangle` and
    :math:`\langle v, \nabla_\theta D_i^m \rangle` at :math:`\theta`. All of
    them come from one backward pass and its derivative: with factors u, all
    zero, :math:`\partial / \partial u_i^m \, \langle v, \nabla_\theta
    \sum u_i^m KL_i^m \rangle`. :math:`\theta` are the student's parameters that
    are trained, without frozen ones. Student, BatchNorm statistics and connectors
    are left as they are.

    Args:
        distiller (MultiTeacherDistiller): The distiller.
        rate (float): Learning rate eta of the step.

    Attributes:
        hard_loss (Tensor): Cross entropy on the hard images at the last
            theta', a scalar; 0 if this process has none.
    """

    def __init__(self, distiller: MultiTeacherDistiller, rate: float) -> None:
        self.rate = rate
        self.hard_loss = torch.zeros(())
        self._network = _Student(distiller)

    def directional_derivatives(
        self,
        terms: StepTerms,
        weights: TeacherWeights,
        hard: tuple[Tensor, Tensor] | None,
        seed: int,
    ) -> tuple[Tensor, Tensor] | None:
        """Directional derivatives at the student as it is.

        Args:
            terms (StepTerms): The step's record for B images and M teachers,
                with its ``inputs``.
            weights (TeacherWeights): The step's weights.
            hard (tuple[Tensor, Tensor] | None): Images (n, 3, H, W) and soft
                labels (n, C); None if this process has none.
            seed (int): Decides dropout masks, the same for all passes.

        Returns:
            tuple[Tensor, Tensor] | None: Those of the logit and of the feature
            losses, each of shape (B, M); None if no process has hard images.
        """
        count = torch.tensor(0.0 if hard is None else len(hard[0]), device=terms.labels.device)
        mean_count = all_reduce_mean(count)
        if float(mean_count) == 0:
            return None
        # The student's own step leaves frozen parameters where they are.
        parameters = self._network.student.named_parameters()
        trained = [(name, p) for name, p in parameters if p.requires_grad]
        names, start = [name for name, _ in trained], [p for _, p in trained]
        leaves = [p.detach().requires_grad_() for p in start]
        with _differentiable_attention():
            there = self._run(names, leaves, seed, terms.inputs, terms)
        loss = there.student_losses(weights).mean()
        step = self._mean(_gradients(loss, leaves, retain_graph=True))
        ahead = [(p.detach() - self.rate * g).requires_grad_() for p, g in zip(leaves, step)]
        share = count / mean_count
        direction = self._mean([g * share for g in self._hard_gradient(names, ahead, hard, seed)])

        factors = [torch.zeros_like(there.logit_loss, requires_grad=True) for _ in range(2)]
        total = (factors[0] * there.logit_loss + factors[1] * there.feature_loss).sum()
        along = [
            (g * v).sum() for g, v in zip(_gradients(total, leaves, create_graph=True), direction)
        ]
        logit, feature = _gradients(torch.stack(along).sum(), factors)
        return logit, feature

    def _run(self, names: Sequence[str], parameters: Vectors, seed: int, *args: Any) -> Any:
        state = {f'student.{name}': value for name, value in zip(names, parameters)}
        # Copies take the place of the statistics, which are not to move.
        state.update({name: buffer.clone() for name, buffer in self._network.named_buffers()})
        torch.manual_seed(seed)
        return functional_call(self._network, state, args)

    def _hard_gradient(
        self, names: Sequence[str], ahead: Vectors, hard: tuple[Tensor, Tensor] | None, seed: int
    ) -> Vectors:
        if hard is None:
            self.hard_loss = torch.zeros((), device=ahead[0].device)
            return [torch.zeros_like(p) for p in ahead]
        inputs, labels = hard
        logits = self._run(names, ahead, seed, inputs, None)
        loss = cross_entropy(logits.log_softmax(dim=1), labels).mean()
        self.hard_loss = loss.detach()
        return _gradients(loss, ahead)

    @staticmethod
    def _mean(vectors: Vectors) -> Vectors:
        """Average over all processes, in one message."""
        flat = all_reduce_mean(torch.cat([v.flatten() for v in vectors]))
        parts = flat.split([v.numel() for v in vectors])
        return [part.view_as(v) for part, v in zip(parts, vectors)]


def _gradients(loss: Tensor, leaves: Vectors, **kwargs: Any) -> Vectors:
    """Gradients, zero for what the loss does not depend on."""
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True, **kwargs)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, leaves)]


def _differentiable_attention() -> AbstractContextManager:
    """Attention in plain operations: its fused kernels have no second derivative."""
    try:
        from torch.nn.attention import (  # type: ignore[import-not-found]
            SDPBackend,
            sdpa_kernel,
        )
    except ImportError:  # torch < 2.3
        return torch.backends.cuda.sdp_kernel(enable_flash=False, enable_mem_efficient=False)
    return sdpa_kernel(SDPBackend.MATH)
