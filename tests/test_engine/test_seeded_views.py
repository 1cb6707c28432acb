# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What all uses of stored outputs share: views, seeds, data workers, warnings."""

import logging

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from mtkdrl_mm.datasets import KeyedBlend, SeededIndex
from mtkdrl_mm.engine.seeded_views import (
    describe_views,
    report_warnings,
    restart_workers,
    seeded_parts,
    set_views,
    view_seed,
)
from mtkdrl_mm.teacher_outputs import TeacherOutputsSettings
from mtkdrl_mm.utils import InputError


def test_a_later_training_of_a_model_blends_as_well(make_training):
    model, loader = make_training(mixup=True)
    _, other = make_training(mixup=True)
    for one in (loader, other):
        set_views(model, *seeded_parts(one), seed=3, num_views=2)
        assert (one.batch_sampler.view_seed, one.batch_sampler.num_views) == (3, 2)
    first, second = (one.dataset[SeededIndex(3, 0, 1)]['inputs'] for one in (loader, other))
    assert isinstance(other.dataset.blend, KeyedBlend) and torch.equal(first, second)
    assert model.data_preprocessor.batch_augments is None


def test_a_description_knows_pipeline_blends_and_padding(make_training):
    def describe(pad=None, **kwargs):
        model, loader = make_training(**kwargs)
        if pad is not None:
            model.data_preprocessor.pad_size_divisor = pad
        return describe_views(model, seeded_parts(loader)[0], seed=4, num_views=2)

    first = describe()
    assert (first.seed, first.num_views, first.blends) == (4, 2, None)
    assert describe(batch_size=7) == first
    blended = describe(mixup=True)
    assert blended.blends['augments'] == [dict(type='Mixup', alpha=1.0)]
    assert blended.pipeline == first.pipeline
    assert len({first.pipeline, describe(augment=()).pipeline, describe(pad=8).pipeline}) == 3


def test_data_without_keys():
    with pytest.raises(InputError) as error:
        seeded_parts(DataLoader(TensorDataset(torch.zeros(4)), batch_size=4))
    assert str(error.value) == (
        '`model.teacher_outputs` needs training data whose augmentations follow from sample and '
        'view: give `train_dataloader` as a config, and use mtkdrl_mm.ResumableRunner.'
    )


def test_the_seed_of_the_views(fill, store):
    assert view_seed(TeacherOutputsSettings(views=2)) == 0
    assert view_seed(TeacherOutputsSettings(root=store, views=2)) == 0
    fill(seed=4, only=[])
    assert view_seed(TeacherOutputsSettings(root=store, views=2)) == 4
    assert view_seed(TeacherOutputsSettings(root=store, views=2, seed=0)) == 0


def test_workers_start_anew():
    dataset = TensorDataset(torch.zeros(2))
    loader = DataLoader(dataset, num_workers=1, persistent_workers=True)
    assert [float(batch) for (batch,) in loader] == [0, 0]
    dataset.tensors = (torch.ones(2),)
    assert [float(batch) for (batch,) in loader] == [0, 0]  # the worker's copy
    restart_workers(loader)
    assert [float(batch) for (batch,) in loader] == [1, 1]
    restart_workers(loader)


def test_three_warnings_are_enough(lines):
    report_warnings([], 'Checked.')
    assert lines == []
    report_warnings(['A.', 'B.', 'C.'], 'Checked.')
    report_warnings(['A.', 'B.', 'C.', 'D.', 'E.'], 'Checked.')
    assert lines == [
        (logging.WARNING, 'A. B. C. Checked.'),
        (logging.WARNING, 'A. B. C. And 2 more. Checked.'),
    ]
