# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Tables of the weights per class."""

import numpy as np

from mtkdrl_mm.engine.run_record import ClassWeights
from mtkdrl_mm.report.weight_tables import class_tables


def test_classes_without_an_image_are_empty():
    table = np.array([[0.25, 0.75], [np.nan, np.nan]])
    (found,), remark = class_tables(ClassWeights(['a', 'b'], table, table), ['logit'], ['x', 'y'])
    assert found.rows == [['x', '0.25', '0.75'], ['y', '', '']] and remark == ''
    assert found.shades == [[0.25, 0.75], [0, 0]]


def test_of_many_classes_those_that_differ_most_are_shown():
    """Classes without an image differ from none."""
    table = np.full((40, 2), 0.5)
    table[7], table[3], table[:2] = [0.9, 0.1], [0.2, 0.8], np.nan
    (found,), remark = class_tables(ClassWeights(['a', 'b'], table, table), ['logit'], None)
    assert [row[0] for row in found.rows][:2] == ['class 7', 'class 3'] and len(found.rows) == 30
    assert not {'class 0', 'class 1'} & {row[0] for row in found.rows}
    assert remark.startswith(' Of 40 classes, these are the 30 whose weights differ most')
