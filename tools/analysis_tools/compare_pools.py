# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Compare methods on several pools of teachers of the CIFAR-10 sample.

Every pool is one comparison of compare_methods.py, in a folder of its own, with a row per method
and one per single teacher. All trainings read the teachers' outputs from stores, which are filled
once. In every pool all methods have the same labels: the student is trained on the images that no
teacher has seen too, from which an agent learns. What is finished is not trained again. The tables
of all pools together, pools.md and pools.csv, and the plot pools.png are written after every pool,
with all results that the pools' folders hold: those of earlier commands, too. All of them must have
been trained with the same settings: a command with other --cfg-options or --views is refused.

    python tools/analysis_tools/compare_pools.py --seeds 0 1 2 3 4 --jobs 2 \\
        --store work_dirs/pool_stores --work-dir work_dirs/pools --out docs/results/pools
"""

import argparse
import os
import os.path as osp
import sys
from collections.abc import Mapping
from dataclasses import replace

from mmengine.logging import MMLogger

from mtkdrl_mm.comparison import (
    Combination,
    ComparisonSettings,
    Row,
    fill_stores,
    list_combinations,
    outer_variables,
    plan_stores,
)
from mtkdrl_mm.comparison.pools import (
    SINGLE_SUFFIX,
    best_subset,
    check_settings,
    gains_over_rivals,
    note_settings,
    pool_settings,
    read_pool,
    write_pools,
)
from mtkdrl_mm.comparison.results import result_path
from mtkdrl_mm.comparison.rows import read_config, training_folder
from mtkdrl_mm.comparison.training import check_files
from mtkdrl_mm.engine.resume_checks import teacher_name
from mtkdrl_mm.engine.work_dir_lock import WorkDirLock
from mtkdrl_mm.evaluation.held_out_outputs import read_held_out
from mtkdrl_mm.models.teachers.missing_teachers import missing_teachers
from mtkdrl_mm.models.timm_classifier import teacher_checkpoint
from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.child_processes import interruptible, run_child
from mtkdrl_mm.utils.files import check_output_folder
from mtkdrl_mm.utils.launch import run_tool

TOOLS = osp.dirname(osp.abspath(__file__))
ROOT = osp.dirname(osp.dirname(TOOLS))
CONFIGS = 'configs/cifar10'
#: Environment variables of every pool.
POOLS: dict[str, dict[str, str]] = {
    **{
        # All methods have the same labels: the student is trained on the images of the agent too.
        pool: dict(CIFAR10_POOL=pool, CIFAR10_LABELS='clean_and_held_out')
        for pool in (
            'clean',
            'weak',
            'memorising',
            'specialists',
            'duplicates',
            'calibration',
            'confused',
            'coarse',
        )
    },
    'confused_noisy': dict(CIFAR10_POOL='confused', CIFAR10_LABELS='noisy_and_held_out'),
    'coarse_noisy': dict(CIFAR10_POOL='coarse', CIFAR10_LABELS='noisy_and_held_out'),
}
#: Config and options of every row.
METHODS: dict[str, tuple[str, ...]] = dict(
    alone=('student_baseline.py',),
    aver=('student_aver.py',),
    ebkd=('student_ebkd.py',),
    camkd=('student_camkd.py',),
    aekd=('student_aekd.py',),
    mmkd=('student_mmkd.py',),
    teacher_dropping=('student_teacher_dropping.py',),
    mtkdrl=('student_mtkdrl.py',),
    mtkdrl_as_released=('student_mtkdrl_as_released.py',),
    mtkdrl_stacking=('student_mtkdrl_stacking.py',),
    mtkdrl_static=('student_mtkdrl_static.py',),
    # A ceiling: the teachers' correctness.
    oracle=('student_aver.py', 'model.weighting.type=CorrectTeachers'),
)

SETS = ('singles', 'subsets')
SUBSETS = ('best_pair', 'best_subset')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--pools', nargs='+', choices=POOLS, default=list(POOLS), help='pools')
    parser.add_argument(
        '--methods',
        nargs='+',
        choices=[*METHODS, *SETS],
        default=[*METHODS, *SETS],
        help='methods to train; "singles" stands for every teacher alone, "subsets" for the pair '
        'and the subset of teachers, equally weighted, that make the held-out labels most likely',
    )
    parser.add_argument('--ours', choices=METHODS, default='mtkdrl_stacking', help='what is judged')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2, 3, 4], help='seeds')
    parser.add_argument('--store', default='work_dirs/pool_stores', help='folder of the stores')
    parser.add_argument('--views', type=int, default=4, help='augmented views of every image')
    parser.add_argument('--work-dir', default='work_dirs/pools', help='logs and checkpoints')
    parser.add_argument('--out', help='folder for the tables; by default the work dir')
    parser.add_argument('--jobs', type=int, default=1, help='number of parallel trainings')
    parser.add_argument(
        '--report-only',
        action='store_true',
        help='write the tables of all pools together again, with all methods, without training',
    )
    parser.add_argument('--cfg-options', nargs='+', default=[], help='as for tools/train.py')
    return parser.parse_args()


def pool_rows(pool: str, methods: list[str]) -> dict[str, list[str]]:
    """The rows of a pool.

    Args:
        pool (str): Its name.
        methods (list[str]): Names of the methods.

    Returns:
        dict[str, list[str]]: For every row its config and options.
    """
    variables = [f'{key}={value}' for key, value in POOLS[pool].items()]
    labels = [one for one in variables if not one.startswith('CIFAR10_POOL=')]
    rows = {
        name: [
            osp.join(CONFIGS, METHODS[name][0]),
            *METHODS[name][1:],
            *(labels if name == 'alone' else variables),  # a student without teachers has no pool
        ]
        for name in methods
        if name in METHODS
    }
    if 'singles' in methods:
        config = osp.join(CONFIGS, 'student_aver.py')
        teachers = read_config(Row.parse(['aver', config, *variables]), 0).model.teachers
        for teacher in map(teacher_name, teachers):
            rows[f'{teacher}{SINGLE_SUFFIX}'] = [
                config,
                'model.weighting.type=StaticWeights',
                f'model.weighting.logit.{teacher}=1',
                *variables,
            ]
    return rows


def check_teachers(rows: dict[str, dict[str, list[str]]], args: argparse.Namespace) -> None:
    """Name the missing teachers of all pools at once, before anything is trained.

    Args:
        rows (dict[str, dict[str, list[str]]]): The rows of every pool.
        args (argparse.Namespace): The command line.

    Raises:
        InputError: If a pool that is to be trained has a teacher without a file.
    """
    teachers: dict[str | None, str] = {}  # a file may be that of several pools
    for pool, words in rows.items():
        folder = osp.join(args.work_dir, pool)
        taught = [name for name in words if name != 'alone']
        if 'subsets' not in args.methods and all(
            osp.isfile(result_path(training_folder(folder, name, seed)))
            for name in taught
            for seed in args.seeds
        ):
            continue  # what is finished needs no teachers
        variables = [f'{key}={value}' for key, value in POOLS[pool].items()]
        row = Row.parse(['aver', osp.join(CONFIGS, METHODS['aver'][0]), *variables])
        for teacher in read_config(row, args.seeds[0], args.cfg_options).model.teachers:
            teachers.setdefault(teacher_checkpoint(teacher), teacher_name(teacher))
    missing = missing_teachers(((name, path) for path, name in teachers.items()), name_keys=False)
    if missing:
        raise InputError(missing)


def check_pool(
    pool: str, rows: dict[str, list[str]], common: Mapping[str, str], args: argparse.Namespace
) -> None:
    """Refuse to add to a pool what cannot be in one table with the results that it has.

    Those of all rows count, also of rows that this command does not train, which
    compare_methods.py does not look at.

    Args:
        pool (str): Its name.
        rows (dict[str, list[str]]): Its rows in this command, by name.
        common (Mapping[str, str]): The settings of all rows, from :func:`settings_of`.
        args (argparse.Namespace): The command line.

    Raises:
        InputError: If there are results of other settings, files, stored outputs or metric.
    """
    settings = comparison_settings(pool, args)
    runs = [run for of in read_pool(settings.work_dir).values() for run in of]
    check_settings(settings.work_dir, common)
    # The row that reads most: the pool's teachers, if possible the held-out images, too.
    name = next((one for one in ('mtkdrl_stacking', 'aver', *rows) if one in rows), None)
    if name is None or not runs:
        return
    row = Row.parse([name, *rows[name]])
    combinations = list_combinations([row], sorted({run.seed for run in runs}), settings)
    files = {one.seed: one.files for one in plan_stores(combinations, settings)[1]}
    for run in runs:
        folder = training_folder(settings.work_dir, run.method, run.seed)
        check_files(run, files[run.seed], result_path(folder))


def settings_of(args: argparse.Namespace) -> dict[str, str]:
    """The settings of all rows of all pools, see :func:`pool_settings`."""
    variables = [f'{key}={value}' for key, value in POOLS[args.pools[0]].items()]
    row = Row.parse(['aver', osp.join(CONFIGS, METHODS['aver'][0]), *variables])
    # Which variables it reads is the same with any options, which may be for other rows.
    plain = replace(comparison_settings(args.pools[0], args), cfg_options=())
    read = outer_variables(list_combinations([row], args.seeds[:1], plain))
    return pool_settings(args.cfg_options, args.views, read)


def comparison_settings(pool: str, args: argparse.Namespace) -> ComparisonSettings:
    """The settings of a pool's comparison."""
    return ComparisonSettings(
        work_dir=osp.join(args.work_dir, pool),
        root=ROOT,
        cfg_options=tuple(args.cfg_options),
        store=osp.join(args.store, pool),
        views=args.views,
    )


