# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""DIST, ND, spatial KL and standardised logits."""

import numpy as np
import pytest
import torch

from mtkdrl_mm.models import DIST, FeatureKL, KLDivergence, NormDirection, StandardizedKL
from mtkdrl_mm.structures import NetworkOutput, Projection, StepTerms
from mtkdrl_mm.utils import InputError


@pytest.mark.parametrize(
    ('key', 'arguments'),
    [
        ('dist_b1_g1_t1', dict(beta=1.0, gamma=1.0, temperature=1.0)),
        ('dist_b2_g2_t4', dict(beta=2.0, gamma=2.0, temperature=4.0)),
    ],
)
def test_dist_is_the_authors(peers, peers_terms, key, arguments):
    loss = DIST(**arguments)(peers_terms)
    assert loss.shape == (6, 4)
    torch.testing.assert_close(loss.mean(dim=0), peers[key], atol=1e-6, rtol=0)


def test_dist_between_and_within_classes_have_coefficients_of_their_own(make_terms):
    """Each correlation is numpy's."""
    terms = make_terms()
    student, *teachers = (
        (logits / 2).softmax(dim=1).detach().numpy()
        for logits in (terms.student.logits, *(teacher.logits for teacher in terms.teachers))
    )

    def distances(first, second):
        return np.array([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(first, second)])

    between = np.stack([distances(student, teacher) for teacher in teachers], axis=1)
    within = np.stack([distances(student.T, teacher.T).mean() for teacher in teachers])
    loss = DIST(beta=3.0, gamma=0.5, temperature=2.0)(terms)
    expected = torch.from_numpy(4 * (3 * between + 0.5 * within))
    torch.testing.assert_close(loss.detach(), expected, atol=1e-5, rtol=0)


def test_dist_does_not_see_scale_or_shift_of_predictions(peers_terms):
    """A teacher that agrees up to rank has no distance; the opposite has most."""
    logits = torch.randn(5, 7, dtype=torch.float64)
    probs = logits.softmax(dim=1)
    shrunk = (0.5 * probs + 0.5 / 7).log()
    terms = StepTerms(
        NetworkOutput(logits, logits),
        [NetworkOutput(shrunk, shrunk)],
        torch.zeros(5, dtype=torch.long),
    )
    torch.testing.assert_close(DIST()(terms), torch.zeros(5, 1).double(), atol=1e-5, rtol=0)


def test_feature_kl_is_the_authors(peers, peers_terms):
    loss = FeatureKL(temperature=4.0)(peers_terms)
    torch.testing.assert_close(loss, peers['feature_kl_T4'], atol=1e-6, rtol=0)


@pytest.mark.parametrize('size', [(5, 1, 1), (1,)])
def test_feature_kl_needs_more_than_one_place(size):
    """Its softmax would be 1, and the loss 0 whatever the student does."""
    logits, features = torch.randn(2, 3), torch.randn(2, *size, requires_grad=True)
    terms = StepTerms(
        NetworkOutput(logits, None),
        [NetworkOutput(logits, None)] * 2,
        torch.tensor([0, 1]),
        [Projection(torch.randn(2, 5), torch.randn(2, 5)), Projection(features, features.detach())],
    )
    with pytest.raises(InputError, match=r'of teacher number 1 have the shape \(.*Use FeatureMSE'):
        FeatureKL()(terms)
    terms.projections = [terms.projections[0]] * 2
    assert FeatureKL()(terms).min() > 0.01


def nd_terms(peers, labels=None, data_labels=None) -> StepTerms:
    student, teacher = peers['nd_student_emb'], peers['nd_teacher_emb']
    return StepTerms(
        NetworkOutput(peers['student_logits'], student),
        [NetworkOutput(peers['teacher_logits'][:, 0], teacher)],
        peers['labels'] if labels is None else labels,
        [Projection(student, teacher)],
        data_labels=data_labels,
    )


