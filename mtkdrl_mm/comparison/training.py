# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Runs the trainings of a comparison, and reads their logs."""

import glob
import os
import os.path as osp
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from queue import Queue
from threading import Lock
from typing import IO, Any

import numpy as np
import torch

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.child_processes import run_child
from mtkdrl_mm.utils.files import write_json
from mtkdrl_mm.utils.json_files import read_json_lines, read_json_object
from mtkdrl_mm.utils.warm_start import run_warm

from .environment import current_commit, describe_device, describe_versions
from .named_files import changed_file
from .results import OUTPUT_NAME, Run, TrainingLog, failure_path, result_path
from .rows import Combination
from .settings import ComparisonSettings

#: Runs a command with environment variables and a file for its output; returns its exit code and
#: its resource usage as of ``os.wait4``.
RunCommand = Callable[[Sequence[str], Mapping[str, str], IO], tuple[int, Any]]

# Exit codes of a training that a signal has ended, before it could save or afterwards.
_INTERRUPTED = {code for n in (signal.SIGINT, signal.SIGTERM) for code in (-n, 128 + n)}


def finished(combination: Combination, settings: ComparisonSettings) -> Run | None:
    """Read the result of a training that has finished before.

    A result of another metric gets the one of the settings, from the logs.

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
    changed = changed_file(run.files, combination.files)
    if changed is not None:
        raise InputError(
            f'{path} was trained with another "{changed}" than is there now. Give another '
            '--work-dir, or remove that run to train it again.'
        )
    if run.metric_name not in (None, settings.metric):
        metric = read_logs(folder, settings.metric).metric
        run = replace(run, metric=metric, metric_name=settings.metric)
        run.write(path)
    return run


def train_all(
    combinations: Sequence[Combination],
    settings: ComparisonSettings,
    on_end: Callable[[], None] | None = None,
) -> list[Run | None]:
    """Train all combinations that have not finished, as many at a time as there are jobs.

    Args:
        combinations (Sequence[Combination]): The trainings.
        settings (ComparisonSettings): How they are started.
        on_end (Callable[[], None], optional): Is called whenever a training
            has ended, by one job at a time. Defaults to None.

    Returns:
        list[Run | None]: The results in their order; None where a training
        failed.

    Raises:
        InputError: If a result is damaged, or the logs of a training hold no
            such metric.
    """
    if settings.job is not None:
        from .jobs import train_in_jobs  # which imports this module

        return train_in_jobs(combinations, settings, settings.job, on_end)
    free = gpus_of_jobs(settings.jobs, settings.launch)

    lock = Lock()

    def run(combination: Combination) -> Run | None:
        known = finished(combination, settings)
        if known is not None:
            return known
        result = train_on_free_gpu(combination, settings, free)
        if on_end is not None:
            with lock:
                on_end()
        return result

    with ThreadPoolExecutor(settings.jobs) as pool:
        return list(pool.map(run, combinations))


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
        Run | None: As :func:`train`.
    """
    gpu = free.get()
    try:
        return train(combination, settings, gpu)
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
    start = time.time()
    log_path = osp.join(folder, OUTPUT_NAME)
    with open(log_path, 'a') as log:
        exit_code, usage = run(command, environment, log)
    if exit_code in _INTERRUPTED:
        print(f'  {combination.label}: interrupted', flush=True)
        return None
    if exit_code != 0:
        print(f'  {combination.label}: FAILED, see {log_path}', flush=True)
        with suppress(OSError):  # on a full disk; the others go on, and end as they can
            write_json(dict(exit_code=exit_code), failure_path(folder))
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
        seconds=round(time.time() - start, 1),
    )
    result.write(result_path(folder))
    report_result(combination, result)
    return result


def report_result(combination: Combination, run: Run) -> None:
    """Print the result of a training."""
    print(f'  {combination.label}: {run.metric:.4g} in {run.seconds:.0f} s', flush=True)


def start_or_continue(combination: Combination, work_dir: str) -> str:
    """Note what is trained in a folder; refuse to continue what was another training.

    Args:
        combination (Combination): The training.
        work_dir (str): The comparison's work dir.

    Returns:
        str: The training's folder, which is made.

    Raises:
        InputError: If the folder has checkpoints of another config or file.
    """
    folder = combination.folder(work_dir)
    os.makedirs(folder, exist_ok=True)
    path = osp.join(folder, 'started.json')
    before = read_json_object(path, dict(config=str)) if osp.isfile(path) else dict(config=None)
    if glob.glob(osp.join(glob.escape(folder), '*.pth')):
        if before['config'] != combination.description:
            raise InputError(
                f'{folder} holds an unfinished training of another config than '
                f'{combination.row.config} with these options is now. Give another --work-dir, or '
                'remove that folder.'
            )
        changed = changed_file(before.get('files') or {}, combination.files)
        if changed is not None:
            raise InputError(
                f'{folder} holds an unfinished training with another "{changed}" than is there '
                'now. Give another --work-dir, or remove that folder.'
            )
    write_json(dict(config=combination.description, files=dict(combination.files)), path)
    return folder


def read_logs(folder: str, metric: str) -> TrainingLog:
    """Read accuracy, times and weights from the logs of a training.

    Args:
        folder (str): Its work dir.
        metric (str): Name of the metric.

    Returns:
        TrainingLog: What they hold.

    Raises:
        InputError: If a log is damaged, or does not hold the metric.
    """
    records = []
    for path in sorted(glob.glob(osp.join(glob.escape(folder), '*', 'vis_data', 'scalars.json'))):
        records += read_json_lines(path)
    values = [record[metric] for record in records if metric in record]
    if not values:
        raise InputError(f'No "{metric}" in the logs of {folder}: is it validated?')
    # By step: a resumed training logs again what came after its checkpoint.
    by_step = {
        record['step']: record for record in records if 'loss' in record and 'iter' in record
    }
    steps = list(by_step.values())
    if not steps:
        raise InputError(
            f'No "loss" in the logs of {folder}: set `default_hooks.logger.interval` to fewer '
            'iterations than the training has.'
        )
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in steps:
        for key, value in record.items():
            if key.startswith(('teacher_weight/logit/', 'teacher_weight/feature/')):
                curves.setdefault(key, []).append((record['step'], value))
    classes = osp.join(folder, 'class_weights.json')
    class_weights = None
    if osp.isfile(classes):
        class_weights = read_json_object(classes, dict(logit=list, teachers=list))
    seconds = None
    if all('epoch' in record for record in steps):  # else mmengine's log_processor counts none
        iterations = max(record['iter'] for record in steps)
        epochs = max(record['epoch'] for record in steps)
        seconds = float(np.median([record['time'] for record in steps])) * iterations / epochs
    return TrainingLog(
        metric=values[-1],
        metric_name=metric,
        seconds_per_epoch=seconds,
        peak_mib=max(record.get('memory', 0) for record in steps),
        curves=curves,
        class_weights=class_weights,
    )
