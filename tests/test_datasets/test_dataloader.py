# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""No epoch without a step, and no last batch of one image under BatchNorm."""

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, TensorDataset

from mtkdrl_mm.datasets import SeededBatchSampler, check_dataloader, dataloader
from mtkdrl_mm.utils import InputError

NORM = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2))


def loader(images, batch_size, drop_last=False, seeded=True, sampler=DefaultSampler, shuffle=True):
    data = TensorDataset(torch.arange(images))
    kind = SeededBatchSampler if seeded else BatchSampler
    batches = kind(sampler(data, shuffle=shuffle), batch_size, drop_last)
    return DataLoader(data, batch_sampler=batches)


def sizes(dataloader):
    return [len(batch[0]) for batch in dataloader]


@pytest.mark.parametrize('seeded', [True, False])
def test_a_last_batch_of_one_image_is_left_out(seeded):
    data = loader(9, 4, seeded=seeded)
    check_dataloader(data, NORM)
    assert len(data) == 2 and sizes(data) == [4, 4]


@pytest.mark.parametrize(
    ('images', 'batch_size', 'model', 'expected'),
    [
        (10, 4, NORM, [4, 4, 2]),
        (9, 4, nn.Linear(1, 2), [4, 4, 1]),
        (3, 1, NORM, [1, 1, 1]),
        (9, 4, None, [4, 4, 1]),
    ],
)
def test_other_batches_stay(images, batch_size, model, expected):
    data = loader(images, batch_size)
    check_dataloader(data, model)
    assert sizes(data) == expected


def test_validation_keeps_its_last_image():
    data = loader(9, 4, seeded=False, shuffle=False)
    check_dataloader(data, NORM)
    assert sizes(data) == [4, 4, 1]


def test_infinite_samplers_have_no_last_batch():
    data = loader(9, 16, drop_last=True, seeded=False, sampler=InfiniteSampler)
    check_dataloader(data, NORM)
    assert len(next(iter(data))[0]) == 16


def test_an_epoch_without_a_step():
    with pytest.raises(InputError) as error:
        check_dataloader(loader(48, 64, drop_last=True), NORM)
    assert str(error.value) == (
        'An epoch would have no step: the training set has 48 images, fewer than a batch of 64, '
        'and `drop_last` leaves out incomplete batches. Set train_dataloader.batch_size to 48 '
        'or less, or train_dataloader.drop_last to False.'
    )


def test_several_processes(monkeypatch):
    monkeypatch.setattr(dataloader, 'get_world_size', lambda: 4)
    data = loader(48, 64, drop_last=True)
    with pytest.raises(InputError, match=r'48 images, .* of 64 x 4 processes.* to 12 or less'):
        check_dataloader(data, NORM)
    # Statistics over all processes: one image on each is enough.
    data = loader(9, 4)
    check_dataloader(data, nn.SyncBatchNorm(2))
    assert sizes(data) == [4, 4, 1]


def test_one_image():
    with pytest.raises(InputError, match='The training set has one image per process'):
        check_dataloader(loader(1, 4), NORM)
