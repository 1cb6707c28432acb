# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The main job on real handwritten digits, in minutes, on a CPU.

Trains four small teachers (one of them on 40 % wrong labels), then a student
without teachers, with equal weights (AVER), by MTKD-RL as published and as the
authors' code was released, and by mtkdrl_improvement, the variant of this
project. Then it fine-tunes a small detector and a
small segmentor on scenes of digits from three initialisations of the student's
backbone: random, trained without teachers, and distilled. Every training goes
through ``tools/train.py`` and a config under ``configs/demo/``. What is there
already is not trained again. Without mmdet and mmsegmentation it ends with the
students.
"""

import argparse
import glob
import hashlib
import json
import os
import os.path as osp
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

from mmengine.config import Config

from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.files import write_json
from mtkdrl_mm.utils.launch import run_tool

READING = threading.Lock()
ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
WORK = osp.join('work_dirs', 'demo')
TEACHERS = {
    'resnet': 'ResNet',
    'shufflenet': 'ShuffleNetV2',
    'mobilenet': 'MobileNetV2',
    'weak': 'SE-ResNeXt, 40 % wrong labels',
}
STUDENTS = {
    'baseline': 'no teachers',
    'aver': 'AVER',
    'mtkdrl': 'MTKD-RL, as published',
    'mtkdrl_as_released': 'MTKD-RL, as released',
    'mtkdrl_improvement': 'mtkdrl_improvement',
}
BACKBONES = {
    'random': 'random',
    'baseline': 'trained without teachers',
    'mtkdrl': 'distilled by MTKD-RL',
}
SPLITS = ('train', 'val')
# Metric, and its factor to percent.
TASKS = {'detector': ('coco/bbox_mAP', 100.0), 'segmentor': ('mIoU', 1.0)}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--epochs', type=int, default=30, help='epochs of the classifiers; fewer for a quick test'
    )
    parser.add_argument('--task-epochs', type=int, help='epochs of the detectors and segmentors')
    parser.add_argument(
        '--task-images',
        type=int,
        help='images that detectors and segmentors are trained and tested on; few for a quick test',
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='seed of all trainings except the teachers'
    )
    parser.add_argument('--work-dir', default=WORK, help='folder for logs and checkpoints')
    args = parser.parse_args()
    check_number('--epochs', args.epochs, minimum=1)
    if args.task_epochs is not None:
        check_number('--task-epochs', args.task_epochs, minimum=1)
    if args.task_images is not None:
        check_number('--task-images', args.task_images, minimum=1)
    return args


def folder_of(name: str, args: argparse.Namespace) -> str:
    """Work dir of a training; the students' are laid out as compare_methods.py does."""
    if name.startswith('teacher_'):
        return osp.join(args.work_dir, name)
    return osp.join(args.work_dir, name.removeprefix('student_'), f'seed_{args.seed}')


def config_of(name: str) -> str:
    """Config of a training; detectors and segmentors have one for all backbones."""
    task = name.split('_')[0]
    return f'configs/demo/{task if task in TASKS else name}.py'


def read_config(name: str) -> Config:
    """Read the config of a training, in one thread at a time."""
    # mmengine reloads pkg_resources for every config of another package.
    with READING:
        return Config.fromfile(config_of(name))


def epochs_of(name: str, args: argparse.Namespace) -> int:
    if name.split('_')[0] not in TASKS:
        return args.epochs
    return args.task_epochs or read_config(name).train_cfg.max_epochs


def checkpoint_of(name: str, args: argparse.Namespace) -> str:
    return osp.join(folder_of(name, args), f'epoch_{epochs_of(name, args)}.pth')


def options_of(name: str, args: argparse.Namespace) -> list[str]:
    """What a training is given as ``--cfg-options``."""
    epochs = epochs_of(name, args)
    options = [f'train_cfg.max_epochs={epochs}', f'train_cfg.val_interval={epochs}']
    options += [f'param_scheduler.T_max={epochs}']
    options += [f'default_hooks.checkpoint.interval={epochs}']
    kind, _, source = name.partition('_')
    if kind != 'teacher':
        options.append(f'randomness.seed={args.seed}')
    if kind == 'student' and source != 'baseline':
        options += [
            f'model.teachers.{i}.checkpoint={checkpoint_of(f"teacher_{teacher}", args)}'
            for i, teacher in enumerate(TEACHERS)
        ]
    if kind in TASKS and source == 'random':
        options.append('model.backbone.init_cfg=None')
    elif kind in TASKS:
        backbone = checkpoint_of(f'student_{source}', args)
        options.append(f'model.backbone.init_cfg.checkpoint={backbone}')
    if kind in TASKS and args.task_images is not None:
        options += [f'{split}_dataloader.dataset.indices={args.task_images}' for split in SPLITS]
    return options


