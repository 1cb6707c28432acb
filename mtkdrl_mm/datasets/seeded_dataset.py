# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Data set with augmentations that are a function of sample and view."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from torch.utils.data import Dataset, get_worker_info

from mtkdrl_mm.registry import DATASETS
from mtkdrl_mm.utils.seeding import derive_seed, seed_host, seeded

from .keyed_blend import KeyedBlend
from .sample_outputs import LoadedSample, SampleAnnotator, image_name, pixel_checksum


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


# Attributes of the wrapper itself.
_OWN = ('dataset', 'config', 'blend', 'never_blended', 'annotator')


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

    Attributes:
        config (dict, optional): The config that the data set was built from.
        blend (KeyedBlend, optional): Mixup and cutmix by seed key. Set by
            :func:`connect_teacher_outputs`; read when a seeded image is loaded.
        never_blended (bool): Whether mixup and cutmix leave its images alone, as
            those that an agent learns from besides the training.
        annotator (SampleAnnotator, optional): Adds stored outputs of teachers
            to loaded samples. Set and read likewise.

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
        # Building removes keys from a config.
        self.config = deepcopy(dataset) if isinstance(dataset, dict) else None
        self.dataset = MMENGINE_DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.blend: KeyedBlend | None = None
        self.never_blended = False
        self.annotator: SampleAnnotator | None = None
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        """Read the annotations, unless they have been read."""
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()

    def __getitem__(self, index: int) -> Any:
        """Load a sample with the augmentation of its view."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Load the samples of a batch; torch's loaders call it where it exists."""
        keys = [getattr(index, 'seed_key', None) for index in indices]
        if None in keys:
            return [self.dataset[index] for index in indices]
        if get_worker_info() is not None:
            return self._load_all(keys)
        # Without workers this is the training process, whose generators must not change.
        with seeded(0):
            return self._load_all(keys)

    def _load_all(self, keys: Sequence[Any]) -> list[Any]:
        loaded = [self._load(*key) for key in keys]
        if self.annotator is None:
            return [sample.data for sample in loaded]
        return self.annotator(loaded)

    def _load(self, seed: int, sample: int, view: int) -> LoadedSample:
        wanted = self.annotator is not None and self.annotator.wants_checksum()
        checksum = 0
        images: list[str] = []

        def load(sample: int, view: int) -> Any:
            nonlocal checksum
            seed_host(derive_seed(seed, 'augmentation', sample, view))
            data = self.dataset[sample]
            if wanted:
                checksum = pixel_checksum(data, checksum)
                images.append(image_name(data, sample))
            return data

        if self.blend is None:
            data = load(sample, view)
        else:
            data = self.blend(load, len(self), (seed, sample, view))
        return LoadedSample(data, sample, view, checksum if wanted else None, tuple(images))

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the wrapped data set."""
        if name in _OWN:  # not set yet while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the wrapped data set, for hooks that replace the pipeline."""
        if name in _OWN or name in type(self).__dict__:
            super().__setattr__(name, value)
        else:
            setattr(self.dataset, name, value)
