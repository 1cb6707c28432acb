# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Plots of a comparison. It is the only module of the package that imports matplotlib."""

import math
import os
import os.path as osp
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mtkdrl_mm.utils.files import atomic_write

from .results import Run, Runs
from .summary import Difference, confidence_half_width, mean_class_table, mean_curve

_DPI = 120
_LOGIT = 'teacher_weight/logit/'
_COLORS = ('#b45309', '#64748b', '#1d4ed8')


def write_plots(runs: Runs, metric: str, out: str) -> None:
    """Write all plots for which there is data.

    Weights are plotted of the methods that have any to show: equal ones and those of a
    single teacher stay the same.

    Args:
        runs (Runs): The results, at least one of every method.
        metric (str): Name of the metric.
        out (str): Folder of ``accuracy.png``, ``weights.png`` and
            ``classes.png``.
    """
    weighing = {method: results for method, results in runs.items() if not _is_constant(results)}
    figures = {
        'accuracy.png': plot_accuracy(runs, metric),
        'weights.png': plot_weights(weighing),
        'classes.png': plot_classes(weighing),
    }
    for name, figure in figures.items():
        path = osp.join(out, name)
        if figure is not None:
            save_figure(figure, path)
        elif osp.exists(path):  # of an earlier comparison, beside the tables of this one
            os.remove(path)


def save_figure(figure: Figure, path: str, dpi: float = _DPI) -> None:
    """Save a picture, completely or not at all.

    Args:
        figure (Figure): The picture.
        path (str): Path of the file; its suffix is the format, without one PNG.
        dpi (float): Pixels per inch. Defaults to 120.

    Raises:
        OSError: If the file cannot be written. ``path`` is then unchanged.
    """
    with atomic_write(path, 'wb') as file:
        figure.savefig(file, dpi=dpi, format=osp.splitext(path)[1][1:] or 'png')


def _is_constant(results: Sequence[Run]) -> bool:
    """Whether the weights of a method do not change over its trainings."""
    curves = [points for run in results for points in run.curves.values()]
    return bool(curves) and all(
        len(points) > 1 and np.ptp([weight for _, weight in points]) < 1e-6 for points in curves
    )


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
    _draw_accuracy(axes, runs, lambda values: float(np.std(values, ddof=1)))
    axes.set_xlabel(f'{metric} (each run; mean and standard deviation)')
    figure.tight_layout()
    return figure


def _draw_accuracy(axes: Axes, runs: Runs, half_width: Callable[[list[float]], float]) -> None:
    """Draw each run as a dot, and each method's mean with a bar of this half width."""
    for row, results in enumerate(runs.values()):
        values = [run.metric for run in results]
        axes.plot(values, [row] * len(values), 'o', color='#94a3b8', markersize=4)
        spread = half_width(values) if len(values) > 1 else 0
        axes.errorbar(np.mean(values), row, xerr=spread, fmt='D', color='#1d4ed8', capsize=3)
    axes.set_yticks(range(len(runs)), list(runs))
    axes.invert_yaxis()
    axes.grid(axis='x', alpha=0.3)


def plot_gains(gains: Mapping[str, Mapping[str, Difference | None]], method: str) -> Figure:
    """Plot what a method gains over its rivals in every pool of teachers.

    Args:
        gains (Mapping[str, Mapping[str, Difference | None]]): By pool and rival;
            what is None is left out.
        method (str): The method, for the axis.

    Returns:
        Figure: Mean paired differences with their 95 % confidence intervals, one
        line per pool and rival.
    """
    rivals = list(dict.fromkeys(rival for of_pool in gains.values() for rival in of_pool))
    figure = Figure(figsize=(7, 0.22 * len(rivals) * len(gains) + 1.4))
    axes = figure.subplots()
    offsets = np.linspace(-0.25, 0.25, len(rivals)).tolist() if len(rivals) > 1 else [0.0]
    for rival, offset, color in zip(rivals, offsets, cycle(_COLORS)):
        found = [
            (row + offset, gap)
            for row, of_pool in enumerate(gains.values())
            if (gap := of_pool.get(rival)) is not None
        ]
        axes.errorbar(
            [gap.mean for _, gap in found],
            [place for place, _ in found],
            xerr=[gap.half_width or 0.0 for _, gap in found],
            fmt='o',
            color=color,
            capsize=3,
            label=f'minus {rival}',
        )
    axes.axvline(0, color='#475569', linewidth=1)
    axes.set_yticks(range(len(gains)), list(gains))
    axes.set_ylim(len(gains) - 0.5, -0.5)
    axes.set_xlabel(f'points that {method} gains (paired by seed, 95 % intervals)')
    axes.grid(axis='x', alpha=0.3)
    axes.legend(fontsize=8, loc='lower center', bbox_to_anchor=(0.5, 1.0), ncols=len(rivals))
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
    # Rows may have different teachers: one colour per name, and a legend of all.
    names = dict.fromkeys(name for results in moving.values() for name in _teachers(results))
    colors = {name: f'C{i}' for i, name in enumerate(names)}
    for axes, results in zip(grid.flat, moving.values()):
        _draw_weights(axes, results, colors)
    lines = [Line2D([], [], color=color, label=name) for name, color in colors.items()]
    figure.legend(handles=lines, fontsize=7, loc='outside upper center', ncols=min(6, len(lines)))
    figure.supxlabel('iteration', fontsize=9)
    figure.supylabel('mean logit weight', fontsize=9)
    return figure


