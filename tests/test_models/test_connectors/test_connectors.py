# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""From the student's features to a teacher's."""

import pytest
import torch
import torch.nn.functional as F

from mtkdrl_mm.models import EmbeddingConnector, MapConnector
from mtkdrl_mm.models.connectors.map_connector import resize_map
from mtkdrl_mm.structures import NetworkOutput


def output(channels, *size):
    return NetworkOutput(None, torch.randn(4, channels), torch.randn(4, channels, *size))


def test_smaller_maps_are_averages():
    feature_map = torch.arange(16.0).view(1, 1, 4, 4)
    expected = torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]])
    assert torch.equal(resize_map(feature_map, (2, 2)), expected)
    assert torch.equal(resize_map(feature_map, (1, 1)), torch.tensor([[[[7.5]]]]))


@pytest.mark.parametrize('size', [(8, 8), (7, 3), (2, 8)])
def test_maps_that_grow_in_some_direction_are_interpolated(size):
    feature_map = torch.randn(2, 3, 4, 4)
    resized = resize_map(feature_map, size)
    expected = F.interpolate(feature_map, size=size, mode='bilinear', align_corners=False)
    torch.testing.assert_close(resized, expected)


def test_map_of_the_right_size_is_not_touched():
    feature_map = torch.randn(2, 3, 4, 5)
    assert resize_map(feature_map, (4, 5)) is feature_map


def test_map_connector_is_resize_convolution_norm_relu():
    connector = MapConnector(3, 7).train()
    student, teacher = output(3, 4, 4), output(7, 2, 2)
    projection = connector(student, teacher)
    assert projection.target is teacher.feature_map
    assert projection.features.shape == projection.target.shape
    weight = connector.projection.conv.weight
    mixed = torch.einsum('oc,bchw->bohw', weight[..., 0, 0], F.avg_pool2d(student.feature_map, 2))
    mean = mixed.mean(dim=(0, 2, 3), keepdim=True)
    variance = mixed.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
    expected = ((mixed - mean) / (variance + 1e-5).sqrt()).clamp(min=0)
    torch.testing.assert_close(projection.features, expected, rtol=1e-4, atol=1e-5)


def test_one_connector_serves_every_resolution():
    connector = MapConnector(3, 7).eval()
    for size in ((1, 1), (2, 3), (9, 9)):
        projection = connector(output(3, 4, 4), output(7, *size))
        assert projection.features.shape == projection.target.shape == (4, 7, *size)


def test_embedding_connector_is_linear():
    connector = EmbeddingConnector(3, 7)
    student, teacher = output(3, 2, 2), output(7, 2, 2)
    projection = connector(student, teacher)
    assert projection.target is teacher.embedding
    layer = connector.projection
    torch.testing.assert_close(projection.features, student.embedding @ layer.weight.T + layer.bias)
