# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Static weights, teacher dropping, and the oracle of correct teachers."""

import re

import pytest
import torch

from mtkdrl_mm.models import CorrectTeachers, PoolSpec, StaticWeights, TeacherDropping
from mtkdrl_mm.structures import NetworkOutput, StepTerms
from mtkdrl_mm.utils import InputError

POOL = PoolSpec(('a', 'b', 'c'), 4, (6,) * 3, (None,) * 3)


def terms_of(logits, labels, losses=None):
    """Terms whose teachers have these logits, shape (B, M, C)."""
    teachers = [NetworkOutput(one, torch.randn(len(one), 6)) for one in logits.unbind(dim=1)]
    student = NetworkOutput(torch.randn(len(logits), logits.shape[2]), torch.randn(len(logits), 6))
    terms = StepTerms(student, teachers, labels)
    terms.logit_loss = torch.rand(logits.shape[:2]) if losses is None else losses
    terms.feature_loss = torch.rand(logits.shape[:2])
    return terms


@pytest.fixture
def terms():
    return terms_of(torch.randn(5, 3, 4), torch.randint(4, (5,)))


def test_static_weights_are_normalised_and_the_same_for_all_images(terms):
    weights = StaticWeights(POOL, logit=dict(a=3, c=1), feature=dict(b=0.2))(terms)
    assert torch.equal(weights.logit, torch.tensor([[0.75, 0, 0.25]]).expand(5, 3))
    assert torch.equal(weights.feature, torch.tensor([[0.0, 1, 0]]).expand(5, 3))
    same = StaticWeights(POOL, logit=dict(a=3, c=1))(terms)
    assert torch.equal(same.feature, same.logit)


def test_static_weights_are_the_configs_and_not_a_checkpoints():
    assert StaticWeights(POOL, logit=dict(a=1)).state_dict() == {}


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(logit=dict(aa=1)), '`weighting.logit` names the teacher "aa", which is not in the p'),
        (dict(logit=dict(a=1), feature=dict(b=-1)), '`weighting.feature["b"]` must be at least '),
        (dict(logit=dict(a='1')), '`weighting.logit["a"]` must be a finite number, but is '),
        (
            dict(logit=dict(a=float('nan'))),
            '`weighting.logit["a"]` must be a finite number, but is nan',
        ),
        (dict(logit=dict(a=0)), '`weighting.logit` gives no teacher a weight: name at least one'),
        (dict(logit='a'), '`weighting.logit` must give numbers by the names of teachers, for ex'),
        (dict(logit={}), '`weighting.logit` gives no teacher a weight: name at least one of a, '),
    ],
)
def test_unusable_static_weights(kwargs, message):
    with pytest.raises(InputError, match=re.escape(message)):
        StaticWeights(POOL, **kwargs)


def test_the_teacher_with_the_largest_loss_is_never_dropped():
    losses = torch.rand(4000, 3)
    terms = terms_of(torch.randn(4000, 3, 4), torch.zeros(4000, dtype=torch.long), losses)
    weights = TeacherDropping(POOL, drop_rate=0.3)(terms)
    for kept, loss in ((weights.logit, losses), (weights.feature, terms.feature_loss)):
        largest = torch.zeros(4000, 3).scatter(1, loss.argmax(1, keepdim=True), 1.0).bool()
        assert (kept[largest] > 0).all()
        # The share of the others that is kept, within four standard deviations.
        share = (kept[~largest] > 0).float().mean()
        assert abs(share - 0.7) < 4 * (0.3 * 0.7 / 8000) ** 0.5
        torch.testing.assert_close(kept.sum(1), torch.ones(4000))
        assert kept.unique().tolist() == pytest.approx([0, 1 / 3, 1 / 2, 1])
    # Logits and features are drawn apart.
    assert not torch.equal(weights.logit > 0, weights.feature > 0)


def test_extreme_drop_rates(terms):
    equal = TeacherDropping(POOL, drop_rate=0)(terms).logit
    torch.testing.assert_close(equal, torch.full((5, 3), 1 / 3))
    hardest = TeacherDropping(POOL, drop_rate=1)(terms).logit
    assert torch.equal(hardest.argmax(1), terms.logit_loss.argmax(1))
    assert torch.equal(hardest.sort(1).values, torch.tensor([[0.0, 0, 1]]).expand(5, 3))
    with pytest.raises(InputError, match=r'weighting\.drop_rate'):
        TeacherDropping(POOL, drop_rate=1.1)


