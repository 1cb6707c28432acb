# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Small stores for the tests."""

import ctypes
import multiprocessing
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from mtkdrl_mm.teacher_outputs import (
    DatasetRecord,
    Manifest,
    StoreWriter,
    TeacherRecord,
    TensorSpec,
    ViewRecord,
    inputs_folder,
    inputs_manifest,
    teacher_folder,
)

DATASET = DatasetRecord('3f' * 32, num_samples=10)
VIEWS = ViewRecord(num_views=2, seed=0, scheme=1, pipeline='9c' * 32)
TENSORS = (
    TensorSpec('logits', (3,), 'float16'),
    TensorSpec('embedding', (5,), 'float32'),
    TensorSpec('map', (2, 2, 2), 'float16'),
)


def manifest(name='a', **changes):
    """Manifest of a teacher; 10 samples in parts of 4."""
    teacher = TeacherRecord(
        name=name,
        weights_sha256='5e' * 32,
        config=dict(backbone=dict(type='ResNet', depth=50)),
        class_map=None,
        preprocessing=dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], to_rgb=True),
        input_size=(32, 32),
    )
    values = dict(
        dataset=DATASET,
        views=VIEWS,
        tensors=TENSORS,
        part_size=4,
        teacher=teacher,
        libraries=dict(torch='2.1.2'),
    )
    return Manifest(**{**values, **changes})


def specs(maps=None, dtype='float16'):
    """Tensors of one data type; ``maps`` is the name and shape of a map."""
    found = [TensorSpec('logits', (3,), dtype), TensorSpec('embedding', (5,), dtype)]
    return found if maps is None else [*found, TensorSpec(*maps, dtype)]


def changed(of, **changes):
    """A manifest with changed entries: ``teacher__name='b'`` is ``teacher.name``."""
    for key, value in changes.items():
        outer, _, inner = key.partition('__')
        if inner:
            value = replace(getattr(of, outer), **{inner: value})
        of = replace(of, **{outer: value})
    return of


def values(of, view, samples):
    """Values that depend on teacher, view, sample and entry, and are exact in float16."""
    number = 0 if of.teacher is None else 1 + ord(of.teacher.name[0]) % 7
    arrays = {}
    for spec in of.tensors:
        rows = np.array(samples).reshape(-1, *[1] * len(spec.shape))
        entry = np.arange(int(np.prod(spec.shape))).reshape(spec.shape)
        number_of_entry = number * 200 + view * 100 + rows * 10 + entry
        arrays[spec.name] = (number_of_entry % 2048).astype(spec.dtype)
    return arrays


def write_part(writer, view, part):
    samples = list(writer.manifest.samples(part))
    return writer.write_part(view, part, values(writer.manifest, view, samples))


def write(folder, of):
    """Write all missing parts of a folder."""
    writer = StoreWriter(folder, of)
    for view in range(of.views.num_views):
        for part in writer.missing(view):
            write_part(writer, view, part)
    return writer


def write_store(root, *manifests):
    """A store with the inputs in parts of 5."""
    of = manifests[0]
    write(inputs_folder(root), inputs_manifest(of.dataset, of.views, 5, of.libraries))
    for each in manifests:
        write(teacher_folder(root, each.teacher.name), each)
    return root


def contents(folder):
    """Bytes of all files below a folder, by relative path."""
    found = {}
    for path, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(path, name), 'rb') as file:
                found[os.path.relpath(os.path.join(path, name), folder)] = file.read()
    return found


def run_with_mounts(commands, test):
    """Run a test in a process with file systems of its own, which end with it.

    Skips the test that calls it where that needs rights that this user lacks.
    """

    def run():
        new_mounts = 0x00020000  # CLONE_NEWNS of linux/sched.h
        if ctypes.CDLL(None).unshare(new_mounts) != 0:
            os._exit(77)
        for command in ('mount --make-rprivate /', *commands):
            if os.system(f'{command} 2> /dev/null') != 0:
                os._exit(77)
        test()

    process = multiprocessing.get_context('fork').Process(target=run)
    process.start()
    process.join()
    if process.exitcode == 77:
        pytest.skip('this user may not mount')
    assert process.exitcode == 0


def write_manifests(root, *teachers, num_views=2, **changes):
    """The manifests of a store; what was there before is removed."""
    shutil.rmtree(root, ignore_errors=True)
    views = replace(VIEWS, num_views=num_views)
    of = {teacher_folder(root, name): manifest(name, views=views, **changes) for name in teachers}
    of[inputs_folder(root)] = inputs_manifest(DATASET, views, 4)
    for folder, each in of.items():
        os.makedirs(folder)
        assert each.write(folder)
