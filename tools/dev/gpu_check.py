# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Check on one GPU all that only a GPU can show: numbers beside their limits, in JSON and a page.

    bash tools/dev/gpu_check.sh OUT

It needs no internet, no weights and no data, apart from the images of the comparison
(tools/dataset_converters/cifar10.py). Every check is a process of its own with a time limit, and
the results are written after each. What does not fit into --seconds is named as not run. On a CPU
the checks run in a reduced form, and what needs CUDA is named so, never as passed.
"""

import argparse
import csv
import gc
import json
import math
import multiprocessing
import os
import os.path as osp
import re
import runpy
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope

import mtkdrl_mm.engine
import mtkdrl_mm.models
from mtkdrl_mm.benchmark import (
    StepSettings,
    distillation,
    peak_memory,
    plain_training,
    with_equal_weights,
    write_images,
)
from mtkdrl_mm.models.teachers.choose_mode import HALF_TOLERANCE, TF32_TOLERANCE, TOLERANCE
from mtkdrl_mm.models.teachers.host_copy import HostCopy
from mtkdrl_mm.report.page import Cell, Facts, Page, Section, Table, Text, write_page
from mtkdrl_mm.rl import RolloutBuffer
from mtkdrl_mm.utils import InputError, check_number, near_matches
from mtkdrl_mm.utils.files import write_json
from mtkdrl_mm.utils.launch import run_tool
from mtkdrl_mm.utils.tool_output import find_error, last_lines
from mtkdrl_mm.utils.torch_load import allow_mmengine_checkpoints

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
IMAGENET = osp.join(ROOT, 'configs', 'mtkdrl', 'r18_imagenet.py')
PASSED, FAILED, MEASURED = 'passed', 'FAILED', 'measured'
NEEDS_GPU, NOT_RUN = 'needs a GPU', 'not run'

# Small networks and few images, for trainings that are interrupted.
NETWORK = """
model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels={width}, base_channels={width}),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=4, in_channels={features},
              loss=dict(type='CrossEntropyLoss')))
"""
DISTILLATION = """
_base_ = {base!r}
data_preprocessor = dict(mean=[127.0] * 3, std=[60.0] * 3, to_rgb=True)
_dataset = dict(type='CustomDataset', data_root={root!r}, data_prefix='images', pipeline=[
    dict(type='LoadImageFromFile'), dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')])
train_dataloader = dict(batch_size=8, num_workers=1, dataset=_dataset,
    sampler=dict(type='DefaultSampler', shuffle=True))
val_cfg = None
test_cfg = None
train_cfg = dict(type='mtkdrl_mm.ResumableEpochLoop', max_epochs={epochs})
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.02, momentum=0.9))
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval={epochs}),
    teacher_check=dict(num_batches=0), agent=dict(type='mtkdrl_mm.AgentHook'))
randomness = dict(seed=0, deterministic=True)
model = dict(
    type='mtkdrl_mm.MultiTeacherDistiller',
    student=dict(cfg_path={student!r}),
    teachers={teachers!r},
    weighting=dict(type='MTKDRL'),
    teacher_inference='eager')