def test_teachers_that_are_right_share_the_weight():
    answers = torch.tensor([[0, 0, 1], [2, 1, 0], [3, 3, 3], [1, 2, 0]])
    logits = torch.nn.functional.one_hot(answers, 4).float()
    weights = CorrectTeachers(POOL)(terms_of(logits, torch.tensor([0, 0, 3, 3])))
    third = 1 / 3
    expected = [[0.5, 0.5, 0], [0, 0, 1], [third, third, third], [third, third, third]]
    torch.testing.assert_close(weights.logit, torch.tensor(expected))
    assert torch.equal(weights.feature, weights.logit)


def test_mixed_labels_count_by_their_parts():
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2]]), 4).float()
    labels = torch.tensor([[0.75, 0.25, 0, 0]])
    weighting = CorrectTeachers(POOL, features=False)
    weights = weighting(terms_of(logits, labels))
    torch.testing.assert_close(weights.logit, torch.tensor([[0.75, 0.25, 0]]))
    torch.testing.assert_close(weights.feature, torch.full((1, 3), 1 / 3))


def test_smoothed_labels_give_wrong_teachers_nothing():
    """Smoothing is for the student's cross entropy."""
    answers = torch.tensor([[0, 1, 2], [2, 0, 0], [1, 2, 3]])
    logits = torch.nn.functional.one_hot(answers, 4).float()
    labels = torch.tensor([0, 0, 0])
    terms = terms_of(logits, 0.9 * torch.nn.functional.one_hot(labels, 4) + 0.025)
    terms.data_labels = labels
    third = 1 / 3
    expected = torch.tensor([[1, 0, 0], [0, 0.5, 0.5], [third, third, third]])
    torch.testing.assert_close(CorrectTeachers(POOL)(terms).logit, expected)


def test_the_oracle_may_have_feature_weights_of_its_own():
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2], [2, 2, 2]]), 4).float()
    weights = CorrectTeachers(POOL, features=dict(a=3, b=1))(terms_of(logits, torch.tensor([0, 2])))
    assert torch.equal(weights.logit[0], torch.tensor([1.0, 0, 0]))
    assert torch.equal(weights.feature, torch.tensor([[0.75, 0.25, 0]]).expand(2, 3))
    with pytest.raises(InputError, match=r'`weighting\.features` names the teacher "aa", which is'):
        CorrectTeachers(POOL, features=dict(aa=1))


def test_the_oracle_may_know_the_right_labels(tmp_path):
    """Where those that the student is trained with are wrong."""
    file = tmp_path / 'right.txt'
    file.write_text('cats/a 1.png 1\nb.png 2\nc.png 3\n')
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2], [0, 1, 2]]), 4).float()
    terms = terms_of(logits, torch.tensor([0, 0]))
    terms.data_samples = [dict(img_path='data/cats/a 1.png'), dict(img_path='data/b.png')]
    weighting = CorrectTeachers(POOL, ann_file=str(file), data_prefix='data')
    assert torch.equal(weighting(terms).logit, torch.tensor([[0.0, 1, 0], [0, 0, 1]]))
    # Labels that are smoothed, or one-hot for a batch that might have been blended, are no blends.
    one_hot = torch.nn.functional.one_hot(torch.tensor([0, 0]), 4).float()
    terms = terms_of(logits, 0.9 * one_hot + 0.025)
    terms.data_labels = one_hot * (0.7 + 0.3 - 6e-8)
    terms.data_samples = [dict(img_path='data/cats/a 1.png'), dict(img_path='data/b.png')]
    assert torch.equal(weighting(terms).logit, torch.tensor([[0.0, 1, 0], [0, 0, 1]]))
    terms.data_samples[1]['img_path'] = 'data/d.png'
    with pytest.raises(InputError, match=r'right\.txt" has no label of "data/d\.png": check it'):
        weighting(terms)
    file.write_text('b.png 2\nc.png 4\n')
    with pytest.raises(InputError, match=r'Line 2 of .*right\.txt" must be .* below 4, but is "c'):
        CorrectTeachers(POOL, ann_file=str(file))


def test_the_oracle_with_right_labels_refuses_blended_images(tmp_path):
    """The file knows the class of the image, and not that of the one it is blended with."""
    file = tmp_path / 'right.txt'
    file.write_text('a.png 1\nb.png 2\n')
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2], [0, 1, 2]]), 4).float()
    terms = terms_of(logits, torch.tensor([[1.0, 0, 0, 0], [0.3, 0, 0.7, 0]]))
    terms.data_samples = [dict(img_path='a.png'), dict(img_path='b.png')]
    with pytest.raises(InputError) as error:
        CorrectTeachers(POOL, ann_file=str(file))(terms)
    assert str(error.value) == (
        f'`weighting.ann_file` "{file}" has the class of one image, but images are blended with '
        'others (mixup, cutmix): leave out `augments` of `train_cfg` and `batch_augments` of the '
        'data preprocessor, or `weighting.ann_file`.'
    )
