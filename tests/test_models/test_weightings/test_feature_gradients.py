# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Batch means of gradients at the student's features, through stems and by autograd."""

import pytest
import torch

from mtkdrl_mm.models import (
    AEKD,
    EmbeddingConnector,
    FeatureKL,
    FeatureMSE,
    KLDivergence,
    MapConnector,
    PoolSpec,
)
from mtkdrl_mm.models.connectors import Connector
from mtkdrl_mm.models.weightings.aekd import feature_gradients
from mtkdrl_mm.structures import NetworkOutput, Projection, StepTerms

IMAGES, CHANNELS, SIDE = 5, 6, 4
# Larger than the student's map, equal, smaller, not a multiple, larger in one direction.
SIZES = [(8, 8), (4, 4), (2, 2), (3, 1), (2, 9)]
LAYERS = [
    dict(),
    dict(norm_cfg=None),
    dict(norm_cfg=None, act_cfg=None),
    dict(norm_cfg=dict(type='GN', num_groups=2)),
    dict(norm_cfg=dict(type='IN', affine=True), act_cfg=dict(type='LeakyReLU')),
    dict(act_cfg=dict(type='GELU')),
]
LOSSES = [FeatureMSE(), FeatureKL(temperature=2.0)]


class ThroughTheNetwork(Connector):
    """A connector that does not start with a linear map."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(CHANNELS, 8, 3, padding=1))

    def forward(self, student, teacher):
        return Projection(self.layers(student.feature_map).tanh(), teacher.feature_map)


def make_terms(connectors, sizes, loss):
    """A record as the distiller makes it; a nonlinear neck follows the map."""
    pixels = torch.randn(IMAGES, CHANNELS, SIDE, SIDE, requires_grad=True).double()
    feature_map = pixels.tanh() * 2
    embedding = feature_map.mean(dim=(2, 3)).exp()
    student = NetworkOutput(embedding @ torch.randn(CHANNELS, 3).double(), embedding, feature_map)
    teachers = []
    for m, size in enumerate(sizes):
        target = torch.randn(IMAGES, 8 + 2 * m, *size).double()
        teachers.append(NetworkOutput(torch.randn(IMAGES, 3), target.mean(dim=(2, 3)), target))
    projections = [connector.double()(student, t) for connector, t in zip(connectors, teachers)]
    labels = torch.zeros(IMAGES, dtype=torch.long)
    return StepTerms(student, teachers, labels, projections, feature_loss_fn=loss)


def autograds(terms, source):
    return torch.stack(
        [
            torch.autograd.grad(terms.feature_loss[:, m].sum(), source, retain_graph=True)[0]
            .mean(dim=0)
            .flatten()
            for m in range(terms.num_teachers)
        ]
    )


def assert_close(ours, expected):
    assert ours.shape == expected.shape and not ours.requires_grad
    for mine, right in zip(ours, expected):
        assert (mine - right).abs().max() <= 1e-6 * right.abs().max() and right.abs().max() > 0


@pytest.fixture
def no_backward(monkeypatch):
    """No backward pass per teacher in place of the one through the stems."""
    monkeypatch.setattr('mtkdrl_mm.models.weightings.aekd._by_backward', None)


@pytest.mark.parametrize('loss', LOSSES, ids=['mse', 'kl'])
@pytest.mark.parametrize('layers', LAYERS)
@pytest.mark.parametrize('training', [True, False])
def test_map_connector(no_backward, loss, layers, training):
    connectors = [MapConnector(CHANNELS, 8 + 2 * m, **layers) for m in range(len(SIZES))]
    for connector in connectors:
        connector.train(training)
        for parameter in connector.parameters():
            torch.nn.init.normal_(parameter)
    terms = make_terms(connectors, SIZES, loss)
    assert_close(feature_gradients(terms).mean, autograds(terms, terms.student.feature_map))


@pytest.mark.parametrize('loss', LOSSES, ids=['mse', 'kl'])
def test_embedding_connector(no_backward, loss):
    connectors = [EmbeddingConnector(CHANNELS, 8 + 2 * m) for m in range(3)]
    terms = make_terms(connectors, SIZES[:3], loss)
    assert_close(feature_gradients(terms).mean, autograds(terms, terms.student.embedding))


@pytest.mark.parametrize('first', [MapConnector, EmbeddingConnector])
def test_maps_and_embeddings_in_one_pool_meet_at_the_map(first):
    (second,) = {MapConnector, EmbeddingConnector} - {first}
    terms = make_terms([first(CHANNELS, 8), second(CHANNELS, 10)], SIZES[1:3], FeatureMSE())
    assert_close(feature_gradients(terms).mean, autograds(terms, terms.student.feature_map))


def test_a_connector_without_a_stem():
    terms = make_terms([ThroughTheNetwork(), MapConnector(CHANNELS, 10)], SIZES[1:3], FeatureMSE())
    assert_close(feature_gradients(terms).mean, autograds(terms, terms.student.feature_map))


def test_a_loss_that_does_not_read_the_projections():
    def loss(terms):
        strength = terms.student.feature_map.square().mean(dim=(1, 2, 3))
        return torch.stack([strength, 3 * strength], dim=1)

    terms = make_terms([MapConnector(CHANNELS, 8), MapConnector(CHANNELS, 10)], SIZES[:2], loss)
    assert_close(feature_gradients(terms).mean, autograds(terms, terms.student.feature_map))


def test_the_graph_is_left_for_the_students_own_backward():
    terms = make_terms([MapConnector(CHANNELS, 8)], SIZES[:1], FeatureMSE())
    first = feature_gradients(terms).mean
    assert torch.equal(feature_gradients(terms).mean, first)
    terms.feature_loss.mean().backward()


def test_under_mixed_precision():
    source = torch.randn(4, CHANNELS, 8, 8, requires_grad=True)
    connector = MapConnector(CHANNELS, 64, norm_cfg=None, act_cfg=None)
    target = torch.randn(4, 64, 8, 8)
    gradients = []
    for half in (False, True):
        with torch.autocast('cpu', torch.bfloat16, enabled=half):
            projection = connector(
                NetworkOutput(None, None, source), NetworkOutput(None, None, target)
            )
        assert (projection.features.dtype == torch.bfloat16) == half
        terms = StepTerms(
            NetworkOutput(None, None, source),
            [NetworkOutput(None, None, target)],
            torch.zeros(4, dtype=torch.long),
            [projection],
            feature_loss_fn=FeatureMSE(),
        )
        gradients.append(feature_gradients(terms).mean)
    assert gradients[1].dtype == torch.float32
    assert (gradients[0] - gradients[1]).norm() < 0.02 * gradients[0].norm()


@pytest.mark.parametrize('layers', [dict(), dict(norm_cfg=None)])
@pytest.mark.parametrize('size', [(1, 1), (4, 4), (8, 8)])
def test_length_that_independent_gradients_would_leave(monkeypatch, layers, size):
    """Through stems it is estimated, with signs; by backward passes it is exact."""
    images = 64
    source = torch.randn(images, CHANNELS, SIDE, SIDE, requires_grad=True)
    student = NetworkOutput(torch.randn(images, 3), None, source)
    target = torch.randn(images, 256, *size)
    teacher = NetworkOutput(torch.randn(images, 3), None, target)
    projections = [MapConnector(CHANNELS, 256, **layers)(student, teacher)]
    labels = torch.zeros(images, dtype=torch.long)
    terms = StepTerms(student, [teacher], labels, projections, feature_loss_fn=FeatureMSE())
    (gradient,) = torch.autograd.grad(terms.feature_loss.sum(), source, retain_graph=True)
    expected = gradient.square().sum().sqrt() / images
    estimate = feature_gradients(terms).independent_norm
    assert float(estimate / expected) == pytest.approx(1, abs=0.5)
    monkeypatch.setattr('mtkdrl_mm.models.weightings.aekd._through_stems', lambda terms: None)
    torch.testing.assert_close(feature_gradients(terms).independent_norm, expected[None])


class WithoutStem(Connector):
    """The usual connector, which does not tell that it starts with a linear map."""

    def __init__(self, out_channels):
        super().__init__()
        self.connector = MapConnector(CHANNELS, out_channels)

    def forward(self, student, teacher):
        projection = self.connector(student, teacher)
        return Projection(projection.features, projection.target)


def feature_weights(connectors, sizes, student_size=(1, 1), half=False, images=64):
    """AE-KD's feature weights of a batch, and of the same one in another order."""
    source = torch.randn(images, CHANNELS, *student_size).relu()
    targets = [
        (m + 1) * torch.randn(images, 8 + 2 * m, *size).relu() for m, size in enumerate(sizes)
    ]
    found = []
    for order in (torch.arange(images), torch.randperm(images)):
        own = source[order].requires_grad_()
        student = NetworkOutput(torch.randn(images, 3), own.mean(dim=(2, 3)), own)
        outputs = [target[order] for target in targets]
        teachers = [NetworkOutput(torch.randn(images, 3), t.mean(dim=(2, 3)), t) for t in outputs]
        with torch.autocast('cpu', torch.bfloat16, enabled=half):
            projections = [c(student, teacher) for c, teacher in zip(connectors, teachers)]
        terms = StepTerms(
            student,
            teachers,
            torch.zeros(images, dtype=torch.long),
            projections,
            KLDivergence(),
            FeatureMSE(),
        )
        channels = tuple(8 + 2 * m for m in range(len(sizes)))
        names = tuple(f't{m}' for m in range(len(sizes)))
        found.append(AEKD(PoolSpec(names, 3, channels, channels))(terms).feature[0])
    return found


