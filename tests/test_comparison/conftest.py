# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Settings and results of a comparison."""

import pytest

from mtkdrl_mm.comparison import ComparisonSettings, Run


@pytest.fixture
def settings(tmp_path):
    """Function that returns settings, with folders of this test."""

    def make(**kwargs):
        return ComparisonSettings(**{**dict(work_dir=str(tmp_path), root='here'), **kwargs})

    return make


@pytest.fixture
def make_run():
    """Function that returns the result of a training."""

    def make(method='aver', seed=0, metric=60.0, **kwargs):
        defaults = dict(seconds=3.0, seconds_per_epoch=1.5, peak_mib=100.0, curves={})
        return Run(method=method, seed=seed, metric=metric, **{**defaults, **kwargs})

    return make
