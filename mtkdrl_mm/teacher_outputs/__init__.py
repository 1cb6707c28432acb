# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Stored outputs of teachers: settings, files, and conversion to and from outputs."""

from .basis import create_basis, has_basis, load_basis, read_basis
from .basis_fit import BasisFit, basis_key, name_basis
from .codec import OutputCodec, stored_form, stored_tensors
from .journal import ViewJournal
from .manifest import (
    DatasetRecord,
    Manifest,
    TeacherRecord,
    TensorSpec,
    ViewRecord,
    first_difference,
    inputs_manifest,
    library_versions,
)
from .packed_layout import PackedLayout, PackedTensor
from .paths import check_store_folder, held_out_root, inputs_folder, teacher_folder
from .reader import StoreReader, list_teachers
from .settings import SAMPLE_FIELD, TeacherOutputsSettings
from .writer import StoreWriter, check_free_space, format_bytes

__all__ = [
    'SAMPLE_FIELD',
    'BasisFit',
    'DatasetRecord',
    'Manifest',
    'OutputCodec',
    'PackedLayout',
    'PackedTensor',
    'StoreReader',
    'StoreWriter',
    'TeacherOutputsSettings',
    'TeacherRecord',
    'TensorSpec',
    'ViewJournal',
    'ViewRecord',
    'basis_key',
    'check_free_space',
    'check_store_folder',
    'create_basis',
    'first_difference',
    'format_bytes',
    'has_basis',
    'held_out_root',
    'inputs_folder',
    'inputs_manifest',
    'library_versions',
    'list_teachers',
    'load_basis',
    'name_basis',
    'read_basis',
    'stored_form',
    'stored_tensors',
    'teacher_folder',
]
