# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Data set with augmentations that are a function of sample and view."""

from typing import Any

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from torch.utils.data import Dataset, get_worker_info

from mtkdrl_mm.registry import DATASETS
from mtkdrl_mm.utils.seeding import derive_seed, seed_host, seeded


class SeededIndex(int):
    """An index of a data set that carries the seed of its augmentation.

    It is an ``int``, so every data set takes it as an index, and it is pickled
    with its seed to the data workers.

    Args:
        index (int): Index of the sample.
        seed (int): The run's seed. Defaults to 0.
        view (int): Number of the augmented view, for example the epoch. Defaults
            to 0.

    Attributes:
        seed_key (tuple[int, int, int]): (seed, sample, view).
    """

    seed_key: tuple[int, int, int]

    def __new__(cls, index: int, seed: int = 0, view: int = 0) -> 'SeededIndex':
        """Create an index."""
        self = super().__new__(cls, index)
        self.seed_key = (seed, int(index), view)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle index, seed and view."""
        seed, index, view = self.seed_key
        return SeededIndex, (index, seed, view)


@DATASETS.register_module()
class SeededDataset(Dataset):
    """Seeds the augmentations of another data set from (seed, sample, view).

    An augmented image then depends neither on batch size, number of processes
    and data workers, nor on the images that were loaded before. An index
    without a seed loads an image without seeding. All other attributes are
    those of the wrapped data set.

    Args:
        dataset (dict | Dataset): The data set, or its config.
        lazy_init (bool): Whether to skip ``full_init``. Defaults to False.

    Example:
        >>> import torch
        >>> from mtkdrl_mm.datasets import SeededDataset, SeededIndex
        >>> class Noise(torch.utils.data.Dataset):
        ...     def __getitem__(self, index):
        ...         return torch.rand(2)
        >>> dataset = SeededDataset(Noise())
        >>> first = dataset[SeededIndex(3, seed=0, view=0)]
        >>> torch.equal(first, dataset[SeededIndex(3, seed=0, view=0)])
        True
        >>> torch.equal(first, dataset[SeededIndex(3, seed=0, view=1)])
        False
    """

    def __init__(self, dataset: 'dict[str, Any] | Dataset', lazy_init: bool = False) -> None:
        self.dataset = MMENGINE_DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        """Read the annotations, unless they have been read."""
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()

    def __getitem__(self, index: int) -> Any:
        """Load a sample with the augmentation of its view."""
        seed_key = getattr(index, 'seed_key', None)
        if seed_key is None:
            return self.dataset[index]
        seed, sample, view = seed_key
        derived = derive_seed(seed, 'augmentation', sample, view)
        if get_worker_info() is not None:
            seed_host(derived)
            return self.dataset[int(index)]
        # Without workers this is the training process, whose generators must not change.
        with seeded(derived):
            return self.dataset[int(index)]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the wrapped data set."""
        if name == 'dataset':  # not set yet while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the wrapped data set, for hooks that replace the pipeline."""
        if name == 'dataset' or name in type(self).__dict__:
            super().__setattr__(name, value)
        else:
            setattr(self.dataset, name, value)
