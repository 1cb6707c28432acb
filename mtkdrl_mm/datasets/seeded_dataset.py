# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A data set whose augmentations are a function of sample and view."""

from typing import Any

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from torch.utils.data import Dataset, get_worker_info

from mtkdrl_mm.registry import DATASETS
from mtkdrl_mm.utils.seeding import derive_seed, seed_host, seeded


class SeededIndex(int):
    """An index of a data set that carries the seed of its augmentation.

    It is the index itself to every data set, and travels to the data workers
    with it.

    Args:
        index (int): Number of the sample.
        seed (int): The run's seed.
        view (int): Number of the augmented view, for example the epoch.

    Attributes:
        seed_key (tuple[int, int, int]): (seed, sample, view).
    """

    seed_key: tuple[int, int, int]

    def __new__(cls, index: int, seed: int = 0, view: int = 0) -> 'SeededIndex':
        """Make an index."""
        self = super().__new__(cls, index)
        self.seed_key = (seed, int(index), view)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the three numbers."""
        seed, index, view = self.seed_key
        return SeededIndex, (index, seed, view)


@DATASETS.register_module()
class SeededDataset(Dataset):
    """Seeds the augmentations of another data set from (seed, sample, view).

    What an image looks like then depends neither on batch size, number of
    processes and data workers, nor on what was loaded before it. An index
    without a seed is passed on as it is.

    Args:
        dataset (dict | Dataset): The data set, or its config.
        lazy_init (bool): Whether to leave ``full_init`` to the caller. Defaults
            to False.
    """

    def __init__(self, dataset: 'dict[str, Any] | Dataset', lazy_init: bool = False) -> None:
        self.dataset = MMENGINE_DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        """Read the annotations, if that has not been done."""
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
        # Without workers this is the process that trains.
        with seeded(derived):
            return self.dataset[int(index)]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        """Everything else is the data set's own."""
        if name == 'dataset':  # not there yet while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Hooks that exchange the pipeline mean the data set's."""
        if name == 'dataset' or name in type(self).__dict__:
            super().__setattr__(name, value)
        else:
            setattr(self.dataset, name, value)