def test_norm_direction_is_the_authors(peers, tmp_path):
    path = str(tmp_path / 'centers.pth')
    torch.save(dict(only=peers['nd_class_centres']), path)
    loss = NormDirection(path, ['only'])
    loss.centers_0 = peers['nd_class_centres']
    terms = nd_terms(peers)
    torch.testing.assert_close(loss(terms).mean(), peers['nd_loss'], atol=1e-6, rtol=0)
    terms_soft = nd_terms(peers, terms.soft_labels)
    torch.testing.assert_close(loss(terms_soft), loss(terms))
    # Smoothing is for the student's cross entropy: an image has one centre, but for blends.
    smoothed = nd_terms(peers, 0.9 * terms.soft_labels + 0.01, terms.labels)
    torch.testing.assert_close(loss(smoothed), loss(terms))
    blended = 0.7 * terms.soft_labels + 0.3 * terms.soft_labels.roll(1, dims=0)
    mixed = torch.nn.functional.normalize(blended @ peers['nd_class_centres'], dim=1)
    student, teacher = peers['nd_student_emb'], peers['nd_teacher_emb']
    length = torch.maximum(student.norm(dim=1), teacher.norm(dim=1))
    expected = 1 - (student * mixed).sum(dim=1) / length
    torch.testing.assert_close(loss(nd_terms(peers, blended))[:, 0], expected)
    assert not loss.state_dict(), 'checkpoints need no centres'


def test_norm_direction_knows_whose_centres_it_has(peers, tmp_path):
    path = str(tmp_path / 'centers.pth')
    centers = dict(a=peers['nd_class_centres'], b=peers['nd_class_centres'])
    torch.save(dict(centers, weights_sha256=dict(a='12', b='')), path)
    loss = NormDirection(path, ['a', 'b'])
    loss.check_teachers(dict(a='12', b='34'))  # that of "b" was not known
    loss.check_teachers(dict(a='', b='34'))
    with pytest.raises(InputError, match=r'with other weights of teacher "a"\. Write them anew'):
        loss.check_teachers(dict(a='13', b='34'))
    torch.save(centers, path)
    NormDirection(path, ['a']).check_teachers(dict(a='13'))  # of an earlier version


def test_norm_direction_says_what_it_lacks(peers, tmp_path):
    path = str(tmp_path / 'centers.pth')
    torch.save(dict(other=peers['nd_class_centres']), path)
    with pytest.raises(InputError, match=r"lack \['only'\].*compute_class_centers"):
        NormDirection(path, ['only'])
    torch.save(dict(only=peers['nd_class_centres'][:3]), path)
    with pytest.raises(InputError, match=r'\(3, 12\).*10 classes'):
        NormDirection(path, ['only'])(nd_terms(peers))


def test_standardized_kl_ignores_the_scale_of_logits(peers_terms):
    loss = StandardizedKL(temperature=2.0, eps=0.0)
    before = loss(peers_terms)
    scaled = StepTerms(
        NetworkOutput(3 * peers_terms.student.logits + 1, peers_terms.student.embedding),
        [NetworkOutput(0.2 * t.logits - 5, t.embedding) for t in peers_terms.teachers],
        peers_terms.labels,
    )
    torch.testing.assert_close(loss(scaled), before)
    # On logits of mean 0 and deviation 1 it is Hinton's loss.
    standard = [
        (z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True, correction=0)
        for z in (peers_terms.student.logits, *(t.logits for t in peers_terms.teachers))
    ]
    unit = StepTerms(
        NetworkOutput(standard[0], standard[0]),
        [NetworkOutput(z, z) for z in standard[1:]],
        peers_terms.labels,
    )
    torch.testing.assert_close(KLDivergence(temperature=2.0)(unit), before)


def papers_standardized_kl(student, teacher, temperature):
    """As printed, with the eps of the authors' code."""
    student, teacher = (
        (z - z.mean(-1, keepdim=True)) / (z.std(-1, keepdim=True, correction=0) + 1e-7)
        for z in (student, teacher)
    )
    terms = terms_of(student, teacher)
    return KLDivergence(temperature)(terms)


