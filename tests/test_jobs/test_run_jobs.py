# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Submitting jobs and waiting for them."""

import importlib
import json
import re
from pathlib import Path

import pytest

from mtkdrl_mm.jobs import run_jobs
from mtkdrl_mm.utils import InputError

# The package's function has the same name as its module.
run_module = importlib.import_module('mtkdrl_mm.jobs.run_jobs')


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(run_module, '_SLURM_INTERVAL', 0.01)
    monkeypatch.setattr(run_module, '_FILE_DELAY', 0.1)


def outcome(job):
    return json.loads(Path(job.outcome).read_text())


def test_slurm_array(slurm, settings, make_job, monkeypatch, capsys):
    """One job of three ends, one is killed, one is requeued before it ends."""
    monkeypatch.setenv('SLURM_JOB_ID', '1')  # the tool itself runs in a job
    monkeypatch.setenv('SLURM_CONF', 'kept')
    jobs = [make_job(name=f'job{index}') for index in range(3)]
    jobs[1].write_outcome(exit_code=5)  # of an earlier try
    (slurm / 'queue').write_text('3_0\n7_0 7_1 7_2\n7_1 7_2\n7_2\n7_2\n\n\n')
    ended = []

    def on_end(index, log):
        ended.append((index, Path(log).name))

    look = run_module._queue

    def queue():
        found = look()
        if found is not None and '7_2' in found and '7_0' not in found:
            jobs[0].write_outcome(exit_code=0)
        if found == set():
            jobs[2].write_outcome(exit_code=0)
        return found

    monkeypatch.setattr(run_module, '_queue', queue)
    chosen = settings(partition='gpu', options=('account=lab',))
    run_jobs(jobs, chosen, on_end)
    assert sorted(ended) == [(0, '7_0_0_log.out'), (1, '7_1_0_log.out'), (2, '7_2_0_log.out')]
    assert ended[0][0] == 0
    assert [outcome(job)['exit_code'] for job in jobs] == [0, 137, 0]
    assert outcome(jobs[1])['reason'] == (
        'Slurm job 7_1 ended without a result (NODE_FAIL): it was killed.'
    )
    script = (slurm / 'script').read_text()
    for line in (
        '#SBATCH --array=0-2%2',
        '#SBATCH --partition=gpu',
        '#SBATCH --gpus-per-node=1',
        '#SBATCH --cpus-per-task=5',
        '#SBATCH --time=60',
        '#SBATCH --signal=USR2@120',
        '#SBATCH --requeue',
        '#SBATCH --account=lab',
    ):
        assert line in script.splitlines()
    assert re.search(r'^srun .*--cpus-per-task=5 ', script, re.MULTILINE)
    names = (slurm / 'names').read_text().split()
    assert 'SLURM_CONF' in names and 'SLURM_JOB_ID' not in names
    assert capsys.readouterr().out == (
        f'  Slurm job 7: 3 jobs, up to 2 at a time; logs in {chosen.folder}\n'
    )


def test_jobs_of_an_earlier_command_are_waited_for(
    slurm, settings, make_job, monkeypatch, tmp_path, capsys
):
    job = make_job()
    note = tmp_path / 'note.json'
    note.write_text('{"job_id": "5_1"}')
    monkeypatch.setattr(type(job), 'note', str(note))
    (slurm / 'queue').write_text('5_1\n5_1\n\n')
    run_jobs([job], settings(), lambda index, log: None)
    assert not (slurm / 'script').exists()  # nothing was submitted
    assert '1 job of an earlier command: still in the queue' in capsys.readouterr().out
    # It has ended since.
    (slurm / 'queue').write_text('\n\n')
    run_jobs([job], settings(), lambda index, log: None)
    assert (slurm / 'script').exists()
    assert json.loads(note.read_text()) == dict(job_id='7')


def test_ctrl_c_leaves_the_jobs(slurm, settings, make_job, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module.time, 'sleep', interrupt)
    with pytest.raises(InputError, match='Interrupted: the Slurm jobs 7 go on'):
        run_jobs([make_job(), make_job()], settings(), lambda index, log: None)


def test_slurm_refuses(slurm, settings, make_job):
    (slurm / 'refusal').write_text(
        'sbatch: error: invalid partition specified: gup\n'
        'sbatch: error: Batch job submission failed: Invalid partition name specified\n'
    )
    with pytest.raises(InputError, match='Slurm refuses the jobs: invalid partition sp'):
        run_jobs([make_job()], settings(partition='gup'), lambda index, log: None)


@pytest.mark.parametrize(
    ('visible', 'jobs', 'gpus', 'expected'),
    [
        (None, 2, 0, [None, None]),
        ('4,5', 3, 1, ['4', '5', '4']),
        ('0,1,2,3', 2, 2, ['0,1', '2,3']),
        ('4,5', 1, 0, ['']),
    ],
)
def test_local_jobs_divide_the_gpus(monkeypatch, visible, jobs, gpus, expected):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setattr(run_module.torch.cuda, 'device_count', lambda: 0)
    if visible is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    assert run_module._split_gpus(jobs, gpus) == expected


@pytest.mark.slow
def test_local_jobs(settings, make_job, capfd):
    """The real submitit; one job ends by itself, and one with all its processes is killed."""
    jobs = [make_job('echo hello; exit 3', 'first'), make_job('kill -9 $PPID; sleep 1', 'second')]
    logs = {}
    run_jobs(jobs, settings('local', minutes=None), logs.__setitem__)
    assert outcome(jobs[0]) == dict(exit_code=3)
    assert 'hello\n' in Path(logs[0]).read_text()
    assert outcome(jobs[1])['exit_code'] == 1
    assert outcome(jobs[1])['reason'].endswith(' ended without a result: it was killed.')
