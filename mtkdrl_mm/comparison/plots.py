# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Plots of a comparison. It is the only module of the package that imports matplotlib."""

import math
import os.path as osp
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .results import Runs
from .summary import mean_curve

_DPI = 120


def write_plots(runs: Runs, metric: str, reference: str, out: str) -> None:
    """Write all plots for which there is data.

    Args:
        runs (Runs): The results, at least one of every method.
        metric (str): Name of the metric.
        reference (str): Name of the method that the others are compared with;
            its weights are not plotted.
        out (str): Folder of ``accuracy.png``, ``weights.png`` and
            ``classes.png``.
    """
    others = {method: results for method, results in runs.items() if method != reference}
    figures = {
        'accuracy.png': plot_accuracy(runs, metric),
        'weights.png': plot_weights(others),
        'classes.png': plot_classes(others),
    }
    for name, figure in figures.items():
        if figure is not None:
            figure.savefig(osp.join(out, name), dpi=_DPI)


def plot_accuracy(runs: Runs, metric: str) -> Figure:
    """Plot the metric of every training, and each method's mean and standard deviation.

    Args:
        runs (Runs): The results.
        metric (str): Name of the metric.

    Returns:
        Figure: One line per method.
    """
    figure = Figure(figsize=(7, 0.45 * len(runs) + 1.2))
    axes = figure.subplots()
    for row, results in enumerate(runs.values()):
        values = [run.metric for run in results]
        axes.plot(values, [row] * len(values), 'o', color='#94a3b8', markersize=4)
        spread = np.std(values, ddof=1) if len(values) > 1 else 0
        axes.errorbar(np.mean(values), row, xerr=spread, fmt='D', color='#1d4ed8', capsize=3)
    axes.set_yticks(range(len(runs)), list(runs))
    axes.invert_yaxis()
    axes.set_xlabel(f'{metric} (each run; mean and standard deviation)')
    axes.grid(axis='x', alpha=0.3)
    figure.tight_layout()
    return figure


def plot_weights(runs: Runs) -> Figure | None:
    """Plot the logit weights over the training, as means over the seeds.

    Args:
        runs (Runs): The results.

    Returns:
        Figure | None: One panel per method with weights; None if there is none.
    """
    moving = {method: results for method, results in runs.items() if results[0].curves}
    if not moving:
        return None
    figure, grid = _panel_grid(list(moving), height=2.5)
    for axes, results in zip(grid.flat, moving.values()):
        keys = [key for key in results[0].curves if key.startswith('teacher_weight/logit/')]
        for key in keys:
            points, _ = mean_curve([run.curves.get(key, []) for run in results])
            axes.plot(*np.reshape(points, (-1, 2)).T, label=key.split('/', 2)[2])
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
    grid[0][0].legend(fontsize=7)
    figure.supxlabel('iteration', fontsize=9)
    figure.supylabel('mean logit weight', fontsize=9)
    return figure


def plot_classes(runs: Runs) -> Figure | None:
    """Plot the logit weight of every teacher per class, as means over the seeds.

    Args:
        runs (Runs): The results.

    Returns:
        Figure | None: One panel per method with weights per class; None if there
        is none.
    """
    recorded = {method: results for method, results in runs.items() if results[0].class_weights}
    if not recorded:
        return None
    figure, grid = _panel_grid(list(recorded), height=2.4)
    for axes, results in zip(grid.flat, recorded.values()):
        tables = [run.class_weights for run in results if run.class_weights is not None]
        matrix = np.mean([table['logit'] for table in tables], axis=0).T
        image = axes.imshow(matrix, vmin=0, vmax=1, aspect='auto', cmap='viridis')
        teachers = tables[0]['teachers']
        axes.set_yticks(range(len(teachers)), teachers, fontsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel('class', fontsize=8)
    figure.colorbar(image, ax=grid.ravel().tolist(), label='logit weight')
    return figure


def _panel_grid(names: Sequence[str], height: float) -> tuple[Figure, np.ndarray]:
    """A figure with one titled panel per method, in up to four columns.

    Args:
        names (Sequence[str]): The methods.
        height (float): Height of a panel in inches.

    Returns:
        tuple[Figure, np.ndarray]: The figure, and its axes of shape (rows,
        columns), of which those without a method are hidden.
    """
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(3.2 * columns, height * rows), layout='constrained')
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, name in zip(grid.flat, names):
        axes.set_title(name, fontsize=9)
    for axes in grid.flat[len(names) :]:
        axes.axis('off')
    return figure, grid
