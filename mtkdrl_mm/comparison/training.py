# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Runs the trainings of a comparison."""

import os
import os.path as osp
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Queue
from threading import Lock
from typing import IO, Any

import torch

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.child_processes import run_child
from mtkdrl_mm.utils.files import write_json
from mtkdrl_mm.utils.warm_start import run_warm

from .environment import current_commit, describe_device, describe_versions
from .logs import read_logs, with_metric
from .named_files import changed_file
from .results import OUTPUT_NAME, Run, failure_path, result_path
from .rows import Combination
from .settings import ComparisonSettings
from .starts import check_unfinished, note_end, start_or_continue

#: Runs a command with environment variables and a file for its output; returns its exit code and
#: its resource usage as of ``os.wait4``.
RunCommand = Callable[[Sequence[str], Mapping[str, str], IO], tuple[int, Any]]

# Exit codes of a training that a signal has ended, before it could save or afterwards.
_INTERRUPTED = {code for n in (signal.SIGINT, signal.SIGTERM) for code in (-n, 128 + n)}


def finished(combination: Combination, settings: ComparisonSettings) -> Run | None:
    """Read the result of a training that has finished before.

    A result of another metric gets the one of the settings, from the logs. Its file stays as it is.

    Args:
        combination (Combination): The training.
        settings (ComparisonSettings): The comparison's settings.

    Returns:
        Run | None: The result; None if there is none.

    Raises:
        InputError: If the result is damaged, or of another config or file, or
            the logs hold no such metric.
    """
    folder = combination.folder(settings.work_dir)
    path = result_path(folder)
    if not osp.isfile(path):
        return None
    run = Run.read(path)
    if run.config not in (None, combination.description):
        raise InputError(
            f'{path} is of another config than {combination.row.config} with these options is '
            'now. Give another --work-dir, or remove that run to train it again.'
        )
    check_files(run, combination.files, path)
    return with_metric(run, folder, settings.metric)


def check_files(run: Run, files: Iterable[tuple[str, str]], path: str) -> None:
    """Refuse a result of other files.

    Args:
        run (Run): The result.
        files (Iterable[tuple[str, str]]): Paths and digests of what is there now.
        path (str): The file of the result.

    Raises:
        InputError: If the contents of one have changed.
    """
    changed = changed_file(run.files, files)
    if changed is not None:
        raise InputError(
            f'{path} was trained with another "{changed}" than is there now. Give another '
            '--work-dir, or remove that run to train it again.'
        )


def train_all(
    combinations: Sequence[Combination],
    settings: ComparisonSettings,
    on_end: Callable[[], None] | None = None,
) -> list[Run | None]:
    """Train all combinations that have not finished, as many at a time as there are jobs.

    What must not be trained is refused before any training starts. From then on, a training that
    fails, in whatever way, does not stop the others.

    Args:
        combinations (Sequence[Combination]): The trainings.
        settings (ComparisonSettings): How they are started.
        on_end (Callable[[], None], optional): Is called whenever a training
            has ended, by one job at a time. Defaults to None.

    Returns:
        list[Run | None]: The results in their order; None where a training
        failed.

    Raises:
        InputError: If a result is damaged, or a folder holds another training.
    """
    waiting = []
    for one in combinations:
        if finished(one, settings) is None:
            check_unfinished(one, settings.work_dir)
            waiting.append(one)
    if settings.job is not None:
        from .jobs import train_in_jobs  # which imports this module

        train_in_jobs(waiting, settings, settings.job, on_end)
    else:
        _train_here(waiting, settings, on_end)
    return [finished(one, settings) for one in combinations]


def _train_here(
    waiting: Sequence[Combination],
    settings: ComparisonSettings,
    on_end: Callable[[], None] | None,
) -> None:
    """Train as children of this process."""
    free = gpus_of_jobs(settings.jobs, settings.launch)
    lock = Lock()

    def run(combination: Combination) -> None:
        train_on_free_gpu(combination, settings, free)
        if on_end is not None:
            with lock:
                on_end()

    with ThreadPoolExecutor(settings.jobs) as pool:
        list(pool.map(run, waiting))  # the list raises what a training raised


def gpus_of_jobs(jobs: int, launch: str) -> 'Queue[str | None]':
    """Distribute the GPUs of this process to jobs.

    Args:
        jobs (int): Number of jobs.
        launch (str): Launcher of a training with several processes, or ''.

    Returns:
        Queue[str | None]: One entry per job: its GPU, or None if all jobs use
        the GPUs of this process.
    """
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    gpus = visible.split(',') if visible else [str(i) for i in range(torch.cuda.device_count())]
    free: Queue[str | None] = Queue()
    for job in range(jobs):
        free.put(None if jobs == 1 or launch or not gpus else gpus[job % len(gpus)])
    return free


