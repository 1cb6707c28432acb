# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Batch sampler with seeded indices, which can start in the middle of an epoch."""

import copy
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import get_rank, get_world_size
from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from torch.utils.data import BatchSampler, Sampler

from mtkdrl_mm.registry import DATA_SAMPLERS
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.seeding import derive_seed, seeded_iterator

from .seeded_dataset import SeededIndex

# Views of an image's repeats within an epoch are that far apart: more than there are epochs.
_REPEAT = 2**32


@DATA_SAMPLERS.register_module()
class SeededBatchSampler(BatchSampler):
    """Yields indices with the seed of their augmentation, from any position of an epoch.

    The view of a sample is the number of the epoch, or of the pass through the
    data if a sampler is infinite, modulo the number of views where that is
    limited. :class:`SeededDataset` reads it. Where a sampler yields an image more
    than once in a pass, each time has a view of its own; of a limited number of
    views, the next one. What a sampler draws from the global generators depends on
    seed and epoch alone.

    Args:
        sampler (Sampler): Sampler of this process's indices.
        batch_size (int): Images per batch and process.
        drop_last (bool): Whether a smaller last batch is left out. Defaults
            to False.
        base_sampler (dict, optional): Config of another batch sampler that forms
            the batches, such as mmdet's ``AspectRatioBatchSampler``. Defaults
            to None: batches of consecutive indices.
        skip_single (bool): Whether a last batch of one image is left out, on
            which BatchNorm cannot be trained. Defaults to False.

    Attributes:
        seed (int): The run's seed, which decides the order of the images. Set
            by :meth:`set_position`; read by iterating.
        view_seed (int | None): Seed of the augmentations, where it is not the
            run's. Set by :func:`connect_teacher_outputs`, since stored outputs belong
            to the augmentations of one seed.
        num_views (int | None): Number of views V; None for a new view in every
            epoch. Set likewise.
        images_done (int): Position of the next pass. Set by
            :meth:`set_position`; read, and reset to 0, by iterating.
        epoch (int): Number of the next pass. Set by :meth:`set_position`; read,
            and increased, by iterating.
        is_endless (bool): Whether a pass through the sampler has no end. Of
            samplers other than mmengine's it is known after as many batches as
            :meth:`__len__`; set by iterating.
        skip_single (bool): May be changed after building, by
            :func:`check_dataloader`, which knows the model.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        drop_last: bool = False,
        base_sampler: 'dict[str, Any] | None' = None,
        skip_single: bool = False,
    ) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.skip_single = skip_single
        self.base_sampler: BatchSampler | None = None
        if base_sampler is not None:
            self.base_sampler = MMENGINE_DATA_SAMPLERS.build(
                base_sampler, default_args=dict(sampler=sampler, batch_size=batch_size)
            )
        self.seed = 0
        self.view_seed: int | None = None
        self.num_views: int | None = None
        self.images_done = 0
        self.epoch = 0
        self.is_endless = isinstance(sampler, InfiniteSampler)

    @property
    def world_size(self) -> int:
        """Number of processes that share the images."""
        return getattr(self.sampler, 'world_size', 1)

    @property
    def images_per_step(self) -> int:
        """Number of images per step of all processes together."""
        return self.batch_size * self.world_size

    @property
    def is_round_robin(self) -> bool:
        """Whether images are assigned to the processes round-robin.

        The rest of an epoch can then be divided among any number of processes.
        """
        # Subclasses may have another order.
        iterate = type(self.sampler).__iter__
        known = iterate in (DefaultSampler.__iter__, InfiniteSampler.__iter__)
        return self.base_sampler is None and known

    def set_position(self, seed: int, epoch: int, images_done: int = 0) -> None:
        """Set the position at which the next pass starts; later passes start at 0.

        Args:
            seed (int): The run's seed, the same on all processes.
            epoch (int): Number of the epoch.
            images_done (int): Images of this epoch (of the whole training, if
                the sampler is infinite) that all processes together have used.
                Defaults to 0.

        Raises:
            InputError: If the sampler cannot start there.
        """
        if images_done % self.images_per_step and not self.is_round_robin:
            name = type(self.base_sampler or self.sampler).__name__
            raise InputError(
                f'{images_done} images of epoch {epoch + 1} have been used, which is no multiple '
                f'of {self.images_per_step} images per step, and {name} can only start at a '
                'multiple. Resume with the same batch size and number of processes, or from the '
                'checkpoint at the end of an epoch.'
            )
        self.seed, self.epoch, self.images_done = seed, epoch, images_done
        # A resumed run without a fixed seed has that of its first run, which is known only after
        # the sampler was built.
        if hasattr(self.sampler, 'seed'):
            self.sampler.seed = seed
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)

    def steps_left(self, images_done: int) -> int:
        """Number of steps in the rest of an epoch.

        Args:
            images_done (int): Images of it that all processes have used.

        Returns:
            int: The number of steps; that of :meth:`__len__` for 0 images.
        """
        if not self.is_round_robin:
            return len(self) - images_done // self.images_per_step
        left = max(0, len(self.sampler.dataset) - images_done)  # type: ignore[union-attr]
        return self._count(-(-left // self.world_size))

    def _count(self, images: int) -> int:
        """Number of batches of this process for a number of images."""
        whole, rest = divmod(images, self.batch_size)
        single = rest == 1 and self.skip_single and self.batch_size > 1
        return whole + int(rest > 0 and not self.drop_last and not single)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches from the position to the end of the epoch."""
        images_done, self.images_done = self.images_done, 0
        epoch, self.epoch = self.epoch, self.epoch + 1
        if self.is_round_robin:
            for known in self._known_batches(images_done):
                yield [self._seeded(index, view) for index, view in known]
            return
        first = images_done // self.images_per_step
        for batch in itertools.islice(self._other_batches(epoch), first, None):
            yield [self._seeded(index, epoch, repeat) for index, repeat in batch]

    def _seeded(self, index: int, view: int, repeat: int = 0) -> SeededIndex:
        seed = self.seed if self.view_seed is None else self.view_seed
        if self.num_views:
            return SeededIndex(index, seed, (view + repeat) % self.num_views)
        return SeededIndex(index, seed, view + repeat * _REPEAT)

    def __len__(self) -> int:
        """Number of batches of a whole epoch."""
        if self.base_sampler is not None:
            return len(self.base_sampler)
        return self._count(len(self.sampler))  # type: ignore[arg-type]

    def _known_batches(self, images_done: int) -> Iterator[list[tuple[int, int]]]:
        """Yield batches of (index, view) of mmengine's samplers."""
        indices: Iterable = (
            self._infinite(images_done)
            if isinstance(self.sampler, InfiniteSampler)
            else self._rest_of_epoch(images_done)
        )
        yield from self._cut(indices)

    def _other_batches(self, epoch: int) -> Iterator[list[tuple[int, int]]]:
        """Yield batches of (index, repeat) of another sampler or batch sampler."""
        # Samplers that deal images out must draw the same on all processes.
        position = [epoch] if hasattr(self.sampler, 'rank') else [epoch, get_rank()]
        seed = derive_seed(self.seed, 'sampler', *position)
        if self.base_sampler is not None:
            numbered = _number([seeded_iterator(self.base_sampler, seed)])
            batches = self._with_rank(numbered)
        else:
            samplers = self._all_samplers()
            streams = [
                seeded_iterator(BatchSampler(sampler, self.batch_size, False), seed)
                for sampler in samplers
            ]
            numbered = _number(streams, samplers.index(self.sampler))
            if len(samplers) == 1:
                numbered = self._with_rank(numbered)
            batches = self._cut(itertools.chain.from_iterable(numbered))
        # The next batch is drawn before one is yielded, so that a checkpoint after the last
        # batch of a pass knows whether the pass goes on.
        batch = next(batches, None)
        for count in itertools.count(1):
            if batch is None:
                self.is_endless = False
                return
            following = next(batches, None)
            if count == len(self) and following is not None:
                self.is_endless = True
            yield batch
            batch = following

    def _all_samplers(self) -> list[Any]:
        """The samplers of all processes, or only this one's where those cannot be known."""
        own = getattr(self.sampler, 'rank', None)
        if own is None or self.world_size == 1:
            return [self.sampler]
        dataset = getattr(self.sampler, 'dataset', None)
        samplers = []
        for rank in range(self.world_size):
            sampler: Any = self.sampler
            if rank != own:
                try:
                    sampler = copy.deepcopy(sampler, {id(dataset): dataset})
                except (TypeError, RuntimeError):  # it holds an iterator or a generator
                    return [self.sampler]
                sampler.rank = rank
            samplers.append(sampler)
        return samplers

    def _with_rank(
        self, batches: Iterable[list[tuple[int, int]]]
    ) -> Iterator[list[tuple[int, int]]]:
        """Tell the repeats of processes apart that do not know each other's images."""
        rank = getattr(self.sampler, 'rank', get_rank())
        world_size = getattr(self.sampler, 'world_size', get_world_size())
        if type(self.sampler).__iter__ is DefaultSampler.__iter__:
            rank, world_size = 0, 1  # no image is on two processes
        step = 1 if self.num_views else world_size
        for batch in batches:
            yield [(index, count * step + rank) for index, count in batch]

    def _cut(self, indices: Iterable) -> Iterator[list]:
        """Group indices into batches."""
        for batch in BatchSampler(indices, self.batch_size, self.drop_last):  # type: ignore
            if len(batch) > 1 or self.batch_size == 1 or not self.skip_single:
                yield batch

    def _rest_of_epoch(self, images_done: int) -> Iterator[tuple[int, int]]:
        """Yield this process's share of the remaining images, divided as by DefaultSampler."""
        sampler = self.sampler
        assert isinstance(sampler, DefaultSampler)
        whole = copy.copy(sampler)
        whole.rank, whole.world_size = 0, 1
        whole.num_samples = whole.total_size = len(sampler.dataset)
        order = list(whole)
        left = order[images_done:]
        if sampler.round_up and left:
            # All processes get the same number of images, and a few images are repeated.
            missing = -len(left) % sampler.world_size
            left += list(itertools.islice(itertools.cycle(order), missing))
        for index in left[sampler.rank :: sampler.world_size]:
            yield index, sampler.epoch

    def _infinite(self, images_done: int) -> Iterator[tuple[int, int]]:
        """Yield this process's share of the infinite stream, divided as by InfiniteSampler."""
        sampler = self.sampler
        assert isinstance(sampler, InfiniteSampler)
        stream = enumerate(sampler._infinite_indices())
        first = images_done + sampler.rank
        for position, index in itertools.islice(stream, first, None, sampler.world_size):
            yield index, position // sampler.size


def _number(
    streams: Sequence[Iterator[list[int]]], own: int = 0
) -> Iterator[list[tuple[int, int]]]:
    """Number the repeats of every index over the streams of all processes.

    Args:
        streams (Sequence[Iterator]): The batches of each process.
        own (int): Which stream is this process's. Defaults to 0.

    Yields:
        list[tuple[int, int]]: The batches of that stream: each index, and how often
        it has come before, where the streams take turns.
    """
    counts: Counter[int] = Counter()
    for batches in itertools.zip_longest(*streams, fillvalue=[]):
        numbered = []
        for row in itertools.zip_longest(*batches):
            for rank, index in enumerate(row):
                if index is None:
                    continue
                if rank == own:
                    numbered.append((index, counts[int(index)]))
                counts[int(index)] += 1
        if not numbered:
            return
        yield numbered
