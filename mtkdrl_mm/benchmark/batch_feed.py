# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A loader's batches without end, and the moment at which its workers have nothing to do."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

# Seconds without a batch after which a worker is taken to have failed.
_PATIENCE = 10.0


class BatchFeed:
    """Loads batches while it is entered, as a context manager.

    The data workers live as long as the context, so that several feeds do not
    load at the same time.

    Args:
        loader (DataLoader): Of an infinite sampler that can start anew, with
            workers that are not persistent. Its collation is wrapped.

    Example:
        >>> from mmengine.dataset import InfiniteSampler
        >>> from torch.utils.data import DataLoader
        >>> from mtkdrl_mm.benchmark import BatchFeed
        >>> data = list(range(4))
        >>> loader = DataLoader(data, batch_size=2, sampler=InfiniteSampler(data, shuffle=False))
        >>> with BatchFeed(loader) as feed:
        ...     [next(feed) for _ in range(3)]
        [tensor([0, 1]), tensor([2, 3]), tensor([0, 1])]
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self._loaded = multiprocessing.Value('q', 0)
        loader.collate_fn = _Counted(loader.collate_fn, self._loaded)
        # Batches that are loaded before they are needed.
        self._ahead = loader.num_workers * (loader.prefetch_factor or 0)
        self._iterator: Iterator[Any] | None = None
        self._taken = 0

    def __enter__(self) -> 'BatchFeed':
        """Start the workers."""
        self._loaded.value = self._taken = 0
        self._iterator = iter(self.loader)
        return self

    def __exit__(self, *_: Any) -> None:
        """End the workers."""
        self._iterator = None

    def __next__(self) -> Any:
        """The next batch."""
        assert self._iterator is not None
        batch = next(self._iterator)
        self._taken += 1
        return batch

    def wait(self) -> None:
        """Wait until the workers have loaded all that they load ahead.

        Raises:
            Exception: What a worker has raised.
        """
        loaded, last = -1, time.monotonic()
        while self._loaded.value < self._taken + self._ahead:
            if self._loaded.value != loaded:
                loaded, last = self._loaded.value, time.monotonic()
            elif time.monotonic() - last > _PATIENCE:
                next(self)  # raises what a worker has raised
            time.sleep(0.0002)


class _Counted:
    """Collation that counts its calls in all processes."""

    def __init__(self, collate: Callable[[list], Any], counter: Any) -> None:
        self.collate, self.counter = collate, counter

    def __call__(self, samples: list) -> Any:
        batch = self.collate(samples)
        with self.counter.get_lock():
            self.counter.value += 1
        return batch
