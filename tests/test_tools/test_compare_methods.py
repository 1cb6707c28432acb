# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Rows of a comparison, GPUs of its trainings, and damaged results."""

import importlib.util
import json
import os
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from mtkdrl_mm.utils import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def tool():
    path = ROOT / 'tools' / 'analysis_tools' / 'compare_methods.py'
    spec = importlib.util.spec_from_file_location('compare_methods', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ('count', 'visible', 'jobs', 'launch', 'expected'),
    [
        (2, None, 2, '', ['0', '1']),
        (2, None, 3, '', ['0', '1', '0']),
        (4, '3,1', 3, '', ['3', '1', '3']),
        (4, None, 1, '', [None]),  # one training sees them all
        (4, None, 2, 'torchrun --nproc_per_node=4', [None, None]),
        (0, None, 2, '', [None, None]),
        (0, '', 2, '', [None, None]),
    ],
)
def test_gpus_of_jobs(tool, monkeypatch, count, visible, jobs, launch, expected):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if visible is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    free = tool.gpus_of_jobs(Namespace(jobs=jobs, launch=launch))
    assert [free.get() for _ in range(free.qsize())] == expected


def test_a_gpu_is_free_again_after_a_failure(tool, monkeypatch):
    free = tool.gpus_of_jobs(Namespace(jobs=1, launch=''))

    def fail(*arguments):
        assert arguments[-1] is None and free.qsize() == 0
        raise ValueError

    monkeypatch.setattr(tool, 'train', fail)
    with pytest.raises(ValueError):
        tool.train_on_free_gpu(tool.Row('a', 'config.py'), 0, Namespace(), free)
    assert free.qsize() == 1


def test_training_sees_only_its_gpu(tool, monkeypatch, tmp_path):
    seen, commands = {}, []

    class Process:
        pid = 1

        def __init__(self, command, env, **kwargs):
            seen.update(env)
            commands.append(command)

    monkeypatch.setattr(tool.subprocess, 'Popen', Process)
    monkeypatch.setattr(tool.os, 'wait4', lambda pid, options: (pid, 256, None))
    args = Namespace(
        store_paths={},
        work_dir=str(tmp_path),
        report_only=False,
        launch='',
        cfg_options=['a=1'],
        jobs=2,
        metric='loss',
    )
    row = tool.Row('fast', 'config.py', ('a=2',), (('BACKBONE', 'aver'),))
    assert tool.train(row, 3, args, '5') is None  # exit status 1
    assert seen['CUDA_VISIBLE_DEVICES'] == '5' and seen['RUN_SEED'] == '3'
    assert seen['BACKBONE'] == 'aver'
    # The row's options come last, and win.
    assert commands[0][-3:] == ['randomness.seed=3', 'a=1', 'a=2']
    assert commands[0][commands[0].index('--work-dir') + 1] == str(tmp_path / 'fast' / 'seed_3')


def test_a_row_has_options_and_variables(tool):
    row = tool.Row.parse(['fast', 'a.py', 'optim.lr=1', 'BACKBONE=x=y', 'b.c=d=e'])
    assert row == tool.Row('fast', 'a.py', ('optim.lr=1', 'b.c=d=e'), (('BACKBONE', 'x=y'),))
    for words in (['fast'], ['fast', 'a.py', 'lr']):
        with pytest.raises(
            InputError, match=r'^--row takes NAME CONFIG KEY=VALUE \.\.\., but got "'
        ):
            tool.Row.parse(words)


def settings(*options, store=None, views=None, store_flags=''):
    """What the command line says."""
    return Namespace(cfg_options=options, store=store, views=views, store_flags=store_flags)


def test_the_description_knows_variables_but_no_seed(tool, tmp_path, monkeypatch):
    config = tmp_path / 'a.py'
    config.write_text("path = '{{$STUDENT:resnet56}}/{{$RUN_SEED:0}}'")
    row = tool.Row('a', str(config))
    monkeypatch.delenv('STUDENT', raising=False)
    default = tool.describe(row, settings())
    monkeypatch.setenv('RUN_SEED', '7')
    assert tool.describe(row, settings()) == default
    monkeypatch.setenv('STUDENT', 'mobilenetv2')
    other = tool.describe(row, settings())
    assert other != default
    monkeypatch.delenv('STUDENT')
    chosen = tool.Row('a', str(config), (), (('STUDENT', 'mobilenetv2'),))
    assert tool.describe(chosen, settings()) == other
    # The environment is as before.
    assert 'STUDENT' not in os.environ and os.environ['RUN_SEED'] == '7'
    with_option = tool.Row('a', str(config), ('b=1',))
    assert tool.describe(with_option, settings()) == tool.describe(row, settings('b=1'))
    assert tool.describe(row, settings('b=1')) != default


POOL = """
train_dataloader = dict(dataset=dict(data_root='{data}'))
model = dict(teachers=[dict(name=name, checkpoint=name + '{seed}.pth') for name in {names}])
"""