def train_on_free_gpu(
    combination: Combination, settings: ComparisonSettings, free: 'Queue[str | None]'
) -> Run | None:
    """Train one combination on a GPU that no other job uses.

    Args:
        combination (Combination): The training.
        settings (ComparisonSettings): How it is started.
        free (Queue[str | None]): The GPUs that are free.

    Returns:
        Run | None: As :func:`try_to_train`.
    """
    gpu = free.get()
    try:
        return try_to_train(combination, settings, gpu)
    finally:
        free.put(gpu)


def run_command(command: Sequence[str], environment: Mapping[str, str], log: IO) -> tuple[int, Any]:
    """Run a command as a child of this process.

    Args:
        command (Sequence[str]): The words of the command.
        environment (Mapping[str, str]): Its environment variables.
        log (IO): File for its output.

    Returns:
        tuple[int, Any]: Its exit code, negative for a signal, and its resource
        usage as of ``os.wait4``.
    """
    return run_child(command, env=environment, stdout=log, stderr=log)


def try_to_train(
    combination: Combination,
    settings: ComparisonSettings,
    gpu: str | None = None,
    run: RunCommand | None = None,
) -> Run | None:
    """Train one combination; note what goes wrong, so that the others go on.

    Args:
        combination (Combination): The training.
        settings (ComparisonSettings): How it is started.
        gpu (str, optional): As of :func:`train`. Defaults to None.
        run (Callable, optional): As of :func:`train`. Defaults to None.

    Returns:
        Run | None: The result; None if there is none.
    """
    try:
        return train(combination, settings, gpu, run)
    except (InputError, OSError) as error:  # OSError: a full disk, or a launcher that is not there
        print(f'  {combination.label}: FAILED: {error}', flush=True)
        note_failure(combination, settings.work_dir, exit_code=1, reason=f'Error: {error}')
        return None


def note_failure(combination: Combination, work_dir: str, **contents: Any) -> None:
    """Write how a training has failed.

    Args:
        combination (Combination): The training.
        work_dir (str): The comparison's work dir.
        **contents: ``exit_code``, and a ``reason`` if its output does not say it.
    """
    with suppress(OSError):  # on a full disk; the others go on, and end as they can
        write_json(contents, failure_path(combination.folder(work_dir)))


def train(
    combination: Combination,
    settings: ComparisonSettings,
    gpu: str | None = None,
    run: RunCommand | None = None,
) -> Run | None:
    """Train one combination, unless its result exists.

    Args:
        combination (Combination): The training.
        settings (ComparisonSettings): How it is started.
        gpu (str, optional): The only GPU that it is to see. Defaults to None:
            all GPUs of this process.
        run (Callable, optional): Runs the command. Defaults to None: a child of this process
            does, a fork if the settings are ``warm``.

    Returns:
        Run | None: The result; None if the training failed.

    Raises:
        InputError: If a result is damaged, the folder holds an unfinished training of another
            config, or the logs hold no such metric.
    """
    known = finished(combination, settings)
    if known is not None:
        return known
    if run is None:
        run = run_warm if settings.warm else run_command
    row, seed = combination.row, combination.seed
    folder = start_or_continue(combination, settings.work_dir)
    command = settings.command('train.py', row.config, '--work-dir', folder)
    command += ['--resume', '--cfg-options', f'randomness.seed={seed}']
    command += [*settings.cfg_options, *row.options]
    if combination.store is not None:
        command.append(f'model.teacher_outputs={combination.store}')
    environment = row.environment(seed)
    if gpu is not None:
        environment['CUDA_VISIBLE_DEVICES'] = gpu
    if settings.jobs > 1:
        threads = max(1, (os.cpu_count() or 1) // settings.jobs)
        environment.setdefault('OMP_NUM_THREADS', str(threads))
    with suppress(FileNotFoundError):
        os.remove(failure_path(folder))
    log_path = osp.join(folder, OUTPUT_NAME)
    with open(log_path, 'a') as log:
        exit_code, usage = run(command, environment, log)
    seconds = note_end(folder)
    if exit_code in _INTERRUPTED:
        print(f'  {combination.label}: interrupted', flush=True)
        return None
    if exit_code != 0:
        print(f'  {combination.label}: FAILED, see {log_path}', flush=True)
        note_failure(combination, settings.work_dir, exit_code=exit_code)
        return None
    logged = read_logs(folder, settings.metric)
    peak_mib = logged.peak_mib or round(usage.ru_maxrss / 1024)
    result = Run(
        **{**vars(logged), 'peak_mib': peak_mib},
        method=row.name,
        seed=seed,
        commit=current_commit(settings.root),
        device=describe_device(),
        versions=describe_versions(),
        config=combination.description,
        files=dict(combination.files),
        seconds=round(seconds, 1),
    )
    result.write(result_path(folder))
    report_result(combination, result)
    return result


def report_result(combination: Combination, run: Run) -> None:
    """Print the result of a training."""
    print(f'  {combination.label}: {run.metric:.4g} in {run.seconds:.0f} s', flush=True)
