# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The terms that everything else reads."""

import pytest
import torch
import torch.nn.functional as F

from mtkdrl_mm.models import FeatureMSE, KLDivergence
from mtkdrl_mm.rl import ClosenessReward, LabelProbabilityReward, TeacherState
from mtkdrl_mm.structures import NetworkOutput, Projection, StepTerms
from mtkdrl_mm.structures.teacher_weights import confidence

EVERY_TERM = {
    'student_ce': lambda terms: terms.student_ce,
    'teacher_ce': lambda terms: terms.teacher_ce,
    'soft_labels': lambda terms: terms.soft_labels,
    'soft_data_labels': lambda terms: terms.soft_data_labels,
    'logit_loss': lambda terms: terms.logit_loss,
    'feature_loss': lambda terms: terms.feature_loss,
    'feature_cosine': lambda terms: terms.feature_cosine,
    'teacher_losses': lambda terms: terms.teacher_losses,
    'confidence': lambda terms: confidence(terms.teacher_ce),
    'state': lambda terms: torch.cat(TeacherState()(terms), dim=1),
    'closeness': lambda terms: ClosenessReward()(terms, None),
    'label_probability': lambda terms: LabelProbabilityReward()(terms, None),
}


def test_teacher_ce_of_the_original_code(peers, peers_terms):
    torch.testing.assert_close(peers_terms.teacher_ce, peers['teacher_ce'], rtol=0, atol=1e-6)


def test_cosine_of_the_original_code(peers, peers_terms):
    torch.testing.assert_close(peers_terms.feature_cosine, peers['state_cos'], rtol=0, atol=1e-6)


def test_cross_entropies_are_torchs(make_terms):
    hard = make_terms()
    torch.testing.assert_close(
        hard.student_ce, F.cross_entropy(hard.student.logits, hard.labels, reduction='none')
    )
    mixed = torch.rand(6, 5, dtype=torch.float64).softmax(dim=1)
    soft = make_terms(labels=mixed)
    torch.testing.assert_close(
        soft.student_ce, F.cross_entropy(soft.student.logits, mixed, reduction='none')
    )
    for m, teacher in enumerate(soft.teachers):
        torch.testing.assert_close(
            hard.teacher_ce[:, m], F.cross_entropy(teacher.logits, hard.labels, reduction='none')
        )
        torch.testing.assert_close(
            soft.teacher_ce[:, m], F.cross_entropy(teacher.logits, mixed, reduction='none')
        )


@pytest.mark.parametrize('name', EVERY_TERM)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_one_hot_labels_equal_hard_labels(make_terms, name, dtype):
    hard = make_terms()
    soft = make_terms(labels=F.one_hot(hard.labels, 5).to(dtype))
    torch.testing.assert_close(EVERY_TERM[name](soft), EVERY_TERM[name](hard))


def test_labels_of_the_data_are_not_those_of_the_loss(make_terms):
    hard = torch.tensor([0, 1, 2, 3, 4, 0])
    smoothed = 0.9 * F.one_hot(hard, 5).double() + 0.02
    terms = make_terms(labels=smoothed, data_labels=hard)
    assert torch.equal(terms.soft_labels, smoothed)
    assert torch.equal(terms.soft_data_labels, F.one_hot(hard, 5).double())
    blended = 0.3 * F.one_hot(hard, 5).double() + 0.7 * F.one_hot(hard.roll(1), 5).double()
    assert torch.equal(make_terms(labels=blended).soft_data_labels, blended)


@pytest.mark.parametrize('name', ['student_ce', 'teacher_ce', 'closeness'])
def test_blended_labels_blend_the_terms(make_terms, name):
    first, second = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([1, 1, 0, 4, 2, 3])
    blend = 0.3 * F.one_hot(first, 5) + 0.7 * F.one_hot(second, 5)
    term = EVERY_TERM[name]
    expected = 0.3 * term(make_terms(labels=first)) + 0.7 * term(make_terms(labels=second))
    torch.testing.assert_close(term(make_terms(labels=blend)).double(), expected, rtol=0, atol=2e-6)
    assert not torch.allclose(expected, term(make_terms(labels=first)))


