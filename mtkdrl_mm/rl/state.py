# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The agent's state: what it observes of every teacher."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mtkdrl_mm.structures import StepTerms
from mtkdrl_mm.structures.step_terms import at_least_float32

from .state_projection import RandomProjection


@dataclass(frozen=True)
class StateLayout:
    """Named slices of the teachers' states.

    Teacher m's state is [embedding | logits | cross_entropy | cosine | gap];
    parts that are switched off have length 0.

    Args:
        embedding_sizes (tuple[int, ...]): Length of each teacher's embedding.
        logit_size (int): Length of the logits.
        performance (bool): Whether embedding, logits and cross entropy are there.
        gap (bool): Whether cosine and gap are there.
        cross_entropy (bool): Whether the performance part has the cross entropy.

    Example:
        >>> from mtkdrl_mm.rl import StateLayout
        >>> layout = StateLayout(embedding_sizes=(512, 2048), logit_size=1000)
        >>> layout.sizes
        [1515, 3051]
        >>> layout.slices(0)['cross_entropy']
        slice(1512, 1513, None)
    """

    embedding_sizes: tuple[int, ...]
    logit_size: int
    performance: bool = True
    gap: bool = True
    cross_entropy: bool = True

    @property
    def sizes(self) -> list[int]:
        """Lengths of the M states."""
        return [size + self.shared_size for size in self.embedding_sizes]

    @property
    def shared_size(self) -> int:
        """Length of what follows the embedding, the same for all teachers."""
        return self.logit_size + self._cross_entropy_size + 2 * self.gap

    @property
    def has_embeddings(self) -> bool:
        """Whether every state has an embedding."""
        return self.performance and 0 not in self.embedding_sizes

    @property
    def _cross_entropy_size(self) -> int:
        return int(self.performance and self.cross_entropy)

    def slices(self, teacher: int) -> dict[str, slice]:
        """Where each part of a teacher's state is.

        Args:
            teacher (int): The teacher's number m.
        """
        lengths = dict(
            embedding=self.embedding_sizes[teacher],
            logits=self.logit_size,
            cross_entropy=self._cross_entropy_size,
            cosine=int(self.gap),
            gap=int(self.gap),
        )
        slices, start = {}, 0
        for part, length in lengths.items():
            slices[part] = slice(start, start + length)
            start += length
        return slices

    def scalar(self, part: str, states: Sequence[Tensor]) -> Tensor:
        """A part that is one number per teacher, for all teachers.

        Args:
            part (str): 'cross_entropy', 'cosine' or 'gap'.
            states (Sequence[Tensor]): M tensors of shape (B, sizes[m]).

        Returns:
            Tensor: Shape (B, M).
        """
        columns = [state[:, self.slices(m)[part]] for m, state in enumerate(states)]
        return torch.cat(columns, dim=1)

    def split(self, teacher: int, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A teacher's embedding, its logits, and the numbers that follow them.

        Args:
            teacher (int): The teacher's number m.
            state (Tensor): Shape (B, sizes[m]).

        Returns:
            tuple[Tensor, Tensor, Tensor]: Shapes (B, d_m), (B, logit_size) and
            (B, at most 3).
        """
        slices = self.slices(teacher)
        rest = state[:, slices['logits'].stop :]
        return state[:, slices['embedding']], state[:, slices['logits']], rest

    def shortened(self, size: int) -> 'StateLayout':
        """The layout with embeddings and logits of at most a given length."""
        return replace(
            self,
            embedding_sizes=tuple(min(d, size) for d in self.embedding_sizes),
            logit_size=min(self.logit_size, size),
        )


class TeacherState:
    r"""State of every teacher on every image.

    .. math::
        s_i^m = [ f^m \mid z^m \mid H(y, z^m) \mid \cos(r_m(F^S), f^m) \mid KL^m ]

    The first three are the teacher's performance, the last two its gap to the
    student. Source: arXiv:2502.18510, section "State".

    Args:
        performance (bool): Whether the performance part is in the state.
            Defaults to True.
        gap (bool): Whether the gap part is in the state. Defaults to True.
        embedding (bool): Whether the performance part has the embedding.
            Defaults to True.
        cross_entropy (bool): Whether the performance part has the cross
            entropy, by which the agent sees the label of the training image: it
            can follow whoever is right about it, even one that has learned it by
            heart, or a wrong label. Defaults to True.
        projection_size (int, optional): Length k that embedding and logits are
            brought to where they are longer, by a fixed random projection.
            Defaults to None: they stay as they are.
        projection_seed (int): Seed of the projection. Defaults to 0.

    Raises:
        ValueError: If both parts are left out, or there is nothing to project.
    """

    def __init__(
        self,
        performance: bool = True,
        gap: bool = True,
        embedding: bool = True,
        cross_entropy: bool = True,
        projection_size: int | None = None,
        projection_seed: int = 0,
    ) -> None:
        if not (performance or gap):
            raise ValueError('`performance` and `gap` are both False: the state would be empty.')
        self.performance = performance
        self.gap = gap
        self.embedding = embedding
        self.cross_entropy = cross_entropy
        self.projection: RandomProjection | None = None
        if projection_size is not None:
            if not isinstance(projection_size, int) or projection_size < 1:
                raise ValueError(
                    f'`projection_size` must be a positive integer, but is {projection_size!r}.'
                )
            if not performance:
                raise ValueError('without `performance` there is nothing to project.')
            self.projection = RandomProjection(projection_size, projection_seed)

    def layout(self, embedding_sizes: Sequence[int], num_classes: int) -> StateLayout:
        """Layout of the states: d_m + C + 3 entries with all parts, unless projected.

        Args:
            embedding_sizes (Sequence[int]): d_m of the M teachers.
            num_classes (int): C.
        """
        if not self.performance:
            return StateLayout((0,) * len(embedding_sizes), 0, performance=False, gap=self.gap)
        sizes = tuple(embedding_sizes) if self.embedding else (0,) * len(embedding_sizes)
        layout = StateLayout(sizes, num_classes, gap=self.gap, cross_entropy=self.cross_entropy)
        return layout if self.projection is None else layout.shortened(self.projection.size)

    @torch.no_grad()
    def __call__(self, terms: StepTerms) -> list[Tensor]:
        """Read the states from the step's terms.

        Args:
            terms (StepTerms): The terms for B images and M teachers.

        Returns:
            list[Tensor]: M detached tensors of shape (B, d_m + C + 3), float32.
        """
        states = []
        for m, teacher in enumerate(terms.teachers):
            parts: list[Tensor] = []
            if self.performance:
                vectors = [at_least_float32(teacher.embedding)] if self.embedding else []
                vectors.append(terms.teacher_logits[:, m])
                parts += vectors if self.projection is None else map(self.projection, vectors)
                if self.cross_entropy:
                    parts.append(terms.teacher_ce[:, m, None])
            if self.gap:
                parts += [terms.feature_cosine[:, m, None], terms.logit_loss[:, m, None]]
            states.append(torch.cat(parts, dim=1).detach())
        return states
