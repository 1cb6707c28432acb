# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What the demo trains, takes over from an earlier run, and says of its results."""

import importlib.util
import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from mmengine.config import Config

from mtkdrl_mm.comparison import Run, describe
from mtkdrl_mm.comparison.results import result_path
from mtkdrl_mm.comparison.summary import paired_difference
from mtkdrl_mm.utils import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def demo(monkeypatch):
    """The tool, as a module."""
    spec = importlib.util.spec_from_file_location('demo', ROOT / 'tools' / 'demo.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(ROOT)
    return module


@pytest.fixture
def args(tmp_path):
    return Namespace(work_dir=str(tmp_path), epochs=2, task_epochs=1, task_images=8, seeds=[0])


def make_run(method, seed, metric):
    return Run(
        method=method,
        seed=seed,
        metric=metric,
        seconds=7.5,
        seconds_per_epoch=1.0,
        peak_mib=1.0,
        curves={},
    )


def test_results_are_taken_over_or_refused(demo, args, tmp_path):
    (row,) = [row for row in demo.student_rows('resnet', args) if row.name == 'aver']
    settings = demo.comparison_settings(args, args.epochs)
    folder = tmp_path / 'aver' / 'seed_0'
    folder.mkdir(parents=True)
    run = Run(**{**vars(make_run('aver', 0, 61.0)), 'config': describe(row, settings)})
    run.write(result_path(str(folder)))
    assert demo.train_rows([row], [0], settings) == {'aver': [run]}
    # The same folder with another number of epochs.
    with pytest.raises(InputError, match=r'aver/seed_0/result\.json is of another config than'):
        demo.train_rows([row], [0], demo.comparison_settings(args, 3))


def test_a_converter_that_fails_ends_the_demo(demo, capfd):
    with pytest.raises(InputError, match=r'^no_such_tool\.py failed; see above\.$'):
        demo.write_data_sets(['no_such_tool'])
    assert 'no_such_tool.py' in capfd.readouterr().err


def test_teachers_of_a_student(demo, args, tmp_path):
    rows = {row.name: row for row in demo.student_rows('densenet', args)}
    assert list(rows) == list(demo.STUDENTS)
    # What the agent learns from, all methods have.
    assert {row.variables for row in rows.values()} == {
        (('STUDENT_LABELS', 'student_and_held_out'),)
    }
    assert rows['baseline'].options == ()
    first = f'model.teachers.0.checkpoint={tmp_path}/teacher_resnet/seed_0/epoch_2.pth'
    for name in ('aver', 'mtkdrl', 'mtkdrl_static', 'mtkdrl_stacking'):
        assert rows[name].config == f'configs/demo/student_{name}.py'
        assert rows[name].options[0] == first and len(rows[name].options) == 4
    assert rows['best_teacher'].options[-1] == 'model.weighting.logit.densenet=1'


def test_backbones_of_a_detector(demo, args, tmp_path):
    random, alone, ours = demo.detector_rows(args)
    assert random.options == (*ours.options, 'model.backbone.init_cfg=None')
    assert random.variables == ()
    for row, method in ((alone, 'baseline'), (ours, 'mtkdrl_stacking')):
        assert row.options == (
            *(f'{split}_dataloader.dataset.indices=8' for split in ('train', 'val')),
            'model.backbone.frozen_stages=3',
            'model.backbone.norm_eval=True',
        )
        assert dict(row.variables) == dict(
            BACKBONE=method, DEMO_STUDENTS=str(tmp_path), STUDENT_EPOCHS='2'
        )


@pytest.mark.parametrize(
    ('gains', 'words'),
    [
        # Student's t with two degrees of freedom: 4.3027 / sqrt(3) = 2.5 standard deviations.
        ((4, 5, 6), 'it beats equal weights: +5.0 ± 2.5 points.'),
        (
            (1, 2, 3),
            'it does not win: it cannot be told apart from equal weights (+2.0 ± 2.5 points).',
        ),
        ((-4, -5, -6), 'it loses against equal weights: -5.0 ± 2.5 points.'),
        ((4,), 'it: +4.0 points against equal weights, with one seed, which proves nothing.'),
    ],
)
def test_verdict(demo, gains, words):
    ours = [make_run('camkd', seed, 60 + gain) for seed, gain in enumerate(gains)]
    gap = paired_difference(ours, [make_run('aver', seed, 60) for seed in range(3)])
    assert demo.verdict('it', gap, 'equal weights') == words


@pytest.mark.parametrize(('task_images', 'count'), [(None, 5), (500, 5), (2, 2)])
def test_scenes_are_counted(demo, args, tmp_path, monkeypatch, task_images, count):
    """--task-images takes the first ones of those that there are."""
    (tmp_path / 'val.json').write_text(json.dumps(dict(images=[{}] * 5)))
    dataset = dict(data_root=str(tmp_path), ann_file='val.json')
    config = Config(dict(val_dataloader=dict(dataset=dataset)))
    monkeypatch.setattr(demo, 'read_config', lambda row, seed: config)
    args.task_images = task_images
    assert demo.count_scenes(args) == count


def test_another_winner_is_named(demo, capsys):
    runs = {
        name: [make_run(name, seed, metric + seed) for seed in range(3)]
        for name, metric in dict(
            aver=60, best_teacher=65, baseline=62, mtkdrl_static=64, mtkdrl=59, mtkdrl_stacking=63
        ).items()
    }
    demo.print_verdicts(runs)
    out = capsys.readouterr().out
    assert 'The highest mean is that of another method: the best teacher alone.' in out
    assert 'mtkdrl_stacking (ours) beats equal weights: +3.0 ± 0.0 points.' in out
    assert 'beats the student without teachers: +1.0 ± 0.0 points.' in out
    assert 'loses against one set of learned weights: -1.0 ± 0.0 points.' in out
    assert 'MTKD-RL, as published loses against equal weights: -1.0 ± 0.0 points.' in out
    del runs['best_teacher']
    runs['mtkdrl_static'] = runs['aver']
    demo.print_verdicts(runs)
    assert 'another method' not in capsys.readouterr().out


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--seeds', '3', '4', '3'], r'--seeds names a seed twice: \[3, 4, 3\]'),
        (['--seeds', '3', '--task-seeds', '5'], '--task-seeds names 5, which is not among --seeds'),
        (['--epochs', '0'], '--epochs'),
    ],
)
def test_bad_flags(demo, monkeypatch, flags, words):
    monkeypatch.setattr(sys, 'argv', ['demo.py', *flags])
    with pytest.raises(InputError, match=words):
        demo.parse_args()
