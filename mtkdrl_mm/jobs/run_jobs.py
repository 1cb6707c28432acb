# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Submits jobs and waits for them."""

import os
import os.path as osp
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.files import write_json
from mtkdrl_mm.utils.json_files import read_json_object

from .command_job import CommandJob
from .import_submitit import import_submitit
from .settings import JobSettings

#: Is called with the index of a job that has ended, and with the file of its output.
OnEnd = Callable[[int, str], None]

# Seconds between two looks at Slurm's queue, and at the processes of this machine.
_SLURM_INTERVAL, _LOCAL_INTERVAL = 5.0, 0.1
# Seconds that a network file system may take to show what a job has written.
_FILE_DELAY = 30.0
_YEAR = 365 * 24 * 60


@dataclass
class _Submitted:
    index: int
    job_id: str
    log: str
    gone: float | None = None  # since when it is not in the queue


def run_jobs(jobs: Sequence[CommandJob], settings: JobSettings, on_end: OnEnd) -> None:
    """Submit jobs, and wait until all have ended.

    A job that ends without having written how gets its outcome written here. If this process is
    killed, Slurm's jobs go on, and the next call waits for those that have a ``note``.

    Args:
        jobs (Sequence[CommandJob]): The jobs; an outcome that is there is of an
            earlier try, and is removed.
        settings (JobSettings): What they get.
        on_end (Callable): Is called with the index of a job that has ended, and
            with the file of its output.

    Raises:
        InputError: If Slurm refuses them.
    """
    settings = _absolute(settings)
    os.makedirs(settings.folder, exist_ok=True)
    for job in jobs:
        os.makedirs(osp.dirname(job.outcome) or '.', exist_ok=True)
    if settings.launcher == 'local':
        _run_local(jobs, settings, on_end)
    else:
        _run_slurm(jobs, settings, on_end)


def _absolute(settings: JobSettings) -> JobSettings:
    return replace(settings, folder=osp.abspath(settings.folder))


def _log_path(settings: JobSettings, job_id: str) -> str:
    return osp.join(settings.folder, f'{job_id}_0_log.out')


def _remove_outcome(job: CommandJob) -> None:
    if osp.isfile(job.outcome):
        os.remove(job.outcome)


def _run_local(jobs: Sequence[CommandJob], settings: JobSettings, on_end: OnEnd) -> None:
    """Processes of this machine, ``settings.jobs`` at a time."""
    submitit = import_submitit()
    executor = submitit.AutoExecutor(settings.folder, cluster='local')
    executor.update_parameters(
        timeout_min=settings.minutes or _YEAR,
        gpus_per_node=settings.num_gpus(),
        stderr_to_stdout=True,
    )
    # submitit's local jobs all see the first GPUs.
    free = _split_gpus(settings.jobs, settings.num_gpus())
    waiting = list(range(len(jobs)))
    running: dict[int, tuple[Any, str | None]] = {}
    try:
        while waiting or running:
            while waiting and free:
                index = waiting.pop(0)
                job, gpus = jobs[index], free.pop(0)
                _remove_outcome(job)
                job.keep_gpus, job.visible_gpus = True, gpus
                running[index] = executor.submit(job), gpus
            for index, (started, gpus) in list(running.items()):
                if started.done():
                    del running[index]
                    free.append(gpus)
                    _finish(jobs[index], f'The job {started.job_id}', '', 1)
                    on_end(index, _log_path(settings, started.job_id))
            time.sleep(_LOCAL_INTERVAL)
    finally:
        for started, _ in running.values():
            started.cancel(check=False)


def _split_gpus(jobs: int, gpus: int) -> list[str | None]:
    """What each of the jobs that run at a time sees, as ``CUDA_VISIBLE_DEVICES``."""
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    found = visible.split(',') if visible else [str(i) for i in range(torch.cuda.device_count())]
    if not found:
        return [visible] * jobs
    return [
        ','.join(found[(job * gpus + i) % len(found)] for i in range(gpus)) for job in range(jobs)
    ]


