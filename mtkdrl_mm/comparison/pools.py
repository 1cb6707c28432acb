# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Comparison of methods on several pools of teachers."""

import csv
import os.path as osp
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import log_softmax, logsumexp

from mtkdrl_mm.utils.files import atomic_write

from .results import Runs
from .summary import Difference, mean_weights, paired_difference, summarize

#: What a method is compared with that claims to weigh teachers well.
RIVALS = ('aver', 'camkd')


@dataclass(frozen=True)
class PoolResult:
    """A method on a pool, beside the best that needs no such method.

    Attributes:
        pool (str): The pool's name.
        rivals (dict[str, Difference]): What the method gains over each rival and
            over the best single teacher, which is known only afterwards; by
            name.
        weights (dict[str, float]): The method's mean logit weight of every
            teacher.
    """

    pool: str
    rivals: dict[str, Difference]
    weights: dict[str, float]


def best_subset(
    logits: Mapping[str, np.ndarray], labels: np.ndarray, sizes: Sequence[int]
) -> tuple[str, ...]:
    """The teachers whose equally weighted mixture makes the labels most likely.

    Args:
        logits (Mapping[str, np.ndarray]): The teachers' logits by name, each of
            shape (N, C), on images that they were not trained on.
        labels (np.ndarray): Their labels, shape (N,).
        sizes (Sequence[int]): How many teachers there may be.

    Returns:
        tuple[str, ...]: Their names, in the order of the pool.

    Raises:
        ValueError: If no subset has one of the sizes.
    """
    rows = np.arange(len(labels))
    of_label = {name: log_softmax(z, axis=1)[rows, labels] for name, z in logits.items()}
    likelihoods = {
        names: float(np.mean(logsumexp([of_label[name] for name in names], axis=0)))
        - np.log(len(names))
        for size in sizes
        for names in combinations(logits, size)
    }
    if not likelihoods:
        raise ValueError(f'No subset of {len(logits)} teachers has {list(sizes)} of them.')
    return max(likelihoods, key=lambda names: likelihoods[names])


def best_single(runs: Runs, singles: Sequence[str]) -> str | None:
    """The single teacher whose students are best on average.

    Args:
        runs (Runs): The results of a pool.
        singles (Sequence[str]): Names of the rows with one teacher.

    Returns:
        str | None: Its row; None if none was trained.
    """
    means = {one.method: one.mean for one in summarize(runs, '') if one.method in singles}
    return max(means, key=lambda name: means[name], default=None)


def compare_pool(pool: str, runs: Runs, method: str, singles: Sequence[str]) -> PoolResult:
    """Compare a method with its rivals.

    Args:
        pool (str): The pool's name.
        runs (Runs): Its results.
        method (str): The method's row.
        singles (Sequence[str]): Names of the rows with one teacher.

    Returns:
        PoolResult: Paired by seed.
    """
    best = best_single(runs, singles)
    rivals = {}
    for name in [*RIVALS, *([] if best is None else [best])]:
        gap = paired_difference(runs.get(method, []), runs.get(name, []))
        if gap is not None:
            rivals[name] = gap
    return PoolResult(pool, rivals, mean_weights(runs.get(method, []), 'logit'))


def write_pools(
    pools: Mapping[str, Runs], singles: Mapping[str, Sequence[str]], method: str, out: str
) -> str:
    """Write ``pools.md`` and ``pools.csv``: a row per pool, a column per method.

    Args:
        pools (Mapping[str, Runs]): The results of every pool.
        singles (Mapping[str, Sequence[str]]): For every pool the rows with one
            teacher, of which the best is shown.
        method (str): The row whose gains are shown.
        out (str): Folder of the files.

    Returns:
        str: The tables in Markdown.
    """
    named = dict.fromkeys(
        name
        for pool, runs in pools.items()
        for name, found in runs.items()
        if found and name not in singles[pool]
    )
    header = ['pool', 'best single teacher', *named]
    rows = [header]
    gains = [['pool', 'minus best single teacher', *(f'minus {one}' for one in RIVALS), 'weights']]
    for pool, runs in pools.items():
        summaries = {one.method: one for one in summarize(runs, '') if one.num_runs}
        best = best_single(runs, singles[pool])
        row = [pool, '' if best is None else f'{_cell(summaries[best])} ({best})']
        row += [_cell(summaries[name]) if name in summaries else '' for name in named]
        rows.append(row)
        result = compare_pool(pool, runs, method, singles[pool])
        columns = [best, *RIVALS]
        gains.append(
            [
                pool,
                *(_gain(result.rivals.get(name or '')) for name in columns),
                ', '.join(f'{name} {weight:.2f}' for name, weight in result.weights.items()),
            ]
        )
    with atomic_write(osp.join(out, 'pools.csv'), newline='') as file:
        csv.writer(file).writerows(rows)
    text = f'{_markdown(rows)}\n\n`{method}`, paired by seed, with 95 % intervals:\n\n'
    text += _markdown(gains)
    with atomic_write(osp.join(out, 'pools.md')) as file:
        file.write(text + '\n')
    return text


def _cell(summary: object) -> str:
    mean, std = summary.mean, summary.std  # type: ignore[attr-defined]
    return f'{mean:.2f}' if std is None else f'{mean:.2f} ± {std:.2f}'


def _gain(gap: Difference | None) -> str:
    if gap is None:
        return ''
    half = '' if gap.half_width is None else f' ± {gap.half_width:.2f}'
    return f'{gap.mean:+.2f}{half}'


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ['---'] * len(rows[0]), *rows[1:]]
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in lines)
