# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Measure the time and memory that distillation adds to running the networks.

For every config the whole training step is timed (loss, backward pass,
optimiser, and the hooks of a training), and compared with a lower bound: the
teachers' forward passes and the student's own step, without any distillation
loss. The variants are interleaved within one process, step by step, so that
other load on the machine affects all of them alike. If a hook works in every
n-th step only (MMKD's), a round has n steps and their mean is the time of a step.

The updates of an agent belong to the cost of training. An update is timed after
every ``--update-steps`` rounds, from the rollout buffer of these steps, and its
time per step is added before ratios are taken. By default the agent is updated
from every image of an epoch, which is the most that an update can cost; with
``--epoch-images``, only from as many as the buffer can hold.

Methods are config files, or names; the default is all methods against AVER.

    python tools/analysis_tools/benchmark_distill.py
    python tools/analysis_tools/benchmark_distill.py aver mtkdrl mtkdrl_ppo my_config.py \\
        --input-size 64 --batch-size 32 --num-classes 100
"""

import argparse
import atexit
import gc
import math
import os.path as osp
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch.utils.data import DataLoader

from mtkdrl_mm.engine.hooks import AgentHook, MetaLearningHook
from mtkdrl_mm.engine.runner import ResumableRunner
from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.models.classifier_output import run_classifier
from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.launch import run_tool

ROOT = osp.join(osp.dirname(osp.abspath(__file__)), '..', '..')
LOWER_BOUND = 'lower bound (networks alone)'
ALGORITHMS = dict(
    mtkdrl='PolicyGradient',
    mtkdrl_ppo='PPO',
    mtkdrl_dpg='DPG',
    mtkdrl_ddpg='DDPG',
    mtkdrl_improvement='PolicyGradient',
)
# Variants of MTKD-RL with separate configs in its folder.
CONFIG_SUFFIXES = dict(mtkdrl_improvement='_improvement')
# Largest acceptable time of a method's step, as a multiple of AVER's.
LIMITS = dict(
    aver=1.0, ebkd=1.03, camkd=1.03, aekd=1.05, mmkd=2.5, **dict.fromkeys(ALGORITHMS, 1.05)
)
# Hooks that do no work in a training step, or need a data set.
UNUSED_HOOKS = ('teacher_check', 'visualization')
# The same of the runner's own hooks, which are switched off by None.
UNUSED_RUNNER_HOOKS = ('checkpoint', 'param_scheduler', 'preemption', 'sampler_seed')
# Far beyond any warm-up of an agent.
EPOCH, STEPS_PER_EPOCH = 1000, 10**6


@dataclass
class Variant:
    """One of the interleaved measurements.

    Attributes:
        step (Callable): Runs a training step.
        steps_per_round (int): Steps of a round.
        update (Callable, optional): Updates the agent from the steps since the
            last update. Defaults to None.
        kept (float): Share of an epoch's images that an update uses.
        step_seconds (list[float]): Seconds per step, one entry per round.
        update_seconds (list[float]): Seconds per step of the agent's updates,
            one entry per update.
    """

    step: Callable[[], None]
    steps_per_round: int = 1
    update: Callable[[], None] | None = None
    kept: float = 1.0
    step_seconds: list[float] = field(default_factory=list)
    update_seconds: list[float] = field(default_factory=list)

    @property
    def update_share(self) -> float:
        """Median seconds per step of the agent's updates."""
        return statistics.median(self.update_seconds) if self.update_seconds else 0.0


class RandomBatches(torch.utils.data.Dataset):
    """A data set that the loop needs for its length only; its images are not read."""

    def __len__(self) -> int:
        return STEPS_PER_EPOCH

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'configs',
        nargs='*',
        default=list(LIMITS),
        help=f'config files or names of methods ({", ".join(LIMITS)}), by default all of them; '
        'ratios are relative to the first',
    )
    parser.add_argument(
        '--config-name', default='r18_imagenet', help='config file of the named methods'
    )
    parser.add_argument('--input-size', type=int, default=64, help='side of the images in pixels')
    parser.add_argument('--batch-size', type=int, default=32, help='images per step')
    parser.add_argument('--num-classes', type=int, default=100, help='number of classes')
    parser.add_argument('--steps', type=int, default=20, help='timed rounds of every variant')
    parser.add_argument('--warmup', type=int, default=3, help='rounds before timing')
    parser.add_argument(
        '--update-steps', type=int, default=8, help='rounds between timed updates of the agent'
    )
    parser.add_argument(
        '--epoch-images',
        type=int,
        help='images of an epoch on this process; by default the rollout buffer holds all of them',
    )
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument('--no-memory', action='store_true', help='skip the memory measurement')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='overrides settings of all configs'
    )
    parser.add_argument('--memory-of', help=argparse.SUPPRESS)
    return parser.parse_args()