"""


@dataclass
class Finding:
    """One number or fact of a check.

    Attributes:
        name (str): What was measured.
        state (str): "passed", "FAILED", "measured" (without a limit), "needs a
            GPU" or "not run".
        value (float | str | None): The number, or a fact. Defaults to None.
        limit (float, optional): What the number must not exceed. Defaults to
            None.
        unit (str): Its unit. Defaults to none.
    """

    name: str
    state: str
    value: float | str | None = None
    limit: float | None = None
    unit: str = ''


@dataclass
class Result:
    """What a check has found.

    Attributes:
        check (str): Its name.
        title (str): What it checks.
        state (str): The worst state of its findings.
        seconds (float): Its duration.
        problem (str): Why it ended early. Defaults to none.
        findings (list[Finding]): The findings.
        texts (dict[str, str]): Tables that tools printed, by title.
    """

    check: str
    title: str
    state: str = NOT_RUN
    seconds: float = 0.0
    problem: str = ''
    findings: list[Finding] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)


class Reporter:
    """Collects the findings of a check, and writes each at once.

    Attributes:
        args (argparse.Namespace): The command line.
        device (str): "cuda" or "cpu".
        full (bool): Whether the check runs in its full form, on a GPU.
        folder (str): Folder for the check's files.
    """

    def __init__(self, args: argparse.Namespace, name: str) -> None:
        self.args = args
        self.device = args.device
        self.full = args.device.startswith('cuda')
        self.context: Any = multiprocessing.get_context(args.start_method)
        self.folder = osp.join(args.out, 'files', name)
        self.path = osp.join(args.out, 'files', f'{name}.json')
        self.findings: list[Finding] = []
        self.texts: dict[str, str] = {}

    def limit(self, name: str, value: float, limit: float, unit: str = '') -> None:
        """A number that must not exceed its limit; NaN fails."""
        state = PASSED if value <= limit else FAILED
        self._add(Finding(name, state, value, limit, unit))

    def expect(self, name: str, value: Any, expected: Any) -> None:
        """A fact that must be as expected."""
        state = PASSED if value == expected else FAILED
        text = str(value) if value == expected else f'{value}, not {expected}'
        self._add(Finding(name, state, text))

    def measure(self, name: str, value: float | str, unit: str = '') -> None:
        """A number without a limit, or a fact."""
        self._add(Finding(name, MEASURED, value, unit=unit))

    def needs_gpu(self, *names: str) -> None:
        """What a CPU cannot show."""
        for name in names:
            self._add(Finding(name, NEEDS_GPU))

    def not_run(self, name: str, reason: str) -> None:
        """What could not be checked here."""
        self._add(Finding(name, NOT_RUN, reason))

    def text(self, title: str, text: str) -> None:
        """What a tool printed."""
        self.texts[title] = text
        self._write()

    def _add(self, finding: Finding) -> None:
        self.findings.append(finding)
        self._write()

    def _write(self) -> None:
        write_json(dict(findings=[asdict(f) for f in self.findings], texts=self.texts), self.path)


Check = Callable[[Reporter], None]
# Name: function, title, and the seconds that it may take on a GPU; in the order of their
# importance, because later ones may not fit.
CHECKS: dict[str, tuple[Check, str, float]] = {}


def check(seconds: float) -> Callable[[Check], Check]:
    """Register a function as a check; its name and the first line of its docstring are shown."""

    def register(function: Check) -> Check:
        title = (function.__doc__ or '').split('\n')[0].rstrip('.')
        CHECKS[function.__name__] = function, title, seconds
        return function

    return register


@check(seconds=30)
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


@check(seconds=60)
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


@check(seconds=40)
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


@check(seconds=70)
def teacher_modes(report: Reporter) -> None:
    """Teachers that are folded, compiled or in half precision, beside eager mode."""
    tool = runpy.run_path(osp.join(ROOT, 'tools', 'analysis_tools', 'benchmark_teachers.py'))
    size, batch, rounds = (224, 256, 5) if report.full else (32, 2, 1)
    init_default_scope('mmpretrain')
    config = f'mmpretrain::resnet/resnet{50 if report.full else 18}_8xb32_in1k.py'
    normalization = mtkdrl_mm.models.Preprocessing((127.0,) * 3, (60.0,) * 3, to_rgb=True)
    (teacher,) = mtkdrl_mm.models.build_pool(tool['read_teachers']([config]), normalization)
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


@check(seconds=30)
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


@check(seconds=20)
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


@check(seconds=110)
def interruptions(report: Reporter) -> None:
    """Trainings: SIGTERM saves, resuming is exact, NCCL with one process changes nothing."""
    config = small_training(report, epochs=12 if report.full else 4)
    whole = train(report, 'whole', config)
    process, log = start_training(report, 'stopped', config)
    wait_for_log(log, r'Epoch\(train\)\s+\[1\]\[4/', process, seconds=60)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
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


@check(seconds=60)
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


@check(seconds=90)
def step_times(report: Reporter) -> None:
    """Cost of a step: the methods beside each other, 224 pixels, batch 256, AMP."""
    if not report.full:
        report.needs_gpu('time of a step of every method')
        return
    flags = ['aver', 'camkd', 'mmkd', 'mtkdrl', '--input-size', '224', '--batch-size', '256']
    flags += ['--num-classes', '1000', '--steps', '8', '--amp', '--no-memory']
    benchmark(report, 'benchmark_distill.py', *flags)


@check(seconds=120)
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


@check(seconds=40)
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


@check(seconds=170)
def comparison(report: Reporter) -> None:
    """A short comparison on CIFAR-10: plain training, AVER, MTKD-RL."""
    data = osp.abspath(report.args.cifar10)
    if not report.full:
        report.needs_gpu('a comparison on CIFAR-10')
        return
    if not osp.isdir(osp.join(data, 'meta')):
        report.not_run('a comparison on CIFAR-10', f'no images in {data}: give --cifar10')
        return
    epochs = 4
    options = [f'train_cfg.max_epochs={epochs}', f'train_cfg.val_interval={epochs}']
    options += [f'default_hooks.checkpoint.interval={epochs}', 'param_scheduler.1.T_max=4']
    names = ('train_dataloader', 'val_dataloader')
    options += [f'{name}.dataset.data_root={data}' for name in names]
    options += [f'{name}.num_workers=3' for name in names]
    teachers = ('resnet', 'densenet', 'repvgg', 'regnet')
    started = []
    for name in teachers:
        config = osp.join(ROOT, 'configs', 'cifar10', f'teacher_{name}.py')
        started.append(start_training(report, name, config, '--cfg-options', *options)[0])
    for name, process in zip(teachers, started):
        process.join()
        report.expect(f'teacher {name}: exit code', process.exitcode, 0)
    methods = [
        osp.join(ROOT, 'configs', 'cifar10', f'student_{m}.py')
        for m in ('baseline', 'aver', 'mtkdrl')
    ]
    rows = []
    for method in methods:
        name = osp.basename(method)[len('student_') : -len('.py')]
        own = (
            []
            if name == 'baseline'
            else [
                f'model.teachers.{i}.checkpoint={work_dir(report, t)}/epoch_{epochs}.pth'
                for i, t in enumerate(teachers)
            ]
        )
        rows += ['--row', name, method, 'CIFAR10_POOL=clean', *own]
    out = osp.join(report.folder, 'compare')
    flags = [*rows, '--seeds', '0', '--jobs', '3', '--work-dir', out, '--cfg-options', *options]
    process, _ = start_tool(report, 'compare', 'analysis_tools/compare_methods.py', *flags)
    process.join()
    report.expect('exit code of the comparison', process.exitcode, 0)
    with open(osp.join(out, 'table.md')) as file:
        report.text('table.md', file.read())
    with open(osp.join(out, 'runs.csv')) as file:
        for run in csv.DictReader(file):
            # Far from what these networks can do, and far from chance (90 %).
            error = 100 - float(run['accuracy/top1'])
            report.limit(f'{run["method"]}: error', error, 80.0, '%')


def step_settings(report: Reporter, amp: bool = False) -> StepSettings:
    """Sizes of the steps: ImageNet's on a GPU, small ones on a CPU."""
    if report.full:
        return StepSettings('cuda', 224, 64, 1000, amp=amp)
    return StepSettings('cpu', 32, 4, 4, amp=amp)


