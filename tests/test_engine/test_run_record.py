# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Reading of work dirs: resumed, unfinished, by iterations, damaged."""

import json

import numpy as np
import pytest
from test_report.work_dirs import step, validation, write_session

from mtkdrl_mm.engine.checkpoint_files import name_last_checkpoint, note_earlier_training
from mtkdrl_mm.engine.run_record import set_class_weights_aside
from mtkdrl_mm.report import read_run
from mtkdrl_mm.utils import InputError


def test_all_starts_are_joined(tmp_path):
    write_session(tmp_path, '20260101_000000', [step(1, 10), validation(1, 50.0), step(2, 20)])
    write_session(tmp_path, '20260101_010000', [step(3, 30), validation(3, 60.0)])
    record = read_run(str(tmp_path))
    assert record.curve('loss') == [(10, 0.1), (20, 0.05), (30, 1 / 30)]
    assert record.metric('accuracy/top1') == [(1, 50.0), (3, 60.0)]
    assert len(record.sessions) == 2 and record.by_epoch


def test_what_a_resumed_training_repeats_counts_once(tmp_path):
    """It was killed after a step and a validation that the checkpoint has not seen."""
    first = [step(1, 10), validation(1, 50.0), step(2, 20), validation(2, 55.0), step(3, 30)]
    write_session(tmp_path, '20260101_000000', first)
    again = [step(2, 20, loss=7.0), validation(2, 56.0), step(3, 30, loss=6.0)]
    write_session(tmp_path, '20260101_010000', again)
    record = read_run(str(tmp_path))
    assert record.curve('loss') == [(10, 0.1), (20, 7.0), (30, 6.0)]
    assert record.metric('accuracy/top1') == [(1, 50.0), (2, 56.0)]


def test_an_owed_validation_replaces_its_first_try(tmp_path):
    """A resumed training starts with the validation that was interrupted."""
    write_session(tmp_path, '20260101_000000', [step(1, 10), validation(1, 50.0)])
    write_session(tmp_path, '20260101_010000', [validation(1, 51.0), step(2, 20)])
    record = read_run(str(tmp_path))
    assert record.metric('accuracy/top1') == [(1, 51.0)]
    assert [x for x, _ in record.curve('loss')] == [10, 20]


def test_a_new_training_in_the_same_folder_replaces_the_old_one(tmp_path):
    write_session(tmp_path, '20260101_000000', [step(1, 10), validation(1, 50.0), step(2, 20)])
    write_session(tmp_path, '20260101_010000', [step(1, 5)])
    record = read_run(str(tmp_path))
    assert record.curve('loss') == [(5, 0.2)] and record.metrics == []


def test_training_by_iterations(tmp_path):
    records = [step(None, 100), validation(100, 40.0), step(None, 200)]
    write_session(tmp_path, '20260101_000000', records, 'train_cfg = dict(max_iters=400)\n')
    record = read_run(str(tmp_path))
    assert not record.by_epoch and record.position == (200, 400)
    assert record.metric('accuracy/top1') == [(100, 40.0)]


def test_validations_that_mmengine_numbers_by_epochs(tmp_path):
    """Its default, also for a training by iterations, whose log then counts epochs."""
    records = [step(1, 100), validation(0, 40.0), step(1, 200), validation(0, 50.0)]
    write_session(tmp_path, '20260101_000000', records, 'train_cfg = dict(max_iters=300)\n')
    write_session(tmp_path, '20260101_010000', [step(1, 200), validation(0, 51.0), step(2, 300)],
                  'train_cfg = dict(max_iters=300)\n')  # fmt: skip
    record = read_run(str(tmp_path))
    assert not record.by_epoch and record.position == (300, 300)
    assert record.metric('accuracy/top1') == [(100, 40.0), (200, 51.0)]