def _run_slurm(jobs: Sequence[CommandJob], settings: JobSettings, on_end: OnEnd) -> None:
    """An array of Slurm jobs, of which ``settings.jobs`` run at a time."""
    queued = _queue() or set()
    open_jobs, new = [], []
    for index, job in enumerate(jobs):
        job_id = _noted(job)
        if job_id in queued:
            open_jobs.append(_Submitted(index, job_id, _log_path(settings, job_id)))
        else:
            new.append(index)
    if open_jobs:
        print(
            f'  {_count(len(open_jobs))} of an earlier command: still in the queue, waiting',
            flush=True,
        )
    if new:
        for index, job_id in zip(new, _submit([jobs[index] for index in new], settings)):
            note = jobs[index].note
            if note is not None:
                write_json(dict(job_id=job_id), note)
            open_jobs.append(_Submitted(index, job_id, _log_path(settings, job_id)))
        array = open_jobs[-1].job_id.split('_')[0]
        print(
            f'  Slurm job {array}: {_count(len(new))}, up to {settings.jobs} at a time; logs in '
            f'{settings.folder}',
            flush=True,
        )
    try:
        while open_jobs:
            time.sleep(_SLURM_INTERVAL)
            found = _queue()
            if found is None:
                continue  # Slurm's controller is restarted, for example
            for one in list(open_jobs):
                if one.job_id in found:
                    one.gone = None
                    continue
                one.gone = one.gone or time.monotonic()
                if jobs[one.index].is_over() or time.monotonic() - one.gone > _FILE_DELAY:
                    open_jobs.remove(one)
                    state, code = _end_of(one.job_id)
                    _finish(jobs[one.index], f'Slurm job {one.job_id}', state, code)
                    on_end(one.index, one.log)
    except KeyboardInterrupt:
        arrays = ' '.join(sorted({one.job_id.split('_')[0] for one in open_jobs}))
        raise InputError(
            f'Interrupted: the Slurm jobs {arrays} go on. The same command waits for them, and '
            f'"scancel {arrays}" ends them.'
        ) from None


def _count(number: int) -> str:
    return '1 job' if number == 1 else f'{number} jobs'


def _noted(job: CommandJob) -> str:
    """The number of the job that was submitted for this work; '' if there was none."""
    if job.note is None or not osp.isfile(job.note):
        return ''
    return read_json_object(job.note, dict(job_id=str))['job_id']


def _queue() -> set[str] | None:
    """The numbers of this user's jobs that wait or run; None if Slurm does not say."""
    command = ['squeue', '-h', '--me', '-r', '-o', '%i']
    result = subprocess.run(command, capture_output=True, text=True)
    return set(result.stdout.split()) if result.returncode == 0 else None


def _submit(jobs: Sequence[CommandJob], settings: JobSettings) -> list[str]:
    """Submit an array of jobs; returns their numbers."""
    submitit = import_submitit()
    # Slurm's time limits are no failures: jobs that do not progress end by themselves.
    executor = submitit.AutoExecutor(settings.folder, cluster='slurm', slurm_max_num_timeout=10**6)
    cpus = settings.num_cpus()
    executor.update_parameters(
        name=settings.name,
        timeout_min=settings.minutes,
        gpus_per_node=settings.num_gpus() or None,
        cpus_per_task=cpus,
        stderr_to_stdout=True,
        slurm_partition=settings.partition,
        slurm_array_parallelism=settings.jobs,
        slurm_signal_delay_s=settings.save_seconds,
        slurm_additional_parameters=settings.sbatch_options(),
        # Since Slurm 22.05, srun does not take it from the job.
        slurm_srun_args=None if cpus is None else [f'--cpus-per-task={cpus}'],
    )
    for job in jobs:
        _remove_outcome(job)
    try:
        with _outside_of_jobs():
            return [one.job_id for one in executor.submit_array(list(jobs))]
    except submitit.core.utils.FailedJobError as error:
        text = str(error).strip()
        found = re.search(r'sbatch: error: (.*)', text)
        raise InputError(
            f'Slurm refuses the jobs: {found[1] if found else text.splitlines()[-1]} '
            '(Check --partition, --gpus-per-node, --cpus-per-task, --time and --sbatch-options.)'
        ) from error


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Without the variables of the job in which this process itself runs, if there is one."""
    kept: dict[str, Any] = {k: v for k, v in os.environ.items() if k == 'SLURM_CONF'}
    with import_submitit().helpers.clean_env():
        os.environ.update(kept)
        yield


def _end_of(job_id: str) -> tuple[str, int]:
    """State and exit code of a job that has ended, as far as Slurm still knows them."""
    command = ['scontrol', 'show', 'job', '-o', job_id]
    text = subprocess.run(command, capture_output=True, text=True).stdout
    state, code = re.search(r' JobState=(\w+)', text), re.search(r' ExitCode=(\d+):(\d+)', text)
    number = 0 if code is None else int(code[1]) or (int(code[2]) and 128 + int(code[2]))
    return '' if state is None else state[1], number or 1


def _finish(job: CommandJob, name: str, state: str, code: int) -> None:
    """Write the outcome of a job that could not do so itself: it was killed."""
    if not job.is_over():
        state = f' ({state})' if state else ''
        job.write_outcome(
            exit_code=code, reason=f'{name} ended without a result{state}: it was killed.'
        )
