# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What jobs get: the flags of the command line."""

import argparse
import shutil
import subprocess
from dataclasses import dataclass

import torch

from mtkdrl_mm.utils import InputError, check_number

from .import_submitit import import_submitit

#: Values of ``--launcher`` that start jobs.
JOB_LAUNCHERS = ('local', 'slurm')
# CPU cores per GPU, as in tools/slurm_train.sh.
_CPUS_PER_GPU = 5
# Seconds before the time limit at which a job is told to save, as in tools/slurm_train.sh.
_SAVE_SECONDS = 120
# The same of submitit's local jobs.
_LOCAL_SAVE_SECONDS = 30
# Slurm's signal may come a minute early, and a job must have started by then.
_MIN_MINUTES = 5


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """What every job gets. A job is one task on one machine.

    Attributes:
        launcher (str): "slurm", or "local" for processes of this machine.
        jobs (int): Number of jobs that run at a time.
        folder (str): Folder for the jobs' logs, which all machines see.
        name (str): Name of the jobs in Slurm's lists.
        partition (str, optional): Slurm's partition. Defaults to None: its
            default.
        gpus (int, optional): GPUs of a job. Defaults to None: one, where there
            are any.
        cpus (int, optional): CPU cores of a job. Defaults to None: 5 per GPU.
        minutes (int, optional): Time limit of a job. Defaults to None: none,
            for "local" only.
        options (tuple[str, ...]): Further options of sbatch, as ``KEY=VALUE``
            or ``KEY``. Defaults to ().
    """

    launcher: str
    jobs: int
    folder: str
    name: str
    partition: str | None = None
    gpus: int | None = None
    cpus: int | None = None
    minutes: int | None = None
    options: tuple[str, ...] = ()

    @property
    def save_seconds(self) -> int:
        """Seconds before the time limit at which a job is told to save."""
        return _LOCAL_SAVE_SECONDS if self.launcher == 'local' else _SAVE_SECONDS

    def flags(self) -> list[str]:
        """The flags of a command line that stand for these settings."""
        flags = ['--launcher', self.launcher, '--jobs', str(self.jobs)]
        for flag, value in (
            ('--partition', self.partition),
            ('--gpus-per-node', self.gpus),
            ('--cpus-per-task', self.cpus),
            ('--time', self.minutes),
        ):
            if value is not None:
                flags += [flag, str(value)]
        return [*flags, '--sbatch-options', *self.options] if self.options else flags

    def sbatch_options(self) -> dict[str, str | bool]:
        """The further options of sbatch; with ``--requeue``, so that jobs resume."""
        pairs = [option.lstrip('-').partition('=') for option in self.options]
        return {'requeue': True, **{key: value if equals else True for key, equals, value in pairs}}

    def num_gpus(self) -> int:
        """GPUs of a job: those given, else one, if the partition or this machine has any."""
        if self.gpus is not None:
            return self.gpus
        if self.launcher == 'local':
            return min(1, torch.cuda.device_count())
        command = [
            'sinfo',
            '-h',
            '-o',
            '%P %G',
            *(['-p', self.partition] if self.partition else []),
        ]
        lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
        # A star marks the default partition.
        used = [line for line in lines if self.partition or line.split()[0].endswith('*')]
        return int(any('gpu' in line.split()[1] for line in used))

    def num_cpus(self) -> int | None:
        """CPU cores of a job: those given, else 5 per GPU; None for Slurm's default."""
        return self.cpus or _CPUS_PER_GPU * self.num_gpus() or None


def add_job_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the flags of jobs to a tool, all but ``--launcher`` and ``--jobs``.

    Args:
        parser (argparse.ArgumentParser): The parser; changed in place.
        what (str): What is a job, for the help.
    """
    group = parser.add_argument_group(
        'jobs', f'with --launcher slurm or local: {what} is a job (needs submitit)'
    )
    group.add_argument('--partition', help="Slurm's partition; by default Slurm's own default")
    group.add_argument(
        '--gpus-per-node',
        type=int,
        metavar='N',
        help='GPUs of a job; by default one, where there are any',
    )
    group.add_argument(
        '--cpus-per-task', type=int, metavar='N', help='CPU cores of a job; by default 5 per GPU'
    )
    group.add_argument(
        '--time',
        type=int,
        metavar='MINUTES',
        help='time limit of a job, which is queued again when it reaches it, and goes on',
    )
    group.add_argument(
        '--sbatch-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='further options of sbatch, such as account=lab qos=high mem=32G',
    )


def read_job_settings(args: argparse.Namespace, jobs: int, folder: str, name: str) -> JobSettings:
    """Check the flags of jobs.

    Args:
        args (argparse.Namespace): With ``launcher`` and the flags of
            :func:`add_job_arguments`.
        jobs (int): Number of jobs that run at a time.
        folder (str): Folder for the jobs' logs.
        name (str): Name of the jobs.

    Returns:
        JobSettings: The settings.

    Raises:
        InputError: If a number is out of range, a flag is missing or belongs to Slurm only, or
            submitit or Slurm is not there.
    """
    for flag, value, minimum in (
        ('--jobs', jobs, 1),
        ('--gpus-per-node', args.gpus_per_node, 0),
        ('--cpus-per-task', args.cpus_per_task, 1),
        ('--time', args.time, _MIN_MINUTES),
    ):
        if value is not None:
            check_number(flag, value, minimum=minimum)
    if args.launcher == 'slurm':
        if args.time is None:
            raise InputError(
                '--launcher slurm needs --time, the time limit of a job in minutes, for example '
                '--time 720. A job that reaches it is queued again, and goes on.'
            )
        missing = [name for name in ('sbatch', 'squeue', 'srun') if shutil.which(name) is None]
        if missing:
            raise InputError(
                f'--launcher slurm: there is no program "{missing[0]}" here. Start the tool on a '
                'machine of the cluster, or take --launcher local.'
            )
    elif args.partition is not None or args.sbatch_options:
        raise InputError('--partition and --sbatch-options belong to --launcher slurm.')
    import_submitit(f'--launcher {args.launcher}')
    return JobSettings(
        launcher=args.launcher,
        jobs=jobs,
        folder=folder,
        name=name,
        partition=args.partition,
        gpus=args.gpus_per_node,
        cpus=args.cpus_per_task,
        minutes=args.time,
        options=tuple(args.sbatch_options),
    )


def check_no_job_flags(args: argparse.Namespace) -> None:
    """Make sure that no flag of jobs is given where no job is started.

    Args:
        args (argparse.Namespace): With the flags of :func:`add_job_arguments`.

    Raises:
        InputError: If one is.
    """
    for flag in ('partition', 'gpus_per_node', 'cpus_per_task', 'time', 'sbatch_options'):
        if getattr(args, flag):
            raise InputError(
                f'--{flag.replace("_", "-")} belongs to jobs: add --launcher slurm or local.'
            )
