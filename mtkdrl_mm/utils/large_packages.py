# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Imports what every training imports, and what a training of a detector imports besides."""

import os
import warnings
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib import import_module

# What they print belongs into the log of a training, not into the output of a comparison.
with open(os.devnull, 'w') as _nowhere, redirect_stdout(_nowhere), redirect_stderr(_nowhere):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for _package in (
            'mtkdrl_mm.engine',
            'mmpretrain.models',
            'mmpretrain.datasets',
            'mmdet.models',
        ):
            # One that is not installed, or does not fit to the others: the training says so.
            with suppress(Exception):
                import_module(_package)
