# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Tables and warnings of the report on a pool."""

import json
import math

import pytest
import torch

from mtkdrl_mm.evaluation import Agreement, Alternative, ClassOrder
from mtkdrl_mm.evaluation.teacher_report import TeacherReport, TeacherResult, minimum_accuracy
from mtkdrl_mm.models.teachers.preprocessing import Preprocessing

GOOD = ClassOrder(class_map=[0, 1], accuracy=0.8, mapped_accuracy=0.8, p_value=1.0)
OTHER = Preprocessing(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), to_rgb=True, input_size=(48, 48))


def result(name='a', accuracy=0.8, order=GOOD, alternative=None, **cost):
    return TeacherResult(
        name=name,
        accuracy=accuracy,
        accuracy_error=0.01,
        confidence=0.9,
        calibration_error=0.05,
        log_likelihood=-0.5,
        temperature=1.25,
        order=order,
        alternative=alternative,
        cost=cost,
    )


def better(p=1e-9, gain=0.5, accuracy=0.9, changes=('mean', 'input_size'), p_loss=1.0):
    return Alternative(
        preprocessing=OTHER,
        changes=changes,
        accuracy=accuracy,
        current_accuracy=0.8,
        gain=gain,
        p_accuracy=p,
        p_likelihood=1.0,
        p_loss=p_loss,
        trials=10,
        num_images=100,
    )


def report(*teachers, agreements=None, classes=2):
    return TeacherReport(
        num_images=100,
        num_classes=classes,
        teachers=list(teachers),
        agreements=agreements or {},
        preprocessing_images=100,
    )


@pytest.mark.parametrize(('classes', 'expected'), [(1000, 10.09), (10, 19.0), (2, 55.0)])
def test_minimum_accuracy(classes, expected):
    assert minimum_accuracy(classes) == pytest.approx(expected)


def test_nothing_to_warn_of():
    text = report(result(), result('b')).to_markdown()
    assert 'No warnings.' in text and '| a | 80.0 ± 1.0 | 5.0 | 90.0 | -0.50 |' in text


@pytest.mark.parametrize(
    ('alternative', 'clear'),
    [
        (better(), True),
        (better(p=1e-3), False),  # ten were tried
        (better(p=5.1e-5), False),  # each in two tests
        (better(p=4.9e-5), True),
        (better(gain=0.01), False),
        (better(accuracy=0.79), True),  # by chance
        (better(accuracy=0.79, p_loss=0.04), False),
    ],
)
def test_clearly_better(alternative, clear):
    assert alternative.clearly_better == clear
    warnings = report(result(alternative=alternative)).warnings()
    assert len(warnings) == clear


def test_the_setting_to_change_is_named():
    (warning,) = report(result('x'), result('a', alternative=better())).warnings()
    assert (
        'Teacher "a" seems to get the wrong preprocessing: with other `mean`, `input_size`'
        in warning
    )
    assert '90.0 % instead of 80.0 %' in warning and '10 settings tried' in warning
    assert 'model.teachers.1.data_preprocessor=dict(mean=[1.0, 2.0, 3.0], std=' in warning
    assert 'and model.teachers.1.input_size=(48, 48)' in warning


def test_weak_teacher_without_an_explanation():
    (warning,) = report(result(accuracy=0.5)).warnings()
    assert 'accuracy of only 50.0 %, below 55.0 %' in warning
    order = ClassOrder(class_map=[1, 0], accuracy=0.1, mapped_accuracy=0.9, p_value=1e-9)
    (warning,) = report(result(accuracy=0.1, order=order)).warnings()
    assert 'with class_map=[1, 0], fitted on one half of these images, its accuracy' in warning
    assert 'on the other half is 90.0 % instead of 10.0 %. Set model.teachers.0.class' in warning
    (warning,) = report(result(accuracy=0.1, order=order), classes=100).warnings()
    assert 'class_map=[...] (see --out FILE.json of check_teachers.py)' in warning


def test_what_was_not_tried_is_not_excluded():
    few = report(result(accuracy=0.52))
    few.preprocessing_images = 0
    assert few.warnings()[0].count('No other order of the classes explains it.') == 1
    assert 'preprocessing' not in few.warnings()[0]
    few.preprocessing_images = 100
    assert 'Neither another preprocessing nor another order' in few.warnings()[0]


def test_from_logits():
    logits = torch.tensor([[4.0, 0.0], [0.0, 4.0], [4.0, 0.0], [0.0, 4.0]])
    found = TeacherReport.from_logits(['a', 'b'], [logits, -logits], torch.tensor([0, 1, 0, 0]))
    assert (found.num_images, found.num_classes, found.preprocessing_images) == (4, 2, 0)
    assert [one.accuracy for one in found.teachers] == [0.75, 0.25]
    assert found.teachers[0].accuracy_error == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert found.teachers[0].confidence == pytest.approx(1 / (1 + math.exp(-4)))
    assert found.agreements.keys() == {(0, 1)} and found.agreements[0, 1].observed == 0


def test_duplicates():
    agreements = {
        (0, 1): Agreement(observed=0.99, expected=0.7, kappa=0.97, correlation=0.95),
        (0, 2): Agreement(observed=0.8, expected=0.7, kappa=0.33, correlation=0.9),
    }
    found = report(result(), result('b'), result('c'), agreements=agreements)
    (warning,) = found.warnings()
    assert '"a" and "b" are near-duplicates' in warning and '99.0 %' in warning
    assert '| a | 99.0 (0.97, 0.95) | 80.0 (0.33, 0.90) |' in found.to_markdown()


def test_costs_and_json():
    cost = dict(parameters=2_000_000, seconds=0.5, share=0.25, weights_mib=8.0, peak_mib=3.0)
    found = report(result(**cost))
    assert found.rows()[0]['ms_per_image'] == 500 and found.rows()[0]['share_of_step'] == 25
    assert '| 2.00 | 500.00 | 25.0 | 8.0 | 3.0 |' in found.to_markdown()
    contents = json.loads(json.dumps(found.to_dict()))
    assert contents['teachers'][0]['cost']['parameters'] == 2_000_000
    assert contents['warnings'] == []
