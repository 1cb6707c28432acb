# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The bounded store of hard images."""

import pytest
import torch

from mtkdrl_mm.structures import HardExampleBuffer

SIZE = 2 * 3 * 4 * 4 + 4 * 5  # bytes of an image of 4x4 pixels with 5 classes


def images(first, count):
    inputs = torch.arange(first, first + count).float()[:, None, None, None].expand(-1, 3, 4, 4)
    return inputs, torch.eye(5)[torch.arange(first, first + count) % 5]


def test_oldest_images_give_way():
    buffer = HardExampleBuffer(SIZE * 6.5 / 2**20)
    for first in range(0, 20, 4):
        buffer.add(*images(first, 4))
        assert len(buffer) == min(first + 4, 6)
    assert buffer.inputs[:, 0, 0, 0].tolist() == [14, 15, 16, 17, 18, 19]
    assert buffer.labels.argmax(1).tolist() == [4, 0, 1, 2, 3, 4]
    # No image is a view that keeps its whole batch alive.
    storages = [part.untyped_storage() for image in buffer._images for part in image]
    assert sum(storage.nbytes() for storage in storages) == 6 * SIZE


def test_more_images_at_once_than_fit():
    buffer = HardExampleBuffer(SIZE * 3 / 2**20)
    buffer.add(*images(0, 8))
    assert buffer.inputs[:, 0, 0, 0].tolist() == [5, 6, 7]


def test_draws_differ_and_are_decided_by_the_generator():
    buffer = HardExampleBuffer(1)
    buffer.add(*images(0, 20))
    draws = [
        buffer.draw(8, torch.Generator().manual_seed(seed), torch.device('cpu'))
        for seed in (0, 0, 1)
    ]
    values = [draw[0][:, 0, 0, 0].tolist() for draw in draws]
    assert values[0] == values[1] != values[2]
    assert len(set(values[0])) == 8
    assert draws[0][0].dtype == torch.float32
    assert draws[0][1].argmax(1).tolist() == [int(v) % 5 for v in values[0]]
    everything, _ = buffer.draw(99, torch.Generator(), torch.device('cpu'))
    assert len(everything) == 20


def test_state_and_change_of_size():
    buffer, other = HardExampleBuffer(1), HardExampleBuffer(1)
    buffer.add(*images(0, 3))
    buffer.add(torch.zeros(0, 3, 4, 4), torch.zeros(0, 5))
    other.load_state_dict(buffer.state_dict())
    assert torch.equal(other.inputs, buffer.inputs) and len(other) == 3
    other.add(torch.zeros(2, 3, 6, 6), torch.zeros(2, 5))
    assert len(other) == 2
    other.clear()
    assert len(other) == 0


def test_budget_that_holds_no_image():
    with pytest.raises(ValueError, match='holds no image'):
        HardExampleBuffer(1e-5).add(*images(0, 1))