def describe(name: str, options: list[str]) -> str:
    """Hash of a training's config with its options."""
    text = '\n'.join([read_config(name).pretty_text, *options])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def train(name: str, args: argparse.Namespace) -> float:
    """Run one training, unless its result exists.

    Args:
        name (str): ``teacher_NAME``, ``student_METHOD``, or
            ``detector_BACKBONE`` and ``segmentor_BACKBONE``.
        args (argparse.Namespace): The command line.

    Returns:
        float: Seconds it took, now or when it was run.

    Raises:
        InputError: If the result is that of another config.
    """
    work_dir = folder_of(name, args)
    options = options_of(name, args)
    config = describe(name, options)
    result = osp.join(work_dir, f'result_{epochs_of(name, args)}_epochs.json')
    if osp.isfile(result):
        with open(result) as file:
            contents = json.load(file)
        if contents['config'] != config:
            raise InputError(
                f'{work_dir} holds a training of another version of {config_of(name)}, or with '
                'other options. Delete the folder, or choose another one with --work-dir.'
            )
        print(f'  {name}: exists', flush=True)
        return float(contents['seconds'])
    command = [sys.executable, osp.join('tools', 'train.py'), config_of(name)]
    command += ['--work-dir', work_dir, '--cfg-options', *options]
    if glob.glob(osp.join(work_dir, 'interrupted_iter_*.pth')):
        command.append('--resume')
    os.makedirs(work_dir, exist_ok=True)
    log = osp.join(work_dir, 'output.txt')
    # Several trainings run in parallel, with one core each.
    environment = dict(os.environ, OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')
    start = time.time()
    with open(log, 'w') as file:
        code = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
        ).returncode
    if code != 0:
        with open(log) as file:
            tail = ''.join(file.readlines()[-5:])
        sys.exit(f'\nError: {" ".join(command)}\nfailed, see {log}:\n{tail}')
    seconds = time.time() - start
    write_json(dict(seconds=round(seconds, 1), config=config), result)
    print(f'  {name}: {seconds:.0f} s', flush=True)
    return seconds


def train_all(names: list[str], args: argparse.Namespace) -> dict[str, float]:
    """Run trainings in parallel, as many as there are cores, and at most four."""
    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as pool:
        futures = {name: pool.submit(train, name, args) for name in names}
        try:
            return {name: future.result() for name, future in futures.items()}
        except BaseException:
            for future in futures.values():
                future.cancel()
            raise


def read_scalars(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Read the log records of a training's latest run."""
    pattern = osp.join(ROOT, folder_of(name, args), '*', 'vis_data', 'scalars.json')
    files = sorted(glob.glob(pattern))
    with open(files[-1]) as file:
        return [json.loads(line) for line in file]


def result_of(name: str, args: argparse.Namespace, metric: str = 'accuracy/top1') -> float:
    """Last value of a metric in a training's logs."""
    values = [r[metric] for r in read_scalars(name, args) if metric in r]
    if not values:
        # mmdet's metric, for example, is not computed where nothing was detected.
        raise InputError(f'The log of {name} has no {metric}. Train it longer.')
    return values[-1]


def mean_weights(name: str, args: argparse.Namespace) -> list[float] | None:
    """Each teacher's logit weight, averaged over the epochs after the first."""
    records = [r for r in read_scalars(name, args) if r.get('epoch', 0) > 1]
    columns = [
        [r[f'teacher_weight/logit/{t}'] for r in records if 'loss_ce' in r] for t in TEACHERS
    ]
    return [sum(c) / len(c) for c in columns] if columns[0] else None


def print_table(seconds: dict[str, float], args: argparse.Namespace) -> None:
    print(f'\n{"teacher":<32}{"accuracy %":>10}{"seconds":>9}')
    for key, label in TEACHERS.items():
        name = f'teacher_{key}'
        print(f'{f"{key} ({label})":<32}{result_of(name, args):>10.1f}{seconds[name]:>9.0f}')
    weights_title = 'mean weight of ' + ', '.join(TEACHERS)
    print(f'\n{"student":<32}{"accuracy %":>10}{"seconds":>9}   {weights_title}')
    for key, label in STUDENTS.items():
        name = f'student_{key}'
        line = f'{label:<32}{result_of(name, args):>10.1f}{seconds[name]:>9.0f}   '
        weights = None if key == 'baseline' else mean_weights(name, args)
        print(line + ('  '.join(f'{w:.2f}' for w in weights) if weights else '-'))
    print('\nOne run each on 1,348 test images: differences of a point or less are noise.')


def print_task_table(args: argparse.Namespace) -> None:
    print(f'\n{"backbone of detector, segmentor":<32}{"mAP %":>10}{"mIoU %":>9}')
    for key, label in BACKBONES.items():
        values = [
            scale * result_of(f'{task}_{key}', args, metric)
            for task, (metric, scale) in TASKS.items()
        ]
        print(f'{label:<32}{values[0]:>10.1f}{values[1]:>9.1f}')
    scenes = 'test scenes of digits that training never saw. Several seeds:\n'
    print(
        f'\nOne run each, on {args.task_images or 200} {scenes}'
        f'docs/results. Data: data/digits, data/digit_scenes. Under {args.work_dir}: checkpoints '
        '(epoch_*.pth),\nlogs (output.txt), curves (*/vis_data/scalars.json). The same for '
        'ImageNet and COCO:\n'
        '  python tools/train.py configs/mtkdrl/r18_imagenet.py\n'
        '  python tools/train.py configs/detection/retinanet_r18_fpn_1x_coco.py'
    )


def main() -> None:
    args = parse_args()
    os.chdir(ROOT)
    start = time.time()
    missing = [name for name in ('mmdet', 'mmseg', 'pycocotools') if not find_spec(name)]
    for converter in ('digits',) if missing else ('digits', 'make_scenes'):
        subprocess.run([sys.executable, f'tools/dataset_converters/{converter}.py'], check=True)
    print('Training four teachers:', flush=True)
    seconds = train_all([f'teacher_{name}' for name in TEACHERS], args)
    print('Distilling the student:', flush=True)
    seconds.update(train_all([f'student_{name}' for name in STUDENTS], args))
    print_table(seconds, args)
    if missing:
        print(f'\nNo fine-tuning of detectors and segmentors: not installed: {", ".join(missing)}.')
    else:
        print('\nFine-tuning on scenes of digits:', flush=True)
        train_all([f'{task}_{key}' for key in BACKBONES for task in TASKS], args)
        print_task_table(args)
    print(f'\nDone in {time.time() - start:.0f} s.')


if __name__ == '__main__':
    run_tool(main)
