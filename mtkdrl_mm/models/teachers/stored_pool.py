# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The pool of teachers whose outputs are stored."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.autocast_mode import autocast

from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.teacher_outputs import (
    SAMPLE_FIELD,
    OutputCodec,
    PackedLayout,
    StoreReader,
    TeacherOutputsSettings,
    name_basis,
    stored_tensors,
)
from mtkdrl_mm.utils import InputError

from .teacher import in_layout_of
from .teacher_pool import PoolSpec, TeacherPool

# Takes samples, views, checksums and packed rows of a batch that the teachers have run on.
Record = Callable[[Sequence[int], Sequence[int], Sequence[int], np.ndarray], None]


class StoredTeacherPool(nn.Module):
    """A pool whose outputs come with the samples, and which needs no networks.

    Data workers read the stored rows beside the images, see
    :class:`SampleAnnotator`; the pool stacks them. While a store is being
    written, the teachers run on batches that are not stored yet, and their
    outputs take the form in which they are stored before they are used. The
    student therefore learns from the same numbers, whether they were read or
    have just been computed.

    Args:
        codec (OutputCodec): Conversion between rows and outputs.
        live (TeacherPool, optional): The teachers, for writing. Defaults to
            None: all rows must be stored.

    Attributes:
        spec (PoolSpec): Names and sizes of the stored outputs.
        record (Callable, optional): Takes the rows that were computed. Set by
            :class:`WriteThrough`; called in every such step.
    """

    def __init__(self, codec: OutputCodec, live: TeacherPool | None = None) -> None:
        super().__init__()
        self.live = live
        self.record: Record | None = None
        self.codec = codec

    @classmethod
    def open(cls, settings: TeacherOutputsSettings, names: Sequence[str]) -> 'StoredTeacherPool':
        """Open a store for reading.

        Args:
            settings (TeacherOutputsSettings): With ``root``.
            names (Sequence[str]): The teachers, in the order of the pool.

        Returns:
            StoredTeacherPool: Without networks.

        Raises:
            InputError: If a teacher is not in the store, or something in it is
                damaged.
        """
        assert settings.root is not None
        reader = StoreReader(settings.root, names, verify=False)
        return cls(OutputCodec(reader.layout, reader.read_bases()))

    @classmethod
    def of_live(cls, live: TeacherPool, settings: TeacherOutputsSettings) -> 'StoredTeacherPool':
        """Build the pool of a training that fills a store.

        Args:
            live (TeacherPool): The teachers.
            settings (TeacherOutputsSettings): What is stored.

        Returns:
            StoredTeacherPool: Its codec is replaced once the size of the maps is
            known.
        """
        spec, specs, bases = live.spec, {}, {}
        for name, size, channels, signed in zip(
            spec.names, spec.embedding_sizes, spec.map_channels, spec.signed_maps
        ):
            feature_map = None if channels is None else torch.empty(0, channels, 1, 1)
            output = NetworkOutput(
                torch.empty(0, spec.num_classes), torch.empty(0, size), feature_map
            )
            specs[name] = stored_tensors(settings, output, signed)
            # Of the right size; they are fitted once the teachers have run.
            bases[name] = name_basis('embeddings', _zeros(settings.embedding_channels, size))
            if channels is not None:
                bases[name].update(name_basis('maps', _zeros(settings.map_channels, channels)))
        return cls(OutputCodec(PackedLayout(specs), bases), live)

    @property
    def codec(self) -> OutputCodec:
        """Conversion between rows and outputs."""
        return self._codec

    @codec.setter
    def codec(self, codec: OutputCodec) -> None:
        self._codec = codec
        self.spec = spec_of(codec)

    @property
    def names(self) -> tuple[str, ...]:
        """The teachers' names."""
        return self.spec.names

    def __len__(self) -> int:
        return self.spec.num_teachers

    def train(self, mode: bool = True) -> 'StoredTeacherPool':
        """Keep eval mode, whatever ``mode`` is."""
        return super().train(False)

    def load_weights(self) -> None:
        """Load the weights of the teachers that run."""
        if self.live is not None:
            self.live.load_weights()

    def prepare(self, inputs: Tensor) -> None:
        """See :meth:`TeacherPool.prepare`."""
        if self.live is not None:
            self.live.prepare(inputs)

    def inference_state(self) -> dict[str, dict[str, Any]] | None:
        """See :meth:`TeacherPool.inference_state`; None without networks."""
        return None if self.live is None else self.live.inference_state()

    def restore_inference(self, state: Any) -> None:
        """See :meth:`TeacherPool.restore_inference`."""
        if self.live is not None:
            self.live.restore_inference(state)

    @torch.no_grad()
    def forward(
        self, inputs: Tensor, data_samples: Sequence[Any] | None = None
    ) -> list[NetworkOutput]:
        """Stack the stored rows of a batch; run the teachers where there are none.

        Args:
            inputs (Tensor): Images as normalised for the student, shape
                (B, c, H, W).
            data_samples (Sequence[DataSample], optional): With
                ``teacher_outputs``, see :class:`SampleOutputs`. Defaults to
                None.

        Returns:
            list[NetworkOutput]: The outputs of every teacher, without gradient,
            in float32.

        Raises:
            InputError: If a row is missing, and there are no networks.
        """
        carried: list[Any] = [getattr(sample, SAMPLE_FIELD, None) for sample in data_samples or ()]
        if carried and all(one is not None and one.row is not None for one in carried):
            rows = torch.from_numpy(np.stack([one.row for one in carried]))
            if inputs.device.type == 'cuda':
                rows = rows.pin_memory().to(inputs.device, non_blocking=True)
            return self._decode(rows.to(inputs.device), inputs)
        if self.live is None:
            raise InputError(
                'These images carry no stored outputs of the teachers, and the teachers were not '
                'built. `model.teacher_outputs` is for the training data of '
                'mtkdrl_mm.ResumableRunner, given by a config.'
            )
        # A store does not depend on the automatic mixed precision of the training that fills it.
        with autocast(inputs.device.type, enabled=False):
            rows = self.codec.encode(self.live(inputs, data_samples))
        # Images that carry nothing are not stored, as those that an agent learns from besides the
        # training. It has to see them in the form of those that are.
        if carried and None not in carried and self.record is not None:
            new = [i for i, one in enumerate(carried) if one.row is None]
            self.record(
                [carried[i].sample for i in new],
                [carried[i].view for i in new],
                [carried[i].crc32 for i in new],
                rows[new].cpu().numpy(),
            )
        return self._decode(rows, inputs)

    def _decode(self, rows: Tensor, inputs: Tensor) -> list[NetworkOutput]:
        return [in_layout_of(inputs, output) for output in self.codec.decode(rows)]


def _zeros(components: int, channels: int) -> dict[str, np.ndarray]:
    shape = (components, channels)
    return dict(components=np.zeros(shape, np.float32), mean=np.zeros(channels, np.float32))


def spec_of(codec: OutputCodec) -> PoolSpec:
    """Names and sizes of what a codec decodes.

    Args:
        codec (OutputCodec): The codec.

    Raises:
        InputError: If the teachers disagree on the number of classes.
    """
    classes = {name: codec.num_classes(name) for name in codec.names}
    if len(set(classes.values())) > 1:
        listed = ', '.join(f'"{name}" has {count}' for name, count in classes.items())
        raise InputError(
            f'The stored teachers disagree on the number of classes: {listed}. Leave some of them '
            'out of `model.teachers`, or store them again with a `class_map`.'
        )
    return PoolSpec(
        names=codec.names,
        num_classes=next(iter(classes.values())),
        embedding_sizes=tuple(codec.embedding_size(name) for name in codec.names),
        map_channels=tuple(codec.map_channels(name) for name in codec.names),
        signed_maps=tuple(codec.has_signed_map(name) for name in codec.names),
        embedding_scales=tuple(codec.embedding_scale(name) for name in codec.names),
    )
