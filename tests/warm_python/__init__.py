# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A Python interpreter for the tests that has already imported the large packages.

Importing torch, mmpretrain and mmdet takes five seconds of CPU time, most of a short run of a
tool. ``server.py`` imports them once and forks a process for every command. ``client.py`` stands in
for the interpreter: it accepts Python's command line, passes it to a server together with the
environment, the working directory and the three standard streams, forwards signals, and ends as
the forked process ends.

The fork runs the tool from its first line. Nothing of this project and none of its registered
components beyond those of mmpretrain's and mmdet's models has been imported before. There are two
servers with different hash seeds, so that two runs of a tool do not share the order of their sets.

Servers are started when they are first needed, and end with the test session. Tests about signals,
process ids and process groups use ``sys.executable`` instead. With ``FRESH_PYTHON=1`` in the
environment, all tests do.
"""

import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

# Path of the stand-in, for the workers of pytest-xdist, which inherit the environment.
VARIABLE = 'MTKDRL_TESTS_PYTHON'


def prepare() -> None:
    """Write the stand-in for this session, unless a parent process has done so."""
    if VARIABLE in os.environ or os.environ.get('FRESH_PYTHON') or not hasattr(os, 'pidfd_open'):
        return
    folder = Path(tempfile.mkdtemp(prefix='warm'))
    client = Path(__file__).with_name('client.py')
    command = [sys.executable, '-I', '-S', str(client), str(folder), str(os.getpid())]
    command.append(sys.executable)
    python = folder / 'python'
    python.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    python.chmod(0o755)
    os.environ[VARIABLE] = str(python)
    os.environ[f'{VARIABLE}_OWNER'] = str(os.getpid())


def remove() -> None:
    """Remove what :func:`prepare` wrote in this process. The servers end by themselves."""
    if os.environ.get(f'{VARIABLE}_OWNER') == str(os.getpid()):
        shutil.rmtree(Path(os.environ.pop(VARIABLE)).parent, ignore_errors=True)
        del os.environ[f'{VARIABLE}_OWNER']


def tool_python() -> str:
    """Path of the interpreter that runs the tools in tests."""
    return os.environ.get(VARIABLE, sys.executable)
