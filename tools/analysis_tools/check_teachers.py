# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Evaluate the teachers of a config before training.

The report has, for every teacher, accuracy and calibration on validation
images, parameters, time and memory of a forward pass and its share of a step;
and for every pair of teachers their agreement. It warns of a teacher that seems
to get the wrong preprocessing (it is more accurate with another channel order,
mean, std or resolution on the same images), of classes in another order, of
near-duplicates, and of a teacher with an accuracy near chance.

    python tools/analysis_tools/check_teachers.py CONFIG
    python tools/analysis_tools/check_teachers.py CONFIG --num-batches 20 --out report.md
"""

import argparse
import csv
import itertools
import json
import os
import os.path as osp
from collections.abc import Iterator

# Silences the notices of torch's profiler, which measures memory.
os.environ.setdefault('KINETO_LOG_LEVEL', '5')

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope

from mtkdrl_mm.engine.build_dataloader import build_dataloader
from mtkdrl_mm.engine.build_distiller import build_distiller
from mtkdrl_mm.engine.check_teachers import check_teachers
from mtkdrl_mm.evaluation.teacher_report import TeacherReport
from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.files import atomic_write, check_output_file
from mtkdrl_mm.utils.launch import (
    add_common_arguments,
    check_data,
    load_config,
    run_tool,
)

FORMATS = ('.md', '.csv', '.json')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='distillation config')
    parser.add_argument(
        '--num-batches',
        type=int,
        help='number of validation batches, by default as many as hold 1000 images',
    )
    parser.add_argument(
        '--batch-size', type=int, help='images per batch, by default as in the validation loader'
    )
    parser.add_argument(
        '--preprocessing-images',
        type=int,
        default=1000,
        help='images on which alternative preprocessings are tried, plus four times as many where '
        'the result is in doubt; 0 tries none',
    )
    parser.add_argument('--repeats', type=int, default=5, help='timed rounds; 0 measures no cost')
    parser.add_argument('--seed', type=int, default=0, help='seed of the order of the images')
    parser.add_argument('--out', help='file to write: .md, .csv (one row per teacher) or .json')
    add_common_arguments(parser)
    args = parser.parse_args()
    if args.out and osp.splitext(args.out)[1] not in FORMATS:
        parser.error(f'argument --out: "{args.out}" must end in one of {", ".join(FORMATS)}')
    check_output_file('--out', args.out)
    return args


def draw_batches(cfg: Config, args: argparse.Namespace) -> tuple[list[dict], Iterator[dict]]:
    """Draw validation batches in random order, and further ones for teachers in doubt."""
    if not cfg.get('val_dataloader'):
        raise InputError(
            'The config has no `val_dataloader`: there are no images to evaluate the teachers on.'
        )
    loader = cfg.val_dataloader
    if args.batch_size is not None:
        loader.batch_size = int(check_number('--batch-size', args.batch_size, minimum=1))
    loader.sampler = dict(type='DefaultSampler', shuffle=True)
    loader.pop('batch_sampler', None)
    count = args.num_batches
    if count is None:
        count = -(-1000 // loader.batch_size)
    check_number('--num-batches', count, minimum=1)
    batches = iter(build_dataloader(loader, seed=args.seed))
    further = 4 * -(-args.preprocessing_images // loader.batch_size)
    return list(itertools.islice(batches, count)), itertools.islice(batches, further)


def write(report: TeacherReport, text: str, path: str) -> None:
    """Write the report in the format that the path names."""
    with atomic_write(path, newline='' if path.endswith('.csv') else None) as file:
        if path.endswith('.json'):
            json.dump(report.to_dict(), file, indent=1)
        elif path.endswith('.csv'):
            rows = report.rows()
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.write(text)


def main() -> None:
    args = parse_args()
    check_number('--preprocessing-images', args.preprocessing_images)
    check_number('--repeats', args.repeats)
    cfg = load_config(args)
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    check_data(cfg, ('val_dataloader',))
    model = build_distiller(cfg)
    model.teachers.load_weights()
    model.to(get_device()).eval()
    batches, further = draw_batches(cfg, args)
    report = check_teachers(model, batches, args.preprocessing_images, args.repeats, further)
    device = next(model.parameters()).device
    text = (
        f'# Teachers of {osp.relpath(args.config)}\n\n{report.to_markdown()}\n'
        f'Costs on {device} with {torch.get_num_threads()} threads and a batch of '
        f'{len(batches[0]["data_samples"])}, torch {torch.__version__}.\n'
    )
    print(text)
    if args.out:
        write(report, text, args.out)
        print(f'The report is in {args.out}.')


if __name__ == '__main__':
    run_tool(main)
