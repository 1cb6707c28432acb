# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What weighing teachers could gain, on pools whose answer is known."""

import math

import pytest
import torch

from mtkdrl_mm.evaluation.mixtures import Mixture, compare_mixtures

NAMES = ['first', 'second']


def pool(shows, count=600):
    """Two teachers, each right on the images on which it shows a mark; three classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (count,), generator=generator)
    right = torch.rand(count, generator=generator) < 0.5
    wrong = (labels + torch.randint(1, 3, (count,), generator=generator)) % 3
    answers = torch.stack([torch.where(right, labels, wrong), torch.where(right, wrong, labels)], 1)
    logits = 3.0 * torch.nn.functional.one_hot(answers, 3)
    if shows:
        # A constant of all logits changes no probability, but the agent sees it.
        logits = logits + 2.0 * torch.stack([right, ~right], dim=1)[..., None]
    return logits.float(), labels


def compare(logits, labels, **kwargs):
    mixtures = compare_mixtures(NAMES, logits, labels, torch.arange(len(labels)), **kwargs)
    return {one.name: one for one in mixtures}


def test_a_mark_of_the_right_teacher_is_found():
    found = compare(*pool(shows=True))
    images = torch.arange(600)
    gain, half = found['weights per image'].gain(found['static weights'], images)
    assert gain > 0.4 and half < 0.1
    assert found['weights per image'].accuracy > 0.95
    gain, half = found['static weights'].gain(found['equal weights'], images)
    assert abs(gain) < 0.02


def test_without_a_mark_there_is_nothing_to_gain():
    """Cross-validation keeps an agent from finding something in noise."""
    found = compare(*pool(shows=False))
    gain, half = found['weights per image'].gain(found['static weights'], torch.arange(600))
    assert -0.15 < gain < half


def test_closed_form_of_equal_weights_and_of_single_teachers():
    logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]]).repeat(10, 1, 1)
    labels = torch.zeros(10, dtype=torch.long)
    found = compare(logits, labels, passes=1)
    p, q = torch.tensor(2.0).sigmoid(), torch.tensor(-1.0).sigmoid()
    assert found['first'].cross_entropy == pytest.approx(-float(p.log()), abs=1e-5)
    assert found['second'].cross_entropy == pytest.approx(-float(q.log()), abs=1e-5)
    equal = found['equal weights']
    assert equal.cross_entropy == pytest.approx(-float(((p + q) / 2).log()), abs=1e-5)
    assert (found['first'].accuracy, found['second'].accuracy, equal.accuracy) == (1, 0, 1)
    assert equal.weights.tolist() == [0.5, 0.5]


def test_weights_are_fitted_without_an_image_and_without_its_views():
    """Of two images with two views each, the fit to one is the worst for the other."""
    good, bad = [math.log(9), 0.0], [0.0, math.log(9)]
    logits = torch.tensor([[good, bad], [good, bad], [bad, good], [bad, good]])
    labels, images = torch.zeros(4, dtype=torch.long), torch.tensor([0, 0, 1, 1])
    mixtures = compare_mixtures(NAMES, logits, labels, images, folds=2, passes=1)
    (static,) = [one for one in mixtures if one.name == 'static weights']
    # All weight is on the teacher that is right about the other image.
    assert static.log_likelihoods.tolist() == pytest.approx([math.log(0.1)] * 4, abs=1e-4)
    assert static.weights.tolist() == pytest.approx([0.5, 0.5])
    assert static.accuracy == 0


def test_views_of_an_image_are_one_sample():
    def mixture(values):
        return Mixture('', torch.tensor(values), 0.0, torch.zeros(2))

    one, other = mixture([1.0, 3.0, 2.0, 2.0]), mixture([0.0] * 4)
    gain, half = one.gain(other, torch.tensor([0, 1, 0, 1]))
    # Means of 1.5 and 2.5: deviation 0.707, and t of one degree of freedom is 12.706.
    assert gain == 2.0 and half == pytest.approx(12.706 * 0.5, rel=1e-4)


def test_the_same_seed_gives_the_same_fits():
    first, second = (compare(*pool(shows=True), passes=2) for _ in range(2))
    for name, one in first.items():
        assert torch.equal(one.log_likelihoods, second[name].log_likelihoods)
    other = compare(*pool(shows=True), passes=2, seed=1)
    name = 'weights per image'
    assert not torch.equal(first[name].log_likelihoods, other[name].log_likelihoods)