def subset_rows(pool: str, args: argparse.Namespace) -> dict[str, list[str]]:
    """The rows of the best pair and the best subset of teachers, chosen on the held-out images."""
    variables = [f'{key}={value}' for key, value in POOLS[pool].items()]
    config = osp.join(CONFIGS, METHODS['aver'][0])
    row = Row.parse(['aver', config, *variables])
    settings = comparison_settings(pool, args)
    stores, _ = plan_stores([Combination(row, args.seeds[0], '')], settings)
    os.makedirs(settings.work_dir, exist_ok=True)
    with WorkDirLock(settings.work_dir, 'comparison'):  # which compare_methods.py takes later
        fill_stores(stores, settings)
    cfg = read_config(row, 0, args.cfg_options)
    names, logits, _, labels = read_held_out(cfg, stores[0].path)
    logits, labels = logits.flatten(0, 1), labels.repeat(len(logits))  # views are samples
    rows = {}
    for title, sizes in zip(SUBSETS, ([2], range(1, len(names) + 1))):
        chosen = best_subset(names, logits, labels, sizes)
        rows[title] = [
            config,
            'model.weighting.type=StaticWeights',
            *(f'model.weighting.logit.{name}=1' for name in chosen),
            *variables,
        ]
    return rows


def compare(pool: str, rows: dict[str, list[str]], args: argparse.Namespace) -> int:
    """Run compare_methods.py; return its exit status."""
    command = [sys.executable, osp.join(TOOLS, 'compare_methods.py')]
    for name, words in rows.items():
        command += ['--row', name, *words]
    command += ['--seeds', *map(str, args.seeds), '--jobs', str(args.jobs)]
    command += ['--work-dir', osp.join(args.work_dir, pool)]
    command += ['--store', osp.join(args.store, pool), '--views', str(args.views)]
    if args.out:
        command += ['--out', osp.join(args.out, pool)]
    if args.cfg_options:
        command += ['--cfg-options', *args.cfg_options]
    return run_child(command)[0]


