# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What the teachers' features know of held-out images."""

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from mtkdrl_mm.evaluation import fitted_temperature, log_likelihood, probe_scores
from mtkdrl_mm.structures import StepTerms
from mtkdrl_mm.structures.step_terms import at_least_float32
from mtkdrl_mm.utils.distributed import gather_interleaved

from .state_projection import RandomProjection

# Images, evenly chosen, that are enough to find the scale of a probe's scores.
_ENOUGH = 5000


class EmbeddingProbes:
    r"""Probability of the label by a linear probe on each teacher's embedding.

    Tells what a teacher's features know, whatever its own classifier makes of them:
    one that mixes up some classes, or has learned other ones, may have features as
    good as any. With the scores s of :func:`mtkdrl_mm.evaluation.probe_scores`, by
    probes that were fitted to the other images,

    .. math::
        q_i^m = \mathrm{softmax}(s_{-i}^m / \tau^m)^{y_i}

    with the temperature of the highest likelihood. The images should be ones that no
    teacher was trained on. A blended label (mixup, cutmix) or a smoothed one stands
    for its largest class.

    Args:
        num_teachers (int): Number of teachers M.
        size (int): Length that longer embeddings are brought to, by a random
            projection. Defaults to 256.

    Example:
        >>> import torch
        >>> from mtkdrl_mm.rl import EmbeddingProbes
        >>> from mtkdrl_mm.structures import NetworkOutput, StepTerms
        >>> labels = torch.arange(60) % 3
        >>> says_nothing = torch.zeros(60, 3)
        >>> embeddings = [torch.eye(3)[labels], torch.randn(60, 3)]
        >>> teachers = [NetworkOutput(says_nothing, embedding) for embedding in embeddings]
        >>> probes = EmbeddingProbes(num_teachers=2)
        >>> probes.observe(StepTerms(teachers[0], teachers, labels))
        >>> (probes.label_probabilities().mean(dim=0) > 0.5).tolist()
        [True, False]
    """

    def __init__(self, num_teachers: int, size: int = 256) -> None:
        self.num_teachers = num_teachers
        self.projection = RandomProjection(size)
        self.clear()

    def clear(self) -> None:
        """Forget all images."""
        self._num_classes = 0
        self._labels: list[Tensor] = []
        self._embeddings: list[list[Tensor]] = [[] for _ in range(self.num_teachers)]

    @torch.no_grad()
    def observe(self, terms: StepTerms) -> None:
        """Add the images of a step.

        Args:
            terms (StepTerms): The step's terms for B images and M teachers.
        """
        labels = terms.labels
        self._num_classes = terms.teacher_logits.shape[-1]
        self._labels.append((labels if labels.ndim == 1 else labels.argmax(dim=1)).cpu())
        for kept, teacher in zip(self._embeddings, terms.teachers):
            kept.append(self.projection(at_least_float32(teacher.embedding)).cpu())

    def count_non_finite(self) -> Tensor:
        """Images of this process with a NaN or infinite embedding.

        Returns:
            Tensor: Per teacher, int64 of shape (M,).
        """
        return torch.tensor(
            [
                sum(int((~part.isfinite()).any(dim=1).sum()) for part in kept)
                for kept in self._embeddings
            ]
        )

    def label_probabilities(self) -> Tensor:
        """Fit the probes; to be called on all processes, one of which has images.

        Returns:
            Tensor: q_i^m of the images of all processes, shape (N, M), float32.
        """
        labels = _gather(self._labels)
        num_classes = torch.tensor(self._num_classes)
        all_reduce(num_classes, op='max')  # a process without images has not seen any
        columns = []
        for kept in self._embeddings:
            scores = probe_scores(_gather(kept), labels, int(num_classes))
            some = slice(None, None, max(len(labels) // _ENOUGH, 1))
            temperature = fitted_temperature(scores[some], labels[some])
            columns.append(log_likelihood(scores.div(temperature), labels).exp().float())
        return torch.stack(columns, dim=1)


def _gather(parts: list[Tensor]) -> Tensor:
    """The rows of all processes; some may have none."""
    return gather_interleaved(torch.cat(parts) if parts else torch.zeros(0))
