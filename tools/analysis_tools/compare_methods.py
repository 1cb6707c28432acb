# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Train every method with every seed, and compare.

A method is a config, or with ``--row`` a config with options of its own. What
is finished is not trained again, what was interrupted goes on, and one failed run
does not stop the others. A config can read the seed as ``{{$RUN_SEED:0}}``, for
files that differ between seeds. The results are written to the output folder:
``table.md``, ``table.csv``, ``runs.csv``, ``accuracy.png``, ``weights.png``,
``classes.png`` and ``environment.txt``.

    python tools/analysis_tools/compare_methods.py configs/demo/student_*.py \\
        --seeds 0 1 2 3 4 --work-dir work_dirs/compare --out docs/results/digits

With ``--store STORE --views V``, the teachers run once, on V augmented views of every training
image, and all trainings read their outputs; rows without teachers are trained as always.

``--row NAME CONFIG KEY=VALUE ...`` adds a row; it can be given several times. A key in capitals
is an environment variable that the config reads, any other key is as in ``--cfg-options``:

    python tools/analysis_tools/compare_methods.py --reference baseline --metric mIoU \\
        --row random configs/demo/segmentor.py model.backbone.init_cfg=None \\
        --row baseline configs/demo/segmentor.py BACKBONE=baseline \\
        --row mtkdrl configs/demo/segmentor.py BACKBONE=mtkdrl
"""

import argparse
import csv
import glob
import hashlib
import math
import os
import os.path as osp
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Queue
from typing import Any

import matplotlib
import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from scipy import stats

from mtkdrl_mm.engine.resume_checks import teacher_name
from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.cli import add_common_arguments
from mtkdrl_mm.utils.files import atomic_write, write_json
from mtkdrl_mm.utils.json_files import read_json_lines, read_json_object
from mtkdrl_mm.utils.launch import run_tool

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
Runs = dict[str, list[dict[str, Any]]]
RESULT_KEYS = dict(
    method=str,
    seed=int,
    metric=(int, float),
    seconds=(int, float),
    seconds_per_epoch=(int, float),
    peak_mib=(int, float),
    curves=dict,
    class_weights=(dict, type(None)),
)


@dataclass(frozen=True)
class Row:
    """One row of the tables.

    Attributes:
        name (str): The method's name in tables, and its folder in the work dir.
        config (str): The config file.
        options (tuple[str, ...]): Options of this row, as ``--cfg-options``.
        variables (tuple[tuple[str, str], ...]): Environment variables of this
            row.
    """

    name: str
    config: str
    options: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, words: list[str]) -> 'Row':
        """Read the words that follow ``--row``.

        Raises:
            InputError: If they are no name, config and ``KEY=VALUE``.
        """
        if len(words) < 2 or any('=' not in word for word in words[2:]):
            raise InputError(f'--row takes NAME CONFIG KEY=VALUE ..., but got "{" ".join(words)}".')
        settings = [word.partition('=') for word in words[2:]]
        return cls(
            words[0],
            words[1],
            tuple(f'{key}={value}' for key, _, value in settings if not key.isupper()),
            tuple((key, value) for key, _, value in settings if key.isupper()),
        )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('configs', nargs='*', help='one config per method')
    parser.add_argument(
        '--row',
        nargs='+',
        action='append',
        default=[],
        metavar=('NAME CONFIG', 'KEY=VALUE'),
        help='one more row, a config with options and environment variables of its own',
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], help='seeds of the runs')
    parser.add_argument('--work-dir', default='work_dirs/compare', help='logs and checkpoints')
    parser.add_argument('--out', help='folder for tables and plots; by default the work dir')
    parser.add_argument(
        '--reference', default='aver', help='method that the others are compared with'
    )
    parser.add_argument('--metric', default='accuracy/top1', help='metric in the logs')
    parser.add_argument(
        '--jobs',
        type=int,
        default=1,
        help='number of parallel trainings, with one GPU each if available',
    )
    parser.add_argument(
        '--store', help='folder for the outputs of the teachers, which are computed once for all'
    )
    parser.add_argument(
        '--views', type=int, help='with --store: number of augmented views of every image'
    )
    parser.add_argument(
        '--store-flags',
        default='',
        help='with --store: flags of tools/store_teacher_outputs.py, such as "--maps projected"',
    )
    parser.add_argument('--launch', default='', help='for example "torchrun --nproc_per_node=8"')
    parser.add_argument(
        '--report-only', action='store_true', help='write the report without training'
    )
    parser.add_argument('--cfg-options', nargs='+', default=[], help='as for tools/train.py')
    return parser.parse_args()


def method_name(config: str) -> str:
    """File name of a config, without its suffix and the prefix ``student_``."""
    stem = osp.splitext(osp.basename(config))[0]
    return stem[len('student_') :] if stem.startswith('student_') else stem


def current_commit() -> str:
    """Short hash of the repository's commit, with ``+`` if its code differs from it."""

    def git(*arguments: str) -> str:
        process = subprocess.run(['git', *arguments], cwd=ROOT, capture_output=True, text=True)
        return process.stdout.strip()

    changed = git('status', '--porcelain', '--', 'mtkdrl_mm', 'configs', 'tools')
    return git('rev-parse', '--short', 'HEAD') + ('+' if changed else '')


