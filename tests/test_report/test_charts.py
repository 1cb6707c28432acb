# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Line charts: places of points, ticks, legends, and values that cannot be drawn."""

import math
import re
import xml.etree.ElementTree as ET

import pytest

from mtkdrl_mm.report.charts import (
    DotChart,
    LineChart,
    Series,
    average,
    format_duration,
    format_number,
    tick_labels,
    ticks,
)


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


def test_a_band_is_around_its_line():
    series = [Series('a', [(0, 2.0), (1, math.nan), (2, 4.0)], spread=[1.0, 1.0, 2.0])]
    chart = LineChart('t', series, 'x', limits=(0, 8), decimals=1)
    root = ET.fromstring(chart.svg())
    (band,) = [e.get('d') for e in root.iter('path') if e.get('class') == 'band c0']
    corners = [tuple(map(float, p.split())) for p in band.strip('MZ').split('L')]
    height = 210 - 38 - 10
    heights = [(172 - y) / height * 8 for _, y in corners]
    assert heights == pytest.approx([3, 6, 2, 1], abs=0.01)  # upper edge, then back
    assert corners[0][0] == corners[3][0] < corners[1][0] == corners[2][0] == 360 - 14
    assert [value for _, _, value in chart.legend] == ['4.0 ± 2.0']
    # It counts for the range of the axis.
    labels = [e.text for e in ET.fromstring(LineChart('t', series, 'x').svg()).iter('text')]
    assert '6' in labels


def test_long_bands_are_averaged_like_their_lines():
    points = [(i, 1.0) for i in range(1000)]
    chart = LineChart('t', [Series('a', points, spread=[0.5] * 1000)], 'x')
    (band,) = re.findall(r'class="band c0" d="([^"]*)"', str(chart.svg()))
    assert band.count('L') == 2 * 200 - 1


def dots(chart):
    """Class and place of every dot, and the paths of the means."""
    root = ET.fromstring(chart.svg())
    circles = [
        (e.get('class').split()[1:], float(e.get('cx')), float(e.get('cy')))
        for e in root.iter('circle')
    ]
    return circles, [e.get('d') for e in root.iter('path') if e.get('class') == 'mean']


def test_dots_are_placed_linearly():
    rows = {'one': {'s0': 10.0, 's1': 30.0}, 'two': {'s1': 20.0}}
    chart = DotChart('t', rows, 'x', reference='two', decimals=1)
    circles, means = dots(chart)
    assert [color for color, _, _ in circles] == [['c0'], ['c1'], ['c1']]
    (_, first, y), (_, last, _), (_, middle, below) = circles
    assert middle == pytest.approx((first + last) / 2, abs=0.1) and below > y
    # The mean is 20, at the place of the other row's dot, and the deviation 14.1.
    assert len(means) == 1 and means[0].startswith(f'M{middle} ')
    low, high = map(float, re.search(r'M([\d.]+) [\d.]+H([\d.]+)', means[0]).groups())
    assert (high - low) / (last - first) == pytest.approx(2**0.5, abs=0.01)
    assert f'<path class="line reference" stroke-dasharray="4 4" d="M{middle} ' in chart.svg()
    assert chart.summary('one') == '20.0 ± 14.1' and chart.summary('two') == '20.0'
    names = [name for _, name, _ in chart.legend]
    assert names == ['s0', 's1', 'mean and standard deviation', 'mean of two']


def test_values_of_many_names_have_no_colours():
    chart = DotChart('t', {'a': {f's{i}': float(i) for i in range(9)}}, 'x')
    assert {tuple(color) for color, _, _ in dots(chart)[0]} == {()}
    assert [name for _, name, _ in chart.legend] == ['9 values', 'mean and standard deviation']


@pytest.mark.parametrize(
    ('values', 'drawn', 'text'),
    [
        ([3.0], 1, '3'),
        ([3.0, 3.0], 2, '3 ± 0'),
        ([math.nan], 0, 'no finite value'),
        ([math.inf, 2.5], 1, '2.5'),
        ([], 0, 'no finite value'),
    ],
)
def test_degenerate_rows_are_drawn(values, drawn, text):
    chart = DotChart('t', {'<a>': dict(zip('xyz', values))}, 'x')
    assert len(dots(chart)[0]) == drawn and f'&lt;a&gt;: {text}' in chart.svg()
    assert 'nan' not in re.sub(r'aria-label="[^"]*"', '', chart.svg())
    missing = len(values) - drawn
    assert chart.remarks == ('1 value is not finite and missing in the picture.' if missing else '')


def test_long_names_leave_room_for_their_numbers():
    name = 60 * 'x'
    chart = DotChart('t', {name: {'s': 12.5}}, 'x')
    shown = [e.text for e in ET.fromstring(chart.svg()).iter('text') if e.get('class') == 'name']
    # 50 letters fit.
    assert shown == [45 * 'x' + '…']
    assert name in chart.description


@pytest.mark.parametrize(('seconds', 'text'), [(34.4, '34 s'), (720, '12 min'), (11520, '3.2 h')])
def test_durations(seconds, text):
    assert format_duration(seconds) == text
