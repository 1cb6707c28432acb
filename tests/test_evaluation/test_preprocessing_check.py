# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A teacher that was given the wrong preprocessing."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mtkdrl_mm.evaluation import (
    alternatives,
    best_alternative,
    confirm_alternative,
    paired_gain,
)
from mtkdrl_mm.evaluation.calibration import calibrated_log_likelihood
from mtkdrl_mm.models.teachers.preprocessing import Preprocessing

RGB = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), True)
BGR = Preprocessing(RGB.mean[::-1], RGB.std[::-1], False)
INCEPTION = Preprocessing((127.5,) * 3, (127.5,) * 3, True)
RAW = Preprocessing()


def test_alternatives_are_the_usual_ones():
    found = alternatives(RGB, [INCEPTION])
    assert RGB not in found and len(set(found)) == len(found)
    assert INCEPTION in found and BGR in found and replace(INCEPTION, to_rgb=False) in found
    assert replace(RGB, to_rgb=False) in found
    assert Preprocessing((0.0,) * 3, (255.0,) * 3, True) in found
    assert Preprocessing((0.0,) * 3, (1.0,) * 3, False) in found
    # Caffe's
    assert Preprocessing(BGR.mean, (1.0,) * 3, False) in found
    assert all(other.input_size is None for other in found)
    counts = [
        (other.to_rgb != RGB.to_rgb) + (other.mean != RGB.mean) + (other.std != RGB.std)
        for other in found
    ]
    assert counts == sorted(counts)


def test_known_normalisations_are_put_in_the_teachers_order():
    student = Preprocessing((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), False)
    found = alternatives(RGB, [student, RAW])
    assert Preprocessing((3.0, 2.0, 1.0), (6.0, 5.0, 4.0), True) in found
    assert student in found


def test_size_that_the_network_was_made_for():
    found = alternatives(RGB, [RGB], (384, 384))
    assert replace(RGB, input_size=(384, 384)) in found
    assert replace(RGB, input_size=(384, 384)) not in alternatives(RGB, [RGB])


def teacher(trained_with, images, labels, strength=4.0):
    """Gives good logits for one preprocessing, and worse ones the more settings differ."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images, 5, generator=generator)
    tried = []

    def predict(preprocessing):
        tried.append(preprocessing)
        names = ('mean', 'std', 'to_rgb', 'input_size')
        wrong = sum(getattr(preprocessing, n) != getattr(trained_with, n) for n in names)
        logits = strength * 0.5**wrong * F.one_hot(labels, 5).float() + noise
        yield from logits.split(50)

    return predict, tried


@pytest.mark.parametrize(
    ('given', 'truth', 'names'),
    [
        (replace(RGB, to_rgb=False), RGB, ('to_rgb',)),
        (BGR, RGB, ('to_rgb', 'mean', 'std')),
        (INCEPTION, RGB, ('mean', 'std')),
        (RGB, INCEPTION, ('mean', 'std')),
        (RGB, replace(RGB, input_size=(384, 384)), ('input_size',)),
    ],
)
def test_wrong_setting_is_found(given, truth, names):
    labels = torch.randint(5, (300,))
    predict, _ = teacher(truth, 300, labels)
    found = best_alternative(predict, given, alternatives(given, [RGB], truth.input_size), labels)
    assert found.preprocessing == truth and found.changes == names
    assert found.clearly_better and found.accuracy > found.current_accuracy + 0.05


def test_two_tests_are_corrected_for():
    """Bonferroni: the smaller p-value counts twice, up to 1."""
    labels = torch.randint(5, (300,))
    predict, _ = teacher(RGB, 300, labels)
    found = best_alternative(predict, BGR, [RGB], labels)
    for accuracy, likelihood, expected in ((0.01, 0.3, 0.02), (0.3, 0.01, 0.02), (0.7, 0.6, 1.0)):
        one = replace(found, p_accuracy=accuracy, p_likelihood=likelihood)
        assert one.p_value == expected


def test_right_setting_is_left_alone():
    labels = torch.randint(5, (300,))
    predict, _ = teacher(RGB, 300, labels)
    found = best_alternative(predict, RGB, alternatives(RGB, [INCEPTION]), labels)
    assert found is None or not found.clearly_better


def test_less_confidence_alone_is_no_gain():
    labels = torch.randint(5, (300,))
    noise = torch.randn(300, 5)

    def predict(preprocessing):  # over-confident with the current one, calibrated with others
        logits = F.one_hot(labels, 5) + noise
        yield logits * (10 if preprocessing == RGB else 1)

    found = best_alternative(predict, RGB, [INCEPTION], labels)
    assert abs(found.gain) < 1e-3 and not found.clearly_better


def test_hopeless_alternatives_are_not_run_to_their_end():
    labels = torch.randint(5, (300,))
    batches = []

    def predict(preprocessing):
        right = preprocessing == RGB
        for part in labels.split(50):
            batches.append(right)
            yield (1 if right else -1) * F.one_hot(part, 5).float() + 0.1 * torch.randn(50, 5)

    assert best_alternative(predict, RGB, [INCEPTION, RAW], labels) is None
    assert batches == [True] * 6 + [False] * 4


def test_of_equally_good_settings_the_nearest_is_named():
    labels = torch.randint(5, (300,))

    def predict(preprocessing):
        factor = 1 if preprocessing == RGB else 4
        yield factor * F.one_hot(labels, 5) + torch.randn(300, 5)

    near = replace(RGB, to_rgb=False)
    found = best_alternative(predict, RGB, [INCEPTION, BGR, near], labels)
    assert found.preprocessing == near and found.clearly_better and found.trials == 3


def test_an_alternative_that_is_a_little_worse_by_chance_is_not_dropped_early():
    labels = torch.randint(5, (1000,))
    noise = torch.randn(1000, 5, generator=torch.Generator().manual_seed(0))

    def predict(preprocessing):
        logits = 2.0 * F.one_hot(labels, 5) + noise
        if preprocessing == RGB:
            logits[100:] *= torch.where(torch.arange(900) % 4 == 0, -1, 1)[:, None]
            logits[:4] += 5 * F.one_hot(labels[:4], 5)  # lucky on the first images
        yield from logits.split(50)

    # They are two batches, which hold at least 64 images.
    start = [torch.cat(list(predict(which))[:2]) for which in (INCEPTION, RGB)]
    p = paired_gain(*(calibrated_log_likelihood(logits, labels[:100]) for logits in start))
    assert 0.02 < p < 0.2
    found = best_alternative(predict, RGB, [INCEPTION], labels)
    assert found.preprocessing == INCEPTION and found.clearly_better


def test_doubt_ends_with_more_images():
    labels = torch.randint(5, (4000,))
    noise = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0))
    disturbed = noise + 0.35 * torch.randn(4000, 5, generator=torch.Generator().manual_seed(1))

    def predict(images, preprocessing):
        logits = 2.0 * F.one_hot(labels, 5) + (disturbed if preprocessing == RGB else noise)
        yield logits[images]

    few, many = slice(0, 150), slice(150, None)
    doubtful = best_alternative(lambda which: predict(few, which), RGB, [INCEPTION], labels[few])
    assert doubtful.in_doubt and not doubtful.clearly_better
    sure = confirm_alternative(lambda which: predict(many, which), RGB, INCEPTION, labels[many])
    assert sure.clearly_better and not sure.in_doubt
    assert (sure.num_images, sure.trials, sure.changes) == (3850, 1, ('mean', 'std'))
    # Chance alone does not hold.
    back = confirm_alternative(lambda which: predict(many, which), INCEPTION, RGB, labels[many])
    assert not back.clearly_better and not back.in_doubt
