# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Numbers beside their reference: precision, layout of the memory, modes of teachers."""

import argparse
import os.path as osp
import runpy
import statistics
import sys
import time

import numpy as np
import torch
from mmengine.registry import init_default_scope

from mtkdrl_mm.models import Preprocessing, build_pool
from mtkdrl_mm.models.teachers.choose_mode import HALF_TOLERANCE, TF32_TOLERANCE, TOLERANCE

from .. import ROOT
from ..findings import Reporter
from ..steps import losses


def environment(report: Reporter) -> None:
    """Versions and device."""
    report.measure('Python', sys.version.split()[0])
    import mmpretrain

    for module in (torch, np, mmpretrain):
        report.measure(module.__name__, module.__version__)
    if not report.full:
        report.needs_gpu('GPU')
        return
    properties = torch.cuda.get_device_properties(0)
    report.measure('GPU', properties.name)
    report.measure('memory of the GPU', properties.total_memory / 2**30, 'GiB')
    report.measure('compute capability', f'{properties.major}.{properties.minor}')
    report.measure('CUDA', str(torch.version.cuda))
    report.measure('cuDNN', str(torch.backends.cudnn.version()))
    report.measure('NCCL', '.'.join(map(str, torch.cuda.nccl.version())))
    report.expect('bfloat16', torch.cuda.is_bf16_supported(), True)


def precision(report: Reporter) -> None:
    """Losses of whole training steps in fp16 and bf16 (AMP), beside float32."""
    steps = 20 if report.full else 3
    reference = losses(report, steps)
    report.expect('float32: all losses are finite', bool(np.isfinite(reference).all()), True)
    names = {'float16': 0.02, 'bfloat16': 0.05}
    if not report.full:
        report.needs_gpu(*(f'{name}: deviation of the loss' for name in names))
        return
    for name, limit in names.items():
        found = losses(report, steps, amp=True, amp_dtype=name)
        report.limit(f'{name}: deviation of the loss, first step', gap(found[:1], reference), limit)
        report.limit(f'{name}: deviation, mean of all steps', gap(found, reference), limit)


def channels_last(report: Reporter) -> None:
    """Losses of whole training steps in channels_last, beside the contiguous layout."""
    steps = 5 if report.full else 3
    start = time.perf_counter()
    reference = losses(report, steps, channels_last=False)
    middle = time.perf_counter()
    found = losses(report, steps, channels_last=True)
    # Convolutions sum in another order, and round to TF32 on a GPU.
    limit = TF32_TOLERANCE if report.full else TOLERANCE
    report.limit('deviation of the loss, first step', gap(found[:1], reference), limit)
    report.limit('deviation of the loss, mean of all steps', gap(found, reference), limit)
    report.measure('contiguous: building and steps', middle - start, 's')
    report.measure('channels_last: building and steps', time.perf_counter() - middle, 's')


def teacher_modes(report: Reporter) -> None:
    """Teachers that are folded, compiled or in half precision, beside eager mode."""
    tool = runpy.run_path(osp.join(ROOT, 'tools', 'analysis_tools', 'benchmark_teachers.py'))
    size, batch, rounds = (224, 256, 5) if report.full else (32, 2, 1)
    init_default_scope('mmpretrain')
    config = f'mmpretrain::resnet/resnet{50 if report.full else 18}_8xb32_in1k.py'
    normalization = Preprocessing((127.0,) * 3, (60.0,) * 3, to_rgb=True)
    (teacher,) = build_pool(tool['read_teachers']([config]), normalization)
    tool['randomize'](teacher.network)
    teacher.to(report.device)
    inputs = torch.randn((batch, 3, size, size), generator=torch.Generator().manual_seed(0))
    inputs = inputs.to(report.device)
    args = argparse.Namespace(compile=report.full, rounds=rounds, device=report.device)
    with torch.no_grad():
        results = tool['measure'](teacher, inputs, args)
    eager = statistics.median(results['eager']['seconds'])
    for name, result in results.items():
        half = 'float16' in name
        limit = HALF_TOLERANCE if half else TF32_TOLERANCE if report.full else TOLERANCE
        if name != 'eager':
            report.limit(f'{name}: deviation of the logits', result['logits'], limit, 'std')
        if report.full:
            seconds = statistics.median(result['seconds'])
            report.measure(f'{name}: time beside eager', seconds / eager)
    if not report.full:
        report.needs_gpu('compiled: deviation of the logits', 'float16: deviation of the logits')


def gap(found: np.ndarray, reference: np.ndarray) -> float:
    """Relative deviation of the mean loss."""
    expected = reference[: len(found)].mean()
    return float(abs(found.mean() - expected) / abs(expected))