def losses(
    report: Reporter,
    steps: int,
    amp: bool = False,
    amp_dtype: str = 'float16',
    channels_last: bool | None = None,
) -> np.ndarray:
    """The losses of some training steps from the same weights, on the same random batch."""
    cfg = Config.fromfile(IMAGENET if report.full else small_training(report, epochs=1))
    torch.manual_seed(0)
    cfg.pop('train_dataloader')
    cfg.model.channels_last = channels_last
    cfg.model.teacher_inference = 'eager'
    cfg.randomness = dict(seed=0)
    if amp:
        cfg.optim_wrapper.dtype = amp_dtype
    variant = distillation(cfg, step_settings(report, amp))[1]
    found = []
    for _ in range(steps):
        variant.run()
        found.append(MessageHub.get_current_instance().get_scalar('train/loss').current())
    del variant
    free_memory()
    return np.array(found)


def free_memory() -> None:
    """Free the device's memory of networks that nothing uses any more."""
    gc.collect()  # runners and models refer to each other
    torch.cuda.empty_cache()  # does nothing without CUDA


def gap(found: np.ndarray, reference: np.ndarray) -> float:
    """Relative deviation of the mean loss."""
    expected = reference[: len(found)].mean()
    return float(abs(found.mean() - expected) / abs(expected))


