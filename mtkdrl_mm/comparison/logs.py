# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What the logs of a training say about its result."""

import os.path as osp
from dataclasses import replace

from mtkdrl_mm.engine.run_record import CLASS_WEIGHTS_NAME, WEIGHT_KEYS, RunRecord, read_run
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.json_files import read_json_object

from .results import Run, TrainingLog


def read_logs(folder: str, metric: str) -> TrainingLog:
    """Read accuracy, times and weights from the logs of a training.

    Args:
        folder (str): Its work dir.
        metric (str): Name of the metric.

    Returns:
        TrainingLog: What they hold; of a step that a resumed training repeated, as it was
        repeated.

    Raises:
        InputError: If a log is damaged, or does not hold the metric.
    """
    record = read_run(folder)
    values = record.metric(metric)
    if not values:
        found = 'nothing was validated.'
        if record.metrics:
            names = ', '.join(record.metrics)
            found = f'its validations have {names}. Name one of them with --metric.'
        raise InputError(f'No "{metric}" in the logs of {folder}: {found}')
    if not record.curve('loss'):
        raise InputError(
            f'No "loss" in the logs of {folder}: set `default_hooks.logger.interval` to fewer '
            'iterations than the training has.'
        )
    classes = osp.join(folder, CLASS_WEIGHTS_NAME)
    class_weights = None
    if osp.isfile(classes):
        class_weights = read_json_object(classes, dict(logit=list, teachers=list))
    return TrainingLog(
        metric=values[-1][1],
        metric_name=metric,
        seconds_per_epoch=_seconds_per_epoch(record),
        peak_mib=max((mib for _, mib in record.curve('memory')), default=0),
        curves={
            key: [(int(step), weight) for step, weight in record.curve(key)]
            for key in record.keys
            if key.startswith(tuple(WEIGHT_KEYS.values()))
        },
        class_weights=class_weights,
    )


def with_metric(run: Run, folder: str, metric: str) -> Run:
    """Have a result be that of a metric: numbers of two metrics must not meet in one mean.

    Args:
        run (Run): The result.
        folder (str): The training's work dir.
        metric (str): Name of the metric.

    Returns:
        Run: The result itself, or with the metric from the logs if its own is another one.

    Raises:
        InputError: If the logs do not hold the metric.
    """
    if run.metric_name in (None, metric):
        return run
    try:
        value = read_logs(folder, metric).metric
    except InputError as error:
        raise InputError(f'The result in {folder} is of "{run.metric_name}". {error}') from error
    return replace(run, metric=value, metric_name=metric)


def _seconds_per_epoch(record: RunRecord) -> float | None:
    """Median time of an iteration, times the iterations of an epoch; None without epochs."""
    seconds, iterations = record.median('time'), record.epoch_length
    return None if seconds is None or iterations is None else seconds * iterations