def test_teacher_losses_are_those_of_one_teacher_alone(make_terms):
    terms = make_terms(logit_loss_weight=0.5, feature_loss_weight=3.0)
    ce = F.cross_entropy(terms.student.logits, terms.labels, reduction='none')
    for m in range(3):
        single = ce + 0.5 * terms.logit_loss[:, m] + 3.0 * terms.feature_loss[:, m]
        torch.testing.assert_close(terms.teacher_losses[:, m], single.detach())
    assert not terms.teacher_losses.requires_grad


def test_cosine_of_maps_pools_before_it_compares(make_terms):
    terms = make_terms()
    for m in range(3):
        own = terms.projections[m].features.detach().mean(dim=(2, 3))
        other = terms.projections[m].target.mean(dim=(2, 3))
        expected = (own * other).sum(dim=1) / (own.norm(dim=1) * other.norm(dim=1))
        torch.testing.assert_close(terms.feature_cosine[:, m], expected)
    assert not terms.feature_cosine.requires_grad


def test_cosine_of_embeddings(make_terms):
    terms = make_terms()
    terms.projections = [
        Projection(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [-2.0, 0.0]]))
    ]
    torch.testing.assert_close(terms.feature_cosine, torch.tensor([[0.96], [-1.0]]))


def test_cosine_with_an_embedding_of_zeros_is_zero(make_terms):
    terms = make_terms()
    zeros, other = torch.zeros(2, 2), torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    terms.projections = [Projection(zeros, other), Projection(other, zeros)]
    assert torch.equal(terms.feature_cosine, torch.zeros(2, 2))


def test_cosine_is_zero_without_features(make_terms):
    terms = make_terms(features=False)
    assert torch.equal(terms.feature_cosine, torch.zeros(6, 3, dtype=torch.float64))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_terms_of_half_precision_outputs_are_float32(make_terms, dtype):
    terms = make_terms(dtype=dtype)
    wide = StepTerms(
        NetworkOutput(terms.student.logits.detach().float(), terms.student.embedding),
        [
            NetworkOutput(t.logits.float(), t.embedding.float(), t.feature_map.float())
            for t in terms.teachers
        ],
        terms.labels,
        [Projection(p.features.detach().float(), p.target.float()) for p in terms.projections],
    )
    for name in ('student_ce', 'teacher_ce', 'feature_cosine', 'soft_labels'):
        assert getattr(terms, name).dtype == torch.float32
        torch.testing.assert_close(getattr(terms, name), getattr(wide, name))
    assert terms.logit_loss.dtype == terms.feature_loss.dtype == torch.float32


def test_no_softmax_is_computed_twice(make_terms, monkeypatch):
    original, calls = torch.Tensor.log_softmax, []

    def counting(self, *args, **kwargs):
        calls.append(tuple(self.shape))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, 'log_softmax', counting)
    terms = make_terms()
    for _ in range(2):
        for term in EVERY_TERM.values():
            term(terms)
    # Student and teachers, each at temperature 1 and at 4.
    assert sorted(calls) == [(6, 3, 5), (6, 3, 5), (6, 5), (6, 5)]


@pytest.mark.parametrize(
    'name', ['student_logits', 'student_log_probs', 'student_ce', 'logit_loss', 'feature_loss']
)
def test_terms_of_the_student_keep_their_gradient_whoever_reads_them_first(make_terms, name):
    """A reward reads them without gradient before the loss does."""
    terms = make_terms()
    fresh = StepTerms(
        terms.student,
        terms.teachers,
        terms.labels,
        terms.projections,
        KLDivergence(),
        FeatureMSE(),
    )
    with torch.no_grad():
        first = getattr(fresh, name)
        first = first() if callable(first) else first
    assert first.requires_grad
    fresh.student_ce.sum().backward()
    expected = terms.student_log_probs().exp() - terms.soft_labels
    torch.testing.assert_close(terms.student.logits.grad, expected.detach())
