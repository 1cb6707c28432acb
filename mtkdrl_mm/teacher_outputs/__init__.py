# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Stored outputs of teachers: the format of the files, without networks and data sets."""

from .basis import create_basis, read_basis
from .manifest import (
    DatasetRecord,
    Manifest,
    TeacherRecord,
    TensorSpec,
    ViewRecord,
    inputs_manifest,
    library_versions,
)
from .packed_layout import PackedLayout, PackedTensor
from .paths import inputs_folder, teacher_folder
from .reader import StoreReader, list_teachers
from .writer import StoreWriter, check_free_space

__all__ = [
    'DatasetRecord',
    'Manifest',
    'PackedLayout',
    'PackedTensor',
    'StoreReader',
    'StoreWriter',
    'TeacherRecord',
    'TensorSpec',
    'ViewRecord',
    'check_free_space',
    'create_basis',
    'inputs_folder',
    'inputs_manifest',
    'library_versions',
    'list_teachers',
    'read_basis',
    'teacher_folder',
]
