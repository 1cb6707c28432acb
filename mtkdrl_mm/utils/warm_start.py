# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Runs Python tools as forks of a process that has imported the large packages already.

Importing torch and the OpenMMLab packages takes several seconds: 6 to 8 of the 31 of a
student of the demo.
"""

import multiprocessing
import os
import resource
import runpy
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import IO, Any

import torch

from .child_processes import children

_PRELOADED = [f'{__package__}.large_packages']
_context = multiprocessing.get_context('forkserver')


class _Fork:
    """A fork, with what :mod:`.child_processes` asks of a child."""

    def __init__(self, *arguments: Any) -> None:
        self.process = _context.Process(target=_run, args=arguments)
        self.process.start()

    def send_signal(self, number: int) -> None:
        if self.process.is_alive():
            assert self.process.pid is not None
            os.kill(self.process.pid, number)


def run_warm(command: Sequence[str], environment: Mapping[str, str], log: IO) -> tuple[int, Any]:
    """Run a Python tool as :func:`.child_processes.run_child` does, without its imports.

    The first call starts the process that imports the packages, with the
    environment of this process. Of the variables of a tool, those that the
    packages read while they are imported have no effect, except
    ``OMP_NUM_THREADS``.

    Args:
        command (Sequence[str]): The interpreter, which is ignored, the file of
            the tool, and its arguments.
        environment (Mapping[str, str]): The tool's environment variables.
        log (IO): File that its output is appended to.

    Returns:
        tuple[int, Any]: Its exit code, negative for a signal, and its resource
        usage as of ``resource.getrusage``; None if it was killed.

    Raises:
        KeyboardInterrupt: If a signal has ended :func:`.child_processes.interruptible`.
    """
    receiver, sender = _context.Pipe(duplex=False)
    _context.set_forkserver_preload(_PRELOADED)
    fork = children.start(
        lambda: _Fork(list(command[1:]), dict(environment), os.path.abspath(log.name), sender)
    )
    sender.close()
    try:
        try:
            usage = receiver.recv()
        except EOFError:
            usage = None
        fork.process.join()
    except BaseException:
        fork.process.join()  # a signal, which it has got too: it saves, and exits
        raise
    finally:
        children.forget(fork)
        receiver.close()
    assert fork.process.exitcode is not None
    return fork.process.exitcode, usage


def _end_with_owner() -> None:
    owner = multiprocessing.parent_process()
    assert owner is not None
    owner.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _run(words: list[str], environment: dict[str, str], log_path: str, sender: Connection) -> None:
    """In the fork: be the tool."""
    # As a child of run_child, it ends with the process that asked for it.
    threading.Thread(target=_end_with_owner, daemon=True).start()
    # As in a new interpreter, unless it was started with the signal ignored.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    os.environ.clear()
    os.environ.update(environment)
    if threads := environment.get('OMP_NUM_THREADS'):
        torch.set_num_threads(int(threads))
    sys.argv = words
    sys.path[0] = os.path.dirname(os.path.abspath(words[0]))
    try:
        runpy.run_path(words[0], run_name='__main__')
    finally:
        sender.send(resource.getrusage(resource.RUSAGE_SELF))
