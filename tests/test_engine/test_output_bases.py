# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Principal components of what is stored."""

import os
import shutil
import time
from datetime import timedelta

import numpy as np
import pytest
import torch.distributed as dist
from test_teacher_outputs.stores import contents
from torch.multiprocessing.spawn import start_processes

from mtkdrl_mm.engine.teacher_runner import TeacherRunner
from mtkdrl_mm.teacher_outputs import StoreReader, has_basis
from mtkdrl_mm.utils import InputError, distributed

from .conftest import expected_rows


def test_a_basis_is_fitted_once(session, store):
    kwargs = dict(maps='projected', map_channels=3)
    writer = session(**kwargs)
    writer.write_missing()
    assert writer.writers['a'].manifest.basis_sha256 is not None
    assert writer.writers['b'].manifest.basis_sha256 is None  # it has no map
    before = contents(store)
    shutil.rmtree(os.path.join(store, 'a', 'view_000'))
    session(**kwargs).write_missing()
    assert contents(store) == before
    reader = StoreReader(store, ['a'])
    basis = reader.read_bases()['a']
    assert basis['components'].shape == (3, 32)
    np.testing.assert_allclose(basis['components'] @ basis['components'].T, np.eye(3), atol=1e-5)
    rows = reader.read_rows([5], 1)['a']['map_components']
    _, outputs = expected_rows(writer.runner, 5, 1)
    centred = outputs['a'].feature_map[0].numpy() - basis['mean'][:, None, None]
    expected = np.einsum('kc,chw->khw', basis['components'], centred)
    np.testing.assert_allclose(rows[0], expected, rtol=1e-4, atol=1e-5)


def test_bases_of_embeddings_and_maps_stand_in_one_file(session, store):
    kwargs = dict(maps='projected', map_channels=3, embeddings='projected', embedding_channels=9)
    writer = session(**kwargs)
    writer.write_missing()
    reader = StoreReader(store, ['a', 'b'])
    bases = reader.read_bases()
    assert set(bases['b']) == {'embedding_components', 'embedding_mean', 'embedding_explained'}
    assert set(bases['a']) == {*bases['b'], 'components', 'mean', 'explained'}
    rows = reader.read_rows([5], 1)
    _, outputs = expected_rows(writer.runner, 5, 1)
    for name in ('a', 'b'):
        components, mean = (bases[name][f'embedding_{key}'] for key in ('components', 'mean'))
        embedding = outputs[name].embedding[0].numpy()
        expected = components @ (embedding - mean) * (9 / len(embedding)) ** 0.5
        np.testing.assert_allclose(
            rows[name]['embedding_components'][0], expected, rtol=1e-4, atol=1e-5
        )


def test_a_basis_of_another_number_of_components(session, store):
    """Left by a job that was killed before it wrote a manifest."""
    session(maps='projected', map_channels=3)
    os.remove(os.path.join(store, 'a', 'manifest.json'))
    with pytest.raises(InputError) as error:
        session(maps='projected', map_channels=4)
    assert str(error.value) == (
        f'"{store}/a" holds a basis of 3 components for the maps, but they are to be projected '
        'onto 4. Set that number (for none, `maps="full"`), or remove the folder and store this '
        'teacher again.'
    )


def fit_slowly(rank, folder, session):
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder}/group',
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=2),
    )
    distributed._SECONDS_BETWEEN_SIGNS = 0.3
    compute = TeacherRunner.compute

    def slow(self, *args):
        for batch in compute(self, *args):
            time.sleep(0.6)
            yield batch

    TeacherRunner.compute = slow
    session(maps='projected', map_channels=3)


def test_a_fit_may_take_longer_than_the_time_limit_of_the_processes(session, store, tmp_path):
    start_processes(fit_slowly, (str(tmp_path), session), nprocs=2, start_method='fork')
    assert has_basis(os.path.join(store, 'a'))
