# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Trainings that are interrupted and resumed."""

import math
import os
import signal
from collections.abc import Mapping

import torch

from ..findings import Reporter
from ..small_training import small_training
from ..tools import start_training, train, wait_for_log, work_dir


def interruptions(report: Reporter) -> None:
    """Trainings: SIGTERM saves, resuming is exact, NCCL with one process changes nothing."""
    config = small_training(report, epochs=12 if report.full else 4)
    whole = train(report, 'whole', config)
    process, log = start_training(report, 'stopped', config)
    wait_for_log(log, r'Epoch\(train\)\s+\[1\]\[4/', process)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    report.expect('SIGTERM: exit code', process.exitcode, 143)
    saved = [name for name in os.listdir(work_dir(report, 'stopped')) if 'interrupted' in name]
    report.expect('SIGTERM: number of checkpoints', len(saved), 1)
    resumed = train(report, 'stopped', config, '--resume')
    report.limit('resumed: deviation of all weights', largest_gap(resumed, whole), 0.0)
    if not report.full:
        report.needs_gpu('NCCL with one process')
        return
    variables = dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1')
    variables.update(MASTER_ADDR='127.0.0.1', MASTER_PORT='29507')
    nccl = train(report, 'nccl', config, '--launcher', 'pytorch', variables=variables)
    report.limit('NCCL with one process: deviation of all weights', largest_gap(nccl, whole), 1e-5)


def largest_gap(found: Mapping[str, torch.Tensor], reference: Mapping[str, torch.Tensor]) -> float:
    """Largest absolute deviation of any weight; infinite if there are others."""
    if found.keys() != reference.keys():
        return math.inf
    gaps = (found[key].double() - reference[key].double() for key in found)
    return max(float(one.abs().max()) for one in gaps)
