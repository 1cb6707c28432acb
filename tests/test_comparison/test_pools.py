# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Tables of several pools, and the choice of teachers."""

import os
from pathlib import Path

import pytest
import torch
from test_report.work_dirs import step, validation, write_session

from mtkdrl_mm.comparison import Plan
from mtkdrl_mm.comparison.pools import (
    best_single,
    best_subset,
    check_settings,
    note_settings,
    pool_settings,
    read_pool,
    write_pools,
)
from mtkdrl_mm.comparison.results import result_path
from mtkdrl_mm.comparison.rows import training_folder
from mtkdrl_mm.engine.work_dir_lock import WorkDirLock
from mtkdrl_mm.utils import InputError


@pytest.fixture
def runs(make_run):
    """Three seeds; the second single teacher is the best."""

    def of(method, *metrics, **kwargs):
        return [make_run(method, seed, metric, **kwargs) for seed, metric in enumerate(metrics)]

    curves = {f'teacher_weight/logit/{name}': [(1, w)] for name, w in (('a', 0.2), ('b', 0.8))}
    return {
        'aver': of('aver', 60.0, 61.0, 62.0),
        'camkd': of('camkd', 61.0, 61.0, 64.0),
        'a_alone': of('a_alone', 55.0, 55.0, 55.0),
        'b_alone': of('b_alone', 61.0, 63.0, 62.0),
        'ours': of('ours', 62.0, 63.0, 64.0, curves=curves),
    }


def test_the_best_single_teacher(runs):
    assert best_single(runs) == 'b_alone'
    assert best_single(dict(aver=runs['aver'], alone=runs['ours'])) is None


def test_single_teachers_are_ranked_by_the_seeds_that_all_have(runs, make_run, tmp_path):
    """On seed 0 a_alone has 61.5 and b_alone 61; the means are 35.75 and 61."""
    runs['a_alone'] = [make_run('a_alone', 0, 61.5), make_run('a_alone', 1, 10.0)]
    runs['b_alone'] = runs['b_alone'][:1]  # 61.0
    assert best_single(runs) == 'a_alone'
    lines = write_pools(dict(weak=runs), 'ours', str(tmp_path)).splitlines()
    assert '| 35.75 ± 36.42 (a_alone, 2 seeds) |' in lines[2]
    assert lines[4] == 'The single teachers of `weak` are ranked by what all of them have: seed 0.'
    # 62 - 61.5 and 63 - 10, 12.706 deviations of 37.12 over sqrt(2).
    assert '| +26.75 ± 333.54 (2 seeds) |' in lines[-1] and '| +2.00 ± 0.00 |' in lines[-1]
    runs['b_alone'] = [make_run('b_alone', 2, 66.0)]
    assert best_single(runs) is None
    text = write_pools(dict(weak=runs), 'ours', str(tmp_path))
    assert 'The single teachers of `weak` have no seed in common, and no best one.' in text


def test_a_pool_is_what_its_folder_holds(runs, make_run, tmp_path):
    """Not what the latest command trained."""
    for run in [*runs['aver'], *runs['ours'][:2], *runs['b_alone']]:
        folder = training_folder(str(tmp_path / 'a[b]'), run.method, run.seed)
        (tmp_path / folder).mkdir(parents=True)
        run.write(result_path(folder))
    copy = tmp_path / 'a[b]' / 'aver' / 'seed_0_before'
    copy.mkdir()
    make_run(metric=1.0).write(result_path(str(copy)))
    found = read_pool(str(tmp_path / 'a[b]'), ['ours', 'other'])
    assert list(found) == ['ours', 'aver', 'b_alone']
    assert [run.metric for run in found['aver']] == [60.0, 61.0, 62.0]
    assert len(found['ours']) == 2
    assert read_pool(str(tmp_path / 'none')) == {}


def write_result(run, work_dir):
    folder = training_folder(str(work_dir), run.method, run.seed)
    os.makedirs(folder)
    run.write(result_path(folder))
    return folder


def refused(work_dir, settings):
    with pytest.raises(InputError) as error:
        note_settings(str(work_dir), settings)
    start = f'The results in "{work_dir}" are trained '
    end = (
        ': in one table, that would look like a difference of methods. Give the same, or '
        'another --work-dir.'
    )
    message = str(error.value)
    assert message.startswith(start) and message.endswith(end)
    return message.removeprefix(start).removesuffix(end)


def test_results_of_other_settings_get_no_company(make_run, tmp_path):
    pool = tmp_path / 'pools' / 'weak'
    plain = pool_settings([], 4, {})
    longer = pool_settings(['b=1', 'a=2', 'b=2'], 4, {})
    assert plain == {'--views': '4'} and longer == {'--views': '4', '--cfg-options': 'a=2 b=2'}
    note_settings(str(pool), longer)
    note_settings(str(pool), plain)  # nothing has finished: whoever mistyped an option mends it
    write_result(make_run(), pool)
    note_settings(str(pool), plain)
    assert refused(pool, longer) == (
        'without --cfg-options, and this command trains with --cfg-options a=2 b=2'
    )
    assert refused(pool, pool_settings([], 2, {})) == (
        'with --views 4, and this command trains with --views 2'
    )
    assert refused(pool, pool_settings([], 4, dict(NUM_TEACHERS='2'))) == (
        'without NUM_TEACHERS, and this command trains with NUM_TEACHERS=2'
    )
    note_settings(str(pool), plain)