def read_config(row: Row, seed: int) -> Config:
    """The row's config file for a seed, without options of the command line."""
    before = dict(os.environ)
    os.environ.update(row.variables, RUN_SEED=str(seed))
    try:
        return Config.fromfile(row.config)
    finally:
        os.environ.clear()
        os.environ.update(before)


def describe(row: Row, args: argparse.Namespace) -> str:
    """Hash of the config as it is trained, but for the seed."""
    config = read_config(row, 0)
    options = [*args.cfg_options, *row.options]
    if args.store and config.model.get('teachers'):
        options.append(f'{args.views} views {args.store_flags}')
    text = config.pretty_text + '\n'.join(sorted(options))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass
class Store:
    """A store of teacher outputs for the trainings with the same data.

    Attributes:
        path (str): Its folder.
        data (str): Hash of training data and preprocessing.
        teachers (dict[str, str]): Config of every teacher, as text.
        rows (list[tuple[Row, int]]): Rows and seeds whose teachers it holds;
            one for each choice of teachers.
    """

    path: str
    data: str
    teachers: dict[str, str]
    rows: list[tuple[Row, int]]


def plan_stores(
    pairs: Sequence[tuple[Row, int]], args: argparse.Namespace
) -> tuple[list[Store], dict[tuple[str, int], str]]:
    """Find which trainings can read from one store.

    They have the same training data, and no two different teachers of one name.

    Args:
        pairs (Sequence[tuple[Row, int]]): Rows and seeds.
        args (Namespace): With ``store`` and ``cfg_options``.

    Returns:
        tuple[list[Store], dict[tuple[str, int], str]]: The stores, and the
        folder for every row's name and seed with teachers.
    """
    stores: list[Store] = []
    paths: dict[tuple[str, int], str] = {}
    for row, seed in pairs:
        config = read_config(row, seed)
        config.merge_from_dict(parse_options([*args.cfg_options, *row.options]))
        teachers = config.model.get('teachers')
        if not teachers:
            continue
        names = {teacher_name(teacher): str(teacher) for teacher in teachers}
        parts = [config.train_dataloader.dataset, config.get('data_preprocessor')]
        data = hashlib.sha256(repr(parts).encode()).hexdigest()
        store = next(
            (
                one
                for one in stores
                if one.data == data
                and all(one.teachers.get(name, text) == text for name, text in names.items())
            ),
            None,
        )
        if store is None:
            key = hashlib.sha256(f'{data} {sorted(names.items())}'.encode()).hexdigest()[:8]
            given = osp.isdir(osp.join(args.store, 'inputs'))
            store = Store(args.store if given else osp.join(args.store, key), data, {}, [])
            stores.append(store)
        if not names.keys() <= store.teachers.keys():
            store.teachers.update(names)
            store.rows.append((row, seed))
        paths[row.name, seed] = store.path
    return stores, paths


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` options as ``--cfg-options`` does."""
    parser = argparse.ArgumentParser()
    add_common_arguments(parser)
    return parser.parse_args(['--cfg-options', *options]).cfg_options if options else {}


def fill_stores(stores: Sequence[Store], args: argparse.Namespace) -> None:
    """Run the teachers of all rows, where their outputs are not stored yet.

    Raises:
        InputError: If one fails.
    """
    os.makedirs(args.work_dir, exist_ok=True)
    log_path = osp.join(args.work_dir, 'store_output.txt')
    for store in stores:
        for row, seed in store.rows:
            start = time.time()
            launcher = shlex.split(args.launch) or [sys.executable]
            command = [*launcher, osp.join(ROOT, 'tools', 'store_teacher_outputs.py'), row.config]
            command += [store.path, *shlex.split(args.store_flags)]
            command += ['--views', str(args.views)] if args.views is not None else []
            command += ['--launcher', 'pytorch'] if args.launch else []
            options = [*args.cfg_options, *row.options]
            command += ['--cfg-options', *options] if options else []
            environment = {**os.environ, **dict(row.variables), 'RUN_SEED': str(seed)}
            with open(log_path, 'a') as log:
                # The progress bar is on stderr.
                process = subprocess.run(command, env=environment, stdout=log)
            if process.returncode != 0:
                raise InputError(
                    f'The outputs of the teachers of {row.name} could not be stored in '
                    f'"{store.path}"; see above and {log_path}.'
                )
            print(
                f'  teachers of {row.name}: stored in {store.path}, {time.time() - start:.0f} s',
                flush=True,
            )


def run_folder(row: Row, seed: int, args: argparse.Namespace) -> str:
    return osp.join(args.work_dir, row.name, f'seed_{seed}')


def finished(row: Row, seed: int, args: argparse.Namespace) -> dict[str, Any] | None:
    """The result of a combination that is trained already.

    Raises:
        InputError: If the result is of another config.
    """
    result_file = osp.join(run_folder(row, seed, args), 'result.json')
    if not osp.isfile(result_file):
        return None
    result = read_json_object(result_file, RESULT_KEYS)
    check_curves(result, result_file)
    settings = args.descriptions[row.name]
    if result.get('config', settings) != settings:
        raise InputError(
            f'{result_file} is of another config than {row.config} with these options is now. '
            'Give another --work-dir, or remove that run to train it again.'
        )
    return result


def check_curves(result: dict[str, Any], path: str) -> None:
    """Check the parts of a result that are tables.

    Raises:
        InputError: If one is damaged.
    """
    try:
        for points in result['curves'].values():
            if points and np.asarray(points, dtype=float).shape != (len(points), 2):
                raise ValueError('its "curves" are no pairs of iteration and weight')
        classes = result['class_weights']
        if classes is not None:
            shape = np.asarray(classes['logit'], dtype=float).shape
            if len(shape) != 2 or shape[1] != len(classes['teachers']):
                raise ValueError('its "class_weights" are no table of classes and teachers')
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f'"{path}" is damaged: {error}. Remove it to train that run again.') from (
            error
        )


def gpus_of_jobs(args: argparse.Namespace) -> 'Queue[str | None]':
    """One entry per job: its GPU, or None if all jobs use the GPUs of this process."""
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    gpus: list[Any] = visible.split(',') if visible else list(range(torch.cuda.device_count()))
    if args.jobs == 1 or args.launch or not gpus:
        gpus = [None]
    free: Queue[str | None] = Queue()
    for job in range(args.jobs):
        gpu = gpus[job % len(gpus)]
        free.put(None if gpu is None else str(gpu))
    return free


def train_on_free_gpu(
    row: Row, seed: int, args: argparse.Namespace, free: 'Queue[str | None]'
) -> dict[str, Any] | None:
    gpu = free.get()
    try:
        return train(row, seed, args, gpu)
    finally:
        free.put(gpu)


def train(row: Row, seed: int, args: argparse.Namespace, gpu: str | None) -> dict[str, Any] | None:
    """Train one combination, unless its result exists.

    Returns:
        dict | None: The result; None if the training failed.
    """
    work_dir = run_folder(row, seed, args)
    result = finished(row, seed, args)
    if result is not None:
        return result
    if args.report_only:
        return None
    os.makedirs(work_dir, exist_ok=True)
    launcher = shlex.split(args.launch) or [sys.executable]
    command = [*launcher, osp.join(ROOT, 'tools', 'train.py'), row.config, '--work-dir', work_dir]
    command += ['--launcher', 'pytorch'] if args.launch else []
    command += ['--resume', '--cfg-options', f'randomness.seed={seed}']
    command += [*args.cfg_options, *row.options]
    if (row.name, seed) in args.store_paths:
        command.append(f'model.teacher_outputs={args.store_paths[row.name, seed]}')
    environment = {**os.environ, **dict(row.variables), 'RUN_SEED': str(seed)}
    if gpu is not None:
        environment['CUDA_VISIBLE_DEVICES'] = gpu
    if args.jobs > 1:
        environment.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // args.jobs)))
    start = time.time()
    with open(osp.join(work_dir, 'output.txt'), 'a') as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    label = f'{row.name}, seed {seed}'
    if process.returncode != 0:
        print(f'  {label}: FAILED, see {work_dir}/output.txt', flush=True)
        return None
    result = read_result(work_dir, args.metric)
    result.update(
        method=row.name,
        seed=seed,
        commit=current_commit(),
        config=args.descriptions[row.name],
        seconds=round(time.time() - start, 1),
        peak_mib=result['peak_mib'] or round(usage.ru_maxrss / 1024),
    )
    write_json(result, osp.join(work_dir, 'result.json'))
    print(f'  {label}: {result["metric"]:.4g} in {result["seconds"]:.0f} s', flush=True)
    return result


def read_result(work_dir: str, metric: str) -> dict[str, Any]:
    """Read accuracy, times and weights from the logs of a training."""
    records = []
    for path in sorted(glob.glob(osp.join(work_dir, '*', 'vis_data', 'scalars.json'))):
        records += read_json_lines(path)
    values = [record[metric] for record in records if metric in record]
    if not values:
        raise InputError(f'No "{metric}" in the logs of {work_dir}: is it validated?')
    steps = [record for record in records if 'loss' in record and 'epoch' in record]
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in steps:
        for key, value in record.items():
            if key.startswith(('teacher_weight/logit/', 'teacher_weight/feature/')):
                curves.setdefault(key, []).append((record['step'], value))
    last = {record['epoch']: record for record in steps}
    length = [r['iter'] for r in steps]
    epochs = max(last) if last else 1
    classes = osp.join(work_dir, 'class_weights.json')
    class_weights = None
    if osp.isfile(classes):
        class_weights = read_json_object(classes, dict(logit=list, teachers=list))
    return dict(
        metric=values[-1],
        seconds_per_epoch=float(np.median([r['time'] for r in steps])) * max(length) / epochs,
        peak_mib=max((r.get('memory', 0) for r in steps), default=0),
        curves=curves,
        class_weights=class_weights,
    )


def mean_weights(runs: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """Each teacher's mean weight over seeds and iterations, without the first tenth."""
    teachers: dict[str, list[float]] = {}
    for run in runs:
        for key, points in run['curves'].items():
            if key.startswith(f'teacher_weight/{kind}/'):
                values = [value for _, value in points]
                name = key.split('/', 2)[2]
                teachers.setdefault(name, []).extend(values[len(values) // 10 :])
    return {name: float(np.mean(values)) for name, values in teachers.items()}


def difference(runs: Runs, method: str, reference: str) -> tuple[float, float] | None:
    """Mean of the paired differences, and half the width of its 95 % confidence interval."""
    ours = {run['seed']: run['metric'] for run in runs[method]}
    theirs = {run['seed']: run['metric'] for run in runs.get(reference, [])}
    paired = np.array([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])
    if method == reference or len(paired) == 0:
        return None
    if len(paired) == 1:
        return float(paired[0]), math.nan
    half = stats.t.ppf(0.975, len(paired) - 1) * paired.std(ddof=1) / math.sqrt(len(paired))
    return float(paired.mean()), float(half)


def write_tables(runs: Runs, args: argparse.Namespace) -> None:
    header = ['method', 'runs', args.metric, 'std', f'minus {args.reference}', '95 % CI +-']
    header += ['s / epoch', 'peak MiB', 'logit weights', 'feature weights']
    # mAP is between 0 and 1 and needs more digits.
    largest = max(run['metric'] for results in runs.values() for run in results)
    digits = 4 if largest <= 1 else 2
    rows = []
    for method, results in runs.items():
        values = [run['metric'] for run in results]
        gap = difference(runs, method, args.reference)
        weights = [
            ', '.join(f'{k} {v:.2f}' for k, v in mean_weights(results, kind).items())
            for kind in ('logit', 'feature')
        ]
        rows.append(
            [
                method,
                str(len(values)),
                f'{np.mean(values):.{digits}f}',
                f'{np.std(values, ddof=1):.{digits}f}' if len(values) > 1 else '',
                f'{gap[0]:+.{digits}f}' if gap else '',
                f'{gap[1]:.{digits}f}' if gap and not math.isnan(gap[1]) else '',
                f'{np.median([run["seconds_per_epoch"] for run in results]):.2f}',
                f'{np.max([run["peak_mib"] for run in results]):.0f}',
                *weights,
            ]
        )
    with atomic_write(osp.join(args.out, 'table.csv'), newline='') as file:
        csv.writer(file).writerows([header, *rows])
    lines = ['| ' + ' | '.join(row) + ' |' for row in [header, ['---'] * len(header), *rows]]
    with atomic_write(osp.join(args.out, 'table.md')) as file:
        file.write('\n'.join(lines) + '\n')
    with atomic_write(osp.join(args.out, 'runs.csv'), newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['method', 'seed', args.metric, 'seconds'])
        for results in runs.values():
            for run in results:
                writer.writerow([run['method'], run['seed'], run['metric'], run['seconds']])
    print('\n' + '\n'.join(lines))


def plot_accuracy(runs: Runs, args: argparse.Namespace) -> None:
    figure, axes = plt.subplots(figsize=(7, 0.45 * len(runs) + 1.2))
    for row, results in enumerate(runs.values()):
        values = [run['metric'] for run in results]
        axes.plot(values, [row] * len(values), 'o', color='#94a3b8', markersize=4)
        spread = np.std(values, ddof=1) if len(values) > 1 else 0
        axes.errorbar(np.mean(values), row, xerr=spread, fmt='D', color='#1d4ed8', capsize=3)
    axes.set_yticks(range(len(runs)), list(runs))
    axes.invert_yaxis()
    axes.set_xlabel(f'{args.metric} (each run; mean and standard deviation)')
    axes.grid(axis='x', alpha=0.3)
    figure.tight_layout()
    figure.savefig(osp.join(args.out, 'accuracy.png'), dpi=120)
    plt.close(figure)


def panel_grid(names: Sequence[str], height: float) -> tuple[Any, np.ndarray]:
    """A figure with one titled panel per method, in up to four columns.

    Args:
        names (Sequence[str]): The methods.
        height (float): Height of a panel in inches.

    Returns:
        tuple[Figure, np.ndarray]: The figure, and its axes of shape (rows,
        columns), of which those without a method are hidden.
    """
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(3.2 * columns, height * rows),
        squeeze=False,
        sharey=True,
        layout='constrained',
    )
    for axes, name in zip(grid.flat, names):
        axes.set_title(name, fontsize=9)
    for axes in grid.flat[len(names) :]:
        axes.axis('off')
    return figure, grid


def plot_weights(runs: Runs, args: argparse.Namespace) -> None:
    """Plot the logit weights over the training, as means over the seeds."""
    moving = {m: r for m, r in runs.items() if r[0]['curves'] and m != args.reference}
    if not moving:
        return
    figure, grid = panel_grid(list(moving), height=2.5)
    for axes, results in zip(grid.flat, moving.values()):
        keys = [k for k in results[0]['curves'] if k.startswith('teacher_weight/logit/')]
        for key in keys:
            shortest = min(len(run['curves'][key]) for run in results)
            points = np.array([run['curves'][key][:shortest] for run in results])
            axes.plot(points[0, :, 0], points[:, :, 1].mean(axis=0), label=key.split('/', 2)[2])
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
    grid[0][0].legend(fontsize=7)
    figure.supxlabel('iteration', fontsize=9)
    figure.supylabel('mean logit weight', fontsize=9)
    figure.savefig(osp.join(args.out, 'weights.png'), dpi=120)
    plt.close(figure)


def plot_classes(runs: Runs, args: argparse.Namespace) -> None:
    """Plot the logit weight of every teacher per class, as means over the seeds."""
    recorded = {m: r for m, r in runs.items() if r[0]['class_weights'] and m != args.reference}
    if not recorded:
        return
    figure, grid = panel_grid(list(recorded), height=2.4)
    for axes, results in zip(grid.flat, recorded.values()):
        first = results[0]['class_weights']
        matrix = np.mean([run['class_weights']['logit'] for run in results], axis=0).T
        image = axes.imshow(matrix, vmin=0, vmax=1, aspect='auto', cmap='viridis')
        axes.set_yticks(range(len(first['teachers'])), first['teachers'], fontsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel('class', fontsize=8)
    figure.colorbar(image, ax=grid.ravel().tolist(), label='logit weight')
    figure.savefig(osp.join(args.out, 'classes.png'), dpi=120)
    plt.close(figure)


def write_environment(runs: Runs, args: argparse.Namespace) -> None:
    """Write command, commit, device and versions."""
    commits = {run.get('commit', 'unknown') for results in runs.values() for run in results}
    commit = ', '.join(sorted(commits))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'
    with atomic_write(osp.join(args.out, 'environment.txt')) as file:
        file.write(
            f'command: python {shlex.join(sys.argv)}\ncommit: {commit}\ndevice: {device}, '
            f'{os.cpu_count()} cores\nPython {platform.python_version()}, '
            f'torch {torch.__version__}, numpy {np.__version__}\n'
        )


def main() -> None:
    args = parse_args()
    check_number('--jobs', args.jobs, minimum=1)
    args.out = args.out or args.work_dir
    if args.store is None and (args.views is not None or args.store_flags):
        raise InputError('--views and --store-flags belong to --store: name the folder.')
    rows = [Row(method_name(config), config) for config in args.configs]
    rows += [Row.parse(words) for words in args.row]
    if not rows:
        raise InputError('Nothing to compare: name configs, or add rows with --row.')
    for row in rows:
        if not osp.isfile(row.config):
            raise InputError(f'The config file "{row.config}" does not exist.')
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise InputError(f'Two rows have the same name: {sorted(names)}. Name them with --row.')
    # mmengine notes every environment variable that a config reads.
    MMLogger.get_current_instance().setLevel('WARNING')
    # Here, since mmengine cannot read configs in several threads at once.
    args.descriptions = {row.name: describe(row, args) for row in rows}
    pairs = [(row, seed) for seed in args.seeds for row in rows]
    known = sum(finished(*pair, args) is not None for pair in pairs)
    print(f'{len(pairs)} trainings: {len(names)} methods, {len(args.seeds)} seeds', end='')
    print(f'; {known} have finished before' if known else '', flush=True)
    args.store_paths = {}
    if args.store and not args.report_only:
        stores, args.store_paths = plan_stores(pairs, args)
        if known < len(pairs):
            fill_stores(stores, args)
    free = gpus_of_jobs(args)
    with ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(lambda pair: train_on_free_gpu(*pair, args, free), pairs))
    runs: Runs = {name: [] for name in names}
    for (row, _), result in zip(pairs, results):
        if result is not None:
            runs[row.name].append(result)
    failed = sum(result is None for result in results)
    runs = {name: results for name, results in runs.items() if results}
    if not runs:
        raise InputError(f'No training has finished; see {args.work_dir}/*/*/output.txt.')
    os.makedirs(args.out, exist_ok=True)
    write_tables(runs, args)
    plot_accuracy(runs, args)
    plot_weights(runs, args)
    plot_classes(runs, args)
    write_environment(runs, args)
    print(f'\nTables and plots are in {args.out}.')
    if failed:
        raise InputError(f'{failed} of {len(pairs)} trainings have no result; see above.')


if __name__ == '__main__':
    run_tool(main)