def make_batch(args: argparse.Namespace) -> dict[str, Any]:
    """Make a batch of random pixels and labels."""
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
    if target in LIMITS:
        folder = 'mtkdrl' if target in ALGORITHMS else target
        name = args.config_name + CONFIG_SUFFIXES.get(target, '')
        path = osp.join(ROOT, 'configs', folder, f'{name}.py')
    if not osp.isfile(path):
        raise InputError(f'"{target}" is neither a config file nor one of {", ".join(LIMITS)}.')
    cfg = Config.fromfile(path)
    if target in ALGORITHMS:
        cfg.default_hooks.agent.algorithm = dict(type=ALGORITHMS[target])
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    return cfg


def build_model(
    args: argparse.Namespace, cfg: Config, pool_of: MultiTeacherDistiller | None
) -> MultiTeacherDistiller:
    """Build a config's distiller; it shares the teachers of another one, if given."""
    cfg.model.num_classes = args.num_classes
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    # The bound and all variants share the teachers, which must not change in the first step.
    cfg.model.setdefault('teacher_inference', 'eager')
    if pool_of is not None:
        cfg.model.teachers = pool_of.teachers
    return MODELS.build(cfg.model)


def optimizer_config(args: argparse.Namespace, cfg: Config) -> dict[str, Any]:
    """The config of the optimiser, with mixed precision if ``--amp`` is set."""
    optim_cfg = cfg.optim_wrapper.to_dict()
    if args.amp:
        optim_cfg.update(type='AmpOptimWrapper', loss_scale='dynamic')
    return optim_cfg


def build_runner(
    args: argparse.Namespace, target: str, pool_of: MultiTeacherDistiller | None = None
) -> Runner:
    """Build a config's runner with all hooks that work in a step, ready for its steps.

    It is in an epoch after the agent's warm-up. All variants share the teachers
    of the first one, so that memory holds them once.
    """
    cfg = load_config(args, target)
    hooks = {k: v for k, v in cfg.get('default_hooks', {}).items() if k not in UNUSED_HOOKS}
    hooks.update(dict.fromkeys(UNUSED_RUNNER_HOOKS))
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    runner = ResumableRunner(
        model=build_model(args, cfg, pool_of),
        work_dir=folder.name,
        train_dataloader=DataLoader(RandomBatches()),
        train_cfg=dict(by_epoch=True, max_epochs=2 * EPOCH),
        optim_wrapper=optimizer_config(args, cfg),
        default_hooks=hooks,
        randomness=dict(seed=0),
        default_scope='mmpretrain',
        log_level='ERROR',
        experiment_name=osp.basename(folder.name),
    )
    model = runner.model.to(args.device).train()
    # What Runner.train does before its loop runs; weights are neither initialised nor loaded.
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    loop = runner.train_loop
    loop._epoch, loop._iter = EPOCH, EPOCH * STEPS_PER_EPOCH
    loop.schedule_step = loop._iter
    if model._use_channels_last(torch.device(args.device)):
        model.student.to(memory_format=torch.channels_last)
        model.teachers.to(memory_format=torch.channels_last)
    for hook_point in ('before_run', 'before_train', 'before_train_epoch'):
        runner.call_hook(hook_point)
    model.train()
    return runner


def build_variant(
    args: argparse.Namespace, target: str, pool_of: MultiTeacherDistiller | None = None
) -> tuple[MultiTeacherDistiller, Variant]:
    """Build a config's training step, and the update of its agent if it has one."""
    runner = build_runner(args, target, pool_of)
    batch = make_batch(args)

    def step() -> None:
        runner.train_loop.run_iter(runner.iter % STEPS_PER_EPOCH, batch)

    variant = Variant(step)
    for hook in runner.hooks:
        if isinstance(hook, MetaLearningHook):
            variant.steps_per_round = math.lcm(variant.steps_per_round, hook.interval)
        if isinstance(hook, AgentHook) and hook.update_interval is None:
            variant.update = lambda hook=hook: hook.after_train_epoch(runner)
            if args.epoch_images is not None:
                variant.kept = min(1.0, buffer_capacity(hook) / args.epoch_images)
    return runner.model, variant


def buffer_capacity(hook: AgentHook) -> int:
    """Number of images that the hook's rollout buffer can hold."""
    assert hook.trainer is not None
    return hook.trainer.buffer.capacity


def build_lower_bound(
    args: argparse.Namespace, target: str, pool_of: MultiTeacherDistiller | None = None
) -> Variant:
    """The teachers' forward passes and the student's own step, and nothing else."""
    cfg = load_config(args, target)
    model = build_model(args, cfg, pool_of).to(args.device).train()
    if model._use_channels_last(torch.device(args.device)):
        model.student.to(memory_format=torch.channels_last)
        model.teachers.to(memory_format=torch.channels_last)
    # Only the student's parameters are optimised.
    optim_wrapper = build_optim_wrapper(
        torch.nn.ModuleDict(dict(student=model.student)), optimizer_config(args, cfg)
    )
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
    """Name of a config in the table: folder and file."""
    if target in LIMITS:
        return f'{target}/{args.config_name}'
    return osp.join(osp.basename(osp.dirname(target)), osp.splitext(osp.basename(target))[0])


