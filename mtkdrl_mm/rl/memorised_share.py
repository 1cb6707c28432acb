# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""How much of what teachers say about the student's images they have learned by heart."""

from typing import Any

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from mtkdrl_mm.structures import StepTerms
from mtkdrl_mm.structures.step_terms import cross_entropy

#: Prefix of the shares in the log.
MEMORISED_KEY = 'memorised/'
# Probabilities are summed in whole multiples of this, so that the sum does not depend on
# their order, on the number of processes, or on where a run was interrupted.
_UNIT = 2.0**-30


class MemorisedShare:
    r"""Share of a teacher's answers about the student's images that repeats their labels.

    A teacher that has been trained on an image says partly what it would say about
    a new one, q, and partly the label that it was told, :math:`p = (1 - \lambda) q +
    \lambda 1_y`. The latter tells the student nothing, which has the label itself.
    If the share is the same for all images, means over many of them give it:

    .. math::
        \lambda^m = \frac{P^m - Q^m}{1 - Q^m}, \quad
        P^m = \mathrm{mean}\; p^m[y] \text{ of the student's images}, \quad
        Q^m = \mathrm{mean}\; p^m[y] \text{ of held-out images}

    and 0 where P is the smaller one. The two kinds of images should be several hundred
    each, of one distribution and augmented alike: other differences between P and Q are
    taken for memory, the more so the nearer Q is to 1. A blended label (mixup, cutmix)
    stands for its largest class. Where the student's labels are wrong or blended, P is low
    and the share is underestimated.

    Args:
        num_teachers (int): Number of teachers M.
    """

    def __init__(self, num_teachers: int) -> None:
        self.num_teachers = num_teachers
        # What all processes have seen up to the last gathering, and this one since then:
        # M sums of probabilities in units, and the number of images. Its own has M more numbers:
        # of images whose answers are not finite.
        self._gathered = torch.zeros(num_teachers + 1, dtype=torch.int64)
        self._own: Tensor | None = None

    @torch.no_grad()
    def observe(self, terms: StepTerms) -> None:
        """Add a training step of the student.

        Args:
            terms (StepTerms): The step's terms for B images and M teachers.
        """
        labels = terms.data_labels
        if labels.ndim == 2:
            labels = labels.argmax(dim=1)
        if labels is terms.labels:
            losses = terms.teacher_ce
        else:
            losses = cross_entropy(terms.teacher_log_probs(), labels)
        finite = losses.isfinite()
        probabilities = losses.neg().exp().where(finite, torch.zeros_like(losses))
        sums = probabilities.div(_UNIT).round().long().sum(dim=0)
        step = torch.cat([sums, sums.new_full((1,), len(losses)), (~finite).sum(dim=0)])
        self._own = step if self._own is None else self._own + step

    def count_non_finite(self) -> Tensor:
        """Images of this process since :meth:`gather` with a NaN or infinite answer.

        Returns:
            Tensor: Per teacher, int64 of shape (M,).
        """
        if self._own is None:
            return torch.zeros(self.num_teachers, dtype=torch.int64)
        return self._own[self.num_teachers + 1 :].cpu()

    def gather(self) -> None:
        """Add up what the processes have seen; to be called on all of them."""
        own = self._own_sums()
        all_reduce(own)
        self._gathered, self._own = self._gathered + own, None

    def _own_sums(self) -> Tensor:
        if self._own is None:
            return torch.zeros_like(self._gathered)
        return self._own[: self.num_teachers + 1].cpu()

    def clear(self) -> None:
        """Forget everything that was seen."""
        self._gathered, self._own = torch.zeros_like(self._gathered), None

    def estimate(self, held_out: Tensor) -> Tensor:
        """Estimate the shares; to be called on all processes.

        Args:
            held_out (Tensor): p^m[y] of this process's held-out images, shape (N, M);
                N may be 0.

        Returns:
            Tensor: lambda of shape (M,), float32, from 0 to 1; zeros where there
            are no images of either kind.
        """
        self.gather()
        sums = held_out.div(_UNIT).round().long().sum(dim=0)
        other = torch.cat([sums, sums.new_full((1,), len(held_out))])
        all_reduce(other)
        if self._gathered[-1] == 0 or other[-1] == 0:
            return torch.zeros(self.num_teachers)
        seen, new = (
            part[:-1].double() * _UNIT / part[-1] for part in (self._gathered, other.cpu())
        )
        return ((seen - new) / (1 - new).clamp_min(_UNIT)).clamp(0, 1).float()

    def state_dict(self) -> dict[str, Any]:
        """What was seen; on several processes :meth:`gather` comes first."""
        return dict(sums=self._gathered + self._own_sums())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, on every process."""
        self._gathered, self._own = state['sums'].cpu().clone(), None
