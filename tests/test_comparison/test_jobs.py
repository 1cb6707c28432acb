# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Trainings as jobs: their results, failures and folders."""

import json
import os
import sys
from pathlib import Path

import pytest

from mtkdrl_mm.comparison import (
    Combination,
    Row,
    Store,
    fill_stores,
    jobs,
    stores,
    train_all,
    training,
)
from mtkdrl_mm.comparison.jobs import TrainingJob
from mtkdrl_mm.comparison.results import failure_path, result_path
from mtkdrl_mm.jobs import JobSettings
from mtkdrl_mm.utils import InputError

ROW = Row('fast', 'config.py')
JOB = JobSettings(
    launcher='slurm', jobs=2, folder='jobs', name='compare', partition='gpu', minutes=60
)


def combination(seed):
    return Combination(ROW, seed, 'hash')


@pytest.fixture
def run(monkeypatch):
    """Function that has a function take the place of the jobs; returns those that were run."""

    def replace(action):
        started = []

        def run_jobs(given, settings, on_end):
            assert settings == JOB
            for index, job in enumerate(given):
                started.append(job)
                os.makedirs(job.folder, exist_ok=True)
                action(job)
                on_end(index, 'log.out')

        monkeypatch.setattr(jobs, 'run_jobs', run_jobs)
        return started

    return replace


def test_results_and_failures_of_jobs(settings, make_run, run, tmp_path, capsys):
    def action(job):
        seed = job.combination.seed
        if seed == 1:
            make_run(seed=1).write(result_path(job.folder))
        elif seed == 2:
            job.write_outcome(exit_code=137, reason='Slurm job 7_1 ended: it was killed.')
        else:
            Path(job.folder, 'output.txt').write_text('so\nError: The disk is full.\nend\n')
            job.write_outcome(exit_code=1)

    started = run(action)
    folder = Path(combination(0).folder(str(tmp_path)))
    folder.mkdir(parents=True)
    make_run(seed=0).write(result_path(str(folder)))
    ended = []
    found = train_all(
        [combination(seed) for seed in range(4)],
        settings(job=JOB, jobs=2),
        on_end=lambda: ended.append(len(started)),
    )
    assert [one and one.seed for one in found] == [0, 1, None, None]
    # What has finished before is no job. A job trains alone, and starts no jobs.
    assert [job.combination.seed for job in started] == [1, 2, 3] and ended == [1, 2, 3]
    assert all((job.settings.jobs, job.settings.job) == (1, None) for job in started)
    assert capsys.readouterr().out.splitlines() == [
        '  fast, seed 1: 60 in 3 s',
        '  fast, seed 2: FAILED, see log.out: Slurm job 7_1 ended: it was killed.',
        f'  fast, seed 3: FAILED, see {tmp_path}/fast/seed_3/output.txt: Error: The disk is full.',
    ]


def test_another_config_is_refused_before_any_job(settings, run, tmp_path):
    started = run(lambda job: None)
    folder = tmp_path / 'fast' / 'seed_1'
    folder.mkdir(parents=True)
    (folder / 'started.json').write_text('{"config": "another"}')
    (folder / 'epoch_1.pth').touch()
    with pytest.raises(InputError, match='holds an unfinished training of another config'):
        train_all([combination(0), combination(1)], settings(job=JOB))
    assert started == []


def test_a_job_trains_and_writes_how_it_ended(settings, monkeypatch, tmp_path):
    job = TrainingJob(combination(3), settings(), save_seconds=5)
    folder = tmp_path / 'fast' / 'seed_3'
    folder.mkdir(parents=True)
    assert job.outcome == failure_path(str(folder)) and not job.is_over()
    assert job.note == str(folder / 'job.json')

    def refuse(combination, settings, gpu, run):
        assert gpu is None and run == job.run
        raise InputError('No "mIoU" in the logs.')

    monkeypatch.setattr(training, 'train', refuse)
    job()
    assert json.loads((folder / 'failure.json').read_text()) == dict(
        exit_code=1, reason='Error: No "mIoU" in the logs.'
    )

    def cancel(combination, settings, gpu, run):
        job.terminated = True

    monkeypatch.setattr(training, 'train', cancel)
    job()
    assert json.loads((folder / 'failure.json').read_text()) == dict(
        exit_code=143, reason='The job was cancelled; the same command goes on.'
    )
    os.remove(folder / 'failure.json')
    (folder / 'result.json').touch()
    assert job.is_over()


def test_stores_are_filled_by_jobs(settings, monkeypatch, tmp_path):
    calls = []

    def start(command, **kwargs):
        calls.append(command)
        return 0, None

    monkeypatch.setattr(stores, 'run_child', start)
    store = Store('store/1', 'data', {}, [combination(0)])
    given = settings(job=JOB, launch='torchrun', store='store', store_flags='--jobs 5')
    fill_stores([store], given)
    # A job is one process; the flags of the store come last, and win.
    assert calls[0] == [
        *(sys.executable, 'here/tools/store_teacher_outputs.py', 'config.py', 'store/1'),
        *('--launcher', 'slurm', '--jobs', '2', '--partition', 'gpu', '--time', '60'),
        *('--work-dir', str(tmp_path), '--jobs', '5'),
    ]
