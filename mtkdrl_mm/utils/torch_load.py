# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What ``torch.load`` accepts in scripts that read checkpoints with it."""

import codecs
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load`` of torch 2.6 and later read mmengine's checkpoints.

    It accepts only the types on its list, and mmengine's checkpoints contain log
    histories, numpy values and counters. Exactly these types are added to the
    list; the protection stays enabled. This package does not need it, but
    scripts around it do.
    """
    add = getattr(torch.serialization, 'add_safe_globals', None)
    if add is None:
        return
    core = getattr(np, '_core', None) or np.core
    multiarray = (core.multiarray._reconstruct, core.multiarray.scalar)
    dtypes = [type(np.dtype(kind)) for kind in ('f4', 'f8', 'i4', 'i8', 'b1', 'u1', 'U1')]
    add([HistoryBuffer, Counter, np.ndarray, np.dtype, codecs.encode, *multiarray, *dtypes])
    add([(_history_buffer_attribute, 'builtins.getattr')])


def _history_buffer_attribute(owner: Any, name: str) -> Callable:
    """Replaces the ``getattr`` by which log histories pickle their methods."""
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    raise ValueError(f'getattr({owner!r}, {name!r}) is not plain data')
