# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Comparison of methods on several pools of teachers."""

import csv
import math
import os.path as osp
from collections.abc import Mapping, Sequence
from itertools import combinations

from torch import Tensor

from mtkdrl_mm.utils.files import atomic_write
from mtkdrl_mm.utils.markdown import markdown_table

from .results import Runs
from .summary import Difference, MethodSummary, mean_weights, paired_difference, summarize

#: What a method is compared with that claims to weigh teachers well.
RIVALS = ('aver', 'camkd')


def best_subset(
    names: Sequence[str], logits: Tensor, labels: Tensor, sizes: Sequence[int]
) -> tuple[str, ...]:
    """The teachers whose equally weighted mixture makes the labels most likely.

    Args:
        names (Sequence[str]): The M teachers.
        logits (Tensor): Their logits on images that they were not trained on,
            shape (N, M, C).
        labels (Tensor): Shape (N,), int64.
        sizes (Sequence[int]): How many teachers there may be.

    Returns:
        tuple[str, ...]: Their names, in the order of the pool.

    Raises:
        ValueError: If no subset has one of the sizes.
    """
    index = labels[:, None, None].expand(-1, len(names), 1)
    of_label = logits.double().log_softmax(dim=2).gather(2, index)[..., 0]
    likelihoods = {
        chosen: float(of_label[:, chosen].logsumexp(dim=1).mean()) - math.log(size)
        for size in sizes
        for chosen in combinations(range(len(names)), size)
    }
    if not likelihoods:
        raise ValueError(f'No subset of {len(names)} teachers has {list(sizes)} of them.')
    best = max(likelihoods, key=lambda chosen: likelihoods[chosen])
    return tuple(names[m] for m in best)


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


def gains_over_rivals(
    runs: Runs, singles: Sequence[str], method: str
) -> dict[str, Difference | None]:
    """What a method gains over the best single teacher and over every rival, seed by seed.

    Args:
        runs (Runs): The results of a pool.
        singles (Sequence[str]): Names of the rows with one teacher.
        method (str): The method.

    Returns:
        dict[str, Difference | None]: By rival; None without a seed that both have.
    """
    rivals = {'best single teacher': best_single(runs, singles) or '', **{r: r for r in RIVALS}}
    ours = runs.get(method, [])
    return {name: paired_difference(ours, runs.get(row, [])) for name, row in rivals.items()}


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
    rows, gains = [], []
    for pool, runs in pools.items():
        summaries = {one.method: one for one in summarize(runs, '') if one.num_runs}
        best = best_single(runs, singles[pool])
        row = [pool, '' if best is None else f'{_cell(summaries[best])} ({best})']
        row += [_cell(summaries[name]) if name in summaries else '' for name in named]
        rows.append(row)
        weights = mean_weights(runs.get(method, []), 'logit').items()
        gains.append(
            [
                pool,
                *map(_gain, gains_over_rivals(runs, singles[pool], method).values()),
                ', '.join(f'{name} {weight:.2f}' for name, weight in weights),
            ]
        )
    with atomic_write(osp.join(out, 'pools.csv'), newline='') as file:
        csv.writer(file).writerows([header, *rows])
    titles = ['pool', 'minus best single teacher', *(f'minus {one}' for one in RIVALS), 'weights']
    text = f'{markdown_table(header, rows)}\n\n`{method}`, paired by seed, with 95 % intervals:\n\n'
    text += markdown_table(titles, gains)
    with atomic_write(osp.join(out, 'pools.md')) as file:
        file.write(text + '\n')
    return text


def _cell(summary: MethodSummary) -> str:
    spread = '' if summary.std is None else f' ± {summary.std:.2f}'
    return f'{summary.mean:.2f}{spread}'


def _gain(gap: Difference | None) -> str:
    if gap is None:
        return ''
    half = '' if gap.half_width is None else f' ± {gap.half_width:.2f}'
    return f'{gap.mean:+.2f}{half}'
