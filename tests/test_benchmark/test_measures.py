# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Numbers beside limits and aims."""

import pytest

from mtkdrl_mm.benchmark import Measure, measures_table


@pytest.mark.parametrize(
    ('value', 'loading', 'verdict'),
    [
        (1.05, None, 'reaches the aim'),
        (1.06, None, 'within the limit'),
        (1.16, None, 'misses the limit'),
        (1.01, 1.1, 'within the limit'),
        (1.2, 1.0, 'misses the limit'),
        (None, None, 'not measured'),
    ],
)
def test_the_worse_number_decides(value, loading, verdict):
    assert Measure('', 1.15, 1.05, value, loading).verdict == verdict


@pytest.mark.parametrize(
    ('value', 'verdict'),
    [(4999, 'misses the limit'), (5000, 'within the limit'), (20000, 'reaches the aim')],
)
def test_of_a_speed_more_is_better(value, verdict):
    assert Measure('', 5000, 20000, value, higher=True).verdict == verdict


def test_table_and_plain_data():
    measures = [Measure('time', 1.15, 1.05, 1.0812, 1.02), Measure('speed', 5000, 20000, None)]
    lines = measures_table(measures).splitlines()
    assert lines[0].split('|')[1:7] == [
        ' measure ',
        ' limit ',
        '    aim ',
        ' measured ',
        ' with data loading ',
        '                  ',
    ]
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines[2:]]
    assert cells[0] == ['time', '1.150', '1.050', '1.081', '1.020', 'within the limit']
    assert cells[1] == ['speed', '5,000', '20,000', '', '', 'not measured']
    assert measures[0].to_dict()['verdict'] == 'within the limit'
    assert measures[0].to_dict()['value'] == 1.0812