def test_validations_between_the_lines_of_the_log(tmp_path):
    """A log line every 10 iterations, a validation every 7, and the last after 25."""
    config = 'train_cfg = dict(max_iters=25, val_interval=7)\n'
    first = [validation(0, 40.0), step(1, 10), validation(0, 50.0), step(1, 20)]
    write_session(tmp_path, '20260101_000000', first, config)
    # It was killed in its third validation, which the next start repeats.
    write_session(tmp_path, '20260101_010000', [validation(0, 51.0), validation(0, 52.0)], config)
    (tmp_path / '20260101_010000' / 'vis_data' / 'config.py').write_text(config)
    record = read_run(str(tmp_path))
    assert record.metric('accuracy/top1') == [(7, 40.0), (14, 50.0), (21, 51.0), (25, 52.0)]
    assert record.position == (25, 25)
    unfinished = tmp_path / 'unfinished'
    write_session(unfinished, '20260101_000000', first, config)
    assert read_run(str(unfinished)).position == (20, 25)
    (unfinished / 'interrupted_iter_23.pth').touch()
    assert read_run(str(unfinished)).position == (23, 25)


def test_length_and_cost(tmp_path):
    records = [step(1, 10, time=0.5, data_time=0.1), step(2, 30, time=0.25, data_time=0.2)]
    write_session(tmp_path, '20260101_000000', records, 'train_cfg = dict(max_epochs=3)\n')
    record = read_run(str(tmp_path))
    assert record.position == (1, 3)  # epoch 2 may still run
    assert record.seconds == 10 * 0.5 + 20 * 0.25
    assert record.median('data_time') == pytest.approx(0.15) and record.median('memory') is None


def test_what_ends_an_epoch(tmp_path):
    config = 'train_cfg = dict(max_epochs=2)\n'
    steps = [step(1, 4), validation(1, 40.0), step(2, 5)]
    folder = write_session(tmp_path, '20260101_000000', steps, config)
    (tmp_path / 'epoch_1.pth').touch()
    assert read_run(str(tmp_path)).position == (1, 2)
    (tmp_path / 'interrupted_iter_5.pth').touch()
    assert read_run(str(tmp_path)).position == (1, 2)
    # Its checkpoint, or its validation.
    (tmp_path / 'epoch_2.pth').touch()
    assert read_run(str(tmp_path)).position == (2, 2)
    (tmp_path / 'epoch_2.pth').unlink()
    log = folder / 'vis_data' / 'scalars.json'
    log.write_text(log.read_text() + json.dumps(validation(2, 50.0)) + '\n')
    assert read_run(str(tmp_path)).position == (2, 2)


def test_the_config_is_that_of_the_latest_training(tmp_path):
    """And not one that a test in the same folder has written."""
    write_session(tmp_path, '20260101_000000', [step(1, 10)], 'a = 1\n')
    (tmp_path / 'config.py').write_text('a = 2\n')
    write_session(tmp_path, '20260101_010000', [], 'a = 3\n')
    assert read_run(str(tmp_path)).config == dict(a=1)


def test_a_config_is_never_run(tmp_path):
    target = tmp_path / 'target'
    text = f'open({str(target)!r}, "w")\n'
    write_session(tmp_path, '20260101_000000', [step(1, 10)], text)
    record = read_run(str(tmp_path))
    assert record.config == {} and 'plain values only' in record.config_problem
    assert record.config_text == text and not target.exists()


def test_teachers_and_their_weights(tmp_path):
    weights = {'teacher_weight/logit/a/b': 0.75, 'teacher_weight/logit/c': 0.25}
    write_session(tmp_path, '20260101_000000', [step(1, 10, **weights)])
    record = read_run(str(tmp_path))
    assert record.teachers == ['a/b', 'c']
    with pytest.raises(InputError, match='written when training ends'):
        record.read_class_weights()
    contents = dict(teachers=['a/b', 'c'], logit=[[0.5, 0.5]], feature=[[1.0, 0.0]])
    path = tmp_path / 'class_weights.json'
    path.write_text(json.dumps(contents))
    read = record.read_class_weights()
    assert read.teachers == ['a/b', 'c']
    assert np.array_equal(read.feature, [[1.0, 0.0]])
    # Classes without an image, as they are written and as earlier versions did.
    for unknown in ([None, None], [0.0, 0.0]):
        logit, feature = [[0.5, 0.5], unknown], [unknown, [1.0, 0.0]]
        path.write_text(json.dumps({**contents, 'logit': logit, 'feature': feature}))
        read = record.read_class_weights()
        nan = [np.nan, np.nan]
        np.testing.assert_array_equal(read.logit, [[0.5, 0.5], nan])
        np.testing.assert_array_equal(read.feature, [nan, [1.0, 0.0]])
    # An earlier training's are no longer taken for this one's.
    set_class_weights_aside(str(tmp_path))
    set_class_weights_aside(str(tmp_path))
    assert not path.exists() and (tmp_path / 'earlier_class_weights.json').exists()


