# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""EB-KD, CA-MKD and AE-KD."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mtkdrl_mm.models import AEKD, CAMKD, DIST, EBKD, KLDivergence, PoolSpec, StandardizedKL
from mtkdrl_mm.models.weightings.aekd import BatchGradients, logit_gradients, min_norm_weights
from mtkdrl_mm.structures import NetworkOutput, Projection, StepTerms
from mtkdrl_mm.utils import InputError


def pool_of(count: int, classes: int = 10) -> PoolSpec:
    return PoolSpec(tuple(f't{m}' for m in range(count)), classes, (12,) * count, (12,) * count)


def test_ebkd_is_the_authors(peers, peers_terms):
    weights = EBKD(pool_of(4))(peers_terms)
    expected = peers['ebkd_weights_unnormalised'] / 3
    torch.testing.assert_close(weights.logit, expected, atol=1e-6, rtol=0)
    assert torch.equal(weights.feature, weights.logit)


def test_camkd_is_the_authors(peers, peers_terms):
    weights = CAMKD(pool_of(4))(peers_terms)
    torch.testing.assert_close(weights.logit, peers['camkd_weights'], atol=1e-6, rtol=0)
    assert torch.equal(weights.feature, weights.logit)


@pytest.mark.parametrize(('key', 'nu'), [('nu_-1', None), ('nu_0.6', 0.6)])
def test_aekd_is_the_authors(peers, peers_terms, key, nu):
    peers_terms.projections = None  # the features are another problem
    weights = AEKD(pool_of(4), nu=nu)(peers_terms).logit
    assert weights.shape == (6, 4)
    torch.testing.assert_close(weights[0], peers[f'aekd_weights_{key}'], atol=1e-4, rtol=0)
    assert torch.equal(weights, weights[:1].expand(6, 4))


def test_aekd_logit_gradients_are_autograds(peers_terms):
    logits = peers_terms.student.logits.clone().requires_grad_()
    expected = []
    for teacher in peers_terms.teachers:
        p = F.log_softmax(teacher.logits / 4, dim=1)
        kl = 16 * (p.exp() * (p - F.log_softmax(logits / 4, dim=1))).sum()
        expected.append(torch.autograd.grad(kl, logits)[0])
    gradients = logit_gradients(peers_terms)
    expected = torch.stack(expected)  # (M, B, C)
    torch.testing.assert_close(gradients.mean, expected.mean(dim=1))
    torch.testing.assert_close(gradients.independent_norm, expected.norm(dim=(1, 2)) / 6)


CALIBRATED = KLDivergence(2.0, dict(b=3.0), names=['a', 'b', 'c'])


@pytest.mark.parametrize('loss', [StandardizedKL(), DIST(), KLDivergence(2.0), CALIBRATED])
def test_aekd_finds_the_least_norm_of_any_logit_loss(make_terms, loss):
    """And not that of the KL divergence, whatever the loss is."""
    terms = make_terms(temperature=loss.temperature, features=False)
    terms.logit_loss_fn = loss
    expected = torch.stack(
        [
            torch.autograd.grad(one, terms.student.logits, retain_graph=True)[0].mean(dim=0)
            for one in terms.logit_loss.sum(dim=0)
        ]
    )
    torch.testing.assert_close(logit_gradients(terms).mean, expected)
    weights = AEKD(pool_of(3, classes=5))(terms).logit[0].double()

    def norm(candidate):
        return float((candidate @ expected).norm())

    grid = [torch.tensor([a, b, 20 - a - b]) / 20 for a in range(21) for b in range(21 - a)]
    assert norm(weights) <= min(norm(one.double()) for one in grid) + 1e-6


def test_aekd_feature_gradients_go_to_the_students_map():
    """Two teachers pulling the map in opposite directions cancel."""
    feature_map = torch.randn(3, 2, 4, 4, requires_grad=True)
    logits = torch.randn(3, 10, requires_grad=True)
    targets = [feature_map.detach() + 1, feature_map.detach() - 3]
    terms = StepTerms(
        NetworkOutput(logits, feature_map.mean((2, 3)), feature_map),
        [NetworkOutput(torch.randn(3, 10), torch.randn(3, 2), t) for t in targets],
        torch.zeros(3, dtype=torch.long),
        [Projection(feature_map * 1.0, target) for target in targets],
    )
    terms.logit_loss = torch.zeros(3, 2)
    terms.feature_loss = torch.stack(
        [(p.features - p.target).square().mean((1, 2, 3)) for p in terms.projections], dim=1
    )
    weights = AEKD(pool_of(2))(terms)
    # g = -2 * 1 and +2 * 3 per entry: 3/4 of the first and 1/4 of the second.
    torch.testing.assert_close(weights.feature[0], torch.tensor([0.75, 0.25]), atol=1e-5, rtol=0)
    assert not weights.feature.requires_grad


