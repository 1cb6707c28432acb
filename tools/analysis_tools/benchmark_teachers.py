# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Time frozen teachers in the modes of ``model.teacher_inference``, against eager mode.

Every mode is timed in turn with eager mode, and its outputs are compared with eager's. Weights
and BatchNorm statistics are random, so no teacher file is needed. Teachers are config files of
networks, or those of a distillation config; the default is mmpretrain's ResNet-50.

    python tools/analysis_tools/benchmark_teachers.py
    python tools/analysis_tools/benchmark_teachers.py configs/mtkdrl/r18_imagenet.py \\
        mmpretrain::deit/deit-small_4xb256_in1k.py --input-size 64 --batch-size 32
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from mmengine.registry import init_default_scope

from mtkdrl_mm.engine.resume_checks import teacher_name
from mtkdrl_mm.models import InferenceMode, Preprocessing, Teacher, build_pool
from mtkdrl_mm.models.teachers.choose_mode import deviations
from mtkdrl_mm.utils import check_number
from mtkdrl_mm.utils.launch import read_config_file, run_tool

MODES = {
    'eager': InferenceMode(),
    'folded': InferenceMode(folded=True),
    'channels_last': InferenceMode(channels_last=True),
    'folded, channels_last': InferenceMode(folded=True, channels_last=True),
    'bfloat16': InferenceMode(dtype='bfloat16'),
    'folded, channels_last, bfloat16': InferenceMode(
        folded=True, channels_last=True, dtype='bfloat16'
    ),
    'folded, channels_last, float16': InferenceMode(
        folded=True, channels_last=True, dtype='float16'
    ),
    'compiled': InferenceMode(folded=True, channels_last=True, compiled=True),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('configs', nargs='*', default=['mmpretrain::resnet/resnet50_8xb32_in1k.py'])
    parser.add_argument('--input-size', type=int, default=64, help='side of the images in pixels')
    parser.add_argument('--batch-size', type=int, default=32, help='images of a batch')
    parser.add_argument('--rounds', type=int, default=10, help='timed rounds of every mode')
    parser.add_argument('--compile', action='store_true', help='time torch.compile too')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    return parser.parse_args()


def read_teachers(configs: list[str]) -> list[dict[str, Any]]:
    """The teachers' configs: those of distillation configs, and config files of networks."""
    teachers: list[dict[str, Any]] = []
    for path in configs:
        model = {}
        if '::' not in path:
            model = read_config_file(path).get('model', {})
        teachers += model.get('teachers', [dict(cfg_path=path)])
    return [
        dict(teacher, name=f'{m} {teacher_name(teacher)}') for m, teacher in enumerate(teachers)
    ]


@torch.no_grad()
def randomize(network: torch.nn.Module) -> None:
    """Random weights that keep the scale of the activations, and random statistics."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1:
            tensor.copy_(noise / tensor[0].numel() ** 0.5)
        elif name.endswith(('weight', 'running_var')):
            tensor.copy_(noise.mul(0.2).add(1).clamp(min=0.2))
        else:
            tensor.copy_(noise * 0.2)


def timed(action: Callable[[], Any], device: str) -> float:
    """Seconds of a call."""
    if device.startswith('cuda'):
        torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    if device.startswith('cuda'):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(teacher: Teacher, inputs: torch.Tensor, args: argparse.Namespace) -> dict[str, Any]:
    """Time one teacher in all modes.

    Returns:
        dict: For every mode its seconds, one per round, and its deviations; or
        the reason why there are none.
    """
    candidates: dict[str, Teacher] = {}
    results: dict[str, Any] = {}
    reference = teacher(inputs)
    for name, mode in MODES.items():
        if mode.compiled and not args.compile:
            continue
        if mode.dtype == 'float16' and not args.device.startswith('cuda'):
            continue  # CPUs have no arithmetic for it
        if mode == InferenceMode():
            candidate: Teacher | None = teacher
        else:
            candidate = teacher.candidate(mode, inputs)
        if candidate is None:
            results[name] = 'there is no BatchNorm to fold'
            continue
        results[name] = dict(seconds=[], **deviations(candidate(inputs), reference))
        candidates[name] = candidate
    names = list(candidates)
    for number in range(args.rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            seconds = timed(lambda name=name: candidates[name](inputs), args.device)
            results[name]['seconds'].append(seconds)
    return results


def print_table(title: str, results: dict[str, Any]) -> None:
    """Print the measurements of one teacher, or of all together."""
    print(f'\n{title}')
    print(f'{"":<34}{"s":>9}{"/ eager":>9}{"logits":>10}{"embedding":>11}{"map":>9}')
    eager = results['eager']['seconds']
    for name, result in results.items():
        if isinstance(result, str):
            print(f'{name:<34}  {result}')
            continue
        # Ratios are taken within each round, where the load on the machine was the same.
        ratio = statistics.median(t / e for t, e in zip(result['seconds'], eager))
        line = f'{name:<34}{statistics.median(result["seconds"]):>9.4f}{ratio:>9.3f}'
        for key, width in (('logits', 10), ('embedding', 11), ('feature_map', 9)):
            line += f'{result[key]:>{width}.0e}' if key in result else f'{"-":>{width}}'
        print(line)


def total(tables: list[dict[str, Any]]) -> dict[str, Any]:
    """Add up the teachers, for the modes that all of them have."""
    result: dict[str, Any] = {}
    for name in tables[0]:
        rows = [table[name] for table in tables]
        if not any(isinstance(row, str) for row in rows):
            result[name] = dict(
                seconds=[sum(t) for t in zip(*(row['seconds'] for row in rows))],
                **{
                    key: max(row.get(key, 0.0) for row in rows)
                    for key in ('logits', 'embedding', 'feature_map')
                },
            )
    return result


def main() -> None:
    args = parse_args()
    check_number('--rounds', args.rounds, minimum=1)
    check_number('--batch-size', args.batch_size, minimum=2)
    init_default_scope('mmpretrain')
    student = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), to_rgb=True)
    pool = build_pool(read_teachers(args.configs), student)
    shape = (args.batch_size, 3, args.input_size, args.input_size)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(args.device)
    tables = []
    print(
        f'{args.rounds} interleaved rounds, {args.device}, batch {args.batch_size}, '
        f'{args.input_size}x{args.input_size}, {torch.get_num_threads()} threads, torch '
        f'{torch.__version__}. Deviations from eager are in standard deviations of the output.'
    )
    for teacher in pool:
        randomize(teacher.network)
        teacher.to(args.device)
        images = teacher.preprocessing.convert(inputs, student)
        tables.append(measure(teacher, images, args))
        print_table(teacher.name, tables[-1])
    if len(tables) > 1:
        print_table('all together', total(tables))


if __name__ == '__main__':
    run_tool(main)
