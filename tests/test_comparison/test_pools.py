# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Tables of several pools, and the choice of teachers."""

import numpy as np
import pytest

from mtkdrl_mm.comparison.pools import best_single, best_subset, compare_pool, write_pools


@pytest.fixture
def runs(make_run):
    """Three seeds; the second single teacher is the best."""

    def of(method, *metrics, **kwargs):
        return [make_run(method, seed, metric, **kwargs) for seed, metric in enumerate(metrics)]

    curves = {f'teacher_weight/logit/{name}': [(1, w)] for name, w in (('a', 0.2), ('b', 0.8))}
    return {
        'aver': of('aver', 60.0, 61.0, 62.0),
        'camkd': of('camkd', 61.0, 61.0, 64.0),
        'a_alone': of('a_alone', 55.0, 55.0, 55.0),
        'b_alone': of('b_alone', 61.0, 63.0, 62.0),
        'ours': of('ours', 62.0, 63.0, 64.0, curves=curves),
    }


def test_gains_over_the_rivals(runs):
    assert best_single(runs, ['a_alone', 'b_alone']) == 'b_alone'
    assert best_single(runs, ['c_alone']) is None
    result = compare_pool('weak', runs, 'ours', ['a_alone', 'b_alone'])
    assert {name: gap.mean for name, gap in result.rivals.items()} == pytest.approx(
        dict(aver=2.0, camkd=1.0, b_alone=1.0)
    )
    assert result.rivals['aver'].half_width == 0
    # t of 2 degrees of freedom, 4.303, times the deviation 1 of 1, 0 and 2, over sqrt(3).
    assert result.rivals['b_alone'].half_width == pytest.approx(2.484, abs=1e-3)
    assert result.weights == pytest.approx(dict(a=0.2, b=0.8))


def test_tables(runs, tmp_path):
    other = {'aver': runs['aver'][:1], 'ours': runs['ours'][:1]}
    singles = dict(weak=['a_alone', 'b_alone'], clean=[])
    text = write_pools(dict(weak=runs, clean=other), singles, 'ours', str(tmp_path))
    assert text == (
        '| pool | best single teacher | aver | camkd | ours |\n'
        '| --- | --- | --- | --- | --- |\n'
        '| weak | 62.00 ± 1.00 (b_alone) | 61.00 ± 1.00 | 62.00 ± 1.73 | 63.00 ± 1.00 |\n'
        '| clean |  | 60.00 |  | 62.00 |\n\n'
        '`ours`, paired by seed, with 95 % intervals:\n\n'
        '| pool | minus best single teacher | minus aver | minus camkd | weights |\n'
        '| --- | --- | --- | --- | --- |\n'
        '| weak | +1.00 ± 2.48 | +2.00 ± 0.00 | +1.00 ± 2.48 | a 0.20, b 0.80 |\n'
        '| clean |  | +2.00 |  | a 0.20, b 0.80 |'
    )
    assert (tmp_path / 'pools.md').read_text() == text + '\n'
    assert (tmp_path / 'pools.csv').read_text().splitlines()[2] == 'clean,,60.00,,62.00'


def test_the_subset_that_makes_the_labels_most_likely():
    """Two teachers that are right by turns are better together than the best alone."""
    labels = np.array([0, 1] * 6)
    right = np.eye(2)[labels] * 4
    turns = (np.arange(12) // 2 % 2 == 0)[:, None]
    logits = dict(
        first=np.where(turns, right, -right / 2),
        wrong=-right,
        second=np.where(turns, -right / 2, right),
    )
    assert best_subset(logits, labels, [2]) == ('first', 'second')
    assert best_subset(logits, labels, [1, 2, 3]) == ('first', 'second')
    assert best_subset(logits, labels, [1]) == ('first',)
    assert best_subset(dict(logits, best=right), labels, [1, 2, 3, 4]) == ('best',)
    with pytest.raises(ValueError, match='No subset of 3 teachers has'):
        best_subset(logits, labels, [4])
