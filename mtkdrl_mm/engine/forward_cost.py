# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Time and memory of the teachers' forward passes."""

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
    """Time and memory of one teacher's forward pass.

    Attributes:
        parameters (int): Number of parameters.
        seconds (float): Time per image, with the conversion of the inputs.
        share (float): Share of the time of a training step, which is the sum of
            all teachers' forward passes and the student's forward and backward
            pass.
        weights_mib (float): Memory of parameters and buffers.
        peak_mib (float): Peak memory of the activations.
    """

    parameters: int
    seconds: float
    share: float
    weights_mib: float
    peak_mib: float


def forward_costs(
    distiller: MultiTeacherDistiller, inputs: Tensor, labels: Tensor, repeats: int = 5
) -> list[ForwardCost]:
    """Measure the forward passes of all teachers on a batch, interleaved with the student's step.

    Args:
        distiller (MultiTeacherDistiller): The distiller. The student's state and
            mode are restored.
        inputs (Tensor): Images as normalised for the student, shape
            (B, 3, H, W).
        labels (Tensor): Shape (B,).
        repeats (int): Timed rounds, of which the median is taken. Defaults
            to 5.

    Returns:
        list[ForwardCost]: One entry per teacher.
    """
    pool, student = distiller.live_teachers, distiller.student

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
    """Median seconds of every action.

    The actions are interleaved: load on the machine then affects all of them alike.
    """
    times: list[list[float]] = [[] for _ in actions]
    for round_number in range(repeats + 1):
        for action, record in zip(actions, times):
            _synchronise(device)
            start = time.perf_counter()
            action()
            _synchronise(device)
            if round_number > 0:  # the first one is a warm-up
                record.append(time.perf_counter() - start)
    return [statistics.median(record) for record in times]


def _synchronise(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def peak_memory(action: Callable[[], Any], device: torch.device) -> float:
    """Peak memory that an action allocates beyond what is allocated before, in MiB.

    On a GPU it is measured by torch's allocator, on the CPU by torch's profiler.

    Args:
        action (Callable): The code to measure.
        device (torch.device): The device that it runs on.

    Returns:
        float: The memory in MiB.
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
