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


def nd_terms(peers) -> StepTerms:
    student, teacher = peers['nd_student_emb'], peers['nd_teacher_emb']
    return StepTerms(
        NetworkOutput(peers['student_logits'], student),
        [NetworkOutput(peers['teacher_logits'][:, 0], teacher)],
        peers['labels'],
        [Projection(student, teacher)],
    )


def test_norm_direction_is_the_authors(peers, tmp_path):
    path = str(tmp_path / 'centers.pth')
    torch.save(dict(only=peers['nd_class_centres']), path)
    loss = NormDirection(path, ['only'])
    loss.centers_0 = peers['nd_class_centres']
    terms = nd_terms(peers)
    torch.testing.assert_close(loss(terms).mean(), peers['nd_loss'], atol=1e-6, rtol=0)
    terms_soft = nd_terms(peers)
    terms_soft.labels = terms.soft_labels
    torch.testing.assert_close(loss(terms_soft), loss(terms))
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
