# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What teachers have learned of the student's images by heart."""

import pytest
import torch
import torch.nn.functional as F

from mtkdrl_mm.rl import MemorisedShare
from mtkdrl_mm.structures import NetworkOutput, StepTerms


def terms_of(labels, *probabilities):
    teachers = [NetworkOutput(p.log(), None) for p in probabilities]
    return StepTerms(NetworkOutput(torch.zeros_like(probabilities[0]), None), teachers, labels)


def answers(count, classes, seed):
    """Labels, and what a teacher says of images that are new to it."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    says = (2 * torch.randn(count, classes, generator=generator)).softmax(dim=1)
    return labels, 0.7 * says + 0.3 * F.one_hot(labels, classes)


def test_the_share_that_a_teacher_repeats_is_found():
    """Of teachers that mix the label into what they would say of a new image."""
    shares = (0.0, 0.25, 0.9)
    new_labels, new = answers(4000, 5, seed=0)
    held_out = new.gather(1, new_labels[:, None]).expand(-1, 3)
    memorised = MemorisedShare(3)
    labels, says = answers(4000, 5, seed=1)
    heard = [(1 - lam) * says + lam * F.one_hot(labels, 5) for lam in shares]
    for start in range(0, 4000, 500):
        part = slice(start, start + 500)
        memorised.observe(terms_of(labels[part], *(p[part] for p in heard)))
    # The two samples differ in how likely their labels are, by chance.
    torch.testing.assert_close(
        memorised.estimate(held_out), torch.tensor(shares), rtol=0, atol=0.02
    )


def test_closed_form():
    memorised = MemorisedShare(2)
    memorised.observe(
        terms_of(
            torch.tensor([0, 1]),
            torch.tensor([[0.9, 0.1], [0.3, 0.7]]),
            torch.tensor([[0.2, 0.8], [0.5, 0.5]]),
        )
    )
    # 0.8 against 0.6: 0.2 of the 0.4 that are missing. 0.35 against 0.6: less than on new images.
    share = memorised.estimate(torch.tensor([[0.5, 0.6], [0.7, 0.6]]))
    torch.testing.assert_close(share, torch.tensor([0.5, 0.0]))


def test_a_smoothed_label_stands_for_its_class():
    """The student's own head may smooth what the teachers were told."""
    hard, smoothed = MemorisedShare(1), MemorisedShare(1)
    labels, says = answers(50, 5, seed=3)
    hard.observe(terms_of(labels, says))
    smoothed.observe(terms_of(0.9 * F.one_hot(labels, 5) + 0.02, says))
    held_out = torch.full((3, 1), 0.2)
    share = hard.estimate(held_out)
    assert 0.1 < share < 0.9
    torch.testing.assert_close(smoothed.estimate(held_out), share)


def test_answers_that_are_no_numbers_are_counted_and_not_summed():
    memorised = MemorisedShare(2)
    says = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.5, 0.5]])
    bad = torch.tensor([[0.9, 0.1], [float('nan'), 0.1], [0.5, 0.5]])
    memorised.observe(terms_of(torch.tensor([0, 0, 0]), says, bad))
    assert memorised.count_non_finite().tolist() == [0, 1]
    memorised.gather()
    assert memorised.count_non_finite().tolist() == [0, 0]
    share = memorised.estimate(torch.zeros(3, 2))
    torch.testing.assert_close(share, torch.tensor([2.3 / 3, 1.4 / 3]))


def test_teachers_that_are_always_right_have_memorised_nothing_that_one_could_tell():
    memorised = MemorisedShare(1)
    memorised.observe(terms_of(torch.tensor([0]), torch.tensor([[1.0, 1e-30]])))
    assert torch.equal(memorised.estimate(torch.ones(3, 1)), torch.zeros(1))


def test_nothing_seen_discounts_nothing():
    memorised = MemorisedShare(2)
    assert torch.equal(memorised.estimate(torch.full((3, 2), 0.5)), torch.zeros(2))
    memorised.observe(terms_of(torch.tensor([0]), *2 * [torch.tensor([[0.9, 0.1]])]))
    assert torch.equal(memorised.estimate(torch.zeros(0, 2)), torch.zeros(2))
    assert float(memorised.estimate(torch.full((3, 2), 0.5)).min()) > 0.7
    memorised.clear()
    assert torch.equal(memorised.estimate(torch.full((3, 2), 0.5)), torch.zeros(2))


@pytest.mark.parametrize('interrupted', [1, 5, 7])
def test_an_interrupted_sum_has_the_same_bits(interrupted):
    labels, says = answers(700, 5, seed=2)
    whole, part, resumed = (MemorisedShare(1) for _ in range(3))
    for step, (some, probabilities) in enumerate(zip(labels.split(64), says.split(64))):
        terms = terms_of(some, probabilities)
        whole.observe(terms)
        (part if step < interrupted else resumed).observe(terms)
        if step == interrupted - 1:
            part.gather()
            resumed.load_state_dict(part.state_dict())
    held_out = torch.full((3, 1), 0.1)
    assert torch.equal(whole.estimate(held_out), resumed.estimate(held_out))
