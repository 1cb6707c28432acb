# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Plots show the numbers of the results."""

import os
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mtkdrl_mm.comparison import Difference, plots

KEY = 'teacher_weight/logit/a'


def test_a_picture_is_written_wholly_or_not_at_all(tmp_path):
    figure = Figure(figsize=(2, 1))
    for name, form in (('a.png', 'PNG'), ('a.jpg', 'JPEG'), ('a', 'PNG')):
        plots.save_figure(figure, str(tmp_path / name), dpi=50)
        with Image.open(tmp_path / name) as picture:
            assert (picture.format, picture.size) == (form, (100, 50))
    before = (tmp_path / 'a.png').read_bytes()
    (tmp_path / 'a.png.tmp').symlink_to('/dev/full')
    with pytest.raises(OSError, match='No space left') as error:
        plots.save_figure(figure, str(tmp_path / 'a.png'))
    assert error.value.filename == str(tmp_path / 'a.png')
    assert (tmp_path / 'a.png').read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ['a', 'a.jpg', 'a.png']


def test_accuracy(make_run):
    runs = {'a': [make_run(metric=m) for m in (1.0, 3.0)], 'b': [make_run(metric=2.0)]}
    (axes,) = plots.plot_accuracy(runs, 'top1').axes
    points, mean = axes.lines[0], axes.lines[1]
    assert list(points.get_xdata()) == [1, 3] and list(points.get_ydata()) == [0, 0]
    assert list(mean.get_xdata()) == [2]
    # The standard deviation of 1 and 3, of n - 1
    bar = axes.containers[0].lines[2][0].get_segments()[0]
    np.testing.assert_allclose(bar[:, 0], [2 - 2**0.5, 2 + 2**0.5])
    assert [label.get_text() for label in axes.get_yticklabels()] == ['a', 'b']


def test_weights_are_means_up_to_the_shortest_training(make_run):
    curves = [{KEY: [(5, 0.2), (10, 0.4)]}, {KEY: [(5, 0.4), (10, 0.8), (15, 1.0)]}]
    runs = {'plain': [make_run()], 'moving': [make_run(curves=one) for one in curves]}
    figure = plots.plot_weights(runs)
    (axes,) = figure.axes
    (line,) = axes.lines
    assert axes.get_title() == 'moving' and line.get_label() == 'a'
    np.testing.assert_allclose(line.get_xydata(), [[5, 0.3], [10, 0.6]])
    assert plots.plot_weights({'plain': [make_run()]}) is None


def test_overview(make_run):
    other = 'teacher_weight/logit/b'
    curves = {KEY: [(5, 0.2), (10, 0.4)], other: [(5, 0.8), (10, 0.6)]}
    runs = {
        'plain': [make_run(metric=metric) for metric in (1.0, 3.0)],
        'ours': [make_run(metric=metric, curves=curves) for metric in (4.0, 6.0)],
    }
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    images = [
        plots.WeighedImage(pixels, label='3', answers=['8', '3'], weights=[0.25, 0.75]),
        plots.WeighedImage(pixels, label='1', answers=['1', '7'], weights=[0.5, 0.5]),
    ]
    figure = plots.plot_overview(runs, 'accuracy', 'ours', images, 'Test images')
    above, below = figure.subfigs
    accuracy, weights = above.axes
    # The mean 5 with Student's t of one degree of freedom: 12.7062.
    interval = accuracy.containers[1].lines[2][0].get_segments()[0]
    np.testing.assert_allclose(interval[:, 0], [5 - 12.7062, 5 + 12.7062], atol=1e-4)
    assert [line.get_label() for line in weights.lines] == ['a', 'b']
    np.testing.assert_allclose(weights.lines[1].get_ydata(), [0.8, 0.6])
    pictures, bars = below.axes[:2], below.axes[2:]
    assert [axes.get_title() for axes in pictures] == ['3', '1']
    assert [[bar.get_width() for bar in axes.patches] for axes in bars] == [[0.25, 0.75], [0.5] * 2]
    green = [[bar.get_facecolor()[1] > bar.get_facecolor()[2] for bar in a.patches] for a in bars]
    assert green == [[False, True], [True, False]]
    assert [text.get_text() for text in bars[0].texts] == ['8', '3']


def test_classes(make_run):
    tables = [dict(logit=[[w, 1 - w]] * 3, teachers=['a', 'b']) for w in (0.2, 0.4)]
    runs = {'a': [make_run(class_weights=table) for table in tables]}
    axes = plots.plot_classes(runs).axes[0]
    (image,) = axes.images
    np.testing.assert_allclose(image.get_array(), [[0.3] * 3, [0.7] * 3])
    assert plots.plot_classes({'plain': [make_run()]}) is None


