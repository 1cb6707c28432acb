# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Every check runs in a process of its own, which is killed after its time."""

import argparse
import json
import multiprocessing
import os
import os.path as osp
import signal
import time
from contextlib import suppress

import torch

from mtkdrl_mm.utils.tool_output import find_error, last_lines

from .checks import Check
from .findings import FAILED, NOT_RUN, STATES, Finding, Reporter, Result
from .tools import redirect_output


def run_check(check: Check, args: argparse.Namespace, seconds: float) -> Result:
    """Run a check, and read what it has found until it ended or was killed."""
    report = Reporter(args, check.name)
    os.makedirs(report.folder, exist_ok=True)
    log = osp.join(args.out, 'files', f'{check.name}.txt')
    process = report.context.Process(target=run_in_process, args=(check, report, log))
    start = time.monotonic()
    process.start()
    process.join(seconds)
    late = process.is_alive()
    if late:
        # With all processes that it has started.
        with suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
    result = Result(check.name, check.title, seconds=round(time.monotonic() - start, 1))
    if osp.isfile(report.path):
        with open(report.path) as file:
            found = json.load(file)
        result.findings = [Finding(**one) for one in found['findings']]
        result.texts = found['texts']
    if late:
        result.problem = f'stopped after {seconds:.0f} s; what is above was found before'
    elif process.exitcode != 0:
        result.problem = find_error(last_lines(log)) or f'exit code {process.exitcode}'
    result.state = worst_state(result)
    return result


def run_in_process(check: Check, report: Reporter, log: str) -> None:
    """Run a check in the process that was started for it."""
    os.setsid()
    redirect_output(log)
    check.function(report)


def worst_state(result: Result) -> str:
    """The worst state of a check's findings; an error or a time limit is a failure."""
    found = {finding.state for finding in result.findings}
    if result.problem:
        found.add(FAILED)
    return next((state for state in STATES if state in found), NOT_RUN)


def choose_start_method(device: str) -> str:
    """Forks of this process, which need no imports; new processes where CUDA does not allow it.

    It does not after a question to CUDA itself. gpu_check.sh has torch ask the driver's library.
    """
    trial = multiprocessing.get_context('fork').Process(
        target=torch.zeros, args=(1,), kwargs=dict(device=device)
    )
    with open(os.devnull, 'w') as nowhere:
        before = os.dup(2)
        os.dup2(nowhere.fileno(), 2)  # the trial's traceback
        trial.start()
        trial.join()
        os.dup2(before, 2)
        os.close(before)
    return 'fork' if trial.exitcode == 0 else 'spawn'
