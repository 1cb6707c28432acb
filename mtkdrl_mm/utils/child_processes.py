# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Commands that run as children of a tool, and end with it."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol, TypeVar

# Linux only; elsewhere a parent that is killed leaves its children.
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == 'linux' else None
_PR_SET_PDEATHSIG = 1

# A younger child may have started after the terminal had sent its signal, and has nothing to save.
_YOUNG = 1.0


class Child(Protocol):
    """A running child, such as a ``subprocess.Popen``."""

    def send_signal(self, number: int, /) -> None:
        """Send a signal, unless the child has ended."""


ChildT = TypeVar('ChildT', bound=Child)


class _Children:
    """The running children of this process.

    Attributes:
        ending (bool): Whether a signal has ended this process, so that no child may
            start any more.
    """

    def __init__(self) -> None:
        self.ending = False
        self._started: dict[Child, float] = {}
        # Worker threads start children while the main thread handles a signal, which may have
        # interrupted a start of its own.
        self._lock = threading.RLock()

    def start(self, start: Callable[[], ChildT]) -> ChildT:
        """Start a child, unless a signal has ended this process."""
        with self._lock:
            if self.ending:
                raise KeyboardInterrupt
            child = start()
            self._started[child] = time.monotonic()
            return child

    def forget(self, child: Child) -> None:
        """Note that a child has ended."""
        with self._lock:
            del self._started[child]

    def end(self, number: int) -> None:
        """Pass a signal on, and let no child start after it."""
        with self._lock:
            self.ending = True
            for child, start in self._started.items():
                # Ctrl-C has reached the others, and a second one would not let them save.
                if number != signal.SIGINT or time.monotonic() - start < _YOUNG:
                    child.send_signal(number)


children = _Children()


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

    Raises:
        KeyboardInterrupt: If a signal has ended :func:`interruptible`.
    """
    prepare = end_with_parent()
    process = children.start(lambda: subprocess.Popen(command, preexec_fn=prepare, **kwargs))
    try:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        process.wait()  # a signal, which it has got too: it saves, and exits
        raise
    finally:
        children.forget(process)
    return process.returncode, usage


@contextmanager
def interruptible() -> Iterator[None]:
    """Have signals end the children of :func:`run_child` first, and this process with a sentence.

    Ctrl-C goes to all processes of a terminal, but ``kill`` and job systems may name
    this one alone. In both cases it waits for its children, so that whatever starts
    next finds no folder in use. It must be entered in the main thread.
    """

    def end(number: int, frame: Any) -> NoReturn:
        children.end(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        _end(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as of a command in the background
            signal.signal(number, end)
    try:
        yield
    except KeyboardInterrupt:
        _end(signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int) -> NoReturn:
    print(
        'Interrupted. What is finished is kept; the same command goes on where this one stopped.',
        file=sys.stderr,
        flush=True,
    )
    sys.exit(128 + number)