def test_aekd_solves_for_the_gradients_of_all_processes(monkeypatch):
    """Orthogonal vectors, of which the other process has a longer one."""
    other = torch.tensor([[3.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    all_reduce_mean = 'mtkdrl_mm.models.weightings.aekd.all_reduce_mean'
    monkeypatch.setattr('mtkdrl_mm.models.weightings.aekd.get_world_size', lambda: 2)
    monkeypatch.setattr(all_reduce_mean, lambda own: (own + other) / 2)
    weights = AEKD(pool_of(2)).solve(BatchGradients(torch.eye(2), torch.ones(2)))
    # As 1 / |g|^2 of the means, of lengths 2 and 1.
    torch.testing.assert_close(weights, torch.tensor([0.2, 0.8]))
    # With statistics of all processes (SyncBN), gradients cancel only over all of them.
    monkeypatch.setattr(all_reduce_mean, lambda own: own * own.new_tensor([1e-8, 1e-7, 1]))
    weights = AEKD(pool_of(2)).solve(BatchGradients(torch.eye(2), torch.ones(2)))
    assert weights.tolist() == [0.5, 0.5]
    # Independent gradients on 900 processes leave a thirtieth of their length on one.
    monkeypatch.setattr('mtkdrl_mm.models.weightings.aekd.get_world_size', lambda: 900)
    monkeypatch.setattr(all_reduce_mean, lambda own: own * own.new_tensor([1 / 30, 1 / 60, 1]))
    weights = AEKD(pool_of(2)).solve(BatchGradients(torch.eye(2), torch.ones(2)))
    torch.testing.assert_close(weights, torch.tensor([0.2, 0.8]))


def test_aekd_weighs_logit_gradients_that_cancel_equally():
    """As those of relations within classes, to a student that says the same of all images."""
    found = []
    logits, teachers = torch.randn(1, 5).expand(64, 5), torch.randn(64, 3, 5)
    for order in (torch.arange(64), torch.randperm(64)):
        student = logits.clone().requires_grad_()
        outputs = [NetworkOutput(one[order], None) for one in teachers.unbind(dim=1)]
        labels = torch.zeros(64, dtype=torch.long)
        terms = StepTerms(NetworkOutput(student, None), outputs, labels)
        terms.logit_loss_fn = DIST(beta=0.0)
        gradients = logit_gradients(terms)
        assert (gradients.independent_norm > 0.01).all()
        found.append(AEKD(pool_of(3, classes=5))(terms).logit[0])
    for weights in found:
        assert weights.tolist() == pytest.approx([1 / 3] * 3, abs=1e-7)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_aekd_does_not_take_a_gradient_that_is_not_finite_for_none(value):
    gradients = torch.eye(2)
    gradients[0, 0] = value
    weights = AEKD(pool_of(2)).solve(BatchGradients(gradients, gradients.norm(dim=1)))
    assert weights.tolist() == [0.5, 0.5]


def least_norm_of_all_active_sets(gram, cap):
    """The least w' G w over every choice of weights at 0, at the cap, and free."""
    count = len(gram)
    norms = np.sqrt(gram.diagonal())
    kinds = np.array(list(itertools.product((0, 1, 2), repeat=count)))  # 2: at the cap
    free, fixed = kinds == 1, cap * (kinds == 2)
    # There has to be a free weight, which may be at a bound too.
    kept = free.any(axis=1) & (fixed.sum(axis=1) <= 1 + 1e-9)
    free, fixed = free[kept], fixed[kept]
    # For v = |g| w and the multiplier l: G w = l where free, w as fixed, and sum w = 1.
    matrices = np.zeros((len(free), count + 1, count + 1))
    correlations = gram / np.outer(norms, norms) + 1e-15 * np.eye(count)
    matrices[:, :count, :count] = np.where(free[:, :, None], correlations, np.eye(count))
    matrices[:, :count, count] = np.where(free, -norms.min() / norms, 0)
    matrices[:, count, :count] = norms.min() / norms
    sides = np.concatenate([fixed * norms, np.full((len(free), 1), norms.min())], axis=1)
    weights = np.linalg.solve(matrices, sides[..., None])[:, :count, 0] / norms
    weights = weights[(weights > -1e-9).all(axis=1) & (weights < cap + 1e-9).all(axis=1)]
    weights = weights.clip(0, cap)
    weights /= weights.sum(axis=1, keepdims=True)
    values = np.einsum('ki,ij,kj->k', weights, gram, weights)
    return values.min(), weights[values.argmin()]


@pytest.mark.parametrize(('teachers', 'problems'), [(2, 60), (3, 60), (4, 60), (5, 40), (8, 8)])
def test_min_norm_is_that_of_the_best_active_set(teachers, problems):
    """Also with lengths from 1e-4 to 1e2, and with opposite and almost equal vectors."""
    rng = np.random.default_rng(teachers)
    for problem in range(problems):
        vectors = rng.normal(size=(teachers, rng.integers(1, 30)))
        vectors *= 10 ** rng.uniform(-4, 2, size=(teachers, 1))
        if problem % 4 == 1:
            vectors += 10 * rng.normal(size=(1, vectors.shape[1]))
        if problem % 4 == 2:
            vectors -= vectors.mean(axis=0)
        if problem % 4 == 3:
            vectors[0] = -vectors[-1]
        gram, cap = vectors @ vectors.T, rng.uniform(1.01 / teachers, 1)
        found = min_norm_weights(gram, cap)
        assert found.sum() == pytest.approx(1, abs=1e-12)
        assert found.min() >= 0 and found.max() <= cap + 1e-12
        least, best = least_norm_of_all_active_sets(gram, cap)
        # Vectors that cancel count as uncertain by 1e-6 of their lengths.
        uncertain = 1e-12 * best**2 @ gram.diagonal()
        assert found @ gram @ found <= least * (1 + 1e-9) + uncertain, (problem, found, best)


def test_min_norm_of_orthogonal_vectors():
    """Weights are as 1 / |g|^2, up to the cap, whatever the lengths are."""
    squares = np.array([0.0044, 0.758, 0.0011, 5.19]) ** 2
    expected = 1 / squares / (1 / squares).sum()
    np.testing.assert_allclose(min_norm_weights(np.diag(squares), 1.0), expected, rtol=1e-9)
    expected = 0.3 / squares / (1 / squares[[0, 1, 3]]).sum()
    expected[2] = 0.7
    np.testing.assert_allclose(min_norm_weights(np.diag(squares), 0.7), expected, rtol=1e-9)


def test_min_norm_where_two_weights_reach_their_bounds_at_once():
    """From equal weights, the last two are at 0 and at 1 after the same step."""
    lengths = np.array([0.00047451, 0.00263847, 0.17262238])
    cosines = np.array(
        [[1, -0.447889, -0.524596], [-0.447889, 1, 0.996145], [-0.524596, 0.996145, 1]]
    )
    gram = cosines * np.outer(lengths, lengths)
    first = (gram[1, 1] - gram[0, 1]) / (gram[0, 0] + gram[1, 1] - 2 * gram[0, 1])
    np.testing.assert_allclose(min_norm_weights(gram, 1.0), [first, 1 - first, 0], rtol=1e-9)


def test_min_norm_of_equal_and_missing_vectors():
    np.testing.assert_allclose(min_norm_weights(np.ones((4, 4)), 0.25), 0.25)
    np.testing.assert_allclose(min_norm_weights(np.zeros((4, 4)), 1.0), 0.25)
    np.testing.assert_allclose(min_norm_weights(np.ones((4, 4)), 1.0), 0.25)
    # A teacher without a gradient takes all that it may.
    np.testing.assert_allclose(min_norm_weights(np.diag([0.0, 1, 1]), 1.0), [1, 0, 0], atol=1e-9)
    found = min_norm_weights(np.diag([0.0, 1, 1]), 0.5)
    np.testing.assert_allclose(found, [0.5, 0.25, 0.25], rtol=1e-9)


def test_one_teacher_gets_everything(peers_terms):
    terms = StepTerms(peers_terms.student, peers_terms.teachers[:1], peers_terms.labels)
    terms.logit_loss = torch.ones(6, 1)
    for method in (EBKD, CAMKD, AEKD):
        torch.testing.assert_close(method(pool_of(1))(terms).logit.float(), torch.ones(6, 1))


def test_ebkd_of_teachers_that_are_all_sure_is_equal():
    logits = F.one_hot(torch.tensor([0, 1]), 3) * 1e6
    terms = StepTerms(
        NetworkOutput(torch.randn(2, 3), torch.randn(2, 3)),
        [NetworkOutput(logits.float(), logits)] * 3,
        torch.tensor([0, 1]),
    )
    torch.testing.assert_close(EBKD(pool_of(3, 3))(terms).logit, torch.full((2, 3), 1 / 3))


def test_aekd_refuses_a_tolerance_out_of_range():
    with pytest.raises(InputError, match=r'`nu`.*0\.25.*0\.1'):
        AEKD(pool_of(4), nu=0.1)