def write_tables(args: argparse.Namespace, out: str) -> str:
    """Write the tables and the plot of all pools together, from what their folders hold.

    Args:
        args (argparse.Namespace): The command line.
        out (str): Folder of the files.

    Returns:
        str: The tables in Markdown; empty without a result.
    """
    # matplotlib, which nothing else needs
    from mtkdrl_mm.comparison.plots import plot_gains, save_figure

    found = {
        pool: read_pool(osp.join(args.work_dir, pool), [*METHODS, *SUBSETS]) for pool in args.pools
    }
    results = {pool: runs for pool, runs in found.items() if runs}
    if not results:
        return ''
    os.makedirs(out, exist_ok=True)
    text = write_pools(results, args.ours, out)
    gains = {pool: gains_over_rivals(runs, args.ours) for pool, runs in results.items()}
    save_figure(plot_gains(gains, args.ours), osp.join(out, 'pools.png'))
    return text


def main() -> None:
    args = parse_args()
    check_number('--jobs', args.jobs, minimum=1)
    check_number('--views', args.views, minimum=1)
    MMLogger.get_current_instance().setLevel('WARNING')
    out = args.out or args.work_dir
    check_output_folder('--out' if args.out else '--work-dir', out)
    failed = []
    if args.report_only:
        text = write_tables(args, out)
        if not text:
            raise InputError(
                f'"{args.work_dir}" holds no results of these pools: {", ".join(args.pools)}. Give '
                'the --work-dir that they were trained with.'
            )
    else:
        check_output_folder('--work-dir', args.work_dir)
        rows = {pool: pool_rows(pool, args.methods) for pool in args.pools}
        common = settings_of(args)
        for pool in args.pools:
            check_pool(pool, rows[pool], common, args)
        check_teachers(rows, args)
        for pool in args.pools:
            print(f'\n== {pool} ==', flush=True)
            note_settings(osp.join(args.work_dir, pool), common)
            with interruptible():
                if 'subsets' in args.methods:
                    rows[pool].update(subset_rows(pool, args))
                if compare(pool, rows[pool], args):
                    failed.append(pool)
            text = write_tables(args, out)
    if text:
        print(f'\n{text}\n\nThe tables are in {out}.')
    if failed:
        raise InputError(f'Not all trainings of these pools have results: {", ".join(failed)}.')


if __name__ == '__main__':
    run_tool(main)
