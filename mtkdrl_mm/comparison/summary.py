# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Statistics of every method over its seeds, as plain data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from .results import Run, Runs


@dataclass(frozen=True)
class Difference:
    """Difference of a method from the reference, seed by seed.

    Attributes:
        mean (float): Mean of the paired differences.
        half_width (float, optional): Half the width of its 95 % confidence
            interval; None with one pair.
        count (int): Number of pairs: of seeds that both have.
    """

    mean: float
    half_width: float | None
    count: int


@dataclass(frozen=True)
class MethodSummary:
    """One method over its seeds.

    Attributes:
        method (str): Its name.
        num_runs (int): Number of finished trainings.
        mean (float): Mean of the metric.
        std (float, optional): Standard deviation of the metric; None with one
            training.
        difference (Difference, optional): From the reference; None for the
            reference, and without a common seed.
        seconds_per_epoch (float, optional): Median over the trainings; None if
            they count no epochs.
        peak_mib (float): Largest peak memory.
        logit_weights (dict[str, float]): Each teacher's mean weight.
        feature_weights (dict[str, float]): The same for the features.
    """

    method: str
    num_runs: int
    mean: float
    std: float | None
    difference: Difference | None
    seconds_per_epoch: float | None
    peak_mib: float
    logit_weights: dict[str, float]
    feature_weights: dict[str, float]


def summarize(runs: Runs, reference: str) -> list[MethodSummary]:
    """Summarize every method over its seeds.

    Args:
        runs (Runs): The results, at least one of every method.
        reference (str): Name of the method that the others are compared with.

    Returns:
        list[MethodSummary]: One entry per method.
    """
    summaries = []
    for method, results in runs.items():
        values = [run.metric for run in results]
        summaries.append(
            MethodSummary(
                method=method,
                num_runs=len(values),
                mean=float(np.mean(values)),
                std=float(np.std(values, ddof=1)) if len(values) > 1 else None,
                difference=None
                if method == reference
                else paired_difference(results, runs.get(reference, [])),
                seconds_per_epoch=_median([run.seconds_per_epoch for run in results]),
                peak_mib=float(np.max([run.peak_mib for run in results])),
                logit_weights=mean_weights(results, 'logit'),
                feature_weights=mean_weights(results, 'feature'),
            )
        )
    return summaries


def metric_digits(summaries: Sequence[MethodSummary]) -> int:
    """Decimals of a metric, at which no spread or difference of the methods is rounded to 0.

    Two where values reach 10, as accuracies in percent do; at least four where
    none is above 1, as of mAP. Less than a millionth of the values is no spread.

    Args:
        summaries (Sequence[MethodSummary]): The methods.
    """
    largest = max((abs(one.mean) for one in summaries if math.isfinite(one.mean)), default=0.0)
    if largest >= 10:
        return 2
    least = 4 if largest <= 1 else 2
    sizes = [one.std for one in summaries if one.std]
    for gap in (one.difference for one in summaries if one.difference is not None):
        sizes.append(abs(gap.mean) if gap.half_width is None else gap.half_width)
    smallest = min((size for size in sizes if 1e-6 * largest < size < math.inf), default=1.0)
    return max(least, -int(f'{smallest:.0e}'.split('e')[1]))  # its first digit, rounded


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def paired_difference(runs: Sequence[Run], references: Sequence[Run]) -> Difference | None:
    """Compare a method with a reference, seed by seed.

    Args:
        runs (Sequence[Run]): Trainings of the method.
        references (Sequence[Run]): Trainings of the reference.

    Returns:
        Difference | None: The difference; None without a common seed.
    """
    ours = {run.seed: run.metric for run in runs}
    theirs = {run.seed: run.metric for run in references}
    paired = np.array([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])
    if len(paired) == 0:
        return None
    if len(paired) == 1:
        return Difference(float(paired[0]), None, 1)
    return Difference(float(paired.mean()), confidence_half_width(paired), len(paired))


def confidence_half_width(values: Sequence[float] | np.ndarray) -> float:
    """Half the width of the 95 % confidence interval of a mean, by Student's t.

    Args:
        values (Sequence[float]): The numbers that are averaged, at least two.

    Returns:
        float: In their unit.
    """
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def mean_curve(
    curves: Sequence[Sequence[tuple[float, float]]],
) -> tuple[list[tuple[float, float]], list[float]]:
    """Average curves at the places that all of them have.

    A shorter one ends the mean: from there on it would be that of other trainings.

    Args:
        curves (Sequence[Sequence[tuple[float, float]]]): Pairs (x, y). Of a
            repeated x, the last counts.

    Returns:
        tuple[list[tuple[float, float]], list[float]]: Pairs of x and mean, and
        the standard deviation at each; none with less than two curves.
    """
    tables = [dict(curve) for curve in curves]
    shared = sorted(set.intersection(*map(set, tables))) if tables else []
    values = [[table[x] for table in tables] for x in shared]
    points = [(x, float(np.mean(row))) for x, row in zip(shared, values)]
    spread = [float(np.std(row, ddof=1)) for row in values] if len(tables) > 1 else []
    return points, spread


def mean_class_table(
    teachers: Sequence[Sequence[str]], tables: Sequence[ArrayLike]
) -> np.ndarray | None:
    """Average tables of the teachers' weights per class.

    Args:
        teachers (Sequence[Sequence[str]]): For every training its M teachers.
        tables (Sequence[ArrayLike]): For every training its weights, shape
            (C, M).

    Returns:
        np.ndarray | None: Shape (C, M), NaN for classes without an image; None if the
        trainings differ in their teachers, in the order of these, or in the number of
        classes.
    """
    kinds = {(*names, np.shape(table)) for names, table in zip(teachers, tables)}
    if len(kinds) != 1:
        return None
    stacked = np.ma.masked_invalid([np.asarray(one, dtype=float) for one in tables])
    return stacked.mean(axis=0).filled(np.nan)


def mean_weights(runs: Sequence[Run], kind: str) -> dict[str, float]:
    """Average each teacher's weight over seeds and iterations, without the first tenth.

    Args:
        runs (Sequence[Run]): Trainings of a method.
        kind (str): 'logit' or 'feature'.

    Returns:
        dict[str, float]: By teacher.
    """
    teachers: dict[str, list[float]] = {}
    for run in runs:
        for key, points in run.curves.items():
            if key.startswith(f'teacher_weight/{kind}/'):
                values = [value for _, value in points]
                name = key.split('/', 2)[2]
                teachers.setdefault(name, []).extend(values[len(values) // 10 :])
    return {name: float(np.mean(values)) for name, values in teachers.items()}
