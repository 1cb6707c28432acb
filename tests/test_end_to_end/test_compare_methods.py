# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Comparing methods: tables, going on, and failed runs."""

import csv
import shutil
import time
from pathlib import Path

import pytest
from waiting import patience

from .conftest import Workshop

pytestmark = pytest.mark.slow


def test_comparison_goes_on_and_survives_a_failed_run(workshop: Workshop):
    mtkdrl = workshop.config('student_mtkdrl')
    with open(mtkdrl) as file:
        text = file.read()
    aver = workshop._write(
        'student_aver.py',
        text.replace("dict(type='MTKDRL')", "dict(type='AVER')").replace(
            "default_hooks['agent'] = ", '_unused = '
        ),
    )
    broken = workshop._write('broken.py', text.replace("type='MTKDRL'", "type='MTKDLR'"))
    work_dir, out = workshop.folder / 'runs', workshop.folder / 'out'
    command = ['tools/analysis_tools/compare_methods.py', mtkdrl, broken, aver]
    command += ['--seeds', '3', '4', '--work-dir', str(work_dir), '--out', str(out), '--jobs', '2']
    command += ['--cfg-options', 'train_cfg.max_epochs=2']
    done = workshop.tool(*command)
    assert done.returncode == 1
    assert done.stderr.strip() == 'Error: 2 of 6 trainings have no result; see above.'
    assert 'broken, seed 3: FAILED' in done.stdout

    with open(out / 'table.csv') as file:
        rows = {row['method']: row for row in csv.DictReader(file)}
    with open(out / 'runs.csv') as file:
        runs = {(r['method'], r['seed']): float(r['accuracy/top1']) for r in csv.DictReader(file)}
    assert rows.keys() == {'mtkdrl', 'aver'}
    assert rows['aver']['runs'] == '2' and rows['aver']['minus aver'] == ''
    gaps = [runs['mtkdrl', seed] - runs['aver', seed] for seed in ('3', '4')]
    assert float(rows['mtkdrl']['minus aver']) == pytest.approx(sum(gaps) / 2, abs=0.01)
    # Student's t with one degree of freedom: 12.706.
    half = 12.706 * abs(gaps[0] - gaps[1]) / 2
    assert float(rows['mtkdrl']['95 % CI +-']) == pytest.approx(half, abs=0.01)
    assert rows['aver']['logit weights'] == 'teacher0 0.50, teacher1 0.50'
    for name in ('table.md', 'accuracy.png', 'weights.png', 'classes.png', 'environment.txt'):
        assert (out / name).stat().st_size > 0, name

    # The page beside the tables has no links into the work dir.
    assert '3 methods, 2 seeds: 4 of 6' in (out / 'report.html').read_text()
    assert 'broken/seed_3/output.txt' not in (out / 'report.html').read_text()
    page = (work_dir / 'report.html').read_text()
    assert '3 methods, 2 seeds: 4 of 6 trainings finished, 2 failed.' in page
    assert page.count('failed, exit code 1') == 2 and 'MTKDLR' in page
    assert page.count('href="broken/seed_3/output.txt"') == 1
    for run in runs.values():
        assert f'<td>{run:.2f}</td>' in page
    # It is written again without training, by the tool for pages about trainings too.
    again = workshop.tool('tools/analysis_tools/report.py', str(work_dir))
    assert again.returncode == 0, again.stderr
    assert (work_dir / 'report.html').read_text() == page

    # Nothing is trained again; one lost result gives the same number again.
    shutil.rmtree(work_dir / 'mtkdrl' / 'seed_4')
    stamp = (work_dir / 'aver' / 'seed_3' / 'result.json').stat().st_mtime_ns
    start = time.time()
    again = workshop.tool(*[part for part in command if part != broken])
    assert again.returncode == 0, again.stderr
    assert time.time() - start < patience(60)
    assert (work_dir / 'aver' / 'seed_3' / 'result.json').stat().st_mtime_ns == stamp
    with open(out / 'runs.csv') as file:
        second = {(r['method'], r['seed']): float(r['accuracy/top1']) for r in csv.DictReader(file)}
    assert second == runs

    page = (work_dir / 'report.html').read_text()
    assert '2 methods, 2 seeds: 4 of 4 trainings finished.' in page
    assert 'Trainings without a result' not in page

    # Results of another config are not taken for this one's.
    other = workshop.tool(*command, 'train_cfg.val_interval=2')
    assert other.returncode == 1
    assert other.stderr.strip().startswith(
        f'Error: {work_dir}/mtkdrl/seed_3/result.json is of another'
    )


def test_the_teachers_run_once_for_all(workshop: Workshop):
    config = workshop.config('student_mtkdrl')
    work_dir, store = workshop.folder / 'runs', workshop.folder / 'store'
    command = ['tools/analysis_tools/compare_methods.py', config, '--reference', 'mtkdrl']
    command += [
        '--row',
        'other',
        config,
        'model.logit_loss_weight=0.5',
        '--work-dir',
        str(work_dir),
    ]
    command += ['--store', str(store), '--views', '2', '--seeds', '3', '4']
    command += ['--cfg-options', 'train_cfg.max_epochs=2']
    done = workshop.tool(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('  teachers teacher0, teacher1: stored in ') == 1
    assert len(list(store.iterdir())) == 1
    for name in ('mtkdrl', 'other'):
        for seed in (3, 4):
            output = (work_dir / name / f'seed_{seed}' / 'output.txt').read_text()
            assert '2 views' in output and 'No network is run' in output

    # The trainings cannot have needed the teachers; and what is finished needs no store.
    for teacher in workshop.teachers:
        Path(teacher['checkpoint']).unlink()
    shutil.rmtree(store)
    again = workshop.tool(*command)
    assert again.returncode == 0 and 'stored in ' not in again.stdout

    missing = workshop.tool(*command, '--seeds', '5')
    assert missing.returncode == 1
    assert 'teacher0.pth" does not exist' in missing.stderr
    assert (
        missing.stderr.strip()
        .splitlines()[-1]
        .startswith('Error: The outputs of the teachers of mtkdrl could not be stored in "')
    )
    # Such a failure leaves a page as well.
    assert 'Not started: other: seed 5' in (work_dir / 'report.html').read_text()
    twice = workshop.tool(*command, '--seeds', '5', '4', '5')
    assert twice.stderr.strip() == 'Error: --seeds names a seed twice: 5 4 5.'
    lonely = workshop.tool(*command[:2], '--views', '2')
    assert lonely.stderr.strip() == (
        'Error: --views and --store-flags belong to --store: name the folder.'
    )
