# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Train every method with every seed, and compare.

A method is a config, or with ``--row`` a config with options of its own. What
is finished is not trained again, what was interrupted goes on, and one failed run
does not stop the others. A config can read the seed as ``{{$RUN_SEED:0}}``, for
files that differ between seeds. The results are written to the output folder:
``table.md``, ``table.csv``, ``runs.csv``, ``accuracy.png``, ``weights.png``,
``classes.png``, ``environment.txt`` and ``report.html``, one page about all of it. The page in
the work dir is written whenever a training has ended.

    python tools/analysis_tools/compare_methods.py configs/demo/student_*.py \\
        --seeds 0 1 2 3 4 --work-dir work_dirs/compare --out docs/results/digits

With ``--store STORE --views V``, the teachers run once, on V augmented views of every training
image, and all trainings read their outputs; rows without teachers are trained as always.

With ``--launcher slurm``, every training is a job of Slurm, through submitit: a job that reaches
its time limit, or that Slurm ends for another one, is queued again and resumes.

    python tools/analysis_tools/compare_methods.py configs/cifar10/student_*.py \\
        --launcher slurm --partition gpu --time 720 --jobs 8

``--row NAME CONFIG KEY=VALUE ...`` adds a row; it can be given several times. A key in capitals
is an environment variable that the config reads, any other key is as in ``--cfg-options``:

    python tools/analysis_tools/compare_methods.py --reference baseline --metric mIoU \\
        --row random configs/demo/segmentor.py model.backbone.init_cfg=None \\
        --row baseline configs/demo/segmentor.py BACKBONE=baseline \\
        --row mtkdrl configs/demo/segmentor.py BACKBONE=mtkdrl