def synchronise(device: str) -> None:
    """Wait until the device has finished its work."""
    if device.startswith('cuda'):
        torch.cuda.synchronize()


def timed(args: argparse.Namespace, action: Callable[[], None], count: int = 1) -> float:
    """Mean seconds of an action over a number of consecutive calls."""
    gc.collect()
    synchronise(args.device)
    start = time.perf_counter()
    for _ in range(count):
        action()
    synchronise(args.device)
    return (time.perf_counter() - start) / count


def time_update(args: argparse.Namespace, variant: Variant, rounds: int) -> None:
    """Time an update of the agent from the steps of the last rounds."""
    if variant.update is not None:
        seconds = timed(args, variant.update)
        steps = rounds * variant.steps_per_round
        variant.update_seconds.append(seconds / steps * variant.kept)


def time_variants(args: argparse.Namespace) -> dict[str, Variant]:
    """Time all variants in interleaved rounds.

    Returns:
        dict[str, Variant]: The variants by name, with their times.
    """
    first, variant = build_variant(args, args.configs[0])
    variants = {LOWER_BOUND: build_lower_bound(args, args.configs[0], first)}
    variants[variant_name(args, args.configs[0])] = variant
    for target in args.configs[1:]:
        variants[variant_name(args, target)] = build_variant(args, target, first)[1]
    for variant in variants.values():
        for _ in range(max(1, args.warmup) * variant.steps_per_round):
            variant.step()
        if variant.update is not None:
            variant.update()
    names = list(variants)
    waiting = 0  # rounds since the last update
    for round_number in range(args.steps):
        # The first variant changes from round to round: the order gives no advantage.
        shift = round_number % len(names)
        order = [variants[name] for name in names[shift:] + names[:shift]]
        for variant in order:
            variant.step_seconds.append(timed(args, variant.step, variant.steps_per_round))
        waiting += 1
        if waiting == args.update_steps or round_number == args.steps - 1:
            # A last, shorter interval counts only if there was no other.
            if waiting == args.update_steps or args.steps < args.update_steps:
                for variant in order:
                    time_update(args, variant, waiting)
            waiting = 0
    return variants


def peak_memory(args: argparse.Namespace) -> float:
    """Peak memory of a few steps of one variant, in MiB, in a separate process."""
    if args.memory_of == LOWER_BOUND:
        variant = build_lower_bound(args, args.configs[0])
    else:
        variant = build_variant(args, args.memory_of)[1]
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
    """Measure the peak memory of every variant in a separate process, in MiB."""
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
    check_number('--steps', args.steps, minimum=1)
    check_number('--update-steps', args.update_steps, minimum=1)
    variants = time_variants(args)
    targets = {LOWER_BOUND: LOWER_BOUND}
    targets.update({variant_name(args, target): target for target in args.configs})
    memory = {} if args.no_memory else measure_memory(args, targets)
    reference = variant_name(args, args.configs[0])
    totals = {
        name: [seconds + variant.update_share for seconds in variant.step_seconds]
        for name, variant in variants.items()
    }

    print(
        f'\n{args.steps} interleaved rounds, {args.device}, batch {args.batch_size}, '
        f'{args.input_size}x{args.input_size}, {args.num_classes} classes, '
        f'{torch.get_num_threads()} threads, torch {torch.__version__}'
        + (', AMP' if args.amp else '')
    )
    print(
        f'{"":<32}{"step s":>10}{"update s":>10}{"/ bound":>9}{"/ first":>9}{"limit":>7}'
        + (f'{"peak MiB":>10}{"/ first":>9}' if memory else '')
    )
    for name, values in totals.items():
        # Ratios are taken within each round, where the load on the machine was the same.
        to_bound = statistics.median(v / b for v, b in zip(values, totals[LOWER_BOUND]))
        to_first = statistics.median(v / r for v, r in zip(values, totals[reference]))
        line = f'{name:<32}{statistics.median(variants[name].step_seconds):>10.4f}'
        line += f'{variants[name].update_share:>10.4f}{to_bound:>9.3f}{to_first:>9.3f}'
        # The limits are multiples of AVER.
        limit = LIMITS.get(name.split('/')[0]) if reference.startswith('aver/') else None
        line += f'{"" if limit is None else f"{limit:.2f}":>7}'
        if memory:
            line += f'{memory[name]:>10.0f}{memory[name] / memory[reference]:>9.3f}'
        if limit is not None and to_first > limit:
            line += '  above the limit'
        print(line)


if __name__ == '__main__':
    run_tool(main)
