# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Line charts: places of points, ticks, legends, and values that cannot be drawn."""

import math
import re
import xml.etree.ElementTree as ET

import pytest

from mtkdrl_mm.report.charts import LineChart, Series, average, format_number, tick_labels, ticks


def paths(chart):
    """Points of every line of a chart, as drawn; a list of pieces per line."""
    root = ET.fromstring(chart.svg())
    lines = [e.get('d') for e in root.iter('path') if 'line' in e.get('class')]
    return [
        [[tuple(map(float, p.split())) for p in piece.split('L')] for piece in d.split('M')[1:]]
        for d in lines
    ]


def test_points_are_placed_linearly():
    chart = LineChart('t', [Series('a', [(0, 0.0), (5, 0.25), (10, 1.0)])], 'x', limits=(0, 1))
    (((first, middle, last),),) = paths(chart)
    # Halfway in x, a quarter of the height in y; y points down.
    assert middle[0] == pytest.approx((first[0] + last[0]) / 2, abs=0.1)
    assert first[1] - middle[1] == pytest.approx((first[1] - last[1]) / 4, abs=0.1)
    assert first[1] == 210 - 38 and last == (360 - 14, 10)


def test_values_that_are_not_finite_interrupt_the_line():
    points = [(0, 1.0), (1, 2.0), (2, math.nan), (3, math.inf), (4, 2.0), (5, 1.0)]
    chart = LineChart('t', [Series('a', points)], 'x')
    (pieces,) = paths(chart)
    assert [len(piece) for piece in pieces] == [2, 2]
    assert chart.remarks == '2 values are not finite and missing in the line.'
    assert 'lowest 1, highest 2' in chart.description


@pytest.mark.parametrize('values', [[math.nan], [math.nan, math.inf], [3.0], [3.0, 3.0]])
def test_degenerate_series_are_drawn(values):
    chart = LineChart('t', [Series('a', list(enumerate(values)))], 'x')
    drawn = str(chart.svg())
    ET.fromstring(drawn)
    assert 'nan' not in re.sub(r'aria-label="[^"]*"', '', drawn)
    assert ('<circle' in drawn) == math.isfinite(values[0])


def test_empty_series_are_left_out():
    chart = LineChart('t', [Series('a', []), Series('b', [(0, 2.5), (1, 3.5)])], 'x')
    assert [(name, value) for _, name, value in chart.legend] == [('b', '3.5')]
    ET.fromstring(LineChart('t', [], 'x').svg())


def test_legend_shows_last_values():
    series = [Series('a', [(0, 1), (1, 0.123456)]), Series('b', [(0, 1), (1, 7)], reference=True)]
    assert [v for _, _, v in LineChart('t', series, 'x').legend] == ['0.1235', '7']
    assert [v for _, _, v in LineChart('t', series, 'x', decimals=2).legend] == ['0.12', '7.00']
    assert [v for _, _, v in LineChart('t', series, 'x', show_last=False).legend] == ['', '']


def test_names_are_escaped():
    chart = LineChart('<b>', [Series('"><script>', [(0, 1), (1, 2)])], '<i>')
    root = ET.fromstring(chart.svg())
    assert {element.tag for element in root.iter()} <= {'svg', 'path', 'text', 'circle'}
    assert '"><script>: from 1 to 2' in root.get('aria-label')


def test_series_differ_by_colour_or_dash():
    series = [Series(str(i), [(0, 1), (1, 2)]) for i in range(20)]
    keys = [str(key) for key, _, _ in LineChart('t', series, 'x').legend]
    assert len(set(keys)) == 20


@pytest.mark.parametrize(
    ('low', 'high', 'whole', 'expected'),
    [
        (0, 1, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (14, 84, True, [20, 40, 60, 80]),
        (1, 3, True, [1, 2, 3]),
        (0.013, 0.0171, False, [0.013, 0.014, 0.015, 0.016, 0.017, 0.018]),
        (17.2, 38.9, False, [15, 20, 25, 30, 35, 40]),
        (5, 5, False, [5]),
    ],
)
def test_ticks(low, high, whole, expected):
    assert ticks(low, high, 5, whole) == expected


def test_long_series_are_averaged():
    points = [(float(i), float(i % 2)) for i in range(1000)]
    short = average(points, 240)
    assert len(short) == 200  # groups of 5
    assert short[0] == (2.0, 0.4) and short[1] == (7.0, 0.6)
    assert average(points[:240], 240) == points[:240]
    chart = LineChart('t', [Series('a', points)], 'x')
    assert chart.remarks == 'Every point is the mean of 5 log lines.'


def test_a_bad_value_does_not_hide_its_group():
    points = [(0.0, 1.0), (1.0, math.nan), (2.0, 3.0), (3.0, math.nan), (4.0, math.nan)]
    short = average(points, 3)
    assert short[:2] == [(0.0, 1.0), (2.0, 3.0)] and math.isnan(short[2][1])


@pytest.mark.parametrize(
    ('value', 'text'),
    [(3.0, '3'), (0.0, '0'), (97.62611, '97.63'), (1.2e-5, '1.2e-05'), (2e7, '2e+07'),
     (math.nan, 'nan'), (-math.inf, '-inf')],
)  # fmt: skip
def test_numbers(value, text):
    assert format_number(value) == text


def test_ticks_can_be_told_apart():
    assert tick_labels([1000.0, 1000.2, 1000.4]) == ['1000', '1000.2', '1000.4']
    assert tick_labels([0.0, 0.5]) == ['0', '0.5']


def test_a_constant_has_one_tick():
    """Means of equal numbers differ in their last bits."""
    points = [(i, 0.1 + (i % 2) * 2e-17) for i in range(50)]
    drawn = str(LineChart('t', [Series('lr', points)], 'x').svg())
    assert drawn.count('class="end">0.1</text>') == 1
    assert ticks(0.1, 0.1 + 2e-17, 5) == [0.1]