def test_seeds_with_other_teachers_are_not_averaged(make_run):
    """Nor with the same ones in another order: the weights would be under wrong names."""

    def runs_of(*teachers):
        tables = [dict(logit=[[1 / len(t)] * len(t)] * 3, teachers=list(t)) for t in teachers]
        return [make_run(seed=seed, class_weights=table) for seed, table in enumerate(tables)]

    for other in ('ba', 'abc'):
        assert plots.plot_classes({'other': runs_of('ab', other)}) is None
    figure = plots.plot_classes({'other': runs_of('ab', 'ba'), 'same': runs_of('ab', 'ab')})
    assert [axes.get_title() for axes in figure.axes if axes.images] == ['same']


def test_rows_with_other_teachers(make_run):
    """Every panel names its own teachers, and a name has one colour in all."""
    pools = dict(two=['a', 'b'], four=['c', 'a', 'd', 'b'])
    runs = {
        row: [
            make_run(
                curves={f'teacher_weight/logit/{name}': [(5, 0.2), (10, 0.4)] for name in names},
                class_weights=dict(logit=[[1 / len(names)] * len(names)] * 3, teachers=names),
            )
        ]
        for row, names in pools.items()
    }
    panels = plots.plot_classes(runs).axes[:2]
    for axes, names in zip(panels, pools.values()):
        assert [label.get_text() for label in axes.get_yticklabels()] == names
        assert len(axes.get_yticks()) == len(names) and axes.get_ylim() == (len(names) - 0.5, -0.5)
    figure = plots.plot_weights(runs)
    (legend,) = figure.legends
    colors = {line.get_label(): line.get_color() for line in legend.get_lines()}
    assert list(colors) == ['a', 'b', 'c', 'd'] and len(set(colors.values())) == 4
    for axes, names in zip(figure.axes, pools.values()):
        assert {line.get_label(): line.get_color() for line in axes.lines} == {
            name: colors[name] for name in names
        }


def test_files_for_what_there_is(make_run, tmp_path):
    table = dict(logit=[[0.5, 0.5]] * 3, teachers=['a', 'b'])
    runs = {
        'equal': [make_run(curves={KEY: [(1, 0.5), (2, 0.5)]}, class_weights=table)],
        'none': [make_run()],
    }
    plots.write_plots(runs, 'top1', str(tmp_path))  # equal weights are no news
    assert [path.name for path in tmp_path.iterdir()] == ['accuracy.png']
    runs['moving'] = [make_run(curves={KEY: [(1, 0.5), (2, 0.51)]}, class_weights=table)]
    plots.write_plots(runs, 'top1', str(tmp_path))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ['accuracy.png', 'classes.png', 'weights.png']
    runs.pop('moving')
    plots.write_plots(runs, 'top1', str(tmp_path))  # no pictures of the earlier rows are left
    assert [path.name for path in tmp_path.iterdir()] == ['accuracy.png']


def test_the_weights_of_every_method_that_moves_them_are_plotted(make_run, monkeypatch, tmp_path):
    """Of the reference, too, if it is not one with equal weights."""
    plotted = []
    monkeypatch.setattr(plots, 'plot_weights', lambda runs: plotted.extend(runs))
    curves = dict(
        equal=[(1, 0.25), (2, 0.25)], moving=[(1, 0.25), (2, 0.5)], alone=[(1, 1.0), (2, 1.0)]
    )
    runs = {name: [make_run(curves={KEY: points})] for name, points in curves.items()}
    plots.write_plots({**runs, 'short': [make_run(curves={KEY: [(1, 0.3)]})]}, 't', str(tmp_path))
    assert plotted == ['moving', 'short']


def test_nothing_else_needs_matplotlib():
    code = 'import sys, mtkdrl_mm.comparison; sys.exit("matplotlib" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def test_a_teacher_that_a_training_lacks_has_no_line(make_run):
    runs = {'a': [make_run(curves={KEY: [(1, 0.5)]}), make_run()]}
    (line,) = plots.plot_weights(runs).axes[0].lines
    assert len(line.get_xdata()) == 0


def test_gains():
    gains = {
        'weak': {'aver': Difference(1.0, 0.5, 3), 'best': None},
        'clean': {'aver': Difference(-0.5, None, 1), 'best': Difference(2.0, 1.0, 3)},
    }
    (axes,) = plots.plot_gains(gains, 'ours').axes
    aver, best = axes.containers
    assert aver.get_label() == 'minus aver' and best.get_label() == 'minus best'
    # What is missing has no dot, and one seed no interval.
    assert list(aver[0].get_xdata()) == [1.0, -0.5]
    assert list(aver[0].get_ydata()) == [-0.25, 0.75]
    assert list(best[0].get_xdata()) == [2.0] and list(best[0].get_ydata()) == [1.25]
    bars = aver[2][0].get_segments()
    np.testing.assert_allclose([[a[0], b[0]] for a, b in bars], [[0.5, 1.5], [-0.5, -0.5]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ['weak', 'clean']