def papers_dist(student, teacher, temperature):
    """As the authors compute it."""

    def pearson(first, second):
        first, second = (p - p.mean(dim=1, keepdim=True) for p in (first, second))
        lengths = first.norm(dim=1) * second.norm(dim=1)
        return (first * second).sum(dim=1) / (lengths + 1e-8)

    student, teacher = ((z / temperature).softmax(dim=1) for z in (student, teacher))
    within = 1 - pearson(student.T, teacher.T).mean()
    return temperature**2 * (1 - pearson(student, teacher) + within)[:, None]


def terms_of(student, teacher):
    labels = torch.zeros(len(student), dtype=torch.long)
    return StepTerms(NetworkOutput(student, None), [NetworkOutput(teacher, None)], labels)


# Relations within classes alone, too: each part has to have a gradient of its own.
SCALELESS = dict(
    standardized_kl=StandardizedKL(),
    dist=DIST(),
    dist_soft=DIST(temperature=4.0),
    between=DIST(gamma=0.0),
    within=DIST(beta=0.0),
)


@pytest.mark.parametrize('deviation', [0.02, 0.1, 1.0, 10.0])
@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_logits_that_are_not_constant_are_compared_as_in_the_papers(deviation, temperature):
    student = (deviation * torch.randn(64, 10).double()).requires_grad_()
    teacher = 3 * torch.randn(64, 10).double()
    for loss, paper in ((StandardizedKL, papers_standardized_kl), (DIST, papers_dist)):
        ours = loss(temperature=temperature)(terms_of(student, teacher))
        expected = paper(student, teacher, temperature)
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=0)
        gradients = [torch.autograd.grad(one.mean(), student)[0] for one in (ours, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize('deviation', [0.0, 1e-8, 1e-5, 1e-3])
@pytest.mark.parametrize('name', SCALELESS)
def test_constant_logits_have_gradients_as_others(name, deviation):
    """They were up to a million times as long; the values are those of constant predictions."""
    loss, teacher, direction = SCALELESS[name], 3 * torch.randn(8, 10), torch.randn(8, 10)

    def loss_and_gradient(scale):
        student = (scale * direction + 0.7).requires_grad_()
        value = loss(terms_of(student, teacher)).mean()
        return value.detach(), torch.autograd.grad(value, student)[0]

    value, gradient = loss_and_gradient(deviation)
    constant, _ = loss_and_gradient(0.0)
    torch.testing.assert_close(value, constant, rtol=0.01, atol=0)
    ordinary = loss_and_gradient(1.0)[1].norm()
    assert 0.2 * ordinary < gradient.norm() < 5 * ordinary


@pytest.mark.parametrize('name', SCALELESS)
def test_gradients_at_constant_logits_are_those_of_finite_differences(name):
    teacher = torch.randn(5, 4).double()
    student = torch.full((5, 4), 0.7).double().requires_grad_()
    loss = SCALELESS[name]
    assert torch.autograd.gradcheck(lambda z: loss(terms_of(z, teacher)), (student,))


@pytest.mark.parametrize('name', SCALELESS)
def test_a_head_that_starts_at_zero_learns_from_one_loss_alone(name):
    """In steps of ordinary size, from the first one on."""
    features = torch.nn.functional.layer_norm(torch.randn(64, 32), (32,))
    teacher = features @ torch.randn(32, 10) / 2
    head = torch.nn.Linear(32, 10)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    loss, values = SCALELESS[name], []
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5 / loss.temperature)
    for _ in range(200):
        student = head(features)
        values.append(loss(terms_of(student, teacher)).mean())
        optimizer.zero_grad()
        values[-1].backward()
        optimizer.step()
        assert student.abs().max() < 30
    assert values[-1] < 0.3 * values[0]
