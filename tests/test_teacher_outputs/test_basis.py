# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The basis of projected maps: one per folder, and never another one."""

import hashlib

import numpy as np
import pytest

from mtkdrl_mm.teacher_outputs import (
    StoreReader,
    StoreWriter,
    create_basis,
    read_basis,
    teacher_folder,
)
from mtkdrl_mm.utils import InputError

from .stores import manifest, write_store

BASIS = dict(
    components=np.eye(6, 2, dtype=np.float32).T,  # not contiguous
    mean=np.arange(6, dtype=np.float32),
    explained=np.float32(0.5),  # without a dimension
)


def test_all_processes_get_the_first_basis(tmp_path):
    folder = str(tmp_path / 'a')
    first, digest = create_basis(folder, BASIS)
    other, same = create_basis(folder, {key: value + 1 for key, value in BASIS.items()})
    assert digest == same
    assert digest == hashlib.sha256((tmp_path / 'a/basis.safetensors').read_bytes()).hexdigest()
    for basis in (first, other, read_basis(folder, digest)):
        assert set(basis) == set(BASIS)
        for key, value in BASIS.items():
            np.testing.assert_array_equal(basis[key], value)
            assert basis[key].shape == value.shape
    assert [path.name for path in (tmp_path / 'a').iterdir()] == ['basis.safetensors']


def test_reader_and_writer_check_it(tmp_path):
    root = str(tmp_path)
    folder = teacher_folder(root, 'a')
    _, digest = create_basis(folder, BASIS)
    of = manifest(basis_sha256=digest)
    write_store(root, of, manifest('b'))
    reader = StoreReader(root, ['a', 'b'])
    bases = reader.read_bases()
    assert list(bases) == ['a']  # "b" has none
    np.testing.assert_array_equal(bases['a']['mean'], BASIS['mean'])

    path = tmp_path / 'a/basis.safetensors'
    whole = path.read_bytes()
    (tmp_path / 'b/basis.safetensors').unlink(missing_ok=True)
    create_basis(teacher_folder(root, 'b'), dict(components=BASIS['components']))
    path.write_bytes((tmp_path / 'b/basis.safetensors').read_bytes())
    for use in (lambda: StoreReader(root, ['a']), lambda: StoreWriter(folder, of)):
        with pytest.raises(InputError, match='is not the basis with which the maps of this folder'):
            use()
    path.write_bytes(whole[:50])
    with pytest.raises(InputError, match=f'"{path}" cannot be read'):
        StoreReader(root, ['a'])
    path.unlink()
    with pytest.raises(InputError, match=f'"{path}" does not exist'):
        StoreReader(root, ['a'])
