# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Classes in another order."""

import torch
import torch.nn.functional as F

from mtkdrl_mm.evaluation import class_order


def test_order_is_found():
    order = torch.tensor([3, 0, 4, 1, 2])
    labels = torch.randint(5, (200,))
    logits = 4 * F.one_hot(order[labels], 5).float() + torch.randn(200, 5)
    result = class_order(logits, labels)
    assert result.class_map == order.tolist() and result.clearly_better
    assert result.mapped_accuracy > 0.9 > 0.1 > result.accuracy


def test_right_order_stays():
    labels = torch.randint(5, (200,))
    result = class_order(F.one_hot(labels, 5) + 0.4 * torch.randn(200, 5), labels)
    assert result.class_map == [0, 1, 2, 3, 4] and not result.clearly_better


def test_noise_has_no_order():
    for classes in (5, 100):
        result = class_order(torch.randn(200, classes), torch.randint(classes, (200,)))
        assert not result.clearly_better


def test_classes_without_images_stay():
    labels = torch.randint(3, (60,))
    result = class_order(F.one_hot((labels + 1) % 3, 6).float(), labels)
    assert result.class_map == [1, 2, 0, 3, 4, 5] and result.clearly_better


def test_few_images_are_no_proof():
    """Nine images that only the map gets right: p is that of nine heads in nine throws."""
    labels = torch.arange(18) // 2 % 2
    result = class_order(F.one_hot(1 - labels, 2).float(), labels)
    assert result.class_map == [1, 0] and (result.accuracy, result.mapped_accuracy) == (0, 1)
    assert result.p_value == 2**-9 and not result.clearly_better
