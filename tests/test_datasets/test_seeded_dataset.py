# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Augmentations are a function of seed, sample and view."""

import pickle
import random
import zlib

import numpy as np
import pytest
import torch
from mmpretrain.models import RandomBatchAugment
from mmpretrain.structures import DataSample
from torch.utils.data import DataLoader, Dataset

from mtkdrl_mm.datasets import KeyedBlend, SampleAnnotator, SeededDataset, SeededIndex


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


def test_a_batch_is_its_samples(data):
    keys = [SeededIndex(i, 5, 1) for i in (2, 7, 2)]
    state = torch.get_rng_state()
    batch = data.__getitems__(keys)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, data[key]) for a, key in zip(batch, keys))
    assert torch.equal(batch[0], batch[2])
    # Indices without a key draw from the generators of the process.
    torch.manual_seed(3)
    plain = data.__getitems__([2, 7])
    torch.manual_seed(3)
    assert [float(one[3]) for one in plain] == [float(torch.rand(())) for _ in range(2)]


class Images(Dataset):
    """Image number i consists of draws from the generators, and has the label i."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        image = torch.randint(256, (3, 4, 4), dtype=torch.uint8)
        return dict(inputs=image, data_samples=DataSample().set_gt_label(index))


def annotated(blend=False, **kwargs):
    images = SeededDataset(Images())
    images.annotator = SampleAnnotator(**kwargs)
    if blend:
        images.blend = KeyedBlend(RandomBatchAugment(dict(type='Mixup', alpha=1.0)), 12)
    return images


def carried(sample):
    return sample['data_samples'].teacher_outputs


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('blend', [False, True])
def test_samples_carry_their_keys_and_checksums(blend, workers):
    images = annotated(blend, always_checksum=True)
    keys = [SeededIndex(i, 5, view) for i, view in ((2, 1), (7, 0), (2, 0), (4, 3))]
    loader = DataLoader(
        images, batch_sampler=[keys[:3], keys[3:]], num_workers=workers, collate_fn=list
    )
    samples = [sample for batch in loader for sample in batch]
    outputs = [carried(sample) for sample in samples]
    assert [(one.sample, one.view) for one in outputs] == [(2, 1), (7, 0), (2, 0), (4, 3)]
    assert [one.row for one in outputs] == [None] * 4
    # Of the image alone, also of one that is blended: what the pipeline has yielded.
    plain = SeededDataset(Images())
    for key, one, sample in zip(keys, outputs, samples):
        pixels = plain[key]['inputs']
        own = zlib.crc32(pixels.numpy().tobytes())
        if not blend:
            assert one.crc32 == own and torch.equal(sample['inputs'], pixels)
            continue
        # and of its partner, in the same view
        score = sample['data_samples'].gt_score
        (partner,) = [i for i in score.nonzero().flatten().tolist() if i != key] or [int(key)]
        other = plain[SeededIndex(partner, 5, key.seed_key[2])]['inputs']
        assert one.crc32 == zlib.crc32(other.numpy().tobytes(), own)
        mixed = pixels * score[int(key)] + other * (1 - score[int(key)])
        assert partner == key or torch.allclose(sample['inputs'], mixed, atol=1e-3)


def test_checksums_are_computed_where_they_are_wanted(monkeypatch):
    images = annotated()
    wanted = iter([True, False, True])
    monkeypatch.setattr(images.annotator, 'wants_checksum', lambda: next(wanted))
    batch = images.__getitems__([SeededIndex(i) for i in range(3)])
    assert [carried(sample).crc32 is not None for sample in batch] == [True, False, True]


def test_an_index_without_a_key_is_not_annotated():
    assert 'teacher_outputs' not in annotated()[3]['data_samples']


def test_a_copy_for_another_process_blends_and_annotates():
    images = annotated(blend=True, always_checksum=True)
    copy = pickle.loads(pickle.dumps(images))
    first, second = images[SeededIndex(3, 1, 2)], copy[SeededIndex(3, 1, 2)]
    assert torch.equal(first['inputs'], second['inputs'])
    assert carried(first) == carried(second)
    assert not {'blend', 'annotator', 'config'} & set(vars(images.dataset))


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