"""

import argparse
import os
import os.path as osp
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from mmengine.logging import MMLogger

from mtkdrl_mm.comparison import (
    PAGE_NAME,
    Combination,
    ComparisonSettings,
    Plan,
    Row,
    Run,
    Runs,
    add_stored,
    command_line,
    describe_device,
    fill_stores,
    finished,
    join_known,
    list_combinations,
    list_rows,
    outer_variables,
    plan_stores,
    read_comparison,
    train_all,
    write_environment,
    write_tables,
)
from mtkdrl_mm.engine.work_dir_lock import WorkDirLock
from mtkdrl_mm.jobs import (
    JOB_LAUNCHERS,
    JobSettings,
    add_job_arguments,
    check_no_job_flags,
    read_job_settings,
)
from mtkdrl_mm.utils import InputError, check_number, near_matches
from mtkdrl_mm.utils.child_processes import interruptible
from mtkdrl_mm.utils.files import check_output_folder
from mtkdrl_mm.utils.launch import run_tool

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))


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
        '--reference', help='method that the others are compared with; by default "aver"'
    )
    parser.add_argument('--metric', default='accuracy/top1', help='metric in the logs')
    parser.add_argument(
        '--jobs',
        type=int,
        help='number of parallel trainings, with one GPU each if available; by default 1, and with '
        '--launcher slurm as many as Slurm starts',
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
    parser.add_argument(
        '--launcher',
        choices=['none', *JOB_LAUNCHERS],
        default='none',
        help='start the trainings as jobs of Slurm, or, to try that, of this machine',
    )
    parser.add_argument('--launch', default='', help='for example "torchrun --nproc_per_node=8"')
    parser.add_argument(
        '--report-only', action='store_true', help='write the report without training'
    )
    parser.add_argument('--cfg-options', nargs='+', default=[], help='as for tools/train.py')
    add_job_arguments(parser, 'every training')
    args = parser.parse_args()
    check_output_folder('--work-dir', args.work_dir)
    if args.out:
        check_output_folder('--out', args.out)
    return args


def choose_jobs(args: argparse.Namespace, trainings: int) -> tuple[int, JobSettings | None]:
    """The number of trainings at a time, and what a job gets if they are jobs."""
    if args.launcher == 'none':
        check_no_job_flags(args)
    jobs = args.jobs
    if jobs is None:
        jobs = trainings if args.launcher == 'slurm' else 1
    check_number('--jobs', jobs, minimum=1)
    if args.launcher == 'none':
        return jobs, None
    return jobs, read_job_settings(args, jobs, osp.join(args.work_dir, 'jobs'), 'compare_methods')


def choose_reference(name: str | None, rows: list[Row]) -> str:
    """The row that the others are compared with.

    Args:
        name (str, optional): The one of the command line, which must be there; the default one
            need not.
        rows (list[Row]): All rows.
    """
    names = [row.name for row in rows]
    if name is not None and name not in names:
        raise InputError(f'--reference: no row is named "{name}". {near_matches(name, names)}')
    return Plan.reference if name is None else name


def write_comparison_page(work_dir: str, plan: Plan, out: str | None = None) -> None:
    """Write the page about what there is so far.

    Args:
        work_dir (str): The comparison's folder.
        plan (Plan): What this command compares. The one in the folder may be of another command.
        out (str, optional): Another folder for the page, which then has no links into the work
            dir. Defaults to None: the work dir.
    """
    # The report imports all networks, which takes seconds; what only checks its arguments need not.
    from mtkdrl_mm.report import make_comparison_page, write_page

    record = read_comparison(work_dir, plan=plan)
    page = make_comparison_page(record, links=out is None)
    write_page(page, osp.join(out or work_dir, PAGE_NAME))


def try_comparison_page(work_dir: str, plan: Plan) -> None:
    """The same while trainings go on, which a page must not stop."""
    try:
        write_comparison_page(work_dir, plan)
    except Exception as error:  # whatever is in logs that are written right now, or a full disk
        print(f'  {osp.join(work_dir, PAGE_NAME)} is not up to date: {error!r}', flush=True)


def write_report(runs: Runs, metric: str, reference: str, command: str, out: str) -> None:
    from mtkdrl_mm.comparison.plots import write_plots  # matplotlib, which nothing else needs

    os.makedirs(out, exist_ok=True)
    print('\n' + write_tables(runs, metric, reference, out))
    write_plots(runs, metric, out)
    write_environment(runs, command, out)
    print(f'\nTables and plots are in {out}.')


def main() -> None:
    args = parse_args()
    if args.store is None and (args.views is not None or args.store_flags):
        raise InputError('--views and --store-flags belong to --store: name the folder.')
    if len(set(args.seeds)) < len(args.seeds):
        raise InputError(f'--seeds names a seed twice: {" ".join(map(str, args.seeds))}.')
    rows = list_rows(args.configs, args.row)
    reference = choose_reference(args.reference, rows)
    jobs, job = choose_jobs(args, len(rows) * len(args.seeds))
    settings = ComparisonSettings(
        work_dir=args.work_dir,
        root=ROOT,
        metric=args.metric,
        cfg_options=tuple(args.cfg_options),
        jobs=jobs,
        launch=args.launch,
        store=args.store,
        views=args.views,
        store_flags=args.store_flags,
        job=job,
    )
    # mmengine notes every environment variable that a config reads.
    MMLogger.get_current_instance().setLevel('WARNING')
    combinations = list_combinations(rows, args.seeds, settings)
    os.makedirs(settings.work_dir, exist_ok=True)
    lock = WorkDirLock(settings.work_dir, 'comparison')
    with nullcontext() if args.report_only else lock:
        compare(args, reference, combinations, settings, lock.is_held_elsewhere())


def compare(
    args: argparse.Namespace,
    reference: str,
    combinations: Sequence[Combination],
    settings: ComparisonSettings,
    runs_elsewhere: bool,
) -> None:
    """Train what has not finished, unless only a report is asked for, and write the report.

    Args:
        args (argparse.Namespace): The command line.
        reference (str): The row that the others are compared with.
        combinations (Sequence[Combination]): The trainings.
        settings (ComparisonSettings): How they are started.
        runs_elsewhere (bool): Whether another command trains in the work dir, whose plan and page
            are left alone.

    Raises:
        InputError: If a training has no result.
    """
    if settings.store:
        stores, combinations = plan_stores(combinations, settings)
    results = [finished(combination, settings) for combination in combinations]
    known = sum(run is not None for run in results)
    total = len(combinations)
    rows = list({one.row.name: one.row for one in combinations}.values())
    print(f'{total} trainings: {len(rows)} methods, {len(args.seeds)} seeds', end='')
    print(f'; {known} have finished before' if known else '', flush=True)
    command = command_line(sys.argv, outer_variables(combinations))
    device = describe_device()
    if args.report_only:  # perhaps on another machine than that of the trainings
        device = join_known(run.device for run in results if run is not None)
    plan = Plan(
        rows=rows,
        seeds=args.seeds,
        metric=settings.metric,
        reference=reference,
        cfg_options=args.cfg_options,
        command=command,
        device=device,
    )
    if runs_elsewhere:
        print(f'A comparison runs in {settings.work_dir}: its plan and its page stay as they are.')
    else:
        plan.write(settings.work_dir)
        write_comparison_page(settings.work_dir, plan)
    if not args.report_only:
        with interruptible():
            if settings.store and known < total:
                fill_stores(stores, settings)
                combinations = add_stored(combinations)
            results = train_all(
                combinations, settings, on_end=lambda: try_comparison_page(settings.work_dir, plan)
            )
        write_comparison_page(settings.work_dir, plan)
    by_row: dict[str, list[Run]] = {row.name: [] for row in rows}
    for combination, run in zip(combinations, results):
        if run is not None:
            by_row[combination.row.name].append(run)
    runs = {name: found for name, found in by_row.items() if found}
    if not runs:
        raise InputError(f'No training has finished; see {settings.work_dir}/*/*/output.txt.')
    out = args.out or settings.work_dir
    write_report(runs, settings.metric, reference, command, out)
    if osp.realpath(out) != osp.realpath(settings.work_dir):
        write_comparison_page(settings.work_dir, plan, out)
    print(f'A page about all of it is {osp.join(out, PAGE_NAME)}.')
    failed = sum(run is None for run in results)
    if failed:
        raise InputError(f'{failed} of {total} trainings have no result; see above.')


if __name__ == '__main__':
    run_tool(main)
