# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The flags of jobs."""

import argparse
import sys

import pytest

from mtkdrl_mm.jobs import (
    add_job_arguments,
    check_no_job_flags,
    read_job_settings,
)
from mtkdrl_mm.utils import InputError


@pytest.fixture
def parse():
    """Function that parses a command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--launcher')
    parser.add_argument('--jobs', type=int, default=1)
    add_job_arguments(parser, 'every test')
    return lambda line: parser.parse_args(line.split())


def read(args):
    return read_job_settings(args, args.jobs, 'folder', 'name')


def test_flags_stand_for_the_settings(parse, slurm):
    line = (
        '--launcher slurm --jobs 3 --partition gpu --gpus-per-node 2 --cpus-per-task 7 --time 90 '
        '--sbatch-options account=lab exclusive'
    )
    settings = read(parse(line))
    assert settings.flags() == line.split()
    assert read(parse(' '.join(settings.flags()))) == settings
    assert (settings.num_gpus(), settings.num_cpus()) == (2, 7)
    assert settings.sbatch_options() == dict(requeue=True, account='lab', exclusive=True)
    few = read(parse('--launcher slurm --time 5'))
    assert few.flags() == '--launcher slurm --jobs 1 --time 5'.split()
    # What submitit tells Slurm, and what its local jobs get.
    local = read(parse('--launcher local'))
    assert (few.save_seconds, local.save_seconds) == (120, 30)


@pytest.mark.parametrize(
    ('partition', 'gpus', 'cpus'),
    [('', 0, None), ('--partition gpu', 1, 5), ('--partition cpu', 0, None)],
)
def test_a_job_has_a_gpu_where_the_partition_has_any(parse, slurm, partition, gpus, cpus):
    settings = read(parse(f'--launcher slurm --time 60 {partition}'))
    assert (settings.num_gpus(), settings.num_cpus()) == (gpus, cpus)


@pytest.mark.parametrize(
    ('line', 'sentence'),
    [
        ('--launcher slurm', '--launcher slurm needs --time, the time limit of a job in minutes'),
        ('--launcher slurm --time 4', '`--time` must be at least 5, but is 4.'),
        ('--launcher local --jobs 0', '`--jobs` must be at least 1, but is 0.'),
        ('--launcher local --gpus-per-node -1', '`--gpus-per-node` must be at least 0'),
        ('--launcher local --partition gpu', '--partition and --sbatch-options belong to'),
    ],
)
def test_refusals(parse, slurm, line, sentence):
    with pytest.raises(InputError, match=sentence):
        read(parse(line))


def test_what_is_not_installed_is_named(parse, slurm, monkeypatch):
    monkeypatch.setitem(sys.modules, 'submitit', None)
    with pytest.raises(InputError, match='--launcher local needs submitit, which is not installed'):
        read(parse('--launcher local'))
    (slurm / 'bin' / 'sbatch').unlink()
    monkeypatch.setenv('PATH', str(slurm / 'bin'))
    with pytest.raises(InputError, match='there is no program "sbatch" here'):
        read(parse('--launcher slurm --time 5'))


def test_flags_of_jobs_without_jobs(parse):
    check_no_job_flags(parse('--launcher none'))
    for flag in ('--cpus-per-task 3', '--time 3', '--sbatch-options a=b'):
        with pytest.raises(InputError, match=f'{flag.split()[0]} belongs to jobs: add --launcher'):
            check_no_job_flags(parse(f'--launcher none {flag}'))
