# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Mixup and cutmix by seed key."""

import pytest
import torch
from mmpretrain.models import RandomBatchAugment
from mmpretrain.structures import DataSample
from torch.utils.data import DataLoader, Dataset

from mtkdrl_mm.datasets import SeededDataset, SeededIndex
from mtkdrl_mm.datasets.keyed_blend import KeyedBlend
from mtkdrl_mm.utils import InputError

CLASSES = 5
MIXUP = dict(type='Mixup', alpha=0.8)
CUTMIX = dict(type='CutMix', alpha=1.0)
RESIZEMIX = dict(type='ResizeMix', alpha=1.0)


class Images(Dataset):
    """Image number i is the constant i, plus a shift that its augmentation draws."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        image = torch.full((3, 8, 8), float(index)) + torch.randint(2, ()) / 2
        return dict(inputs=image, data_samples=DataSample().set_gt_label(index % CLASSES))


def blended(augments, probs=None):
    data = SeededDataset(Images())
    data.blend = KeyedBlend(RandomBatchAugment(augments, probs), CLASSES)
    return data


def draw(data, sample, view=0, seed=0):
    loaded = data[SeededIndex(sample, seed, view)]
    return loaded['inputs'], loaded['data_samples'].gt_score


@pytest.mark.parametrize('augments', [MIXUP, CUTMIX, RESIZEMIX, [MIXUP, CUTMIX]])
def test_a_blend_is_a_function_of_its_key(augments):
    data = blended(augments)
    first = draw(data, 3, view=1)
    draw(data, 4), torch.manual_seed(9)
    for ours, again in zip(draw(data, 3, view=1), first):
        assert torch.equal(ours, again)
    others = [draw(data, 3, view=2), draw(data, 3, view=1, seed=5)]
    assert all(not torch.equal(other[0], first[0]) for other in others)


@pytest.mark.parametrize('augments', [MIXUP, CUTMIX, RESIZEMIX])
def test_workers_and_batches_change_nothing(augments):
    data = blended(augments)
    keys = [SeededIndex(sample, 0, 3) for sample in range(8)]
    alone = [data[key]['inputs'] for key in keys]
    loader = DataLoader(data, batch_sampler=[keys[:5], keys[5:]], num_workers=2, collate_fn=list)
    together = [sample['inputs'] for batch in loader for sample in batch]
    assert all(torch.equal(a, b) for a, b in zip(alone, together))


def test_mixup_has_the_same_share_in_image_and_label():
    data = blended(MIXUP)
    partners = set()
    for sample in range(20):
        image, score = draw(data, sample)
        assert image.dtype == torch.float32 and (image == image[0, 0, 0]).all()
        own = score[sample % CLASSES]
        torch.testing.assert_close(score.sum(), torch.tensor(1.0))
        if own > 1 - 1e-6:
            continue  # a partner of the same class
        # image = lam * (sample + a) + (1 - lam) * (partner + b) with shifts a, b of 0 or 1/2
        partner = [
            p
            for p in range(20)
            for a in (0, 0.5)
            for b in (0, 0.5)
            if abs(own * (sample + a) + (1 - own) * (p + b) - image[0, 0, 0]) < 1e-4
            and score[p % CLASSES] > 0
            and p % CLASSES != sample % CLASSES
        ]
        assert partner
        partners.update(partner)
    assert len(partners) > 5


@pytest.mark.parametrize('augment', [CUTMIX, RESIZEMIX])
def test_cutmix_has_the_share_of_its_area(augment):
    data = blended(augment)
    for sample in range(20):
        image, score = draw(data, sample)
        values, counts = image[0].mul(2).round().div(2).unique(return_counts=True)
        assert len(values) <= 2
        share = counts[(values.floor() % CLASSES) == sample % CLASSES].sum() / 64
        torch.testing.assert_close(score[sample % CLASSES], share, rtol=0, atol=1e-6)


def test_the_remaining_probability_leaves_images_alone():
    data = blended([MIXUP, CUTMIX], probs=[0.25, 0.25])
    alone = 0
    for view in range(20):
        for sample in range(20):
            image, score = draw(data, sample, view)
            alone += bool(score.max() == 1 and len(image.unique()) == 1)
            assert image.dtype == torch.float32
    # Half of the images, and those whose partner has their class or nearly no share.
    assert 0.45 < alone / 400 < 0.75


def test_other_augmentations_are_refused():
    augment = RandomBatchAugment([lambda images, scores: (images, scores)])
    with pytest.raises(InputError, match='function cannot blend images: partner and factor'):
        KeyedBlend(augment, CLASSES)
