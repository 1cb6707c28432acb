# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What is read from the work dir of a comparison, finished or not."""

import json
from dataclasses import replace

import pytest
from test_report.work_dirs import step, validation, write_session

from mtkdrl_mm.comparison import Plan, Row, is_comparison, read_comparison
from mtkdrl_mm.comparison.results import failure_path, result_path
from mtkdrl_mm.utils import InputError

PLAN = Plan(
    rows=[
        Row('aver', 'configs/aver.py'),
        Row('fast', 'configs/x.py', ('a.b=2',), (('POOL', 'weak'),)),
    ],
    seeds=[3, 4],
    metric='mIoU',
    reference='fast',
    cfg_options=['train_cfg.max_epochs=2'],
    command='python compare_methods.py',
    device='CPU, 2 cores',
)


def start(work_dir, method, seed, output=b''):
    """Write what a training leaves that has not ended; returns its folder."""
    folder = work_dir / method / f'seed_{seed}'
    folder.mkdir(parents=True)
    (folder / 'output.txt').write_bytes(output)
    return folder


def test_a_plan_is_written_and_read(tmp_path):
    PLAN.write(str(tmp_path))
    assert Plan.read(str(tmp_path / 'comparison.json')) == PLAN


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (dict(seeds='0 1'), 'its "seeds" is'),
        (dict(metric=None), 'its "metric" is'),
        (dict(rows=[dict(name='a')]), "KeyError('config')"),
        (dict(rows=[dict(name=1, config='a', options=[], variables=[])]), 'is no text'),
        (dict(rows=['aver']), ''),
        (dict(seeds=['one']), 'one'),
        (dict(cfg_options=[['a=1']]), 'is no text'),
    ],
)
def test_a_damaged_plan_is_named(tmp_path, change, reason):
    PLAN.write(str(tmp_path))
    path = tmp_path / 'comparison.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError) as error:
        read_comparison(str(tmp_path))
    assert str(error.value).startswith(f'"{path}" is damaged: ') and reason in str(error.value)


def test_results_and_what_has_none(tmp_path, make_run):
    PLAN.write(str(tmp_path))
    run = make_run('aver', 3, 61.5)
    run.write(result_path(str(start(tmp_path, 'aver', 3))))
    output = b'Epoch 1\nError: No file "a.pth".\nChildFailedError\n======\n\n'
    failed = start(tmp_path, 'aver', 4, output)
    (failed / 'failure.json').write_text('{"exit_code": 1}')
    running = start(tmp_path, 'fast', 3, b'ValueError: earlier\n 10%\r 20%\r 30%\n')
    record = read_comparison(str(tmp_path))
    assert record.plan == PLAN and record.runs == {'aver': [run]}
    found = [(one.method, one.seed, one.state, one.reason) for one in record.missing]
    assert found == [
        # What the launcher writes after the error says nothing.
        ('aver', 4, 'failed', 'Error: No file "a.pth".'),
        # A training that goes on has not failed, whatever it did earlier.
        ('fast', 3, 'not finished', '30%'),
        ('fast', 4, 'not started', ''),
    ]
    assert [one.exit_code for one in record.missing] == [1, None, None]
    assert record.missing[1].folder == str(running) == record.folder('fast', 3)
    assert failure_path(str(failed)) == str(failed / 'failure.json')


def test_all_results_are_of_one_metric(tmp_path, make_run):
    """Results that were written for another one are read anew, or refused."""
    PLAN.write(str(tmp_path))
    names = ('accuracy/top1', 'mIoU', None)
    for seed, name in enumerate(names):
        folder = start(tmp_path, 'aver', seed)
        make_run('aver', seed, 60.0 + seed, metric_name=name).write(result_path(str(folder)))
        logs = [step(1, 10), validation(1, 60.0 + seed, mIoU=0.5)]
        write_session(folder, '20260101_000000', logs)
    plan = replace(PLAN, seeds=[0, 1, 2])
    record = read_comparison(str(tmp_path), plan=plan)
    found = [(run.metric, run.metric_name) for run in record.runs['aver']]
    assert found == [(0.5, 'mIoU'), (61.0, 'mIoU'), (62.0, None)]
    assert record.plan == plan and Plan.read(str(tmp_path / 'comparison.json')) == PLAN
    with pytest.raises(InputError, match=r'is of "accuracy/top1"\. No "mAP" in the logs of'):
        read_comparison(str(tmp_path), plan=replace(plan, metric='mAP'))


def test_another_reference(tmp_path):
    PLAN.write(str(tmp_path))
    assert read_comparison(str(tmp_path), 'aver').plan.reference == 'aver'
    with pytest.raises(InputError) as error:
        read_comparison(str(tmp_path), 'gone')
    assert str(error.value) == 'No row is named "gone": the rows are aver, fast.'


def test_a_comparison_without_a_plan(tmp_path, make_run):
    """Versions before this one wrote none: rows and seeds are those of the folders."""
    for method, seed in (('b', 10), ('b', 2), ('a', 2)):
        make_run(method, seed).write(result_path(str(start(tmp_path, method, seed))))
    start(tmp_path, 'c', 2, b'KeyError: 1\n')
    (tmp_path / 'images' / 'seed_4').mkdir(parents=True)
    record = read_comparison(str(tmp_path))
    assert [row.name for row in record.plan.rows] == ['a', 'b', 'c']
    assert record.plan.seeds == [2, 10]
    assert (record.plan.metric, record.plan.reference) == ('accuracy/top1', 'aver')
    assert [run.seed for run in record.runs['b']] == [2, 10]
    # That "a" was to be trained with seed 10 is not known.
    assert [(one.method, one.seed) for one in record.missing] == [('c', 2)]

    make_run('a', 2, metric_name='mAP').write(result_path(str(tmp_path / 'a' / 'seed_2')))
    assert read_comparison(str(tmp_path)).plan.metric == 'mAP'
    make_run('a', 2).write(result_path(str(tmp_path / 'a' / 'seed_2')))
    lines = ['method,runs,mIoU,std,minus b,95 % CI +-', 'b,2,1,,,', 'a,1,1,,,']
    (tmp_path / 'table.csv').write_text('\n'.join(lines))
    plan = read_comparison(str(tmp_path)).plan
    assert [row.name for row in plan.rows] == ['b', 'a', 'c']
    assert (plan.metric, plan.reference) == ('mIoU', 'b')


@pytest.mark.parametrize('table', ['', '\n', 'x,y\n', 'a,b,c,d,e\n', 'method,runs,m,std,e\n1,2\n'])
def test_a_table_of_something_else_is_not_read(tmp_path, make_run, table):
    make_run('a', 0).write(result_path(str(start(tmp_path, 'a', 0))))
    (tmp_path / 'table.csv').write_text(table)
    assert read_comparison(str(tmp_path)).plan == Plan(rows=[Row('a', '')], seeds=[0])


def test_other_folders_are_no_comparison(tmp_path):
    assert not is_comparison(str(tmp_path)) and not is_comparison(str(tmp_path / 'gone'))
    start(tmp_path, 'mtkdrl', 0)  # as other tools arrange trainings too
    assert not is_comparison(str(tmp_path))
    with pytest.raises(InputError, match='it has neither a comparison'):
        read_comparison(str(tmp_path))
