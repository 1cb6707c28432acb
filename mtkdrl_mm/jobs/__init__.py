# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Commands as jobs of Slurm, or of this machine, through submitit."""

from .command_job import CommandJob
from .run_jobs import run_jobs
from .settings import (
    JOB_LAUNCHERS,
    JobSettings,
    add_job_arguments,
    check_no_job_flags,
    read_job_settings,
)

__all__ = [
    'JOB_LAUNCHERS',
    'CommandJob',
    'JobSettings',
    'add_job_arguments',
    'check_no_job_flags',
    'read_job_settings',
    'run_jobs',
]
