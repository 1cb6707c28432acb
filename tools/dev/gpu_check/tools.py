# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Tools of this repository, run by checks in processes like their own."""

import multiprocessing
import os
import os.path as osp
import re
import runpy
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from mtkdrl_mm.utils.tool_output import find_error, last_lines
from mtkdrl_mm.weights.checkpoint import read_checkpoint

from . import ROOT
from .findings import Reporter

Process = multiprocessing.process.BaseProcess


def start_tool(
    report: Reporter,
    name: str,
    tool: str,
    *arguments: str,
    variables: Mapping[str, str] | None = None,
) -> tuple[Process, str]:
    """Start a tool in a process like this one, which has imported all packages.

    Returns:
        tuple[BaseProcess, str]: The process, and the file of its output.
    """
    log = osp.join(report.folder, f'{name}.txt')
    environment = dict(CUBLAS_WORKSPACE_CONFIG=':4096:8', **(variables or {}))
    process = report.context.Process(
        target=run_tool_file, args=(osp.join(ROOT, 'tools', tool), arguments, environment, log)
    )
    process.start()
    return process, log


def run_tool_file(
    path: str, arguments: Sequence[str], variables: Mapping[str, str], log: str
) -> None:
    """Run a tool as if it had been started by a shell."""
    redirect_output(log)
    os.environ.update(variables)
    sys.argv = [path, *arguments]
    os.chdir(ROOT)
    runpy.run_path(path, run_name='__main__')


def redirect_output(log: str) -> None:
    """Append the output of this process, and of those that it starts, to a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    # Of the parent's terminal or pipe.
    sys.stdout = os.fdopen(1, 'w', buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, 'w', buffering=1, closefd=False)


def benchmark(report: Reporter, tool: str, *flags: str) -> None:
    """Run a benchmark tool, and keep what it prints."""
    process, log = start_tool(report, tool, f'analysis_tools/{tool}', *flags)
    process.join()
    with open(log) as file:
        report.text(f'{tool} {" ".join(flags)}', file.read())
    if process.exitcode != 0:
        raise RuntimeError(f'{tool} failed: {find_error(last_lines(log))}')
    report.expect(f'{tool}: exit code', process.exitcode, 0)


def work_dir(report: Reporter, name: str) -> str:
    """The work dir of a training."""
    return osp.join(report.folder, f'{name}_run')


def start_training(
    report: Reporter, name: str, config: str, *flags: str, **kwargs: Any
) -> tuple[Process, str]:
    """Start a training, as :func:`start_tool`."""
    arguments = [config, '--work-dir', work_dir(report, name), *flags]
    return start_tool(report, name, 'train.py', *arguments, **kwargs)


def train(report: Reporter, name: str, config: str, *flags: str, **kwargs: Any) -> dict[str, Any]:
    """Train to the end, and return the weights of the last checkpoint."""
    process, log = start_training(report, name, config, *flags, **kwargs)
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f'the training "{name}" failed: {find_error(last_lines(log))}')
    with open(osp.join(work_dir(report, name), 'last_checkpoint')) as file:
        path = file.read().strip()
    return read_checkpoint(path, f'checkpoint of the training "{name}"')['state_dict']


def wait_for_log(log: str, pattern: str, process: Process) -> None:
    """Wait until a process has printed a line; the check's own time limit ends this, too."""
    while process.is_alive():
        with suppress(FileNotFoundError), open(log) as file:
            if re.search(pattern, file.read()):
                return
        time.sleep(0.02)
    raise RuntimeError(f'the training has not begun: {find_error(last_lines(log))}')