def test_trainings_with_the_same_data_and_teachers_share_a_store(tool, tmp_path):
    def row(name, names, data='data', seed=''):
        config = tmp_path / f'{name}.py'
        config.write_text(POOL.format(names=names, data=data, seed=seed))
        return tool.Row(name, str(config))

    def plan(*rows, seeds=(0, 1)):
        pairs = [(one, seed) for seed in seeds for one in rows]
        stores, paths = tool.plan_stores(pairs, settings(store=str(tmp_path / 'store'), views=2))
        return [[f'{r.name} {s}' for r, s in store.rows] for store in stores], paths

    both, one = row('both', ['a', 'b']), row('one', ['a'])
    more, other = row('more', ['a', 'c']), row('other', ['a'], data='other')
    # One run of the tool for each choice of teachers that is new.
    assert plan(one, both, one)[0] == [['one 0', 'both 0']]
    assert plan(both, one, more)[0] == [['both 0', 'more 0']]
    filled, paths = plan(both, other)
    assert filled == [['both 0'], ['other 0']]
    assert paths['both', 0] == paths['both', 1] != paths['other', 0]
    # The same names with other weights.
    by_seed = row('by_seed', ['a'], seed='_{{$RUN_SEED:0}}')
    filled, paths = plan(both, by_seed)
    assert filled == [['both 0'], ['by_seed 0'], ['by_seed 1']]
    assert len(set(paths.values())) == 3
    # Without teachers there is nothing to store.
    plain = tmp_path / 'plain.py'
    plain.write_text(
        "train_dataloader = dict(dataset=dict()); model = dict(type='ImageClassifier')"
    )
    assert plan(tool.Row('plain', str(plain))) == ([], {})
    # A store that exists is used as it is.
    (tmp_path / 'store' / 'inputs').mkdir(parents=True)
    assert set(plan(both)[1].values()) == {str(tmp_path / 'store')}


def test_a_store_is_part_of_the_description(tool, tmp_path):
    config = tmp_path / 'a.py'
    config.write_text("model = dict(teachers=[dict(name='a')])")
    row = tool.Row('a', str(config))
    texts = [
        tool.describe(row, settings()),
        tool.describe(row, settings(store='s', views=2)),
        tool.describe(row, settings(store='s', views=4)),
        tool.describe(row, settings(store='s', views=4, store_flags='--maps full')),
    ]
    assert len(set(texts)) == 4
    # Its path is not.
    assert tool.describe(row, settings(store='t', views=2)) == texts[1]


RESULT = dict(
    method='aver',
    seed=0,
    metric=61.5,
    seconds=3.0,
    seconds_per_epoch=1.5,
    peak_mib=100,
    curves={'teacher_weight/logit/a': [[1, 0.5], [2, 0.5]]},
    class_weights=None,
)


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('[]', 'it holds a list'),
        ('{"config": 1', 'delimiter'),
        ('{"accuracy/top1": "=cmd()"}', 'its "method"'),
        ('null', 'it holds a NoneType'),
        (json.dumps({**RESULT, 'metric': '61'}), 'its "metric" is'),
        (
            json.dumps({**RESULT, 'curves': {'teacher_weight/logit/a': [1, 2]}}),
            '"curves" are no pairs',
        ),
        (json.dumps({**RESULT, 'curves': {'teacher_weight/logit/a': 3}}), ''),
        (json.dumps({**RESULT, 'class_weights': dict(logit=[[1.0]], teachers=[])}), 'no table'),
        (json.dumps({**RESULT, 'class_weights': dict(teachers=[])}), 'logit'),
    ],
)
def test_a_damaged_result_is_named(tool, tmp_path, text, reason):
    row = tool.Row('aver', 'student_aver.py')
    args = Namespace(work_dir=str(tmp_path), descriptions={'aver': 'hash'})
    file = tmp_path / 'aver' / 'seed_0' / 'result.json'
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(RESULT))
    assert tool.finished(row, 0, args) == RESULT
    file.write_text(text)
    with pytest.raises(InputError) as error:
        tool.finished(row, 0, args)
    assert str(error.value).startswith(f'"{file}" is damaged: ') and reason in str(error.value)


def test_damaged_logs_are_named(tool, tmp_path):
    logs = tmp_path / 'now' / 'vis_data'
    logs.mkdir(parents=True)
    record = {'loss': 1.0, 'epoch': 1, 'iter': 2, 'step': 2, 'time': 0.5, 'accuracy/top1': 50.0}
    (logs / 'scalars.json').write_text(json.dumps(record) + '\n')
    assert tool.read_result(str(tmp_path), 'accuracy/top1')['metric'] == 50.0
    (tmp_path / 'class_weights.json').write_text('{"logit": [')
    with pytest.raises(InputError, match=r'class_weights\.json" is damaged'):
        tool.read_result(str(tmp_path), 'accuracy/top1')
    (logs / 'scalars.json').write_text('{\n' + json.dumps(record) + '\n')
    with pytest.raises(InputError, match=r'scalars\.json" is damaged: line 1'):
        tool.read_result(str(tmp_path), 'accuracy/top1')
