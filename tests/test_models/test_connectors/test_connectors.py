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


def test_scaled_components_are_learned_as_the_whole_embedding():
    """By SGD, step by step: loss, gradient to the student, and the connector's weights."""
    torch.manual_seed(0)
    components = torch.linalg.qr(torch.randn(12, 3, dtype=torch.float64))[0].T
    mean = torch.randn(12, dtype=torch.float64)
    values = torch.randn(20, 3, dtype=torch.float64)
    embeddings = values @ components + mean
    scale = (3 / 12) ** 0.5
    small = EmbeddingConnector(5, 3, scale=scale).double()
    whole = EmbeddingConnector(5, 12).double()
    with torch.no_grad():
        whole.projection.weight.copy_(components.T @ small.projection.weight)
        whole.projection.bias.copy_(components.T @ small.projection.bias + mean)
    features = torch.randn(20, 5, dtype=torch.float64, requires_grad=True)
    student = NetworkOutput(features[:, :2], features)
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.3, momentum=0.9) for one in (small, whole)]
    for _ in range(5):
        gradients = []
        losses = []
        for connector, target, optimizer in zip(
            (small, whole), (scale * values, embeddings), optimizers
        ):
            result = connector(student, NetworkOutput(target[:, :2], target))
            loss = (result.features - result.target).square().mean(dim=1).sum()
            optimizer.zero_grad()
            gradients.append(torch.autograd.grad(loss, features, retain_graph=True)[0])
            loss.backward(inputs=list(connector.parameters()))
            optimizer.step()
            losses.append(loss)
        torch.testing.assert_close(losses[0], losses[1])
        torch.testing.assert_close(gradients[0], gradients[1])
        torch.testing.assert_close(components @ whole.projection.weight, small.projection.weight)
    # AE-KD's gradient goes through the linear layer alone.
    upstream = torch.randn(20, 3, dtype=torch.float64)
    result = small(student, NetworkOutput(values[:, :2], values))
    (of_stem,) = torch.autograd.grad(
        result.features, result.stem.output, upstream, retain_graph=True
    )
    (expected,) = torch.autograd.grad(result.features, features, upstream)
    torch.testing.assert_close(result.stem.mean_vjp(of_stem.mean(0)), expected.mean(0))