@pytest.mark.parametrize('half', [False, True], ids=['float32', 'bfloat16'])
@pytest.mark.parametrize('stem', [True, False], ids=['stem', 'backward'])
@pytest.mark.parametrize(
    ('student_size', 'size'), [((1, 1), (1, 1)), ((1, 1), (2, 3)), ((2, 2), (1, 1))]
)
def test_gradients_that_batch_normalisation_cancels_weigh_equally(stem, half, student_size, size):
    """They sum to 0 over the batch, whatever the teachers are; the rest is rounding."""
    kind = (lambda channels: MapConnector(CHANNELS, channels)) if stem else WithoutStem
    connectors = [kind(8 + 2 * m) for m in range(3)]
    for weights in feature_weights(connectors, [size] * 3, student_size, half):
        assert weights.tolist() == pytest.approx([1 / 3] * 3, abs=1e-7)


def test_gradients_of_larger_maps_do_not_cancel():
    connectors = [MapConnector(CHANNELS, 8 + 2 * m) for m in range(3)]
    first, second = feature_weights(connectors, [(2, 2)] * 3, (2, 2))
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)
    assert first.max() - first.min() > 0.1


def test_teachers_whose_gradients_cancel_share_the_weight():
    """The least norm is 0, and theirs."""
    connectors = [
        MapConnector(CHANNELS, 8),
        MapConnector(CHANNELS, 10, norm_cfg=None),
        MapConnector(CHANNELS, 12),
    ]
    for weights in feature_weights(connectors, [(1, 1)] * 3):
        assert weights.tolist() == pytest.approx([0.5, 0, 0.5], abs=1e-6)
