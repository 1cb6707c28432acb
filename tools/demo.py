# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The main job on real handwritten digits, in minutes, on a CPU.

Trains four small teachers (one of them on 40 % wrong labels), then a student
without teachers, with equal weights (AVER), by MTKD-RL as published, and by
MTKD-RL with the improvement reward; every one through ``tools/train.py`` and a
config under ``configs/demo/``. What is there already is not trained again.
"""

import argparse
import glob
import json
import os
import os.path as osp
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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
    'mtkdrl_paper': 'MTKD-RL, as published',
    'mtkdrl': 'MTKD-RL, improvement reward',
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--epochs', type=int, default=30, help='epochs of every training; fewer for a quick look'
    )
    parser.add_argument('--work-dir', default=WORK, help='folder for logs and checkpoints')
    return parser.parse_args()


def train(name: str, args: argparse.Namespace) -> float:
    """Run one training, unless its result exists.

    Args:
        name (str): Config name, ``teacher_*`` or ``student_*``.
        args (argparse.Namespace): The command line.

    Returns:
        float: Seconds it took, now or when it was run.
    """
    work_dir = osp.join(args.work_dir, name)
    stamp = osp.join(work_dir, f'seconds_{args.epochs}_epochs.txt')
    if osp.isfile(stamp):
        print(f'  {name}: exists', flush=True)
        with open(stamp) as file:
            return float(file.read())
    options = [f'train_cfg.max_epochs={args.epochs}', f'train_cfg.val_interval={args.epochs}']
    options += [f'param_scheduler.T_max={args.epochs}']
    options += [f'default_hooks.checkpoint.interval={args.epochs}']
    if name.startswith('student_') and name != 'student_baseline':
        options += [
            f'model.teachers.{i}.checkpoint={checkpoint_of(f"teacher_{teacher}", args)}'
            for i, teacher in enumerate(TEACHERS)
        ]
    command = [sys.executable, osp.join('tools', 'train.py'), f'configs/demo/{name}.py']
    command += ['--work-dir', work_dir, '--cfg-options', *options]
    if glob.glob(osp.join(work_dir, 'interrupted_iter_*.pth')):
        command.append('--resume')
    os.makedirs(work_dir, exist_ok=True)
    log = osp.join(work_dir, 'output.txt')
    # Several trainings run side by side, one core each.
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
    with open(stamp, 'w') as file:
        file.write(f'{seconds:.1f}')
    print(f'  {name}: {seconds:.0f} s', flush=True)
    return seconds


def checkpoint_of(name: str, args: argparse.Namespace) -> str:
    return osp.join(args.work_dir, name, f'epoch_{args.epochs}.pth')


def train_all(names: list[str], args: argparse.Namespace) -> dict[str, float]:
    """Run trainings side by side, as many as there are cores."""
    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as pool:
        futures = {name: pool.submit(train, name, args) for name in names}
        try:
            return {name: future.result() for name, future in futures.items()}
        except BaseException:
            for future in futures.values():
                future.cancel()
            raise


def read_scalars(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """All log records of a training's latest run."""
    pattern = osp.join(ROOT, args.work_dir, name, '*', 'vis_data', 'scalars.json')
    files = sorted(glob.glob(pattern))
    with open(files[-1]) as file:
        return [json.loads(line) for line in file]


def accuracy_of(name: str, args: argparse.Namespace) -> float:
    records = read_scalars(name, args)
    return [r['accuracy/top1'] for r in records if 'accuracy/top1' in r][-1]


def mean_weights(name: str, args: argparse.Namespace) -> list[float] | None:
    """Each teacher's logit weight, averaged over the epochs after the first."""
    records = [r for r in read_scalars(name, args) if r.get('epoch', 0) > 1]
    columns = [[r[f'weight_logit/{t}'] for r in records if 'loss_ce' in r] for t in TEACHERS]
    return [sum(c) / len(c) for c in columns] if columns[0] else None


def print_table(seconds: dict[str, float], args: argparse.Namespace) -> None:
    print(f'\n{"teacher":<32}{"accuracy %":>10}{"seconds":>9}')
    for key, label in TEACHERS.items():
        name = f'teacher_{key}'
        print(f'{f"{key} ({label})":<32}{accuracy_of(name, args):>10.1f}{seconds[name]:>9.0f}')
    weights_title = 'mean weight of ' + ', '.join(TEACHERS)
    print(f'\n{"student":<32}{"accuracy %":>10}{"seconds":>9}   {weights_title}')
    for key, label in STUDENTS.items():
        name = f'student_{key}'
        line = f'{label:<32}{accuracy_of(name, args):>10.1f}{seconds[name]:>9.0f}   '
        weights = None if key == 'baseline' else mean_weights(name, args)
        print(line + ('  '.join(f'{w:.2f}' for w in weights) if weights else '-'))
    print(
        '\nOne run each on 1,348 test images: differences of a point or less are noise.\n'
        f'Checkpoints: {args.work_dir}/*/epoch_{args.epochs}.pth; logs: {args.work_dir}/*/'
        'output.txt;\ncurves: '
        f'{args.work_dir}/*/*/vis_data/scalars.json; digits: data/digits.\n'
        'The same for ImageNet: python tools/train.py configs/mtkdrl/r18_imagenet.py'
    )


def main() -> None:
    args = parse_args()
    os.chdir(ROOT)
    start = time.time()
    subprocess.run(
        [sys.executable, 'tools/dataset_converters/digits.py', 'data/digits'], check=True
    )
    print('Training four teachers:', flush=True)
    seconds = train_all([f'teacher_{name}' for name in TEACHERS], args)
    print('Distilling the student:', flush=True)
    seconds.update(train_all([f'student_{name}' for name in STUDENTS], args))
    print_table(seconds, args)
    print(f'\nDone in {time.time() - start:.0f} s.')


if __name__ == '__main__':
    main()
