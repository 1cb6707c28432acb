# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Connects the training data of a distillation to a store of teacher outputs."""

from dataclasses import replace
from typing import Any

from mmengine.logging import print_log
from torch.utils.data import DataLoader

from mtkdrl_mm.datasets import (
    SampleAnnotator,
    SeededBatchSampler,
    SeededDataset,
    SeededIndex,
    dataset_record,
)
from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.models.teachers.teacher_record import complete_record, teacher_record
from mtkdrl_mm.teacher_outputs import (
    DatasetRecord,
    Manifest,
    StoreReader,
    TeacherOutputsSettings,
    ViewRecord,
    held_out_root,
    inputs_folder,
    teacher_folder,
)
from mtkdrl_mm.utils import InputError

from .seeded_views import (
    WORKERS_CHECK,
    describe_views,
    report_warnings,
    restart_workers,
    seeded_parts,
    set_views,
    view_seed,
)
from .write_through import WriteThrough


def connect_teacher_outputs(
    model: MultiTeacherDistiller, loader: DataLoader
) -> WriteThrough | None:
    """Connect training data and model to the store of ``model.teacher_outputs``.

    The views of the samples, mixup and cutmix become functions of (seed, sample,
    view), and the data workers read stored rows. It is called before the first
    iteration, once the weights are loaded.

    Args:
        model (MultiTeacherDistiller): The model, on its device.
        loader (DataLoader): The training data, built by a resumable loop.

    Returns:
        WriteThrough | None: What fills the store, if it is to be written.

    Raises:
        InputError: If the store does not belong to this training or is not
            complete, or the data cannot be identified.
    """
    settings = model.teacher_outputs
    if settings is None or not model.has_teachers:
        return None
    dataset, sampler = seeded_parts(loader)
    if settings.root is None:
        assert settings.views is not None
        set_views(model, dataset, sampler, settings.seed or 0, settings.views)
        model.teachers.batch_size = sampler.batch_size
        restart_workers(loader)
        return None
    if settings.write:
        return WriteThrough(model, loader, settings)
    _connect_reader(model, dataset, sampler, settings)
    restart_workers(loader)
    return None


def connect_held_out(model: MultiTeacherDistiller, loader: DataLoader) -> None:
    """Connect the agent's held-out images to the store, as :func:`connect_teacher_outputs`.

    A training that fills a store runs its teachers on them, on the same views, and
    gives what they say the stored form.

    Args:
        model (MultiTeacherDistiller): The model, on its device.
        loader (DataLoader): The held-out images, built by
            :func:`mtkdrl_mm.engine.held_out.build_held_out`.

    Raises:
        InputError: If the store does not hold these images, or on another basis
            than the training data, or they have another size.
    """
    settings = model.teacher_outputs
    if settings is None:
        return
    dataset, sampler = seeded_parts(loader)
    if not settings.reads:
        assert settings.views is not None
        set_views(model, dataset, sampler, view_seed(settings), settings.views)
        if settings.root is not None:
            _check_size(model, loader, view_seed(settings))
        return
    assert settings.root is not None
    root = held_out_root(settings.root)
    if Manifest.find(inputs_folder(root)) is None:
        raise InputError(
            f'"{settings.root}" holds no outputs for the `held_out` images of AgentHook. Run '
            'tools/store_teacher_outputs.py with this config: it adds what a store lacks.'
        )
    reader = _connect_reader(model, dataset, sampler, replace(settings, root=root))
    for name, mine in reader.manifests.items():
        whole = Manifest.read(teacher_folder(settings.root, name))
        # They are decoded as one, see `StoredTeacherPool`.
        if (mine.tensors, mine.basis_sha256) != (whole.tensors, whole.basis_sha256):
            raise InputError(
                f'"{teacher_folder(root, name)}" was stored in another form than '
                f'"{teacher_folder(settings.root, name)}". Remove the first folder and store this '
                'teacher again.'
            )


def _check_size(model: MultiTeacherDistiller, loader: DataLoader, seed: int) -> None:
    """Make sure that what the teachers say about the images has the stored form."""
    assert loader.collate_fn is not None
    batch = loader.collate_fn([loader.dataset[SeededIndex(0, seed)]])
    data = model.data_preprocessor(batch, False)
    try:
        model.teachers(model.format_inputs(data['inputs']), data['data_samples'])
    except InputError as error:
        raise InputError(
            f'held_out_dataloader: {error} Give its pipeline the image size of the training data, '
            'or store `maps="pooled"`.'
        ) from error


def _connect_reader(
    model: MultiTeacherDistiller,
    dataset: SeededDataset,
    sampler: SeededBatchSampler,
    settings: TeacherOutputsSettings,
) -> StoreReader:
    assert settings.root is not None
    reader = StoreReader(settings.root, model.teachers.names)
    stored = reader.inputs.views
    seed = stored.seed if settings.seed is None else settings.seed
    views = describe_views(model, dataset, seed, settings.views or stored.num_views)
    data = dataset_record(dataset)
    report_warnings(check_stored(model, reader, data, views), WORKERS_CHECK)
    used = settings.first_views or reader.num_views
    if used > reader.num_views:
        raise InputError(
            f'`teacher_outputs.first_views` is {used}, but "{settings.root}" holds '
            f'{reader.num_views} views.'
        )
    reader.check_complete(range(used))
    set_views(model, dataset, sampler, seed, used)
    dataset.annotator = SampleAnnotator(reader)
    contents = dict.fromkeys(
        f'{entry.spec.name} ({entry.spec.dtype})' for entry in reader.layout.entries
    )
    print_log(
        f'Teachers: {len(reader.manifests)} read from "{settings.root}", {used} views, '
        f'{reader.layout.nbytes / 1024:.1f} KiB per image: {", ".join(contents)}. No network is '
        'run.' + _without_maps(model),
        'current',
    )
    return reader


def check_stored(
    model: MultiTeacherDistiller,
    reader: StoreReader,
    data: DatasetRecord,
    views: ViewRecord | None = None,
) -> list[str]:
    """Make sure that a store holds what a model's teachers say about a data set.

    Args:
        model (MultiTeacherDistiller): The model.
        reader (StoreReader): Reads the store.
        data (DatasetRecord): The data set.
        views (ViewRecord, optional): Its views. Defaults to None: whatever they
            are.

    Returns:
        list[str]: A sentence about each library of another version.

    Raises:
        InputError: If it holds something else. The message names the first
            difference.
    """
    return reader.check(
        {
            config.name: _expected(
                model,
                config,
                reader.manifests[config.name],
                data,
                views or reader.manifests[config.name].views,
            )
            for config in model.teacher_configs
        }
    )


def _without_maps(model: MultiTeacherDistiller) -> str:
    """A sentence for the log, if embeddings are compared because no maps are stored."""
    if model.connectors is None or any(model.teachers.spec.map_channels):
        return ''
    return ' Features are compared by embeddings, since no maps are stored.'


def _expected(
    model: MultiTeacherDistiller,
    config: Any,
    stored: Manifest,
    data: DatasetRecord,
    views: ViewRecord,
) -> Manifest:
    """What the training would store of a teacher."""
    assert stored.teacher is not None
    record = teacher_record(config, model.student_preprocessing, model.token_maps)
    return Manifest(
        dataset=data,
        views=views,
        tensors=stored.tensors,
        part_size=stored.part_size,
        teacher=complete_record(record, stored.teacher),
    )
