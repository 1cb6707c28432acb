# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Plots show the numbers of the results."""

import subprocess
import sys

import numpy as np

from mtkdrl_mm.comparison import plots

KEY = 'teacher_weight/logit/a'


def test_accuracy(make_run):
    runs = {'a': [make_run(metric=m) for m in (1.0, 3.0)], 'b': [make_run(metric=2.0)]}
    (axes,) = plots.plot_accuracy(runs, 'top1').axes
    points, mean = axes.lines[0], axes.lines[1]
    assert list(points.get_xdata()) == [1, 3] and list(points.get_ydata()) == [0, 0]
    assert list(mean.get_xdata()) == [2]
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


def test_classes(make_run):
    tables = [dict(logit=[[w, 1 - w]] * 3, teachers=['a', 'b']) for w in (0.2, 0.4)]
    runs = {'a': [make_run(class_weights=table) for table in tables]}
    axes = plots.plot_classes(runs).axes[0]
    (image,) = axes.images
    np.testing.assert_allclose(image.get_array(), [[0.3] * 3, [0.7] * 3])
    assert plots.plot_classes({'plain': [make_run()]}) is None


def test_files_for_what_there_is(make_run, tmp_path):
    runs = {'a': [make_run(curves={KEY: [(1, 0.5)]})], 'b': [make_run()]}
    plots.write_plots(runs, 'top1', 'a', str(tmp_path))  # weights of the reference are no news
    assert [path.name for path in tmp_path.iterdir()] == ['accuracy.png']
    plots.write_plots(runs, 'top1', 'b', str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['accuracy.png', 'weights.png']


def test_nothing_else_needs_matplotlib():
    code = 'import sys, mtkdrl_mm.comparison; sys.exit("matplotlib" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def test_a_teacher_that_a_training_lacks_has_no_line(make_run):
    runs = {'a': [make_run(curves={KEY: [(1, 0.5)]}), make_run()]}
    (line,) = plots.plot_weights(runs).axes[0].lines
    assert len(line.get_xdata()) == 0
