# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Mean squared error of features."""

import pytest
import torch

from mtkdrl_mm.models import FeatureMSE
from mtkdrl_mm.structures import Projection
from mtkdrl_mm.utils import InputError


def test_original_code(peers, peers_terms):
    torch.testing.assert_close(FeatureMSE()(peers_terms), peers['feature_mse'], rtol=0, atol=1e-6)


def test_every_image_and_teacher_has_its_own_mean(make_terms):
    terms = make_terms()
    values = FeatureMSE()(terms)
    assert values.shape == (6, 3)
    for i in range(6):
        for m in range(3):
            expected = (
                (terms.projections[m].features[i] - terms.projections[m].target[i]) ** 2
            ).mean()
            torch.testing.assert_close(values[i, m], expected)


def test_embeddings(make_terms):
    terms = make_terms()
    projection = Projection(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    terms.projections = [projection]
    torch.testing.assert_close(FeatureMSE()(terms), torch.tensor([[13.0 / 3]]))


def test_gradient_goes_to_the_student_only(make_terms):
    terms = make_terms()
    FeatureMSE()(terms).sum().backward()
    for projection in terms.projections:
        size = projection.target[0].numel()
        expected = 2 * (projection.features - projection.target) / size
        torch.testing.assert_close(projection.features.grad, expected.detach())
        assert not projection.target.requires_grad


def test_keeps_nothing_but_the_features_for_the_backward_pass(make_terms):
    """Maps of all teachers are large, and so would be their differences."""
    terms = make_terms()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        FeatureMSE()(terms)
    features = {f.data_ptr() for p in terms.projections for f in (p.features, p.target)}
    assert {tensor.data_ptr() for tensor in kept} == features


def test_half_precision_is_squared_in_float32(make_terms):
    terms = make_terms()
    features = torch.full((1, 2, 1, 1), 400.0, dtype=torch.float16)
    terms.projections = [Projection(features, -features)]
    # 800 squared is beyond the range of float16
    assert torch.equal(FeatureMSE()(terms), torch.tensor([[640000.0]]))


def test_relative_distances_do_not_know_the_teachers_scale(make_terms):
    """(r - F)^2 / F^2, image by image: both scaled by a factor give the same."""
    terms = make_terms()
    plain, relative = FeatureMSE()(terms), FeatureMSE(relative=True)(terms)
    squares = [p.target.square().mean(dim=(1, 2, 3)) for p in terms.projections]
    torch.testing.assert_close(relative * torch.stack(squares, dim=1), plain)
    terms.projections = [Projection(p.features * 7, p.target * 7) for p in terms.projections]
    torch.testing.assert_close(FeatureMSE(relative=True)(terms), relative)
    terms.projections = [Projection(p.features, p.target * 0) for p in terms.projections]
    assert torch.isfinite(FeatureMSE(relative=True)(terms)).all()


def test_distances_in_units_of_the_variance_over_the_data_set(make_terms):
    """A projection to the mean has the distance 1 on average, whatever the teacher's scale."""
    terms = make_terms()
    channels = [p.target.shape[1] for p in terms.projections]
    factors = (1.0, 7.0, 0.1)
    terms.projections = [
        Projection(
            (p.target * f).mean(dim=(0, 2, 3), keepdim=True).expand_as(p.target), p.target * f
        )
        for p, f in zip(terms.projections, factors)
    ]
    loss = FeatureMSE(normalize='dataset', channels=channels)
    plain = FeatureMSE()(terms)
    torch.testing.assert_close(loss(terms), plain)  # nothing was observed so far
    loss.observe(terms)
    means = loss(terms).mean(dim=0)
    torch.testing.assert_close(means, torch.ones_like(means), rtol=1e-5, atol=0)
    # One number per teacher: images keep their proportions.
    ratio = loss(terms) / plain
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))


def test_constant_features_have_a_finite_distance(make_terms):
    terms = make_terms()
    terms.projections = [Projection(torch.ones(2, 3), torch.zeros(2, 3))]
    loss = FeatureMSE(normalize='dataset', channels=[3])
    loss.observe(terms)
    assert torch.isfinite(loss(terms)).all()


def test_remedies_exclude_each_other():
    with pytest.raises(InputError, match='both scale the distances: set one'):
        FeatureMSE(relative=True, normalize='dataset', channels=[3])
    with pytest.raises(InputError, match='must be "dataset" or None, but is \'image\''):
        FeatureMSE(normalize='image')
    with pytest.raises(InputError, match='`feature_loss_weight` is above 0'):
        FeatureMSE(normalize='dataset')
