# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What a pool's teachers cost, before a training is paid for."""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.models.classifier_output import run_classifier


@dataclass(frozen=True)
class ForwardCost:
    """Cost of one teacher's forward pass.

    Attributes:
        parameters (int): Number of parameters.
        seconds (float): Per image, with the conversion of the inputs.
        share (float): Of a step's time: of all teachers' forward passes, and
            the student's forward and backward pass.
        weights_mib (float): Memory of parameters and buffers.
        peak_mib (float): Memory on top, at the height of the pass.
    """

    parameters: int
    seconds: float
    share: float
    weights_mib: float
    peak_mib: float


def forward_costs(
    distiller: MultiTeacherDistiller, inputs: Tensor, labels: Tensor, repeats: int = 5
) -> list[ForwardCost]:
    """Measure all teachers on a batch, taking turns with the student.

    Args:
        distiller (MultiTeacherDistiller): With loaded teachers. The student
            comes out as it went in.
        inputs (Tensor): Images as normalised for the student, shape
            (B, 3, H, W).
        labels (Tensor): Shape (B,).
        repeats (int): Timed turns; medians are taken. Defaults to 5.

    Returns:
        list[ForwardCost]: One per teacher.
    """
    pool, student = distiller.teachers, distiller.student

    def run_teacher(teacher: nn.Module) -> None:
        teacher(teacher.preprocessing.convert(inputs, pool.student_preprocessing))

    actions: list[Callable[[], Any]] = [partial(run_teacher, teacher) for teacher in pool]
    state = copy.deepcopy(student.state_dict())
    was_training = student.training
    student.train()

    def student_step() -> None:
        logits = run_classifier(student, inputs, distiller.token_maps).logits
        F.cross_entropy(logits.float(), labels).backward()
        student.zero_grad()

    actions.append(student_step)
    seconds = _interleaved(actions, repeats, inputs.device)
    student.train(was_training)
    student.load_state_dict(state)
    costs = []
    for m, network in enumerate(teacher.network for teacher in pool):
        tensors = [*network.parameters(), *network.buffers()]
        costs.append(
            ForwardCost(
                parameters=sum(p.numel() for p in network.parameters()),
                seconds=seconds[m] / len(inputs),
                share=seconds[m] / sum(seconds),
                weights_mib=sum(t.numel() * t.element_size() for t in tensors) / 2**20,
                peak_mib=peak_memory(actions[m], inputs.device),
            )
        )
    return costs


def _interleaved(
    actions: Sequence[Callable[[], Any]], repeats: int, device: torch.device
) -> list[float]:
    """Median seconds of every action; turns, so that a noisy machine disturbs all alike."""
    times: list[list[float]] = [[] for _ in actions]
    for turn in range(repeats + 1):
        for action, record in zip(actions, times):
            _synchronise(device)
            start = time.perf_counter()
            action()
            _synchronise(device)
            if turn > 0:  # the first warms up
                record.append(time.perf_counter() - start)
    return [statistics.median(record) for record in times]


def _synchronise(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def peak_memory(action: Callable[[], Any], device: torch.device) -> float:
    """Memory that an action takes at its height beyond what is held before, in MiB.

    On a GPU as its allocator counts it; on the CPU the sum of torch's own
    allocations, whatever the operating system makes of them.
    """
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        action()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == '[memory]':
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 2**20
