# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Data workers that survive signals to the whole job, and end with their parent."""

import multiprocessing
import signal
import threading
from multiprocessing.context import (
    BaseContext,
    ForkContext,
    ForkProcess,
    SpawnContext,
    SpawnProcess,
)
from typing import Any

from torch.utils.data import DataLoader

# Slurm, systemd, containers and a terminal's Ctrl-C signal every process of a job.
_JOB_SIGNALS = {signal.SIGTERM, signal.SIGINT}


class _ShieldedStart:
    """Starts a process with SIGTERM and SIGINT blocked from its first instruction.

    A worker that is ended by these signals ends the training before it has saved
    a checkpoint. As the signals are blocked, ``terminate``, which torch and
    Python call at exit, kills the worker.
    """

    _popen: Any

    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _JOB_SIGNALS)
        try:
            super().start()  # type: ignore[misc]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        popen = self._popen
        popen.terminate = lambda: _kill(popen)

    def terminate(self) -> None:
        _kill(self._popen)


def _kill(popen: Any) -> None:
    """Kill and reap a worker without an error of torch."""
    if popen.returncode is not None:
        return
    # torch's SIGCHLD handler raises an error for killed workers, unless they were reaped.
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if main else None
    try:
        popen.kill()
        popen.wait()
    finally:
        if main and handler is not None:
            signal.signal(signal.SIGCHLD, handler)


class ShieldedForkProcess(_ShieldedStart, ForkProcess):
    """A forked worker that ignores SIGTERM and SIGINT."""


class ShieldedSpawnProcess(_ShieldedStart, SpawnProcess):
    """A spawned worker that ignores SIGTERM and SIGINT."""


class ShieldedForkContext(ForkContext):
    """Starts :class:`ShieldedForkProcess`."""

    Process = ShieldedForkProcess


class ShieldedSpawnContext(SpawnContext):
    """Starts :class:`ShieldedSpawnProcess`."""

    Process = ShieldedSpawnProcess


def shield_workers(dataloader: DataLoader) -> None:
    """Let a loader's workers ignore SIGTERM and SIGINT, and end with their parent.

    They end when the loader ends them, when the parent exits, or some seconds
    after it was killed (torch's workers check that their parent exists).

    Args:
        dataloader (DataLoader): Changed in place, before its first use. A
            ``multiprocessing_context`` that is set is kept.
    """
    if dataloader.num_workers == 0 or dataloader.multiprocessing_context is not None:
        return
    contexts: dict[str, type[BaseContext]] = dict(
        fork=ShieldedForkContext, spawn=ShieldedSpawnContext
    )
    context = contexts.get(multiprocessing.get_start_method())
    if context is not None:
        dataloader.multiprocessing_context = context()
