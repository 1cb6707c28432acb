# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Running of teachers on chosen views of chosen samples."""

import zlib

import pytest
import torch

from mtkdrl_mm.engine import teacher_runner
from mtkdrl_mm.utils import InputError

from .conftest import expected_rows


@pytest.mark.parametrize(
    ('batch_size', 'ticks', 'expected'),
    [
        # The first batch waits for the data workers.
        (4, [0, 100, 101, 103, 106], 6 / 12),
        (16, [0, 100, 103], 3 / 6),
        (22, [0, 11], 11 / 22),
    ],
)
def test_time_per_image(session, monkeypatch, batch_size, ticks, expected):
    runner = session(batch_size=batch_size).runner
    clock = iter(ticks)
    monkeypatch.setattr(teacher_runner.time, 'perf_counter', lambda: next(clock))
    assert runner.seconds_per_image() == pytest.approx(expected)


def test_a_batch_leaves_nothing_behind(session):
    runner = session().runner
    before = runner.dataset.annotator = object()
    batches = runner.compute([(3, 1), (5, 0)])
    next(batches)
    # The caller may compute gradients between two batches.
    assert torch.is_grad_enabled()
    assert list(batches) == []
    assert runner.dataset.annotator is before


def test_some_teachers_of_some_samples(session):
    runner = session().runner
    keys = [(21, 1), (3, 0), (3, 1), (0, 0), (7, 1)]
    batches = list(runner.compute(iter(keys), ['b']))
    assert [len(batch.samples) for batch in batches] == [4, 1]
    assert [key for batch in batches for key in zip(batch.samples, batch.views)] == keys
    for batch in batches:
        assert list(batch.outputs) == ['b']
        for row, (sample, view) in enumerate(zip(batch.samples, batch.views)):
            pixels, outputs = expected_rows(runner, sample, view)
            assert torch.equal(batch.outputs['b'].logits[row], outputs['b'].logits[0])
            assert batch.crc32[row] == zlib.crc32(pixels.numpy().tobytes())


@pytest.mark.parametrize('sides', [(8, 8, 8), (8, 10, 8)])
def test_images_of_different_sizes_are_refused(sides):
    """Their padding would depend on the batch. A loader stacks images of one size."""
    batch = dict(inputs=[torch.zeros(3, 8, side) for side in sides])
    if len(set(sides)) == 1:
        teacher_runner._check_sizes(batch)
        teacher_runner._check_sizes(dict(inputs=torch.stack(batch['inputs'])))
        return
    with pytest.raises(InputError) as error:
        teacher_runner._check_sizes(batch)
    assert str(error.value).startswith(
        'The data pipeline yields images of different sizes ((8, 8) and (8, 10)), which are padded'
    )
