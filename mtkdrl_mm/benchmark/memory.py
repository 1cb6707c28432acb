# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Peak memory of a variant, in a process of its own."""

import gc
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import torch

from .rounds import Variant

_STEPS = 4


@dataclass(frozen=True)
class PeakMemory:
    """Peak memory of a training.

    Attributes:
        process_mib (float): Resident memory of the process.
        device_mib (float, optional): Memory of tensors on a CUDA device; None
            on the CPU.
        buffer_mib (float): Host memory that the rows in the agent's rollout
            buffer occupy, included in that of the process.
    """

    process_mib: float
    device_mib: float | None = None
    buffer_mib: float = 0.0

    @property
    def besides_buffer(self) -> float:
        """Device memory, or that of the process besides the agent's buffer, in MiB."""
        return self.process_mib - self.buffer_mib if self.device_mib is None else self.device_mib


def peak_memory(variant: Variant, device: str) -> PeakMemory:
    """Measure the peak memory of this process over some steps and an update of the agent.

    Args:
        variant (Variant): All that was built in this process.
        device (str): Where the steps run.

    Returns:
        PeakMemory: Since the start of the process.
    """
    gc.collect()
    if variant.feed is None:
        for _ in range(_STEPS):
            variant.run()
    else:
        with variant.feed as feed:
            for _ in range(_STEPS):
                variant.step(next(feed))
    buffer = variant.buffer
    buffered = 0 if buffer is None else len(buffer) * buffer.bytes_per_image
    if variant.update is not None:
        variant.update()
    with open('/proc/self/status') as file:
        peak = next(line for line in file if line.startswith('VmHWM'))
    return PeakMemory(
        process_mib=int(peak.split()[1]) / 1024,
        device_mib=torch.cuda.max_memory_allocated() / 2**20 if device.startswith('cuda') else None,
        buffer_mib=buffered / 2**20,
    )


def measure_memory(names: Iterable[str], arguments: Sequence[str] = ()) -> dict[str, PeakMemory]:
    """Run this program once more for every variant, with ``--memory-of NAME``.

    There it prints what :func:`peak_memory` returns by :func:`print_memory`.

    Args:
        names (Iterable[str]): Names of the variants.
        arguments (Sequence[str]): Further arguments. Defaults to none.

    Returns:
        dict[str, PeakMemory]: By name.
    """
    found = {}
    for name in names:
        command = [sys.executable, *sys.argv, '--memory-of', name, *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(done.returncode)  # it has printed the reason
        found[name] = PeakMemory(**json.loads(done.stdout.strip().split('\n')[-1]))
    return found


def print_memory(memory: PeakMemory) -> None:
    """Print it as one line, for :func:`measure_memory`.

    Args:
        memory (PeakMemory): What was measured.
    """
    print(json.dumps(asdict(memory)), flush=True)
