# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Bounded log histories."""

from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import LogProcessor

# Entries that are always kept: more than the usual windows of averages.
_MIN_ENTRIES = 1000


def bound_log_history(hub: MessageHub, processor: LogProcessor, epoch_length: int) -> None:
    """Drop the entries of the log history that no later log line needs.

    mmengine keeps all values of a training and saves them in every checkpoint.

    Args:
        hub (MessageHub): Its histories are cut in place.
        processor (LogProcessor): Its windows are the entries that log lines need.
        epoch_length (int): Iterations per epoch.
    """
    windows = [processor.window_size, _MIN_ENTRIES]
    for item in processor.custom_cfg:
        window = item.get('window_size', 0)
        if window == 'global':
            return
        windows.append(epoch_length if window == 'epoch' else window)
    limit = max(int(window) for window in windows)
    for buffer in hub.log_scalars.values():
        assert isinstance(buffer, HistoryBuffer)
        buffer._log_history = buffer._log_history[-limit:]
        buffer._count_history = buffer._count_history[-limit:]
