# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Measure what distillation costs beside running the networks.

For every config the step of the whole training (loss, backward, optimiser,
hooks' work) is timed, and compared with a floor: the teachers' forward passes
and the student's own step, without any distillation loss. The variants take
turns within one process, step by step, so that a noisy machine disturbs all of
them alike.

    python tools/analysis_tools/benchmark_distill.py \\
        configs/aver/r18_imagenet.py configs/mtkdrl/r18_imagenet.py \\
        --input-size 64 --batch-size 32 --num-classes 100
"""

import argparse
import gc
import os.path as osp
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.optim import build_optim_wrapper
from mmpretrain.structures import DataSample

from mtkdrl_mm.models import MTKDRL, MultiTeacherDistiller
from mtkdrl_mm.models.classifier_output import run_classifier
from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.rl import History
from mtkdrl_mm.utils.launch import run_tool

FLOOR = 'floor (teachers + student)'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('configs', nargs='+', help='configs; ratios are to the first of them')
    parser.add_argument('--input-size', type=int, default=64)
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--num-classes', type=int, default=100)
    parser.add_argument('--steps', type=int, default=20, help='timed steps of every variant')
    parser.add_argument('--warmup', type=int, default=3, help='steps before timing')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--amp', action='store_true')
    parser.add_argument('--no-memory', action='store_true', help='skip the memory measurement')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    parser.add_argument('--memory-of', help=argparse.SUPPRESS)
    return parser.parse_args()


def make_batch(args: argparse.Namespace) -> dict[str, Any]:
    """Random pixels and labels: the cost does not depend on what is shown."""
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch_size, 3, args.input_size, args.input_size)
    labels = torch.randint(args.num_classes, (args.batch_size,), generator=generator)
    return dict(
        inputs=torch.randint(256, shape, dtype=torch.uint8, generator=generator),
        data_samples=[DataSample().set_gt_label(int(label)) for label in labels],
    )


def build_step(
    args: argparse.Namespace, path: str, pool_of: MultiTeacherDistiller = None
) -> 'tuple[MultiTeacherDistiller, Callable[[], None]]':
    """Build a config's model and its training step.

    All variants share the first one's teachers, so that the memory of the
    machine holds them once.
    """
    cfg = Config.fromfile(path)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    cfg.model.num_classes = args.num_classes
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    if pool_of is not None:
        model.__dict__['teachers'] = pool_of.teachers
    model.to(args.device).train()
    if model._use_channels_last(torch.device(args.device)):
        model.student.to(memory_format=torch.channels_last)
        model.teachers.to(memory_format=torch.channels_last)
    optim_cfg = cfg.optim_wrapper.to_dict()
    if args.amp:
        optim_cfg.update(type='AmpOptimWrapper', loss_scale='dynamic')
    optim_wrapper = build_optim_wrapper(model, optim_cfg)
    add_history(model, cfg)
    batch = make_batch(args)
    return model, lambda: model.train_step(batch, optim_wrapper)


def add_history(model: MultiTeacherDistiller, cfg: Config) -> None:
    """Do what AgentHook does in every step: reward and history."""
    if not isinstance(model.weighting, MTKDRL):
        return
    from mtkdrl_mm.engine.hooks import AgentHook

    hook_cfg = {k: v for k, v in cfg.default_hooks.agent.items() if k != 'type'}
    hook = AgentHook(**hook_cfg)
    model.weighting.warming_up = False
    hook.history = History(model.weighting.state_sizes, hook.history_budget)

    def record(terms: Any, weights: Any) -> None:
        hook.history.add(weights.states, hook.reward(terms), hook._generator)

    model.step_observers.append(record)


def build_floor(
    args: argparse.Namespace, path: str, pool_of: MultiTeacherDistiller = None
) -> Callable[[], None]:
    """The teachers' forward passes and the student's own step, nothing else."""
    model, _ = build_step(args, path, pool_of)

    class Floor(torch.nn.Module):
        """Only the student's parameters are optimised."""

        def __init__(self) -> None:
            super().__init__()
            self.student = model.student

    optim_cfg = Config.fromfile(path).optim_wrapper.to_dict()
    if args.amp:
        optim_cfg.update(type='AmpOptimWrapper', loss_scale='dynamic')
    optim_wrapper = build_optim_wrapper(Floor(), optim_cfg)
    batch = make_batch(args)

    def step() -> None:
        with optim_wrapper.optim_context(model):
            data = model.data_preprocessor(batch, True)
            inputs = data['inputs']
            if model._use_channels_last(inputs.device):
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            outputs = model.teachers.query(inputs)
            logits = run_classifier(model.student, inputs).logits
            labels = torch.cat([s.gt_label for s in data['data_samples']]).to(logits.device)
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        parsed, log_vars = model.parse_losses(dict(loss=loss))
        optim_wrapper.update_params(parsed)
        del outputs, log_vars

    return step


def variant_name(path: str) -> str:
    return osp.join(osp.basename(osp.dirname(path)), osp.splitext(osp.basename(path))[0])


def synchronise(device: str) -> None:
    if device.startswith('cuda'):
        torch.cuda.synchronize()


def time_steps(args: argparse.Namespace) -> dict[str, list[float]]:
    """Time all variants, one step of each in turn."""
    first, step = build_step(args, args.configs[0])
    steps = {FLOOR: build_floor(args, args.configs[0], first), variant_name(args.configs[0]): step}
    for path in args.configs[1:]:
        steps[variant_name(path)] = build_step(args, path, first)[1]
    for _ in range(args.warmup):
        for step in steps.values():
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for round_number in range(args.steps):
        # Another one starts each round, so that none profits from its place.
        shift = round_number % len(names)
        for name in names[shift:] + names[:shift]:
            gc.collect()
            synchronise(args.device)
            start = time.perf_counter()
            steps[name]()
            synchronise(args.device)
            times[name].append(time.perf_counter() - start)
    return times


def peak_memory(args: argparse.Namespace) -> float:
    """Peak memory of a few steps of one variant, in MiB, in a process of its own."""
    if args.memory_of == FLOOR:
        step = build_floor(args, args.configs[0])
    else:
        _, step = build_step(args, args.memory_of)
    gc.collect()
    for _ in range(3):
        step()
    if args.device.startswith('cuda'):
        return torch.cuda.max_memory_allocated() / 2**20
    with open('/proc/self/status') as file:
        peak = next(line for line in file if line.startswith('VmHWM'))
    return int(peak.split()[1]) / 1024


def measure_memory(args: argparse.Namespace, names: dict[str, str]) -> dict[str, float]:
    memory = {}
    for name, target in names.items():
        command = [sys.executable, *sys.argv, '--memory-of', target]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        memory[name] = float(output.strip().split('\n')[-1])
    return memory


def main() -> None:
    args = parse_args()
    if args.memory_of:
        print(peak_memory(args))
        return
    times = time_steps(args)
    targets = {name: name for name in times}
    targets.update({variant_name(path): path for path in args.configs})
    memory = {} if args.no_memory else measure_memory(args, targets)
    reference = variant_name(args.configs[0])

    print(
        f'\n{args.steps} interleaved steps, {args.device}, batch {args.batch_size}, '
        f'{args.input_size}x{args.input_size}, {args.num_classes} classes, '
        f'{torch.get_num_threads()} threads, torch {torch.__version__}'
        + (', AMP' if args.amp else '')
    )
    header = f'{"":<32}{"median s":>10}{"/ floor":>9}{"/ first":>9}'
    print(header + (f'{"peak MiB":>10}{"/ first":>9}' if memory else ''))
    for name, values in times.items():
        # Ratios are taken within each round, where the machine was the same.
        to_floor = statistics.median(v / f for v, f in zip(values, times[FLOOR]))
        to_first = statistics.median(v / r for v, r in zip(values, times[reference]))
        line = f'{name:<32}{statistics.median(values):>10.4f}{to_floor:>9.3f}{to_first:>9.3f}'
        if memory:
            line += f'{memory[name]:>10.0f}{memory[name] / memory[reference]:>9.3f}'
        print(line)


if __name__ == '__main__':
    run_tool(main)
