# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Tables of a comparison."""

import csv
import os.path as osp

from mtkdrl_mm.utils.files import atomic_write
from mtkdrl_mm.utils.markdown import escape_cell

from .results import Runs
from .summary import metric_digits, summarize


def write_tables(runs: Runs, metric: str, reference: str, out: str) -> str:
    """Write ``table.md`` and ``table.csv``, a row per method, and ``runs.csv``, one per training.

    Args:
        runs (Runs): The results, at least one of every method.
        metric (str): Name of the metric.
        reference (str): Name of the method that the others are compared with.
        out (str): Folder of the files.

    Returns:
        str: The table of the methods in Markdown.
    """
    rows = _method_rows(runs, metric, reference)
    with atomic_write(osp.join(out, 'table.csv'), newline='') as file:
        csv.writer(file).writerows(rows)
    header, *others = [[escape_cell(cell) for cell in row] for row in rows]
    lines = ['| ' + ' | '.join(row) + ' |' for row in [header, ['---'] * len(header), *others]]
    table = '\n'.join(lines)
    with atomic_write(osp.join(out, 'table.md')) as file:
        file.write(table + '\n')
    with atomic_write(osp.join(out, 'runs.csv'), newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['method', 'seed', metric, 'seconds'])
        for results in runs.values():
            for run in results:
                writer.writerow([run.method, run.seed, run.metric, run.seconds])
    return table


def _method_rows(runs: Runs, metric: str, reference: str) -> list[list[str]]:
    """The header, and a row of text per method."""
    summaries = summarize(runs, reference)
    digits = metric_digits(summaries)
    # From how many seeds a difference is, where the method or its reference lacks some.
    gaps = [(one.difference, one.num_runs) for one in summaries]
    pairs = any(gap is not None and gap.count < count for gap, count in gaps)
    header = ['method', 'runs', metric, 'std', f'minus {reference}', '95 % CI +-']
    header += ['pairs'] * pairs
    header += ['s / epoch', 'peak MiB', 'logit weights', 'feature weights']
    rows = [header]
    for summary in summaries:
        gap = summary.difference
        half_width = None if gap is None else gap.half_width
        rows.append(
            [
                summary.method,
                str(summary.num_runs),
                f'{summary.mean:.{digits}f}',
                '' if summary.std is None else f'{summary.std:.{digits}f}',
                '' if gap is None else f'{gap.mean:+.{digits}f}',
                '' if half_width is None else f'{half_width:.{digits}f}',
                *['' if gap is None else str(gap.count)] * pairs,
                '' if summary.seconds_per_epoch is None else f'{summary.seconds_per_epoch:.2f}',
                f'{summary.peak_mib:.0f}',
                _weights(summary.logit_weights),
                _weights(summary.feature_weights),
            ]
        )
    return rows


def _weights(weights: dict[str, float]) -> str:
    return ', '.join(f'{name} {weight:.2f}' for name, weight in weights.items())
