# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Commands that run as children of a tool, and end with it."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

# Linux only; elsewhere a parent that is killed leaves its children.
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == 'linux' else None
_PR_SET_PDEATHSIG = 1

_running: set[subprocess.Popen] = set()


def end_with_parent() -> Callable[[], None]:
    """Have a child get SIGTERM when its parent ends, in whatever way; for ``preexec_fn``.

    A training saves and exits then. Without it, trainings of a comparison that was
    killed would go on, unseen.

    Returns:
        Callable[[], None]: To be called in the child, before its command starts.
    """
    parent = os.getpid()

    def prepare() -> None:
        if _PRCTL is not None:
            _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it has ended meanwhile
                os._exit(128 + signal.SIGTERM)

    return prepare


def run_child(command: Sequence[str], **kwargs: Any) -> tuple[int, Any]:
    """Run a command as a child of this process, which ends with it.

    Args:
        command (Sequence[str]): The words of the command.
        **kwargs: Arguments of ``subprocess.Popen``.

    Returns:
        tuple[int, Any]: Its exit code, negative for a signal, and its resource
        usage as of ``os.wait4``.
    """
    process = subprocess.Popen(command, preexec_fn=end_with_parent(), **kwargs)
    _running.add(process)
    try:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        process.wait()  # a signal, which it has got too: it saves, and exits
        raise
    finally:
        _running.discard(process)
    return process.returncode, usage


@contextmanager
def interruptible() -> Iterator[None]:
    """Have signals end the children of :func:`run_child` first, and this process with a sentence.

    Ctrl-C goes to all processes of a terminal, but ``kill`` and job systems may name
    this one alone. In both cases it waits for its children, so that whatever starts
    next finds no folder in use. It must be entered in the main thread.
    """

    def terminate(number: int, frame: Any) -> None:
        for process in list(_running):
            process.terminate()
        _end(number)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt:
        _end(signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int) -> NoReturn:
    print(
        'Interrupted. What is finished is kept; the same command goes on where this one stopped.',
        file=sys.stderr,
        flush=True,
    )
    sys.exit(128 + number)
