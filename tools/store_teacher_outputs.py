# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Store the outputs of a config's teachers on several augmented views of its training data.

    python tools/store_teacher_outputs.py configs/mtkdrl/r18_imagenet.py STORE --views 8
    python tools/train.py configs/mtkdrl/r18_imagenet.py \\
        --cfg-options model.teacher_outputs=STORE

Any number of processes, on any number of machines, may write one store: started one by one, by
tools/dist_run.py (with --launcher pytorch) or by srun (with --launcher slurm). They may be killed
at any moment: the same command goes on with the parts that are missing.

With --jobs, this command submits them to Slurm, through submitit, and waits for them:

    python tools/store_teacher_outputs.py configs/mtkdrl/r18_imagenet.py STORE --views 8 \\
        --launcher slurm --partition gpu --time 720 --jobs 8
"""

import argparse
import glob
import os
import os.path as osp
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from mmengine.device import get_device
from mmengine.dist import (
    barrier,
    init_dist,
    is_distributed,
    is_main_process,
)
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.utils.dl_utils import set_multi_processing
from torch.utils.data import DataLoader

from mtkdrl_mm.engine.build_dataloader import build_dataloader, seeded_dataloader
from mtkdrl_mm.engine.build_distiller import build_distiller
from mtkdrl_mm.engine.held_out import build_held_out
from mtkdrl_mm.engine.output_writer import writing_session
from mtkdrl_mm.engine.seeded_views import report_warnings
from mtkdrl_mm.engine.store_session import (
    check_store,
    count,
    describe_store,
    estimate_store,
    existing_folder,
    write_store,
)
from mtkdrl_mm.jobs import (
    JOB_LAUNCHERS,
    CommandJob,
    add_job_arguments,
    check_no_job_flags,
    read_job_settings,
    run_jobs,
)
from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.teacher_outputs import (
    Manifest,
    TeacherOutputsSettings,
    check_store_folder,
    create_basis,
    has_basis,
    held_out_root,
    inputs_folder,
    list_teachers,
    load_basis,
    stored_form,
    teacher_folder,
)
from mtkdrl_mm.teacher_outputs.settings import DTYPES, EMBEDDINGS, FORM_KEYS, MAPS
from mtkdrl_mm.utils import InputError, check_number, near_matches
from mtkdrl_mm.utils.distributed import broadcast_from_main
from mtkdrl_mm.utils.json_files import read_json_object
from mtkdrl_mm.utils.launch import add_common_arguments, check_data, load_config, run_tool
from mtkdrl_mm.utils.tool_output import find_error, last_lines


def add_submission_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that the jobs of this command do not get."""
    parser.add_argument(
        '--jobs',
        type=int,
        help='with --launcher slurm or local: submit this number of jobs that write together, and '
        'wait for them',
    )
    add_job_arguments(parser, 'every writing process')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='distillation config')
    parser.add_argument('store', help='folder of the store')
    parser.add_argument(
        '--views',
        type=int,
        help='number of augmented views per image; by default that of an existing store',
    )
    parser.add_argument(
        '--seed',
        type=int,
        help='seed of the augmentations; by default that of an existing store, else 0',
    )
    parser.add_argument(
        '--teachers', nargs='+', metavar='NAME', help='names of teachers to store, by default all'
    )
    parser.add_argument(
        '--logits',
        choices=DTYPES,
        help='data type of logits, embeddings and maps; float32 loses nothing; by default that of '
        'an existing store, else float16',
    )
    parser.add_argument(
        '--embeddings',
        choices=EMBEDDINGS,
        help='embeddings: full, or projected onto their leading principal components; by default '
        'as in an existing store, else projected with float16 and full with float32',
    )
    parser.add_argument(
        '--embedding-channels',
        type=int,
        help='number of components of projected embeddings; by default that of an existing store, '
        'else 256',
    )
    parser.add_argument(
        '--maps',
        choices=MAPS,
        help='feature maps: none (logits and embeddings only), averaged over positions, full, or '
        'projected onto their leading principal components; by default as in an existing store, '
        'else projected',
    )
    parser.add_argument(
        '--map-channels',
        type=int,
        help='number of components of projected maps; by default that of an existing store, else '
        '64',
    )
    parser.add_argument(
        '--dry-run', action='store_true', help='print what it will take, and write nothing'
    )
    parser.add_argument(
        '--check',
        nargs='?',
        type=int,
        const=256,
        metavar='IMAGES',
        help='run the teachers again on random images of the store (256) and print the largest '
        'deviations, instead of writing',
    )
    add_common_arguments(parser, ['none', 'pytorch', 'slurm', 'mpi', 'local'])
    add_submission_arguments(parser)
    args = parser.parse_args()
    check_submission(args)
    return args


