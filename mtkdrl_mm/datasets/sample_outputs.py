# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Stored outputs of teachers that come with a sample from a data worker."""

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from mtkdrl_mm.teacher_outputs import (
    SAMPLE_FIELD,
    Manifest,
    StoreReader,
    inputs_folder,
    library_versions,
)
from mtkdrl_mm.utils.errors import InputError


class SampleOutputs(NamedTuple):
    """What a training sample carries for a pool with stored outputs.

    Attributes:
        sample (int): Number of the sample in the data set.
        view (int): Number of its augmented view.
        crc32 (int, optional): Checksum of its augmented pixels; None where it
            was not computed.
        row (np.ndarray, optional): All teachers' tensors, packed, shape
            (nbytes,), uint8; None where nothing is stored.
    """

    sample: int
    view: int
    crc32: int | None
    row: np.ndarray | None


class LoadedSample(NamedTuple):
    """A sample that was loaded, with its key.

    Attributes:
        data (Any): What the data set returned.
        sample (int): Number of the sample.
        view (int): Number of its view.
        crc32 (int, optional): Checksum of its pixels, if it was computed.
        images (tuple[str, ...]): With the checksum, the image's name for
            messages, and those of the images that were blended into it.
            Defaults to ().
    """

    data: Any
    sample: int
    view: int
    crc32: int | None
    images: tuple[str, ...] = ()


def pixel_checksum(data: Any, start: int = 0) -> int:
    """The crc32 of a sample's augmented pixels.

    Args:
        data (dict): With ``inputs``, the image as the pipeline returns it,
            shape (c, H, W).
        start (int): The checksum so far, of images that are blended. Defaults
            to 0.

    Raises:
        InputError: If there is no such image.
    """
    inputs = data.get('inputs') if isinstance(data, dict) else None
    if not isinstance(inputs, Tensor):
        raise InputError(
            'With `teacher_outputs`, the pipeline of the training data must end in `PackInputs`, '
            'which yields an image under `inputs`.'
        )
    return zlib.crc32(np.ascontiguousarray(inputs.numpy()).data, start)


def image_name(data: Any, sample: int) -> str:
    """Name of an image for messages: its path, or the number of its sample.

    Args:
        data (dict): What the pipeline returned.
        sample (int): Number of the sample.
    """
    path = getattr(data.get('data_samples'), 'img_path', None)
    return f'"{path}"' if path else f'number {sample}'


def changed_pixels_cause(stored: Manifest) -> str:
    """Phrase for messages: why pixels are others than when they were stored, and a remedy.

    Args:
        stored (Manifest): Manifest of the stored inputs.
    """
    here, there = library_versions(), stored.libraries
    changed = [
        f'{name} {there.get(name, "(none)")} there, {here.get(name, "(none)")} here'
        for name in sorted({*here, *there})
        if here.get(name) != there.get(name)
    ]
    if not changed:
        return 'An image file, the pipeline, or what decodes images has changed: restore it'
    return (
        f'Other versions of libraries may be the cause ({"; ".join(changed)}): install those of '
        'the store'
    )


class SampleAnnotator:
    """Adds :class:`SampleOutputs` to loaded samples, in the data workers.

    Args:
        reader (StoreReader, optional): The store; None adds the keys alone.
        optional (bool): Whether rows may be missing, since they are still being
            written. Defaults to False.
        first_checks (int): Number of samples, per worker, whose pixels are
            compared with the store at first. Defaults to 256.
        check_interval (int): After them, every how many samples' pixels are
            compared. Defaults to 16.
        always_checksum (bool): Whether all samples get a checksum, as for
            writing. Defaults to False.
    """

    def __init__(
        self,
        reader: StoreReader | None = None,
        optional: bool = False,
        first_checks: int = 256,
        check_interval: int = 16,
        always_checksum: bool = False,
    ) -> None:
        self.reader = reader
        self.optional = optional
        self.first_checks = first_checks
        self.check_interval = check_interval
        self.always_checksum = always_checksum
        self._count = 0

    def wants_checksum(self) -> bool:
        """Whether the pixels of the next sample are needed."""
        self._count += 1
        if self.always_checksum:
            return True
        if self.reader is None:
            return False
        return self._count <= self.first_checks or self._count % self.check_interval == 0

    def __call__(self, samples: Sequence[LoadedSample]) -> list[Any]:
        """Annotate samples.

        Args:
            samples (Sequence[LoadedSample]): The samples of a batch, or one.

        Returns:
            list[Any]: Their data, whose ``data_samples`` carry the outputs.

        Raises:
            InputError: If something is not stored or damaged, or pixels differ
                from those that the teachers saw.
        """
        rows: list[np.ndarray | None] = [None] * len(samples)
        if self.reader is not None:
            stored = [
                i
                for i, s in enumerate(samples)
                if not self.optional or self.reader.is_stored(s.sample, s.view)
            ]
            if stored:
                keys = [(samples[i].sample, samples[i].view) for i in stored]
                packed = self.reader.read_packed([k[0] for k in keys], [k[1] for k in keys])
                for i, row in zip(stored, packed):
                    rows[i] = row
                self._compare([samples[i] for i in stored])
        for sample, row in zip(samples, rows):
            outputs = SampleOutputs(sample.sample, sample.view, sample.crc32, row)
            target = sample.data.get('data_samples') if isinstance(sample.data, dict) else None
            if target is None:
                raise InputError(
                    'With `teacher_outputs`, the pipeline of the training data must end in '
                    '`PackInputs`, which yields `data_samples`.'
                )
            target.set_field(outputs, SAMPLE_FIELD)
        return [sample.data for sample in samples]

    def _compare(self, samples: Sequence[LoadedSample]) -> None:
        assert self.reader is not None
        checked = [sample for sample in samples if sample.crc32 is not None]
        if not checked:
            return
        stored = self.reader.read_checksums([s.sample for s in checked], [s.view for s in checked])
        for sample, expected in zip(checked, stored):
            if sample.crc32 != int(expected):
                raise InputError(self._describe(sample, int(expected)))

    def _describe(self, sample: LoadedSample, expected: int) -> str:
        assert self.reader is not None
        images = sample.images or (image_name(sample.data, sample.sample),)
        # The checksum is that of all of them.
        name = ', blended with '.join(images) + ',' * (len(images) > 1)
        return (
            f'The pixels of view {sample.view} of image {name} are not those that the teachers saw '
            f'when "{inputs_folder(self.reader.root)}" was stored (crc32 {sample.crc32:08x}, '
            f'stored {expected:08x}). {changed_pixels_cause(self.reader.inputs)}, or store the '
            'outputs again in another folder.'
        )
