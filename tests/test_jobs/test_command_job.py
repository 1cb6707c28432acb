# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A command in a job, and the signals of a scheduler."""

import json
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import pytest

from mtkdrl_mm.jobs import command_job

# A training: it saves on SIGTERM, and exits as ours do.
SAVING = 'trap "touch {saved}; exit 143" TERM; touch {started}; while true; do sleep 0.02; done'


@pytest.fixture
def saving(make_job, tmp_path):
    """A job that saves on SIGTERM, and a function that waits until it can."""
    started = tmp_path / 'started'
    job = make_job('')
    saved = Path(job.outcome).parent / 'job_1.pth'
    job.command[-1] = SAVING.format(saved=saved, started=started)

    def act(action):
        def wait():
            while not started.exists():
                time.sleep(0.01)
            action()

        thread = threading.Thread(target=wait)
        thread.start()
        return thread

    return job, act


class Requeued(BaseException):
    """What submitit's exit is in these tests."""


def test_outcome_is_the_exit_code(make_job):
    job = make_job('exit 3')
    assert not job.is_over()
    job()
    assert job.is_over()
    assert json.loads(Path(job.outcome).read_text()) == dict(exit_code=3)
    # A signal to all processes of the job, such as submitit's, does not end the command.
    job = make_job('kill -USR2 $$; exit 4', 'other')
    job()
    assert json.loads(Path(job.outcome).read_text()) == dict(exit_code=4)


def test_checkpoint_saves_and_stops(saving, monkeypatch):
    job, act = saving
    seen = []

    def submitit_handler(number, frame):
        seen.append(job.checkpoint())
        raise Requeued

    before = signal.signal(signal.SIGUSR2, submitit_handler)
    try:
        thread = act(lambda: os.kill(os.getpid(), signal.SIGUSR2))
        with pytest.raises(Requeued):
            job()
        thread.join()
    finally:
        signal.signal(signal.SIGUSR2, before)
    (again,) = seen
    assert again.function is job
    assert (Path(job.outcome).parent / 'job_1.pth').exists() and not job.is_over()
    assert pickle.loads(pickle.dumps(again.function)).command == job.command


@pytest.mark.parametrize('may', [True, False])
def test_sigterm_requeues_unless_the_job_was_cancelled(saving, monkeypatch, may):
    job, act = saving
    monkeypatch.setattr(command_job, 'may_requeue', lambda: may)

    def submitit_handler(number, frame):
        raise Requeued

    before = signal.signal(signal.SIGUSR2, submitit_handler)
    try:
        thread = act(lambda: os.kill(os.getpid(), signal.SIGTERM))
        if may:
            with pytest.raises(Requeued):
                job()
            assert not job.is_over()
        else:
            job()
            assert json.loads(Path(job.outcome).read_text()) == dict(exit_code=143)
        thread.join()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert job.terminated
    assert (Path(job.outcome).parent / 'job_1.pth').exists()


@pytest.mark.parametrize(
    ('state', 'requeue', 'expected'),
    [('RUNNING', '1', True), ('COMPLETING', '1', False), ('RUNNING', '0', False)],
)
def test_may_requeue(slurm, monkeypatch, state, requeue, expected):
    assert not command_job.may_requeue()  # in no job
    monkeypatch.setenv('SLURM_JOB_ID', '7')
    monkeypatch.setenv('STATE', state)
    monkeypatch.setenv('REQUEUE', requeue)
    assert command_job.may_requeue() == expected


def test_a_job_of_an_array_is_asked_for_by_its_place(slurm, monkeypatch):
    """The last one has the number of the whole array, and the others may run."""
    program = slurm / 'bin' / 'scontrol'
    program.write_text(
        '#!/usr/bin/env bash\n'
        'state=RUNNING; [ "${@: -1}" != 7_2 ] || state=CANCELLED\n'
        'echo "JobId=7 JobState=$state Requeue=1 BatchFlag=1 X=1"\n'
    )
    monkeypatch.setenv('SLURM_JOB_ID', '7')
    assert command_job.may_requeue()
    monkeypatch.setenv('SLURM_ARRAY_JOB_ID', '7')
    monkeypatch.setenv('SLURM_ARRAY_TASK_ID', '2')
    assert not command_job.may_requeue()


def test_a_job_that_never_saves_is_given_up(make_job):
    job = make_job()
    job._start = time.time()
    assert job.checkpoint() is not None and job.checkpoint() is not None
    Path(job.outcome).with_name('job_1.pth').touch()
    assert job.checkpoint() is not None  # the count begins again
    job._start = time.time() + 5
    assert job.checkpoint() is not None and job.checkpoint() is not None
    assert job.checkpoint() is None
    outcome = json.loads(Path(job.outcome).read_text())
    assert outcome['exit_code'] == 143
    assert outcome['reason'].endswith('before anything was saved: give it a longer --time.')


def test_progress_in_any_folder_counts(make_job, tmp_path):
    """Of a store, whose parts are two folders deep."""
    job = make_job()
    job.progress = str(tmp_path / 'store' / '**' / 'part_*')
    part = tmp_path / 'store' / 'teacher' / 'view_000' / 'part_0001.safetensors'
    part.parent.mkdir(parents=True)
    part.touch()
    job._start = time.time()
    assert all(job.checkpoint() is not None for _ in range(4))


def test_a_command_that_does_not_end_is_killed(make_job, tmp_path):
    """Or it would still write when the job starts again."""
    job = make_job(f'trap "" TERM; touch {tmp_path}/started; while true; do sleep 0.02; done')
    job.save_seconds = 0.2
    ended = []

    def handler(number, frame):
        process = job._process
        job.checkpoint()
        ended.append(process.returncode)
        raise Requeued

    before = signal.signal(signal.SIGUSR2, handler)

    def act():
        while not (tmp_path / 'started').exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR2)

    thread = threading.Thread(target=act)
    thread.start()
    try:
        with pytest.raises(Requeued):
            job()
    finally:
        signal.signal(signal.SIGUSR2, before)
        thread.join()
    assert ended == [-signal.SIGKILL]


def test_threads_and_gpus_of_the_command(make_job, monkeypatch, tmp_path):
    monkeypatch.setenv('SLURM_CPUS_PER_TASK', '3')
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')  # as submitit's local jobs
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    job = make_job(f'echo "$OMP_NUM_THREADS ${{CUDA_VISIBLE_DEVICES-all}}" >{tmp_path}/seen')
    job()
    assert (tmp_path / 'seen').read_text() == '3 \n'
    job.keep_gpus = True
    for gpus, seen in ((None, 'all'), ('2,3', '2,3')):
        job.visible_gpus = gpus
        job()
        assert (tmp_path / 'seen').read_text() == f'3 {seen}\n'