def test_settings_of_a_comparison_that_runs_count(tmp_path, monkeypatch):
    """It may have no result yet."""
    note_settings(str(tmp_path), pool_settings([], 4, {}))
    monkeypatch.setattr(WorkDirLock, 'is_held_elsewhere', lambda lock: True)
    assert refused(tmp_path, pool_settings([], 2, {})) == (
        'with --views 4, and this command trains with --views 2'
    )


def test_pools_of_earlier_versions_have_options_in_their_plan_only(make_run, tmp_path):
    write_result(make_run(), tmp_path)
    settings = pool_settings(['a=1'], 4, dict(NUM_TEACHERS='2'))
    check_settings(str(tmp_path), settings)  # not even that
    Plan(rows=[], seeds=[0], cfg_options=['a=1']).write(str(tmp_path))
    check_settings(str(tmp_path), settings)
    assert refused(tmp_path, pool_settings([], 4, {})) == (
        'with --cfg-options a=1, and this command trains without --cfg-options'
    )
    note_settings(str(tmp_path), settings)
    assert refused(tmp_path, pool_settings(['a=1'], 4, {})) == (
        'with NUM_TEACHERS=2, and this command trains without NUM_TEACHERS'
    )


def test_a_pool_has_one_metric(make_run, tmp_path):
    """Of a result of another one it is in the logs, if it was validated."""
    write_result(make_run(metric_name='accuracy/top1'), tmp_path)
    folder = write_result(make_run(seed=1, metric=90.0, metric_name='accuracy/top5'), tmp_path)
    with pytest.raises(InputError) as error:
        read_pool(str(tmp_path))
    assert str(error.value) == (
        f'The result in "{folder}" is of "accuracy/top5", and its logs hold no "accuracy/top1", of '
        'which the tables are. Move that folder away, or give another --work-dir.'
    )
    write_session(Path(folder), '20260101_000000', [step(1, 5), validation(1, 61.0)])
    assert [run.metric for run in read_pool(str(tmp_path))['aver']] == [60.0, 61.0]


def test_tables(runs, tmp_path):
    other = {'aver': runs['aver'][:1], 'ours': runs['ours'][:1]}
    text = write_pools(dict(weak=runs, clean=other), 'ours', str(tmp_path))
    tables = [
        [[cell.strip() for cell in line.strip('|').split('|')] for line in block.splitlines()]
        for block in text.split('\n\n')[::2]
    ]
    assert tables[0][0] == ['pool', 'best single teacher', 'aver', 'camkd', 'ours']
    assert tables[0][2:] == [
        ['weak', '62.00 ± 1.00 (b_alone)', '61.00 ± 1.00', '62.00 ± 1.73', '63.00 ± 1.00'],
        ['clean', '', '60.00', '', '62.00'],
    ]
    assert '`ours`, paired by seed, with 95 % intervals:' in text
    gains = ['minus best single teacher', 'minus aver', 'minus camkd', 'weights']
    assert tables[1][0] == ['pool', *gains]
    # t of 2 degrees of freedom, 4.303, times the deviation 1 of 1, 0 and 2, over sqrt(3).
    assert tables[1][2:] == [
        ['weak', '+1.00 ± 2.48', '+2.00 ± 0.00', '+1.00 ± 2.48', 'a 0.20, b 0.80'],
        ['clean', '', '+2.00', '', 'a 0.20, b 0.80'],
    ]
    assert (tmp_path / 'pools.md').read_text() == text + '\n'
    assert (tmp_path / 'pools.csv').read_text().splitlines()[2] == 'clean,,60.00,,62.00'


def test_the_subset_that_makes_the_labels_most_likely():
    """Two teachers that are right by turns are better together than the best alone."""
    labels = torch.tensor([0, 1] * 6)
    right = torch.eye(2)[labels] * 4
    turns = (torch.arange(12) // 2 % 2 == 0)[:, None]
    first, second = torch.where(turns, right, -right / 2), torch.where(turns, -right / 2, right)
    names, logits = ['first', 'wrong', 'second'], torch.stack([first, -right, second], dim=1)
    assert best_subset(names, logits, labels, [2]) == ('first', 'second')
    assert best_subset(names, logits, labels, [1, 2, 3]) == ('first', 'second')
    assert best_subset(names, logits, labels, [1]) == ('first',)
    better = torch.cat([logits, right[:, None]], dim=1)
    assert best_subset([*names, 'best'], better, labels, [1, 2, 3, 4]) == ('best',)
    with pytest.raises(ValueError, match='No subset of 3 teachers has'):
        best_subset(names, logits, labels, [4])
