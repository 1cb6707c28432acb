# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Copies between host and device that overlap with its work."""

import math

import torch

from mtkdrl_mm.models.teachers.host_copy import HostCopy
from mtkdrl_mm.rl import RolloutBuffer

from ..findings import Reporter


def host_copies(report: Reporter) -> None:
    """Teachers in host memory, copied to the device while it computes."""
    from mmpretrain import get_model

    torch.manual_seed(0)
    networks = [get_model('resnet18_8xb32_in1k').eval() for _ in range(2)]
    inputs = torch.randn(8 if report.full else 2, 3, 64, 64).to(report.device)
    device = inputs.device
    with torch.no_grad():
        expected = [network.to(device)(inputs).cpu() for network in networks]
        copies = [HostCopy(network.to('cpu')) for network in networks]
        worst = 0.0
        for _ in range(50 if report.full else 2):
            copies[0].prefetch(device)
            for index, (network, copy) in enumerate(zip(networks, copies)):
                copy.load(device)
                copies[1 - index].prefetch(device)  # while this one computes
                deviation = (network(inputs).cpu() - expected[index]).abs().max()
                worst = max(worst, float(deviation))
                copy.unload()
    report.limit('deviation from resident teachers', worst, 0.0)
    if report.full:
        pinned = all(tensor.is_pinned() for copy in copies for tensor in copy._host)
        report.expect('the host memory is pinned', pinned, True)
    else:
        report.needs_gpu('copies on a stream of their own', 'pinned host memory')


def buffer_copies(report: Reporter) -> None:
    """The agent's rollout buffer, filled from the device while that goes on computing."""
    sizes, batch = [512, 2048], 64
    mib = 20 * batch * (2 * sum(sizes) + 4 * len(sizes)) / 2**20  # of 20 steps
    device = torch.device(report.device)
    buffers = [RolloutBuffer(sizes, mib) for _ in range(2)]
    generators = [torch.Generator().manual_seed(1) for _ in buffers]
    draw = torch.Generator().manual_seed(0)
    for _ in range(50 if report.full else 25):  # more than fit: images are replaced
        states = [torch.randn(batch, size, generator=draw) for size in sizes]
        rewards = torch.randn(batch, len(sizes), generator=draw)
        sources = [state.to(device, copy=True) for state in states]
        buffers[0].add(sources, rewards.to(device), generators[0])
        for source in sources:
            source.fill_(math.nan)  # as later steps overwrite the device's memory
        buffers[1].add(states, rewards, generators[1])
    worst, pairs = 0.0, zip(*(buffer.iterate(torch.device('cpu')) for buffer in buffers))
    for (found, reward), (expected, expected_reward) in pairs:
        for one, other in ((reward, expected_reward), *zip(found, expected)):
            difference = (one.double() - other.double()).abs().nan_to_num(math.inf).max()
            worst = max(worst, float(difference))
    report.expect('images in the buffer', len(buffers[0]), buffers[1].capacity)
    report.limit('deviation from a buffer that is filled on the CPU', worst, 0.0)
    if not report.full:
        report.needs_gpu('copies from a GPU')
