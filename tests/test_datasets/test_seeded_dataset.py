# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Augmentations are a function of seed, sample and view."""

import pickle
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mtkdrl_mm.datasets import SeededDataset, SeededIndex


class Noise(Dataset):
    """Every image is its index and a draw from each of the three generators."""

    metainfo = dict(classes=('a', 'b'))
    pipeline = 'old'

    def __init__(self):
        self.initialised = 0

    def full_init(self):
        self.initialised += 1

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.tensor([index, random.random(), np.random.rand(), float(torch.rand(()))])


@pytest.fixture
def data():
    return SeededDataset(Noise())


def test_the_same_key_gives_the_same_image(data):
    first = data[SeededIndex(3, seed=1, view=2)]
    data[SeededIndex(4, seed=1, view=2)]
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    assert torch.equal(data[SeededIndex(3, seed=1, view=2)], first)
    assert first[0] == 3


def test_every_part_of_the_key_matters(data):
    keys = [(i, s, v) for i in (3, 4) for s in (0, 1) for v in (0, 1)]
    draws = torch.stack([data[SeededIndex(*key)][1:] for key in keys])
    assert len(draws.double().flatten().unique()) == 3 * 8


def test_generators_of_the_training_process_are_not_touched(data):
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    data[SeededIndex(3)]
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])


def test_an_index_without_a_key_is_passed_on(data):
    torch.manual_seed(3)
    first = data[4][3]
    torch.manual_seed(3)
    assert first == torch.rand(())


@pytest.mark.parametrize('persistent', [False, True])
def test_the_key_reaches_data_workers(data, persistent):
    batches = [[SeededIndex(i, 5, 1) for i in (2, 7)], [SeededIndex(4, 5, 1)]]
    loader = DataLoader(data, batch_sampler=batches, num_workers=2, persistent_workers=persistent)
    here = [torch.stack([data[i] for i in batch]) for batch in batches]
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(loader, here))


def test_index_is_an_integer_that_pickles():
    index = pickle.loads(pickle.dumps(SeededIndex(7, 3, 2)))
    assert index == 7 and [10, 11, 12, 13, 14, 15, 16, 17][index] == 17
    assert index.seed_key == (3, 7, 2)


def test_everything_else_is_the_data_set_s(data):
    assert len(data) == 12 and data.metainfo['classes'] == ('a', 'b')
    assert data.dataset.initialised == 1
    # mmpretrain's SwitchRecipeHook exchanges the pipeline like this
    data.pipeline = 'new'
    assert data.dataset.pipeline == 'new'
    with pytest.raises(AttributeError, match='nonsense'):
        data.nonsense  # noqa: B018


def test_built_from_a_config(tmp_path):
    from mmengine.registry import DATASETS
    from PIL import Image

    for name in ('cat', 'dog'):
        (tmp_path / name).mkdir()
        Image.new('RGB', (4, 4)).save(tmp_path / name / '0.png')
    inner = dict(
        type='mmpretrain.CustomDataset', data_root=str(tmp_path), pipeline=[], data_prefix=''
    )
    built = DATASETS.build(dict(type='mtkdrl_mm.SeededDataset', dataset=inner))
    assert [built[i]['gt_label'] for i in range(2)] == [0, 1]
    assert built.metainfo['classes'] == ('cat', 'dog')