def check_submission(args: argparse.Namespace) -> None:
    """Check which of the flags go together."""
    if args.jobs is None:
        check_no_job_flags(args)
        if args.launcher == 'local':
            raise InputError('--launcher local needs --jobs, the number of processes.')
    elif args.launcher not in JOB_LAUNCHERS:
        raise InputError('--jobs needs --launcher slurm or local.')
    elif args.check is not None or args.dry_run:
        raise InputError('--check and --dry-run run in this process: leave out --jobs.')


def read_settings(args: argparse.Namespace) -> TeacherOutputsSettings:
    """The settings of the command line, completed by those of an existing store."""
    for flag, value, minimum in (
        ('--views', args.views, 1),
        ('--seed', args.seed, 0),
        ('--embedding-channels', args.embedding_channels, 1),
        ('--map-channels', args.map_channels, 1),
        ('--check', args.check, 1),
    ):
        if value is not None:
            check_number(flag, value, minimum=minimum)
    if osp.exists(args.store) and not osp.isdir(args.store):
        raise InputError(f'"{args.store}" is a file: give the folder of the store.')
    stored = Manifest.find(inputs_folder(args.store))
    if stored is None and args.check is not None:
        raise InputError(f'"{args.store}" is no store: there is nothing to check.')
    check_store_folder(args.store)  # before the teachers are loaded
    if stored is None and args.views is None:
        raise InputError(
            f'"{args.store}" is no store yet: give --views, the number of augmented views of every '
            'image, for example 8.'
        )
    folder = existing_folder(args.store)
    if stored is None and not args.dry_run and not os.access(folder, os.W_OK):
        # Known before the teachers are loaded and timed.
        raise InputError(f'"{args.store}" cannot be made: there is no write access to "{folder}".')
    values: dict[str, Any] = {}
    if stored is not None:
        values.update(views=stored.views.num_views, seed=stored.views.seed)
        values.update(form_of(args.store, args.teachers))
    for key in ('views', 'seed', *FORM_KEYS):
        if getattr(args, key) is not None:
            values[key] = getattr(args, key)
    return TeacherOutputsSettings(root=args.store, write=True, **values)


def form_of(store: str, names: Sequence[str] | None) -> dict[str, Any]:
    """The settings with which these teachers were stored, or any, if none of these was."""
    stored = list_teachers(store)
    known = [name for name in stored if names is None or name in names] or stored
    forms = [stored_form(Manifest.read(teacher_folder(store, name)).tensors) for name in known]
    # What was stored as a whole had fewer channels than were asked for, or there was no map.
    most: dict[str, Any] = {}
    for keys, order in (
        (('embeddings', 'embedding_channels'), EMBEDDINGS),
        (('maps', 'map_channels'), MAPS),
    ):
        chosen = max(forms, key=lambda form: order.index(form[keys[0]]), default={})
        most.update({key: chosen[key] for key in ('logits', *keys) if key in chosen})
    return most


def chosen_teachers(model: MultiTeacherDistiller, args: argparse.Namespace) -> list[str]:
    """The teachers to store or to check, in the order of the pool."""
    known = list(model.teachers.names)
    for name in args.teachers or ():
        if name not in known:
            raise InputError(
                f'--teachers: the config has no teacher "{name}". {near_matches(name, known)}'
            )
    chosen = [name for name in known if args.teachers is None or name in args.teachers]
    if args.check is None:
        return chosen
    stored = list_teachers(args.store)
    missing = [name for name in chosen if name not in stored]
    if missing and (args.teachers is not None or missing == chosen):
        raise InputError(
            f'"{args.store}" holds no outputs of teacher "{missing[0]}". '
            f'{near_matches(missing[0], stored)}'
        )
    return [name for name in chosen if name in stored]


@contextmanager
def shadow(store: str) -> Iterator[str]:
    """A folder for all processes that shows what a store has, and of which nothing stays."""
    folder = broadcast_from_main(tempfile.mkdtemp() if is_main_process() else None)
    try:
        if is_main_process() and osp.isdir(store):
            for name in os.listdir(store):
                # A folder that a killed process had only begun would get a manifest.
                if Manifest.find(osp.join(store, name)) is not None:
                    os.symlink(osp.abspath(osp.join(store, name)), osp.join(folder, name))
        barrier()
        yield folder
    finally:
        if is_main_process():
            shutil.rmtree(folder, ignore_errors=True)