def small_training(report: Reporter, epochs: int) -> str:
    """Write images, networks and the config of a small distillation; returns the config's path."""
    from mmpretrain import get_model

    folder = report.folder
    path = osp.join(folder, 'distillation.py')
    if osp.isfile(path):
        return path
    write_images(osp.join(folder, 'images'), 48, 4, 32)
    networks = {}
    for name, width in (('student', 8), ('teacher0', 8), ('teacher1', 12)):
        networks[name] = osp.join(folder, f'{name}.py')
        with open(networks[name], 'w') as file:
            file.write(NETWORK.format(width=width, features=8 * width))
    teachers = []
    torch.manual_seed(0)
    for name in ('teacher0', 'teacher1'):
        model = get_model(Config.fromfile(networks[name]))
        checkpoint = osp.join(folder, f'{name}.pth')
        torch.save(dict(state_dict=model.state_dict()), checkpoint)
        teachers.append(dict(name=name, cfg_path=networks[name], checkpoint=checkpoint))
    base = osp.join(ROOT, 'configs', '_base_', 'distillation.py')
    with open(path, 'w') as file:
        file.write(
            DISTILLATION.format(
                base=base,
                root=folder,
                epochs=epochs,
                student=networks['student'],
                teachers=teachers,
            )
        )
    return path


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
    allow_mmengine_checkpoints()
    return torch.load(path, map_location='cpu')['state_dict']


def largest_gap(found: Mapping[str, torch.Tensor], reference: Mapping[str, torch.Tensor]) -> float:
    """Largest absolute deviation of any weight; infinite if there are others."""
    if found.keys() != reference.keys():
        return math.inf
    gaps = (found[key].double() - reference[key].double() for key in found)
    return max(float(one.abs().max()) for one in gaps)


def wait_for_log(log: str, pattern: str, process: Process, seconds: float) -> None:
    """Wait until a process has printed a line."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.is_alive():
        with suppress(FileNotFoundError), open(log) as file:
            if re.search(pattern, file.read()):
                return
        time.sleep(0.02)
    raise RuntimeError(f'the training has not begun: {find_error(last_lines(log))}')


def benchmark(report: Reporter, tool: str, *flags: str) -> None:
    """Run a benchmark tool, and keep what it prints."""
    process, log = start_tool(report, tool, f'analysis_tools/{tool}', *flags)
    process.join()
    with open(log) as file:
        report.text(f'{tool} {" ".join(flags)}', file.read())
    if process.exitcode != 0:
        raise RuntimeError(f'{tool} failed: {find_error(last_lines(log))}')
    report.expect(f'{tool}: exit code', process.exitcode, 0)


def run_check(name: str, args: argparse.Namespace, seconds: float) -> Result:
    """Run a check in a process of its own, which is killed after its time."""
    function, title, _ = CHECKS[name]
    report = Reporter(args, name)
    os.makedirs(report.folder, exist_ok=True)
    log = osp.join(args.out, 'files', f'{name}.txt')
    process = report.context.Process(target=run_function, args=(function, report, log))
    start = time.monotonic()
    process.start()
    process.join(seconds)
    late = process.is_alive()
    if late:
        # With all processes that it has started.
        with suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
    result = Result(name, title, seconds=round(time.monotonic() - start, 1))
    if osp.isfile(report.path):
        with open(report.path) as file:
            found = json.load(file)
        result.findings = [Finding(**one) for one in found['findings']]
        result.texts = found['texts']
    if late:
        result.problem = f'stopped after {seconds:.0f} s; what is above was found before'
    elif process.exitcode != 0:
        result.problem = find_error(last_lines(log)) or f'exit code {process.exitcode}'
    result.state = state_of(result)
    return result


def state_of(result: Result) -> str:
    """The worst state of a check's findings; an error or a time limit is a failure."""
    states = {finding.state for finding in result.findings}
    if result.problem or FAILED in states:
        return FAILED
    order = (NOT_RUN, NEEDS_GPU, PASSED, MEASURED)
    return next((state for state in order if state in states), NOT_RUN)


def run_function(function: Check, report: Reporter, log: str) -> None:
    """Run a check in its process."""
    os.setsid()
    redirect_output(log)
    function(report)


def write_results(results: Sequence[Result], args: argparse.Namespace, seconds: float) -> None:
    """Write all results so far, as JSON and as a page."""
    device = 'cpu'
    for result in results:
        device = next(
            (str(f.value) for f in result.findings if f.name == 'GPU' and f.value), device
        )
    counts = {state: sum(one.state == state for one in results) for state in states()}
    summary = dict(device=device, seconds=round(seconds, 1), counts=counts)
    write_json(
        dict(**summary, checks=[asdict(result) for result in results]),
        osp.join(args.out, 'gpu_check.json'),
        indent=1,
    )
    page = Page(
        title='Checks on a GPU',
        subtitle=f'{describe(counts)} Device: {device}. {seconds:.0f} s.',
        sections=[overview(results), *(section(result) for result in results)],
    )
    write_page(page, osp.join(args.out, 'gpu_check.html'))


