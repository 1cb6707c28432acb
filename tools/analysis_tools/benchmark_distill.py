# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Measure the time and memory that distillation adds to running the networks.

For every config the whole training step is timed (loss, backward pass,
optimiser, and the hooks of a training), and compared with plain training of the
student, and with a lower bound: the teachers' forward passes and the student's
own step, without any distillation loss. The variants are interleaved within one
process, step by step, so that other load on the machine affects all of them
alike. If a hook works in every n-th step only (MMKD's), a round has n steps and
their mean is the time of a step.

The updates of an agent belong to the cost of training. An update is timed after
every ``--update-steps`` rounds, from the rollout buffer of these steps, and its
time per step is added before ratios are taken. By default the agent is updated
from every image of an epoch, which is the most that an update can cost; with
``--epoch-images``, only from as many as the buffer can hold.

Methods are config files, or names; the default is all methods against AVER. What
distillation from stored outputs costs, and the loading of data, are measured by
benchmark_training.py.

    python tools/analysis_tools/benchmark_distill.py
    python tools/analysis_tools/benchmark_distill.py aver mtkdrl mtkdrl_ppo my_config.py \\
        --input-size 64 --batch-size 32 --num-classes 100
"""

import argparse
import os.path as osp
import statistics

import torch
from mmengine.config import Config, DictAction

from mtkdrl_mm.benchmark import (
    PeakMemory,
    StepSettings,
    Variant,
    distillation,
    lower_bound,
    measure_memory,
    median_ratio,
    peak_memory,
    plain_training,
    print_memory,
    time_rounds,
)
from mtkdrl_mm.models import TeacherPool
from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.launch import merge_options, read_config_file, run_tool

ROOT = osp.join(osp.dirname(osp.abspath(__file__)), '..', '..')
PLAIN = 'plain training'
LOWER_BOUND = 'lower bound (networks alone)'
# Methods in the folder of MTKD-RL: what their config's name ends with, and the RL algorithm
# where it is not the config's.
AGENTS: dict[str, tuple[str, str | None]] = dict(
    mtkdrl=('', None),
    mtkdrl_ppo=('', 'PPO'),
    mtkdrl_dpg=('', 'DPG'),
    mtkdrl_ddpg=('', 'DDPG'),
    mtkdrl_stacking=('_stacking', None),
)
# Largest acceptable time of a method's step, as a multiple of AVER's.
LIMITS = dict(aver=1.0, ebkd=1.03, camkd=1.03, aekd=1.05, mmkd=2.5, **dict.fromkeys(AGENTS, 1.05))


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


def load_config(args: argparse.Namespace, target: str) -> Config:
    """Read a config file, or that of a named method, for random batches."""
    path = target
    suffix, algorithm = AGENTS.get(target, ('', None))
    if target in LIMITS:
        folder = 'mtkdrl' if target in AGENTS else target
        path = osp.join(ROOT, 'configs', folder, f'{args.config_name}{suffix}.py')
    if not osp.isfile(path):
        raise InputError(f'"{target}" is neither a config file nor one of {", ".join(LIMITS)}.')
    cfg = read_config_file(path)
    if algorithm is not None:
        cfg.default_hooks.agent.algorithm = dict(type=algorithm)
    merge_options(cfg, args.cfg_options)
    # The batches are random, and no data is read.
    cfg.pop('train_dataloader', None)
    # All variants share the teachers, which must not change in the first step.
    cfg.model.setdefault('teacher_inference', 'eager')
    return cfg


def variant_name(args: argparse.Namespace, target: str) -> str:
    """Name of a config in the table: folder and file."""
    if target in LIMITS:
        return f'{target}/{args.config_name}'
    return osp.join(osp.basename(osp.dirname(target)), osp.splitext(osp.basename(target))[0])


def build_variant(
    args: argparse.Namespace, target: str, teachers: TeacherPool | None = None
) -> tuple[TeacherPool | None, Variant]:
    """Build one of the measurements, and its teachers."""
    settings = StepSettings(
        args.device,
        args.input_size,
        args.batch_size,
        args.num_classes,
        args.amp,
        args.epoch_images,
    )
    cfg = load_config(args, args.configs[0] if target in (PLAIN, LOWER_BOUND) else target)
    if target == PLAIN:
        return None, plain_training(cfg, settings)
    if target == LOWER_BOUND:
        return None, lower_bound(cfg, settings, teachers)
    model, variant = distillation(cfg, settings, teachers)
    return model.live_teachers, variant


def time_variants(args: argparse.Namespace, targets: dict[str, str]) -> dict[str, Variant]:
    """Build all variants, which share the teachers of the first config, and time them."""
    teachers, first = build_variant(args, args.configs[0])
    variants = {
        name: first if target == args.configs[0] else build_variant(args, target, teachers)[1]
        for name, target in targets.items()
    }
    time_rounds(variants, args.steps, args.device, args.warmup, args.update_steps)
    return variants


def print_table(
    args: argparse.Namespace, variants: dict[str, Variant], memory: dict[str, PeakMemory]
) -> None:
    """Print times, ratios and memory of all variants."""
    reference = variant_name(args, args.configs[0])
    print(
        f'\n{args.steps} interleaved rounds, {args.device}, batch {args.batch_size}, '
        f'{args.input_size}x{args.input_size}, {args.num_classes} classes, '
        f'{torch.get_num_threads()} threads, torch {torch.__version__}'
        + (', AMP' if args.amp else '')
    )
    print(
        f'{"":<32}{"step s":>10}{"update s":>10}{"/ plain":>9}{"/ bound":>9}{"/ first":>9}'
        f'{"limit":>7}' + (f'{"peak MiB":>10}{"/ first":>9}' if memory else '')
    )
    peaks = {name: one.device_mib or one.process_mib for name, one in memory.items()}
    for name, variant in variants.items():
        line = f'{name:<32}{statistics.median(variant.step_seconds):>10.4f}'
        line += f'{variant.update_share:>10.4f}'
        for other in (PLAIN, LOWER_BOUND, reference):
            ratio = median_ratio(variant.totals, variants[other].totals)
            line += f'{ratio:>9.3f}'
        # The limits are multiples of AVER.
        limit = LIMITS.get(name.split('/')[0]) if reference.startswith('aver/') else None
        line += f'{"" if limit is None else f"{limit:.2f}":>7}'
        if memory:
            line += f'{peaks[name]:>10.0f}{peaks[name] / peaks[reference]:>9.3f}'
        if limit is not None and ratio > limit:
            line += '  above the limit'
        print(line)


def main() -> None:
    args = parse_args()
    if args.memory_of:
        print_memory(peak_memory(build_variant(args, args.memory_of)[1], args.device))
        return
    check_number('--steps', args.steps, minimum=1)
    check_number('--update-steps', args.update_steps, minimum=1)
    targets = {PLAIN: PLAIN, LOWER_BOUND: LOWER_BOUND}
    targets.update({variant_name(args, target): target for target in args.configs})
    variants = time_variants(args, targets)
    memory = {}
    if not args.no_memory:
        found = measure_memory(targets.values())
        memory = {name: found[target] for name, target in targets.items()}
    print_table(args, variants, memory)


if __name__ == '__main__':
    run_tool(main)