def submit(args: argparse.Namespace) -> None:
    """Have jobs write the store; each runs this tool without the flags of jobs."""
    launcher, args.launcher = args.launcher, 'none'
    cfg = load_config(args)
    args.launcher = launcher
    check_data(cfg, ('train_dataloader',))
    settings = read_job_settings(
        args, args.jobs, osp.join(cfg.work_dir, 'jobs'), 'store_teacher_outputs'
    )
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument('--launcher')
    add_submission_arguments(own)
    words = own.parse_known_args(sys.argv[1:])[1]
    folder = tempfile.mkdtemp(prefix='store_', dir=make_folder(settings.folder))
    jobs = [
        CommandJob(
            command=[sys.executable, osp.abspath(__file__), *words],
            outcome=osp.join(folder, f'outcome_{number}.json'),
            progress=osp.join(glob.escape(args.store), '**', 'part_*'),
            save_seconds=settings.save_seconds,
        )
        for number in range(args.jobs)
    ]
    failures: list[str] = []

    def report(index: int, log: str) -> None:
        outcome = read_json_object(jobs[index].outcome, dict(exit_code=int))
        if outcome['exit_code'] == 0:
            print(f'  job {index}: done, see {log}', flush=True)
        else:
            failures.append(outcome.get('reason') or find_error(last_lines(log)))
            print(f'  job {index}: FAILED, see {log}: {failures[-1]}', flush=True)

    run_jobs(jobs, settings, report)
    shutil.rmtree(folder)
    if len(failures) == len(jobs):
        raise InputError(
            f'No job has finished; complete parts are kept. {failures[0].removeprefix("Error: ")}'
        )
    # A job ends when nothing is missing any more, whoever was to write it.
    lost = f', although {count(len(failures), "job")} failed' if failures else ''
    print(f'"{args.store}" is complete{lost}.')


def make_folder(path: str) -> str:
    """Make a folder, unless it exists, and return it."""
    os.makedirs(path, exist_ok=True)
    return path


def run() -> None:
    args = parse_args()
    settings = read_settings(args)
    if args.jobs is not None:
        submit(args)
        return
    cfg = load_config(args)
    env_cfg = cfg.get('env_cfg') or {}
    set_multi_processing(**env_cfg.get('mp_cfg', {}), distributed=cfg.launcher != 'none')
    if cfg.launcher != 'none' and not is_distributed():
        init_dist(cfg.launcher, **env_cfg.get('dist_cfg', {}))
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    logger = MMLogger.get_instance('mtkdrl_mm', logger_name='mtkdrl_mm')
    held_out = cfg.get('held_out_dataloader') is not None
    # Of whatever method: other methods train from this store, too.
    check_data(cfg, ('train_dataloader', *(('held_out_dataloader',) if held_out else ())))
    model = build_distiller(cfg)
    names = chosen_teachers(model, args)
    model.teachers.load_weights()
    model.to(get_device()).eval()
    loader = build_dataloader(seeded_dataloader(cfg.train_dataloader), seed=0)
    # Before the training images, which may take hours: what is wrong with the others is said now.
    held_out_loader = build_held_out(cfg, seed=0) if held_out else None
    run_session(model, loader, settings, names, args, logger)
    if held_out_loader is not None:
        root = held_out_root(args.store)
        logger.info('The held-out images of the agent:')
        if is_main_process() and not args.dry_run:
            copy_bases(args.store, root, names)
        barrier()
        run_session(model, held_out_loader, replace(settings, root=root), names, args, logger)
    if args.check is None and not args.dry_run:
        logger.info(f'Train from it with --cfg-options model.teacher_outputs={args.store}')


def run_session(
    model: MultiTeacherDistiller,
    loader: DataLoader,
    settings: TeacherOutputsSettings,
    names: list[str],
    args: argparse.Namespace,
    logger: MMLogger,
) -> None:
    """Write, check or estimate one store."""
    assert settings.root is not None
    if args.dry_run and args.check is None:
        with shadow(settings.root) as folder:
            try:
                session = writing_session(model, loader, replace(settings, root=folder), names)
            except InputError as error:
                raise InputError(str(error).replace(folder, settings.root)) from error
            estimate_store(session, settings.root, logger)
            barrier()  # before the folder is removed
        return
    writer = writing_session(model, loader, settings, names)
    report_warnings(writer.warnings, '--check compares the outputs.')
    if args.check is not None:
        check_store(writer, args.check, settings.seed or 0, logger)
        return
    logger.info(describe_store(writer, settings.root))
    writer.check_free_space()
    write_store(writer, logger)


def copy_bases(store: str, held_out: str, names: Sequence[str]) -> None:
    """Have what is projected mean the same in both stores."""
    for name in names:
        folder = teacher_folder(store, name)
        if has_basis(folder):
            create_basis(teacher_folder(held_out, name), load_basis(folder)[0])


def main() -> None:
    try:
        run()
    except KeyboardInterrupt:
        print('\nInterrupted: complete parts are kept, and the same command goes on.')
        sys.stdout.flush()
        # Without waiting for data workers, which ignore Ctrl-C, and for other processes.
        os._exit(130)


if __name__ == '__main__':
    run_tool(main)