def _teachers(results: Sequence[Run]) -> list[str]:
    """Names of the teachers whose logit weights were logged."""
    keys = dict.fromkeys(key for run in results for key in run.curves)
    return [key.removeprefix(_LOGIT) for key in keys if key.startswith(_LOGIT)]


def _draw_weights(
    axes: Axes, results: Sequence[Run], colors: Mapping[str, str] | None = None
) -> None:
    """Draw a method's logit weights over the training, one line per teacher."""
    for name in _teachers(results):
        points, _ = mean_curve([run.curves.get(f'{_LOGIT}{name}', []) for run in results])
        color = None if colors is None else colors[name]
        axes.plot(*np.reshape(points, (-1, 2)).T, label=name, color=color)
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)


@dataclass(frozen=True)
class WeighedImage:
    """An image, what M teachers say about it, and how much each of them counts.

    Attributes:
        pixels (np.ndarray): RGB, uint8, shape (H, W, 3).
        label (str): Its class.
        answers (Sequence[str]): The teachers' classes, M.
        weights (Sequence[float]): Their logit weights, M.
    """

    pixels: np.ndarray
    label: str
    answers: Sequence[str]
    weights: Sequence[float]


def plot_overview(
    runs: Runs, metric: str, ours: str, images: Sequence[WeighedImage], source: str
) -> Figure:
    """Plot a comparison on one page: the metric, a method's weights, and images with them.

    Args:
        runs (Runs): The results; the names are those to be shown.
        metric (str): What is measured, for the axis.
        ours (str): Name of the method whose weights are shown.
        images (Sequence[WeighedImage]): Images with that method's weights.
        source (str): What the images are, for a title.

    Returns:
        Figure: Means with 95 % confidence intervals; weights as means over the
        seeds; and below every image one bar per teacher, green where it is right.
    """
    figure = Figure(figsize=(12, 7.5), layout='constrained')
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[1.15, 1]))
    left, right = above.subplots(1, 2, width_ratios=[1.3, 1])
    _draw_accuracy(left, runs, confidence_half_width)
    left.set_xlabel(f'{metric} (dots: runs; bars: mean and its 95 % interval)')
    _draw_weights(right, runs[ours])
    right.set_title(f'{ours}: mean weight of each teacher', fontsize=10)
    right.set_xlabel('iteration')
    right.legend(fontsize=8)
    names = _teachers(runs[ours])
    below.suptitle(
        f'{source}: what each teacher says, and its weight (green: the teacher is right)',
        fontsize=10,
    )
    grid = below.subplots(2, len(images), squeeze=False, height_ratios=[1, 1])
    for column, image in enumerate(images):
        picture, bars = grid[:, column]
        picture.imshow(image.pixels)
        picture.set_title(image.label, fontsize=11)
        picture.axis('off')
        colors = ['#15803d' if one == image.label else '#b8c0cc' for one in image.answers]
        bars.barh(range(len(names)), image.weights, color=colors)
        for row, (answer, weight) in enumerate(zip(image.answers, image.weights)):
            color = '#15803d' if answer == image.label else '#475569'
            bars.text(weight + 0.04, row, answer, va='center', fontsize=9, color=color)
        bars.set_xlim(0, 1.3)
        bars.set_xticks([0, 1])
        bars.set_yticks(range(len(names)), names if column == 0 else [''] * len(names), fontsize=8)
        bars.invert_yaxis()
        bars.spines[['top', 'right']].set_visible(False)
    return figure


def plot_classes(runs: Runs) -> Figure | None:
    """Plot the logit weight of every teacher per class, as means over the seeds.

    Args:
        runs (Runs): The results.

    Returns:
        Figure | None: One panel per method with weights per class, but for those
        whose trainings differ in teachers or classes; None if there is none.
    """
    means = {}
    for method, results in runs.items():
        tables = [run.class_weights for run in results if run.class_weights]
        teachers = [table['teachers'] for table in tables]
        mean = mean_class_table(teachers, [table['logit'] for table in tables])
        if mean is not None:
            means[method] = (teachers[0], mean)
    if not means:
        return None
    figure, grid = _panel_grid(list(means), height=2.4)
    for axes, (teachers, mean) in zip(grid.flat, means.values()):
        image = axes.imshow(mean.T, vmin=0, vmax=1, aspect='auto', cmap='viridis')
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
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, name in zip(grid.flat, names):
        axes.set_title(name, fontsize=9)
    for axes in grid.flat[len(names) :]:
        axes.axis('off')
    return figure, grid
