# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The images of a teacher, and how they are put on a page."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from mtkdrl_mm.report.gallery import describe_label, encode_image, extreme_images, make_pictures
from mtkdrl_mm.report.image_outputs import ImageOutputs


def decode(source):
    head, _, data = source.partition(',')
    return head, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_highest_and_lowest_weights():
    weights = torch.tensor([0.2, 0.9, 0.1, 0.5, 0.8, 0.3])
    assert extreme_images(weights, 2) == ([1, 4], [2, 0])
    # Of few images, none is in both.
    assert extreme_images(weights, 6) == ([1, 4, 3], [2, 0, 5])


def test_ties_are_in_the_order_of_the_images():
    assert extreme_images(torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0]), 2) == ([0, 2], [5, 3])


@pytest.mark.parametrize('weights', [[0.25] * 8, [0.5], [0.25, 0.25001]])
def test_equal_weights_have_no_extremes(weights):
    assert extreme_images(torch.tensor(weights), 3) == ([], [])


def test_pictures_have_labels_and_answers():
    images = [np.full((2, 3, 3), value, np.uint8) for value in (10, 200)]
    logits = torch.tensor([[[9.0, 0.0], [0.0, 9.0]], [[0.0, 0.0], [0.0, 1.0]]])  # (N, M, C)
    outputs = ImageOutputs(
        names=('a', 'b'),
        source='images',
        labels=torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        blended=False,
        training=False,
        student_logits=torch.tensor([[0.0, 3.0], [0.0, 3.0]]),
        teacher_logits=logits,
        logit_weights=torch.tensor([[0.7, 0.3], [0.4, 0.6]]),
        images=images,
    )
    second, first = make_pictures(outputs, 1, [1, 0], ['cat', 'dog'])
    assert (first.label, second.label) == ('cat', 'dog')
    assert first.weight == pytest.approx(0.3) and second.weight == pytest.approx(0.6)
    assert [(one.name, one.label, one.right) for one in first.answers] == [
        ('student', 'dog', False),
        ('a', 'cat', True),
        ('b', 'dog', False),
    ]
    assert second.answers[2].probability == pytest.approx(1 / (1 + np.exp(-1)))
    assert np.array_equal(decode(first.source)[1], images[0])
    assert (first.width, first.height) == (3, 2)


def test_small_images_keep_their_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    source, width, height = encode_image(pixels)
    head, decoded = decode(source)
    assert head == 'data:image/png;base64' and (width, height) == (64, 32)
    assert np.array_equal(decoded, pixels)


def test_large_images_are_made_small():
    rows = np.linspace(0, 255, 400).astype(np.uint8)
    pixels = np.broadcast_to(rows[:, None, None], (400, 200, 3)).copy()
    source, width, height = encode_image(pixels)
    head, decoded = decode(source)
    assert head == 'data:image/jpeg;base64' and (width, height) == (80, 160)
    assert decoded.shape == (160, 80, 3) and len(source) < 8000
    assert abs(decoded[80].mean() - 127) < 4


def test_label_of_a_blended_image():
    shares = torch.tensor([0.0, 0.25, 0.75])
    assert describe_label(shares, ['a', 'b', 'c']) == 'c 75 %, b 25 %'
    assert describe_label(torch.tensor([0.0, 1.0]), ['a', 'b']) == 'b'
