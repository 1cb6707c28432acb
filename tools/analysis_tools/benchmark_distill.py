# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Measure what distillation costs beside running the networks.

For every config the step of the whole training (loss, backward, optimiser,
hooks' work) is timed, and compared with a floor: the teachers' forward passes
and the student's own step, without any distillation loss. The variants take
turns within one process, step by step, so that a noisy machine disturbs all of
them alike. Where a hook works in every n-th step only (MMKD's), a turn is n
steps, and its n-th part is the time of a step.

Where there is an agent, its updates belong to the cost of training. In every
turn one is timed, from the history of ``--update-steps`` steps; its share of a
step is added to the ratios. By default each image of an epoch is learned from,
the most that an update can cost; with ``--epoch-images`` only those that fit the
history's budget.

Methods are config files, or names; without any, it is all methods against AVER.

    python tools/analysis_tools/benchmark_distill.py
    python tools/analysis_tools/benchmark_distill.py aver mtkdrl mtkdrl_ppo my_config.py \\
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
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.optim import build_optim_wrapper
from mmpretrain.structures import DataSample

from mtkdrl_mm.models import MMKD, MTKDRL, MultiTeacherDistiller
from mtkdrl_mm.models.classifier_output import run_classifier
from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.rl import RolloutBuffer
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.launch import run_tool

ROOT = osp.join(osp.dirname(osp.abspath(__file__)), '..', '..')
FLOOR = 'floor (teachers + student)'
ALGORITHMS = dict(
    mtkdrl='PolicyGradient',
    mtkdrl_ppo='PPO',
    mtkdrl_dpg='DPG',
    mtkdrl_ddpg='DDPG',
    mtkdrl_improvement='PolicyGradient',
)
# Variants with configs of their own in the folder of MTKD-RL.
SUFFIXES = dict(mtkdrl_improvement='_improvement')
# What the step of a method may take, as a multiple of AVER's.
BARS = dict(aver=1.0, ebkd=1.03, camkd=1.03, aekd=1.05, mmkd=2.5, **dict.fromkeys(ALGORITHMS, 1.05))


@dataclass
class Variant:
    """What takes turns.

    Attributes:
        step (Callable): A training step.
        turn (int): Steps of a turn.
        update (Callable, optional): An update of the agent.
        share (float): Updates of the agent, as timed here, per step.
    """

    step: Callable[[], None]
    turn: int = 1
    update: Callable[[], None] | None = None
    share: float = 0.0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'configs',
        nargs='*',
        default=list(BARS),
        help=f'config files or names of methods ({", ".join(BARS)}), by default all these; ratios '
        'are to the first of them',
    )
    parser.add_argument('--config-name', default='r18_imagenet', help='config of the named methods')
    parser.add_argument('--input-size', type=int, default=64)
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--num-classes', type=int, default=100)
    parser.add_argument('--steps', type=int, default=20, help='timed turns of every variant')
    parser.add_argument('--warmup', type=int, default=3, help='turns before timing')
    parser.add_argument(
        '--update-steps', type=int, default=8, help='steps of history per timed update of the agent'
    )
    parser.add_argument(
        '--epoch-images', type=int, help='images of an epoch on this process, by default all fit'
    )
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


def load_config(args: argparse.Namespace, target: str) -> Config:
    """Read a config file, or that of a named method."""
    path = target
    if target in BARS:
        folder = 'mtkdrl' if target in ALGORITHMS else target
        path = osp.join(ROOT, 'configs', folder, f'{args.config_name}{SUFFIXES.get(target, "")}.py')
    if not osp.isfile(path):
        raise InputError(f'"{target}" is neither a config file nor one of {", ".join(BARS)}.')
    cfg = Config.fromfile(path)
    if target in ALGORITHMS:
        cfg.default_hooks.agent.algorithm = dict(type=ALGORITHMS[target])
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    return cfg


def build_step(
    args: argparse.Namespace, target: str, pool_of: MultiTeacherDistiller = None
) -> 'tuple[MultiTeacherDistiller, Variant]':
    """Build a config's model and its training step.

    All variants share the first one's teachers, so that the memory of the
    machine holds them once.
    """
    cfg = load_config(args, target)
    cfg.model.num_classes = args.num_classes
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    torch.manual_seed(0)
    if pool_of is not None:
        cfg.model.teachers = pool_of.teachers
    model = MODELS.build(cfg.model)
    model.to(args.device).train()
    if model._use_channels_last(torch.device(args.device)):
        model.student.to(memory_format=torch.channels_last)
        model.teachers.to(memory_format=torch.channels_last)
    optim_cfg = cfg.optim_wrapper.to_dict()
    if args.amp:
        optim_cfg.update(type='AmpOptimWrapper', loss_scale='dynamic')
    optim_wrapper = build_optim_wrapper(model, optim_cfg)
    runner, interval = add_meta_learning(model, cfg)
    batch = make_batch(args)

    def step() -> None:
        model.train_step(batch, optim_wrapper)
        runner.iter += 1

    return model, Variant(step, interval, *add_agent(args, model, cfg))


def add_agent(
    args: argparse.Namespace, model: MultiTeacherDistiller, cfg: Config
) -> 'tuple[Callable[[], None] | None, float]':
    """Do what AgentHook does in every step; return its update, and updates per step."""
    if not isinstance(model.weighting, MTKDRL):
        return None, 0.0
    from mtkdrl_mm.engine.hooks import AgentHook

    hook_cfg = {k: v for k, v in cfg.default_hooks.agent.items() if k != 'type'}
    hook = AgentHook(**hook_cfg)
    model.weighting.attach_trainer()
    model.weighting.warming_up = False
    hook.history = RolloutBuffer(model.weighting.state_sizes, hook.buffer_budget)
    hook.algorithm.setup(model.weighting.agent)
    learned_from = RolloutBuffer(model.weighting.state_sizes, hook.buffer_budget)

    def record(terms: Any, weights: Any) -> None:
        rewards = hook.reward(terms)
        hook.history.add(weights.states, rewards, hook._generator)
        if learned_from.num_steps < args.update_steps:
            learned_from.add(weights.states, rewards, hook._generator)

    def update() -> None:
        # The first steps, of the warm-up, may be fewer than it takes.
        states, rewards = learned_from.block(0, torch.device('cpu'))
        while learned_from.num_steps < args.update_steps:
            learned_from.add(states, rewards.clone(), hook._generator)
        hook.algorithm.update(learned_from)

    model.register_step_hook(record)
    kept = 1.0
    if args.epoch_images is not None:
        kept = min(kept, hook.history.capacity / args.epoch_images)
    return update, kept / args.update_steps


def add_meta_learning(model: MultiTeacherDistiller, cfg: Config) -> 'tuple[SimpleNamespace, int]':
    """Do what MetaLearningHook does; return the runner it sees, and its interval."""
    runner = SimpleNamespace(model=model, iter=0, seed=0)
    if not isinstance(model.weighting, MMKD):
        return runner, 1
    from mtkdrl_mm.engine.hooks import MetaLearningHook

    hook_cfg = {k: v for k, v in cfg.default_hooks.meta_learning.items() if k != 'type'}
    hook = MetaLearningHook(**hook_cfg)
    hook.before_train(runner)
    return runner, hook.interval


def build_floor(
    args: argparse.Namespace, target: str, pool_of: MultiTeacherDistiller = None
) -> Variant:
    """The teachers' forward passes and the student's own step, nothing else."""
    model = build_step(args, target, pool_of)[0]

    class Floor(torch.nn.Module):
        """Only the student's parameters are optimised."""

        def __init__(self) -> None:
            super().__init__()
            self.student = model.student

    optim_cfg = load_config(args, target).optim_wrapper.to_dict()
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
            outputs = model.teachers(inputs)
            logits = run_classifier(model.student, inputs).logits
            labels = torch.cat([s.gt_label for s in data['data_samples']]).to(logits.device)
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        parsed, log_vars = model.parse_losses(dict(loss=loss))
        optim_wrapper.update_params(parsed)
        del outputs, log_vars

    return Variant(step)


def variant_name(args: argparse.Namespace, target: str) -> str:
    if target in BARS:
        return f'{target}/{args.config_name}'
    return osp.join(osp.basename(osp.dirname(target)), osp.splitext(osp.basename(target))[0])


def synchronise(device: str) -> None:
    if device.startswith('cuda'):
        torch.cuda.synchronize()


def timed(args: argparse.Namespace, action: Callable[[], None], count: int = 1) -> float:
    """Seconds that an action takes, the mean of a few in a row."""
    gc.collect()
    synchronise(args.device)
    start = time.perf_counter()
    for _ in range(count):
        action()
    synchronise(args.device)
    return (time.perf_counter() - start) / count


def time_steps(args: argparse.Namespace) -> 'tuple[dict[str, list[float]], dict[str, list[float]]]':
    """Time all variants, one turn of each after the other.

    Returns:
        tuple[dict, dict]: Seconds per step without, and of, the agent's
        updates; by variant, one for each round.
    """
    first, variant = build_step(args, args.configs[0])
    variants = {FLOOR: build_floor(args, args.configs[0], first)}
    variants[variant_name(args, args.configs[0])] = variant
    for target in args.configs[1:]:
        variants[variant_name(args, target)] = build_step(args, target, first)[1]
    for variant in variants.values():
        for _ in range(args.warmup * variant.turn):
            variant.step()
        if variant.update is not None:
            variant.update()
    steps: dict[str, list[float]] = {name: [] for name in variants}
    updates: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for round_number in range(args.steps):
        # Another one starts each round, so that none profits from its place.
        shift = round_number % len(names)
        for name in names[shift:] + names[:shift]:
            variant = variants[name]
            steps[name].append(timed(args, variant.step, variant.turn))
            seconds = 0.0 if variant.update is None else timed(args, variant.update)
            updates[name].append(seconds * variant.share)
    return steps, updates


def peak_memory(args: argparse.Namespace) -> float:
    """Peak memory of a few steps of one variant, in MiB, in a process of its own."""
    if args.memory_of == FLOOR:
        variant = build_floor(args, args.configs[0])
    else:
        variant = build_step(args, args.memory_of)[1]
    gc.collect()
    for _ in range(3):
        variant.step()
    if variant.update is not None:
        variant.update()
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
    steps, updates = time_steps(args)
    targets = {FLOOR: FLOOR}
    targets.update({variant_name(args, target): target for target in args.configs})
    memory = {} if args.no_memory else measure_memory(args, targets)
    reference = variant_name(args, args.configs[0])
    totals = {name: [a + b for a, b in zip(steps[name], updates[name])] for name in steps}

    print(
        f'\n{args.steps} interleaved turns, {args.device}, batch {args.batch_size}, '
        f'{args.input_size}x{args.input_size}, {args.num_classes} classes, '
        f'{torch.get_num_threads()} threads, torch {torch.__version__}'
        + (', AMP' if args.amp else '')
    )
    print(
        f'{"":<32}{"step s":>10}{"update s":>10}{"/ floor":>9}{"/ first":>9}{"bar":>7}'
        + (f'{"peak MiB":>10}{"/ first":>9}' if memory else '')
    )
    for name, values in totals.items():
        # Ratios are taken within each round, where the machine was the same.
        to_floor = statistics.median(v / f for v, f in zip(values, totals[FLOOR]))
        to_first = statistics.median(v / r for v, r in zip(values, totals[reference]))
        line = f'{name:<32}{statistics.median(steps[name]):>10.4f}'
        line += f'{statistics.median(updates[name]):>10.4f}{to_floor:>9.3f}{to_first:>9.3f}'
        # The bars are multiples of AVER.
        bar = BARS.get(name.split('/')[0]) if reference.startswith('aver/') else None
        line += f'{"" if bar is None else f"{bar:.2f}":>7}'
        if memory:
            line += f'{memory[name]:>10.0f}{memory[name] / memory[reference]:>9.3f}'
        if bar is not None and to_first > bar:
            line += '  above the bar'
        print(line)


if __name__ == '__main__':
    run_tool(main)