def states() -> tuple[str, ...]:
    """All states, the worst first."""
    return FAILED, NOT_RUN, NEEDS_GPU, PASSED, MEASURED


def describe(counts: Mapping[str, int]) -> str:
    """How many checks are in each state: "10 passed, 1 not run."."""
    return ', '.join(f'{number} {state}' for state, number in counts.items() if number) + '.'


def overview(results: Sequence[Result]) -> Section:
    """All checks, one per line."""
    rows = [
        [
            Cell(result.check, href=f'#{result.check}'),
            Cell(result.title, wrap=True),
            tinted(result.state),
            f'{result.seconds:.0f}',
            Cell(result.problem, wrap=True),
        ]
        for result in results
    ]
    head = ['check', 'what', 'state', 'seconds', '']
    return Section('checks', 'Checks', [Table('All checks', head, rows)])


def section(result: Result) -> Section:
    """The findings of a check."""
    rows = [
        [
            Cell(finding.name, wrap=True),
            Cell(number(finding.value), wrap=True),
            finding.unit,
            number(finding.limit),
            tinted(finding.state),
        ]
        for finding in result.findings
    ]
    blocks: list[Any] = []
    if rows:
        head = ['what', 'value', 'unit', 'at most', 'state']
        blocks.append(Table(result.title, head, rows, note=result.problem))
    else:
        blocks.append(Facts([('state', result.problem or result.state)]))
    blocks += [Text(title, text) for title, text in result.texts.items()]
    return Section(result.check, result.title, blocks)


def tinted(state: str) -> Cell:
    """A state in its colour."""
    return Cell(state, tone={PASSED: 'above', FAILED: 'below'}.get(state, ''))


def number(value: float | str | None) -> str:
    """A number with four digits; other texts as they are."""
    return f'{value:.4g}' if isinstance(value, (int, float)) else value or ''


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


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('out', help='folder for gpu_check.json and gpu_check.html')
    parser.add_argument('--seconds', type=float, default=530, help='time for all checks (530)')
    parser.add_argument(
        '--checks', nargs='+', metavar='NAME', help=f'only these, of {", ".join(CHECKS)}'
    )
    parser.add_argument(
        '--cifar10',
        default=osp.join(ROOT, 'data', 'cifar10_sample'),
        help='images of the comparison, written by tools/dataset_converters/cifar10.py',
    )
    return parser.parse_args()


def main() -> None:
    start = time.monotonic()
    args = parse_args()
    check_number('--seconds', args.seconds, minimum=0, exclusive=True)
    for name in args.checks or ():
        if name not in CHECKS:
            raise InputError(f'--checks: there is no check "{name}". {near_matches(name, CHECKS)}')
    args.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    args.start_method = choose_start_method(args.device)
    args.out = osp.abspath(args.out)
    # Results of an earlier run would be taken for those of this one.
    shutil.rmtree(osp.join(args.out, 'files'), ignore_errors=True)
    os.makedirs(osp.join(args.out, 'files'))
    results: list[Result] = []
    for name in args.checks or CHECKS:
        _, title, seconds = CHECKS[name]
        left = args.seconds - (time.monotonic() - start)
        if left < min(seconds, args.seconds) / 2:
            problem = f'not run: {max(left, 0):.0f} s were left, and it may take {seconds:.0f} s'
            results.append(Result(name, title, NOT_RUN, problem=problem))
        else:
            results.append(run_check(name, args, min(seconds, left)))
        result = results[-1]
        print(
            f'{result.state:<12}{name} ({result.title}), {result.seconds:.0f} s'
            + (f': {result.problem}' if result.problem else ''),
            flush=True,
        )
        write_results(results, args, time.monotonic() - start)
    print(f'\n{osp.join(args.out, "gpu_check.html")}')
    failed = [result.check for result in results if result.state == FAILED]
    if failed:
        raise InputError(f'{len(failed)} of {len(results)} checks failed: {", ".join(failed)}.')


if __name__ == '__main__':
    run_tool(main)
