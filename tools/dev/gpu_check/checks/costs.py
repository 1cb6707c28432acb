# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Memory and time of training steps, and the throughput of a store."""

import json
import os
import os.path as osp
import statistics

import torch
from mmengine.config import Config

from mtkdrl_mm.benchmark import distillation, peak_memory, plain_training, with_equal_weights

from ..findings import Reporter
from ..steps import IMAGENET, free_memory, step_settings
from ..tools import benchmark


def memory(report: Reporter) -> None:
    """Peak memory of a step, and whether it grows."""
    if not report.full:
        report.needs_gpu('peak memory', 'growth of the memory')
        return
    settings = step_settings(report, amp=True)
    cfg = Config.fromfile(IMAGENET)
    variant = distillation(cfg, settings)[1]
    for _ in range(4):
        variant.run()
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        variant.run()
    grown = (torch.cuda.memory_allocated() - before) / 2**20
    report.limit('growth over 20 steps', grown, 1.0, 'MiB')
    report.measure('MTKD-RL: peak', peak_memory(variant, report.device).device_mib or 0.0, 'MiB')
    for name, make in (
        ('AVER', lambda: distillation(with_equal_weights(cfg), settings)[1]),
        ('plain training', lambda: plain_training(cfg, settings)),
    ):
        del variant
        free_memory()
        torch.cuda.reset_peak_memory_stats()
        variant = make()
        peak = peak_memory(variant, report.device).device_mib or 0.0
        report.measure(f'{name}: peak', peak, 'MiB')


def step_times(report: Reporter) -> None:
    """Cost of a step: the methods beside each other, 224 pixels, batch 256, AMP."""
    if not report.full:
        report.needs_gpu('time of a step of every method')
        return
    flags = ['aver', 'camkd', 'mmkd', 'mtkdrl', '--input-size', '224', '--batch-size', '256']
    flags += ['--num-classes', '1000', '--steps', '8', '--amp', '--no-memory']
    benchmark(report, 'benchmark_distill.py', *flags)


def training_times(report: Reporter) -> None:
    """Cost of a step beside plain training, with running and stored teachers and data loading."""
    if not report.full:
        report.needs_gpu('time of a step from a store', 'images per second of the loader')
        return
    out = osp.join(report.folder, 'benchmark_training')
    flags = ['--input-size', '224', '--batch-size', '256', '--num-images', '1024', '--amp']
    flags += ['--rounds', '8', '--update-rounds', '4', '--loading-rounds', '2']
    flags += ['--loading-steps', '4', '--memory-runs', '0', '--reading-samples', '4096']
    flags += ['--workers', str(max(1, (os.cpu_count() or 2) - 1)), '--folder', report.folder]
    benchmark(report, 'benchmark_training.py', *flags, '--out', out)
    with open(f'{out}.json') as file:
        report.text('benchmark_training.json', file.read())


def store(report: Reporter) -> None:
    """Throughput of a store on this machine's disk."""
    samples = ['--samples', '16384'] if report.full else ['--samples', '256', '--part-size', '64']
    small = [] if report.full else ['--count', '64', '--rounds', '1', '--logits', '10']
    out = osp.join(report.folder, 'store.json')
    flags = [*samples, *small, '--folder', report.folder, '--out', out]
    benchmark(report, 'benchmark_store.py', *flags)
    with open(out) as file:
        rates = json.load(file)
    for key in ('warm', 'cold'):
        for name, values in rates[key].items():
            if isinstance(values, list):
                rate = statistics.median(values)
                report.measure(f'{key} page cache, {name}', rate, 'images/s')
