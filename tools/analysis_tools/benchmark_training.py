# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Measure what distillation costs beside plain training, with stored and with running teachers.

All training steps below are timed in interleaved rounds of one process, so that other load on
the machine affects all of them alike; ratios are taken within a round. Every step is whole: loss,
backward pass, optimiser, hooks, and the agent's updates.

- plain training of the student, the reference
- the distillation from a store of logits and embeddings (256 components of them, and in full), and
  from one with projected maps
- the distillation with running teachers, and AVER with the same teachers
- the eager lower bound: the teachers' forward passes in eager mode and the student's own step

Steps are timed on batches in memory, and once more with the loading of their batches from image
files, by as many data workers as the config has. The images are those of a folder, or are written
by this tool. The stores are written to a temporary folder, from teachers with random weights: no
weights are needed, and costs do not depend on them. Memory is measured in processes of their own.

    python tools/analysis_tools/benchmark_training.py --out work_dirs/benchmark
    python tools/analysis_tools/benchmark_training.py configs/mtkdrl/r18_imagenet.py \\
        --images data/imagenet/train --input-size 224
"""

import argparse
import json
import os
import os.path as osp
import statistics
import subprocess
import sys
import tempfile
import warnings
from copy import deepcopy
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

from mtkdrl_mm.benchmark import (
    Measure,
    PeakMemory,
    StepSettings,
    Variant,
    count_classes,
    distillation,
    fill_store,
    lower_bound,
    measure_memory,
    measures_table,
    median_ratio,
    peak_memory,
    plain_training,
    print_memory,
    time_loading,
    time_rounds,
    use_images,
    use_random_teachers,
    with_equal_weights,
    with_store,
    write_images,
)
from mtkdrl_mm.models import TeacherPool
from mtkdrl_mm.teacher_outputs import StoreReader, list_teachers
from mtkdrl_mm.utils import check_number
from mtkdrl_mm.utils.files import atomic_write, check_output_file, write_json
from mtkdrl_mm.utils.launch import merge_options, read_config_file, run_tool
from mtkdrl_mm.utils.markdown import markdown_table

TOOLS = osp.dirname(osp.abspath(__file__))
CONFIG = osp.join(TOOLS, '..', '..', 'configs', 'mtkdrl', 'r18_imagenet.py')
TITLES = dict(
    plain='plain training of the student',
    embeddings='{method} from a store: logits, embeddings',
    full_embeddings='{method} from a store: logits, full embeddings',
    maps='{method} from a store: projected maps besides',
    live='{method}, running teachers',
    aver='AVER, running teachers',
    bound='eager lower bound: networks alone',
)
STORES = ('embeddings', 'full_embeddings', 'maps')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', nargs='?', default=CONFIG, help='distillation config')
    parser.add_argument('--images', help='image folder, one subfolder per class; default: written')
    parser.add_argument(
        '--num-images',
        type=int,
        default=256,
        help='images: so many are written, or used of --images',
    )
    parser.add_argument(
        '--image-size', type=int, help='side of written images in pixels; default: --input-size'
    )
    parser.add_argument('--input-size', type=int, default=64, help='side of inputs in pixels')
    parser.add_argument('--batch-size', type=int, default=32, help='images per step')
    parser.add_argument('--num-classes', type=int, default=100, help='classes of written images')
    parser.add_argument('--workers', type=int, help='data workers, by default as in the config')
    parser.add_argument('--rounds', type=int, default=24, help='timed rounds on batches in memory')
    parser.add_argument('--warmup', type=int, default=3, help='rounds before timing')
    parser.add_argument(
        '--update-rounds', type=int, default=8, help='rounds between timed updates of the agent'
    )
    parser.add_argument(
        '--loading-rounds', type=int, default=6, help='timed rounds with data loading; 0: none'
    )
    parser.add_argument(
        '--loading-steps', type=int, default=12, help='steps of a turn with data loading'
    )
    parser.add_argument('--map-channels', type=int, default=64, help='channels of projected maps')
    parser.add_argument(
        '--reading-samples',
        type=int,
        default=16384,
        help='samples of the store whose reading is timed; 0: none',
    )
    parser.add_argument('--folder', default='.', help='where the temporary folder is made')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument(
        '--memory-runs',
        type=int,
        default=3,
        help='processes per variant whose memory is measured, of which the median counts; 0: none',
    )
    parser.add_argument(
        '--out', help='also write the tables to OUT.md, and all numbers to OUT.json'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='overrides settings of the config'
    )
    parser.add_argument('--memory-of', choices=TITLES, help=argparse.SUPPRESS)
    parser.add_argument('--used-folder', help=argparse.SUPPRESS)
    args = parser.parse_args()
    least = dict(rounds=1, update_rounds=1, loading_rounds=0, loading_steps=1, map_channels=1)
    least.update(
        input_size=1, batch_size=2, num_classes=1, num_images=1, reading_samples=0, memory_runs=0
    )
    for name, minimum in least.items():
        check_number(f'--{name.replace("_", "-")}', getattr(args, name), minimum=minimum)
    return args


def read_config(args: argparse.Namespace, images: str) -> tuple[Config, StepSettings]:
    """Read the config, and have it train on the images from random teachers."""
    cfg = read_config_file(args.config)
    merge_options(cfg, args.cfg_options)
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    use_random_teachers(cfg)
    use_images(cfg, images, args.batch_size, args.input_size, args.workers, args.num_images)
    settings = StepSettings(
        args.device, args.input_size, args.batch_size, count_classes(images), args.amp
    )
    return cfg, settings


def build_variant(
    name: str,
    cfg: Config,
    settings: StepSettings,
    folder: str,
    teachers: TeacherPool | None = None,
) -> tuple[Variant, TeacherPool | None]:
    """Build one of the measurements, and the teachers that run in it, for others."""
    cfg = deepcopy(cfg)
    if name == 'plain':
        return plain_training(cfg, settings), None
    if name in STORES:
        return distillation(with_store(cfg, osp.join(folder, name)), settings)[1], None
    if name == 'bound':
        cfg.model.teacher_inference = 'eager'
        return lower_bound(cfg, settings), None
    cfg.model.teacher_inference = 'auto'
    if name == 'aver':
        cfg = with_equal_weights(cfg)
    model, variant = distillation(cfg, settings, teachers)
    return variant, model.live_teachers


def measure_times(
    args: argparse.Namespace, cfg: Config, settings: StepSettings, folder: str
) -> dict[str, Variant]:
    """Time all variants; the two with running teachers share them."""
    variants: dict[str, Variant] = {}
    teachers = None
    for name in TITLES:
        variants[name], running = build_variant(name, cfg, settings, folder, teachers)
        teachers = running or teachers
    time_rounds(variants, args.rounds, args.device, args.warmup, args.update_rounds)
    loading = {name: variant for name, variant in variants.items() if variant.feed is not None}
    time_loading(loading, args.loading_rounds, args.device, args.loading_steps)
    return variants


def measure_reading(args: argparse.Namespace, store: str, folder: str) -> dict[str, Any]:
    """Time the reading of random rows of this store's size, by another tool."""
    teachers = list_teachers(store)
    entries = StoreReader(store, teachers).layout.entries
    sizes = {
        name: max(entry.spec.shape[0] for entry in entries if entry.spec.name.startswith(name))
        for name in ('logits', 'embedding')
    }
    out = osp.join(folder, 'reading.json')
    command = [sys.executable, osp.join(TOOLS, 'benchmark_store.py'), '--folder', folder]
    command += ['--teachers', str(len(teachers)), '--samples', str(args.reading_samples)]
    for name, size in sizes.items():
        command += [f'--{name}', str(size)]
    done = subprocess.run([*command, '--out', out], stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(done.returncode)  # it has printed the reason
    with open(out) as file:
        return json.load(file)


def ratio(variants: dict[str, Variant], name: str, reference: str) -> dict[str, float | None]:
    """Ratios of two variants: on batches in memory, and with data loading."""
    one, other = variants[name], variants[reference]
    loading = None
    if one.loading_totals and other.loading_totals:
        loading = median_ratio(one.loading_totals, other.loading_totals)
    return dict(value=median_ratio(one.totals, other.totals), loading=loading)


def list_measures(
    variants: dict[str, Variant], memory: dict[str, PeakMemory], reading: dict[str, Any]
) -> list[Measure]:
    """Put all that has a limit beside its limit."""
    measures = [
        Measure('store / plain step', 1.15, 1.05, **ratio(variants, 'embeddings', 'plain')),
        Measure(
            'store with projected maps / plain step',
            1.30,
            1.15,
            **ratio(variants, 'maps', 'plain'),
        ),
        Measure(
            'running teachers / eager lower bound', 0.80, 0.65, **ratio(variants, 'live', 'bound')
        ),
        Measure('running teachers / AVER', 1.03, 1.01, **ratio(variants, 'live', 'aver')),
    ]
    for name, title in (('embeddings', 'store'), ('maps', 'store with projected maps')):
        used = None
        if memory:
            used = memory[name].besides_buffer / memory['plain'].besides_buffer
        measures.append(
            Measure(f"memory besides the agent's buffer: {title} / plain", 1.05, 1.0, used)
        )
    rate = statistics.median(reading['warm']['store']) if reading else None
    name = 'reading, images per second and process, warm page cache'
    measures.append(Measure(name, 5000, 20000, rate, higher=True))
    return measures


def variants_table(variants: dict[str, Variant], memory: dict[str, PeakMemory], method: str) -> str:
    """Format times and memory of all variants."""
    head = ['', 's per step', "agent's update", '/ plain', 's with loading', '/ plain']
    if memory:
        head += ['peak MiB', "agent's buffer", '/ plain, besides it']
    rows = []
    for name, variant in variants.items():
        row = [TITLES[name].format(method=method)]
        row += [f'{statistics.median(variant.step_seconds):.4f}', f'{variant.update_share:.4f}']
        ratios = ratio(variants, name, 'plain')
        row.append(f'{ratios["value"]:.3f}')
        loading = variant.loading_seconds
        row.append(f'{statistics.median(loading):.4f}' if loading else '')
        row.append('' if ratios['loading'] is None else f'{ratios["loading"]:.3f}')
        if memory:
            peak = memory[name]
            relative = peak.besides_buffer / memory['plain'].besides_buffer
            row.append(f'{peak.device_mib or peak.process_mib:.0f}')
            row += [f'{peak.buffer_mib:.1f}', f'{relative:.3f}']
        rows.append(row)
    return markdown_table(head, rows)


def list_figures(
    args: argparse.Namespace, variants: dict[str, Variant], row_bytes: dict[str, int]
) -> dict[str, Any]:
    """What an estimate for other data sets and machines starts from."""
    seconds = {name: statistics.median(variant.totals) for name, variant in variants.items()}
    return dict(
        step_ratio=median_ratio(variants['embeddings'].totals, variants['plain'].totals),
        bytes_per_image=row_bytes['embeddings'],
        bytes_per_image_with_maps=row_bytes['maps'],
        teacher_ms=1000 * (seconds['live'] - seconds['embeddings']) / args.batch_size,
        plain_images_per_second=args.batch_size / seconds['plain'],
        stored_images_per_second=args.batch_size / seconds['embeddings'],
    )


def describe(args: argparse.Namespace, cfg: Config, settings: StepSettings) -> str:
    """One sentence on what was measured."""
    return (
        f'{osp.relpath(args.config)}: {args.rounds} interleaved rounds, and {args.loading_rounds} '
        f'of {args.loading_steps} steps with data loading by '
        f'{cfg.train_dataloader.get("num_workers", 0)} workers; {args.device}, batch '
        f'{args.batch_size}, {args.input_size}x{args.input_size}, {settings.num_classes} classes, '
        f'{torch.get_num_threads()} threads, torch {torch.__version__}'
        + (', AMP.' if args.amp else '.')
    )


def measure(args: argparse.Namespace, folder: str) -> tuple[str, dict[str, Any]]:
    """Measure all; return the tables, and all numbers as plain data."""
    images = args.images
    if images is None:
        images = osp.join(folder, 'images')
        os.mkdir(images)
        side = args.image_size or args.input_size
        write_images(images, args.num_images, args.num_classes, side)
    cfg, settings = read_config(args, images)
    contents: dict[str, dict[str, Any]] = dict(
        embeddings=dict(maps='none'),
        full_embeddings=dict(maps='none', embeddings='full'),
        maps=dict(maps='projected', map_channels=args.map_channels),
    )
    row_bytes = {
        name: fill_store(cfg, settings, osp.join(folder, name), views=1, **contents[name])
        for name in STORES
    }
    variants = measure_times(args, cfg, settings, folder)
    memory = {}
    if args.memory_runs:
        memory = measure_memory(TITLES, ('--used-folder', folder), args.memory_runs)
    reading = {}
    if args.reading_samples:
        reading = measure_reading(args, osp.join(folder, STORES[0]), folder)
    measures = list_measures(variants, memory, reading)
    method = str(cfg.model.weighting.type)
    figures = list_figures(args, variants, row_bytes)
    text = '\n\n'.join(
        [
            describe(args, cfg, settings),
            measures_table(measures),
            variants_table(variants, memory, method),
            f'Stored: {figures["bytes_per_image"]:,} bytes per image and view, with maps '
            f'{figures["bytes_per_image_with_maps"]:,}. Running teachers: '
            f'{figures["teacher_ms"]:.2f} ms per image.',
        ]
    )
    numbers = dict(
        settings={key: value for key, value in vars(args).items() if key != 'cfg_options'},
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        measures=[one.to_dict() for one in measures],
        figures=figures,
        variants={
            name: dict(
                title=TITLES[name].format(method=method),
                step_seconds=variant.step_seconds,
                update_seconds=variant.update_seconds,
                loading_seconds=variant.loading_seconds,
                memory=vars(memory[name]) if name in memory else None,
            )
            for name, variant in variants.items()
        },
        reading=reading,
    )
    return text, numbers


def main() -> None:
    args = parse_args()
    # The number of workers is the config's.
    warnings.filterwarnings('ignore', message='This DataLoader will create')
    if args.memory_of:
        images = args.images or osp.join(args.used_folder, 'images')
        cfg, settings = read_config(args, images)
        variant, _ = build_variant(args.memory_of, cfg, settings, args.used_folder)
        print_memory(peak_memory(variant, args.device))
        return
    if args.out:
        check_output_file('--out', f'{args.out}.md')
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        text, numbers = measure(args, folder)
    print(f'\n{text}')
    if args.out:
        with atomic_write(f'{args.out}.md', 'w') as file:
            file.write(f'{text}\n')
        write_json(numbers, f'{args.out}.json')


if __name__ == '__main__':
    run_tool(main)
