# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Variances of the teachers' features over the data set."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from mtkdrl_mm.models.losses.feature_scale import FeatureScale
from mtkdrl_mm.utils import InputError

CHANNELS = [3, 5]


def draw(images, seed=0, offset=10.0):
    """A map and an embedding of every image, with channels of different means and scales."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, 3, 2, 4, generator=generator)
    features = features * torch.tensor([1.0, 2.0, 0.1])[:, None, None] + offset
    embeddings = torch.randn(images, 5, generator=generator) * 7 - offset
    return [features, embeddings]


def expected(targets):
    """tr(Cov) / c, with positions as samples."""
    features, embeddings = (target.double() for target in targets)
    rows = features.permute(0, 2, 3, 1).reshape(-1, 3)
    traces = [torch.cov(part.T, correction=0).trace() for part in (rows, embeddings)]
    return torch.stack(traces).div(torch.tensor(CHANNELS)).float()


@pytest.mark.parametrize('offset', [0.0, 10.0, 3000.0])
def test_as_of_all_images_at_once(offset):
    targets = draw(40, offset=offset)
    scale = FeatureScale(CHANNELS, steps=100)
    for start, stop in ((0, 1), (1, 20), (20, 28), (28, 40)):
        scale.update([target[start:stop] for target in targets])
        torch.testing.assert_close(
            scale.variance, expected([target[:stop] for target in targets]), rtol=1e-3, atol=0
        )
    means = torch.cat([targets[0].mean(dim=(0, 2, 3)), targets[1].mean(dim=0)])
    torch.testing.assert_close(scale.mean, means)


def test_maps_of_several_sizes():
    scale = FeatureScale([3], steps=100)
    first, second = draw(6)[0], draw(4, seed=1)[0][..., :1]
    scale.update([first])
    scale.update([second])
    rows = torch.cat([part.permute(0, 2, 3, 1).reshape(-1, 3) for part in (first, second)])
    trace = torch.cov(rows.T, correction=0).trace()
    torch.testing.assert_close(scale.variance, trace[None] / 3)


def test_frozen_after_its_steps_also_when_resumed():
    scale = FeatureScale(CHANNELS, steps=2)
    scale.update(draw(4))
    resumed = FeatureScale(CHANNELS, steps=2)
    resumed.update(draw(4, seed=9))  # what a step before the checkpoint is loaded leaves
    resumed.load_state_dict(copy.deepcopy(scale.state_dict()))
    for one in (scale, resumed):
        one.update(draw(4, seed=1))
    frozen = scale.variance.clone()
    for one in (scale, resumed):
        one.update(draw(4, seed=2))
        assert torch.equal(one.variance, frozen) and int(one.steps_seen) == 2
    torch.testing.assert_close(
        frozen, expected([torch.cat(pair) for pair in zip(draw(4), draw(4, seed=1))])
    )


def test_half_precision_is_squared_in_float32():
    scale = FeatureScale([1], steps=2)
    scale.update([torch.tensor([[-400.0], [400.0]], dtype=torch.float16)])
    torch.testing.assert_close(scale.variance, torch.tensor([160000.0]))


def test_one_image_without_positions_has_no_variance():
    scale = FeatureScale([5], steps=2)
    scale.update([draw(1)[1]])
    assert torch.equal(scale.variance, torch.zeros(1))


def test_other_channels_are_an_error():
    with pytest.raises(InputError, match=r'have \[3, 5\] channels, but .* set up for \[3, 4\]'):
        FeatureScale([3, 4], steps=2).update(draw(2))
    with pytest.raises(InputError, match='`scale_steps` must be at least 1'):
        FeatureScale([3], steps=0)


def _learn(rank, world_size, folder):
    init = dict(init_method=f'file://{folder}/init', rank=rank, world_size=world_size)
    dist.init_process_group('gloo', **init)
    scale = FeatureScale(CHANNELS, steps=10)
    for seed, images in enumerate((8, 7, 3)):
        scale.update([target[rank::world_size] for target in draw(images, seed)])
    torch.save(scale.state_dict(), f'{folder}/{rank}.pth')
    dist.destroy_process_group()


def test_processes_have_the_scales_of_all_images(tmp_path):
    """Also where they have different numbers of images."""
    start_processes(_learn, (2, str(tmp_path)), nprocs=2, start_method='spawn')
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in range(2))
    alone = FeatureScale(CHANNELS, steps=10)
    for seed, images in enumerate((8, 7, 3)):
        alone.update(draw(images, seed))
    for key, value in alone.state_dict().items():
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(first[key], value)
