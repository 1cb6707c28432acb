# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Predictions counted batch by batch."""

import math

import pytest
import torch

from mtkdrl_mm.evaluation import PredictionCounts, class_order, prediction_counts


def test_the_order_is_that_of_all_images_together():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (200,), generator=generator)
    predicted = torch.where(
        torch.rand(200, generator=generator) < 0.8, torch.tensor([1, 0, 2, 4, 3])[labels], labels
    )
    counts = PredictionCounts(5)
    for part in torch.arange(200).split(7):
        counts.add(labels[part], predicted[part], part)
    expected = class_order(torch.nn.functional.one_hot(predicted, 5), labels)
    assert counts.num_images == 200
    assert counts.accuracy == float((labels == predicted).double().mean())
    warning = counts.warning('a', 0)
    assert warning.startswith(expected.finding('a', 'the best one'))
    assert f'{100 * expected.mapped_accuracy:.1f} % instead of' in warning


def test_too_few_images_show_no_order():
    """Fewer than two per class: with as many classes as images, every map is found by chance."""
    labels = torch.arange(38) % 20
    counts = PredictionCounts(20)
    counts.add(labels, (labels + 1) % 20, torch.arange(38))
    assert 'accuracy of only 0.0 %, below the minimum of 14.5 %' in counts.warning('a', 14.5)


def test_many_classes_are_counted_without_their_pairs(monkeypatch):
    monkeypatch.setattr(prediction_counts, 'MOST_CLASSES', 4)
    counts = PredictionCounts(5)
    labels = torch.arange(50) % 5
    counts.add(labels, (labels + (labels < 2).int()) % 5, torch.arange(50))
    counts.all_reduce()
    assert counts.accuracy == 0.6 and counts.warning('a', 60) is None
    assert 'only 60.0 %' in counts.warning('a', 61)


@pytest.mark.parametrize('num_classes', [3, 3000])
def test_without_images(num_classes):
    counts = PredictionCounts(num_classes)
    assert counts.num_images == 0 and math.isnan(counts.accuracy)
    assert counts.warning('a', 50) is None
