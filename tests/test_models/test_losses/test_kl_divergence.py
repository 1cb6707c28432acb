# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Softened Kullback-Leibler divergence."""

import pytest
import torch
import torch.nn.functional as F

from mtkdrl_mm.models import KLDivergence
from mtkdrl_mm.models.weightings.aekd import logit_gradients
from mtkdrl_mm.structures import NetworkOutput, StepTerms
from mtkdrl_mm.utils import InputError


def test_original_code(peers, peers_terms):
    torch.testing.assert_close(KLDivergence(4.0)(peers_terms), peers['kl_T4'], rtol=0, atol=1e-6)


@pytest.mark.parametrize('temperature', [1.0, 2.5, 4.0])
def test_torchs_divergence_times_the_squared_temperature(make_terms, temperature):
    terms = make_terms()
    values = KLDivergence(temperature)(terms)
    for m, teacher in enumerate(terms.teachers):
        expected = F.kl_div(
            (terms.student.logits / temperature).log_softmax(1),
            (teacher.logits / temperature).softmax(1),
            reduction='none',
        )
        torch.testing.assert_close(values[:, m], temperature**2 * expected.sum(1))


def test_gradient_is_the_difference_of_the_probabilities(make_terms):
    terms = make_terms()
    logits, temperature = terms.student.logits, 3.0
    for m, teacher in enumerate(terms.teachers):
        loss = KLDivergence(temperature)(terms)[:, m].sum()
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        own, other = (logits / temperature).softmax(1), (teacher.logits / temperature).softmax(1)
        torch.testing.assert_close(gradient, (temperature * (own - other)).detach())


def test_zero_for_the_student_itself_and_for_shifted_logits(make_terms):
    terms = make_terms(teachers=2)
    own = terms.student.logits.detach()
    terms = StepTerms(
        terms.student, [NetworkOutput(own, None), NetworkOutput(own + 100, None)], terms.labels
    )
    torch.testing.assert_close(
        KLDivergence()(terms), torch.zeros(6, 2, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_finite_for_teachers_that_are_sure():
    sure = torch.tensor([[1e4, 0.0, -1e4]])
    terms = StepTerms(
        NetworkOutput(-sure, None), [NetworkOutput(sure, None)], torch.zeros(1, dtype=torch.long)
    )
    # T^2 * (z^S_c - z^S_top) / T of the one class that the teacher believes in
    torch.testing.assert_close(KLDivergence(4.0)(terms), torch.tensor([[4.0 * 2e4]]))


@pytest.mark.parametrize('temperature', [0, -1.0, float('nan'), float('inf'), '4', True])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(InputError, match='`temperature` must be'):
        KLDivergence(temperature)


def test_teachers_may_have_temperatures_of_their_own(make_terms):
    """softmax(z^m / (tau_m T)): as of a teacher whose logits were divided by tau_m."""
    terms = make_terms(teachers=2)
    loss = KLDivergence(4.0, teacher_temperatures=dict(b=2.5), names=['a', 'b'])
    first, second = terms.teachers
    divided = [first, NetworkOutput(second.logits / 2.5, None)]
    other = StepTerms(terms.student, divided, terms.labels)
    torch.testing.assert_close(loss(terms), KLDivergence(4.0)(other))
    assert not torch.allclose(loss(terms)[:, 1], KLDivergence(4.0)(terms)[:, 1])
    assert loss.state_dict() == {}


def test_their_probabilities_are_computed_once(make_terms, monkeypatch):
    """The loss reads them, and AE-KD, whose gradient has a closed form."""
    terms = make_terms(teachers=2)
    loss = KLDivergence(4.0, teacher_temperatures=dict(b=2.5), names=['a', 'b'])
    terms.logit_loss_fn = loss
    original, calls = torch.Tensor.log_softmax, []

    def counting(self, *args, **kwargs):
        calls.append(tuple(self.shape))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, 'log_softmax', counting)
    losses, gradients = terms.logit_loss, logit_gradients(terms).mean
    assert sorted(calls) == [(6, 2, 5), (6, 5)]
    for m in range(2):
        (gradient,) = torch.autograd.grad(
            losses[:, m].mean(), terms.student_logits, retain_graph=True
        )
        torch.testing.assert_close(gradients[m], gradient.sum(dim=0))


def test_the_temperature_may_change(make_terms):
    """As by a schedule: the student's and the teachers' change together."""
    terms = make_terms(teachers=2)
    loss = KLDivergence(4.0, teacher_temperatures=dict(b=2.5), names=['a', 'b'])
    loss(terms)
    loss.temperature = 1.0
    other = KLDivergence(1.0, teacher_temperatures=dict(b=2.5), names=['a', 'b'])
    torch.testing.assert_close(loss(terms), other(make_terms(teachers=2)))


@pytest.mark.parametrize(
    'temperatures, message',
    [
        (dict(c=1.0), '`teacher_temperatures` names the teacher "c", which is not in the pool'),
        (dict(a=0), r'`teacher_temperatures\["a"\]` must be greater than 0, but is 0'),
        (2.0, '`teacher_temperatures` must give numbers by the names of teachers'),
    ],
)
def test_unusable_temperatures_of_teachers(temperatures, message):
    with pytest.raises(InputError, match=message):
        KLDivergence(teacher_temperatures=temperatures, names=['a', 'b'])
