# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Statistics over seeds."""

import numpy as np
import pytest

from mtkdrl_mm.comparison import summarize
from mtkdrl_mm.comparison.summary import (
    Difference,
    confidence_half_width,
    mean_class_table,
    mean_curve,
    mean_weights,
    metric_digits,
)


def test_methods_are_compared_seed_by_seed(make_run):
    runs = {
        'aver': [
            make_run(seed=seed, metric=metric) for seed, metric in ((0, 60), (1, 62), (2, 58))
        ],
        'mtkdrl': [
            make_run('mtkdrl', seed, metric, seconds_per_epoch=seconds, peak_mib=100 + seed)
            for seed, metric, seconds in ((2, 60, 1), (0, 61, 9), (1, 65, 2))
        ],
        'single': [make_run('single', 1, 61.5)],
        'apart': [make_run('apart', 7, 70)],
    }
    aver, mtkdrl, single, apart = summarize(runs, 'aver')
    assert [s.method for s in (aver, mtkdrl, single, apart)] == list(runs)
    assert (aver.num_runs, aver.mean, aver.std, aver.difference) == (3, 60, 2, None)
    assert (mtkdrl.mean, mtkdrl.seconds_per_epoch, mtkdrl.peak_mib) == (62, 2, 102)
    # Differences 1, 3 and 2; Student's t with two degrees of freedom: 4.3027.
    assert mtkdrl.difference.mean == pytest.approx(2) and mtkdrl.difference.count == 3
    assert mtkdrl.difference.half_width == pytest.approx(4.3027 / 3**0.5, abs=1e-4)
    assert single.std is None and single.difference == Difference(-0.5, None, 1)
    assert apart.difference is None
    assert summarize(runs, 'gone')[1].difference is None


def test_a_difference_counts_the_seeds_that_both_have(make_run):
    runs = {
        'aver': [make_run(seed=seed, metric=60 + seed) for seed in (0, 1)],
        'more': [make_run('more', seed, 61 + 2 * seed) for seed in range(5)],
    }
    more = summarize(runs, 'aver')[1]
    assert (more.num_runs, more.difference.count, more.difference.mean) == (5, 2, 1.5)


@pytest.mark.parametrize(
    ('aver', 'other', 'digits'),
    [
        ((60.0, 60.001, 60.0), (60.002, 60.0, 60.0), 2),  # accuracies in percent
        ((0.5, 0.6), (0.4, 0.7), 4),
        ((0.51234, 0.51238), (0.5, 0.6), 5),  # deviation 0.00003
        ((3.0, 4.0), (5.0, 7.0), 2),
        ((1.2345, 1.2347, 1.2346), (1.2335, 1.2338, 1.2337), 4),  # deviations 0.0001
        ((1.234,), (1.235,), 3),  # without any: the difference
        ((1.234,), (1.234,), 2),
        ((1.5, 1.5), (1.5, 1.5), 2),
        ((1.1, 1.1 + 1e-15), (1.1, 1.1), 2),  # errors of rounding
        ((1e-5, 2e-5), (3e-5, 5e-5), 6),
        ((-3.2, -3.1), (-2.0, -2.2), 2),
        ((float('nan'), 1.5), (float('inf'), 2.5), 4),
        ((1.5,), (float('inf'),), 2),
        ((0.0,), (0.0,), 4),
    ],
)
@pytest.mark.filterwarnings('ignore:invalid value encountered')  # infinity minus infinity
def test_no_spread_is_rounded_to_nothing(make_run, aver, other, digits):
    values = dict(aver=aver, other=other)
    runs = {
        name: [make_run(name, seed, metric) for seed, metric in enumerate(of)]
        for name, of in values.items()
    }
    assert metric_digits(summarize(runs, 'aver')) == digits
    assert metric_digits([]) == 4


def test_interval_of_a_mean():
    # Student's t with one degree of freedom is a Cauchy variable: tan(0.475 pi) = 12.7062.
    assert confidence_half_width([1, 3]) == pytest.approx(12.7062, abs=1e-4)
    assert confidence_half_width([2, 2, 2]) == 0


def test_mean_weights_leave_out_the_first_tenth(make_run):
    key = 'teacher_weight/logit/a/b'
    runs = [
        make_run(curves={key: [(step, 1.0 if step < 2 else 0.25) for step in range(20)]}),
        make_run(curves={key: [(0, 0.5)], 'teacher_weight/feature/c': [(0, 0.125)]}),
    ]
    assert mean_weights(runs, 'logit') == {'a/b': pytest.approx((18 * 0.25 + 0.5) / 19)}
    assert mean_weights(runs, 'feature') == {'c': 0.125}
    assert mean_weights([], 'logit') == {}


def test_mean_curves_are_taken_where_all_curves_are():
    # The second one was resumed: it repeats a step, and has others.
    curves = [[(1, 0.0), (2, 4.0), (4, 1.0)], [(1, 2.0), (2, 9.0), (2, 8.0), (3, 5.0)]]
    points, spread = mean_curve(curves)
    assert points == [(1, 1.0), (2, 6.0)] and spread == pytest.approx([2**0.5, 8**0.5])
    assert mean_curve(curves[:1]) == (curves[0], [])
    assert mean_curve([*curves, []]) == ([], []) == mean_curve([])


def test_classes_without_an_image_take_no_part_in_a_mean():
    """(0.9, 0.1) and nothing is (0.9, 0.1), and not (0.45, 0.05)."""
    nan = [np.nan, np.nan]
    tables = [[[0.9, 0.1], nan, nan], [[0.5, 0.5], [0.2, 0.8], [None, None]]]
    found = mean_class_table([['a', 'b']] * 2, tables)
    np.testing.assert_allclose(found, [[0.7, 0.3], [0.2, 0.8], nan])
    assert mean_class_table([['a', 'b'], ['b', 'a']], tables) is None
