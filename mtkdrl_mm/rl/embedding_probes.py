# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What the teachers' features know of held-out images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtkdrl_mm.structures import StepTerms
from mtkdrl_mm.utils.distributed import gather_interleaved

from .linear_probe import probe_log_probs


class EmbeddingProbes:
    r"""Probability of the label by a linear probe on each teacher's embedding.

    Tells what a teacher's features know, whatever its own classifier makes of them:
    one that mixes up some classes, or has learned other ones, may have features as
    good as any. Every image is judged by probes that were fitted to the others, see
    :func:`probe_log_probs`. The images should be ones that no teacher was trained on,
    each of them once. A blended label (mixup, cutmix) or a smoothed one stands for its
    largest class.

    Until the probes are fitted, the embeddings of a process's images are kept in host
    memory: 4 bytes for each of their entries.

    Args:
        embedding_sizes (Sequence[int]): d_m of the M teachers.
        num_classes (int): C.

    Example:
        >>> import torch
        >>> from mtkdrl_mm.rl import EmbeddingProbes
        >>> from mtkdrl_mm.structures import NetworkOutput, StepTerms
        >>> labels = torch.arange(60) % 3
        >>> says_nothing = torch.zeros(60, 3)
        >>> embeddings = [torch.eye(3)[labels], torch.randn(60, 8)]
        >>> teachers = [NetworkOutput(says_nothing, embedding) for embedding in embeddings]
        >>> probes = EmbeddingProbes(embedding_sizes=(3, 8), num_classes=3)
        >>> probes.observe(StepTerms(teachers[0], teachers, labels))
        >>> (probes.label_probabilities().mean(dim=0) > 0.5).tolist()
        [True, False]
    """

    def __init__(self, embedding_sizes: Sequence[int], num_classes: int) -> None:
        self.embedding_sizes = tuple(embedding_sizes)
        self.num_classes = num_classes
        self.clear()

    def clear(self) -> None:
        """Forget all images."""
        self._device = torch.device('cpu')
        # Some processes may see no image.
        self._labels = [torch.zeros(0, dtype=torch.long)]
        self._embeddings = [[torch.zeros(0, size)] for size in self.embedding_sizes]

    @torch.no_grad()
    def observe(self, terms: StepTerms) -> None:
        """Add the images of a step.

        Args:
            terms (StepTerms): The step's terms for B images and M teachers.
        """
        labels = terms.labels
        self._device = labels.device
        self._labels.append((labels if labels.ndim == 1 else labels.argmax(dim=1)).cpu())
        for kept, teacher in zip(self._embeddings, terms.teachers):
            kept.append(teacher.embedding.float().cpu())

    def count_non_finite(self) -> Tensor:
        """Images of this process with a NaN or infinite embedding.

        Returns:
            Tensor: Per teacher, int64 of shape (M,).
        """
        bad = [[(~part.isfinite()).any(dim=1).sum() for part in kept] for kept in self._embeddings]
        return torch.stack([torch.stack(counts).sum() for counts in bad])

    def label_probabilities(self) -> Tensor:
        """Fit the probes; to be called on all processes, one of which has images.

        Returns:
            Tensor: q_i^m of the images of all processes, shape (N, M), float32.
        """
        labels = torch.cat(self._labels).to(self._device)
        columns = []
        for kept in self._embeddings:
            embeddings = torch.cat(kept).to(self._device)
            log_probs = probe_log_probs(embeddings, labels, self.num_classes)
            columns.append(log_probs.gather(1, labels[:, None])[:, 0].exp().cpu())
        return gather_interleaved(torch.stack(columns, dim=1))