def test_checkpoints_of_an_earlier_training_are_not_this_ones(tmp_path):
    """A training that was begun anew in its work dir, and has saved nothing yet."""
    write_session(tmp_path, '20260101_000000', [step(1, 10)])
    for epoch in (1, 2):
        (tmp_path / f'epoch_{epoch}.pth').touch()
    name_last_checkpoint(str(tmp_path), str(tmp_path / 'epoch_2.pth'))
    record = read_run(str(tmp_path))
    assert record.position[0] == 1 and record.checkpoint == str(tmp_path / 'epoch_2.pth')
    note_earlier_training(str(tmp_path))
    record = read_run(str(tmp_path))
    assert record.position[0] == 0 and record.checkpoint is None


@pytest.mark.parametrize(
    'change',
    [dict(logit=[[0.5]]), dict(logit=[[0.5, 'x']]), dict(logit=[[1, 0], [1, 0]]), dict(logit=3),
     dict(feature=[[float('nan'), 0.0]])],
)  # fmt: skip
def test_damaged_weights_per_class(tmp_path, change):
    write_session(tmp_path, '20260101_000000', [step(1, 10)])
    contents = dict(teachers=['a', 'c'], logit=[[0.5, 0.5]], feature=[[1.0, 0.0]])
    (tmp_path / 'class_weights.json').write_text(json.dumps({**contents, **change}))
    with pytest.raises(InputError, match=r'class_weights\.json" is damaged'):
        read_run(str(tmp_path)).read_class_weights()


def test_environment(tmp_path):
    folder = write_session(tmp_path, '20260101_000000', [step(1, 10)])
    (folder / '20260101_000000.log').write_text(
        'System environment:\n    Python: 3.11.7 (main, x) [GCC]\n    CUDA available: True\n'
        '    GPU 0,1: NVIDIA H100\n    PyTorch: 2.1.2\n\nRuntime environment:\n    seed: 3\n'
        '    GPU number: 2\n'
    )
    expected = dict(GPU='NVIDIA H100', Python='3.11.7', PyTorch='2.1.2', seed='3', processes='2')
    assert read_run(str(tmp_path)).environment == expected


def test_checkpoint(tmp_path):
    write_session(tmp_path, '20260101_000000', [step(1, 10)])
    assert read_run(str(tmp_path)).checkpoint is None
    (tmp_path / 'best_accuracy.pth').touch()
    assert read_run(str(tmp_path)).checkpoint == str(tmp_path / 'best_accuracy.pth')
    (tmp_path / 'epoch_1.pth').touch()
    (tmp_path / 'last_checkpoint').write_text('/moved/from/here/epoch_1.pth')
    assert read_run(str(tmp_path)).checkpoint == str(tmp_path / 'epoch_1.pth')


def test_a_training_that_has_just_started(tmp_path):
    (tmp_path / '20260101_000000' / 'vis_data').mkdir(parents=True)
    record = read_run(str(tmp_path))
    assert record.train == [] and record.teachers == [] and record.position == (0, None)


def test_no_work_dir(tmp_path):
    with pytest.raises(InputError, match='does not exist'):
        read_run(str(tmp_path / 'no'))
    with pytest.raises(InputError, match='is no work dir of a training'):
        read_run(str(tmp_path))


def test_a_damaged_log(tmp_path):
    folder = write_session(tmp_path, '20260101_000000', [step(1, 10)])
    (folder / 'vis_data' / 'scalars.json').write_text('{\n{"step": 1}\n')
    with pytest.raises(InputError, match='line 1'):
        read_run(str(tmp_path))
