# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What the Slurm scripts hand to Slurm; `make test-slurm` runs them on a real one."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / 'tools'

# Each writes its arguments, one a line, and then does what the variables say.
SRUN = """#!/usr/bin/env bash
printf '%s\\n' "$@" >"$OUT/srun"
[ -z "${SAVES-}" ] || { sleep 0.1; touch "$SAVES"; }
exit "${CODE:-0}"
"""
SINFO = """#!/usr/bin/env bash
echo "$*" >"$OUT/sinfo"
echo "${PARTITION_GRES:-(null)}"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$*" >>"$OUT/scontrol"
if [ "$1" = show ]; then
    echo "JobId=7 Requeue=${MAY_REQUEUE:-1} BatchFlag=${BATCH:-1} JobState=${STATE:-RUNNING} X=1"
    printf '   Command=%s\\n' "${COMMAND-}"
fi
"""
SQUEUE = """#!/usr/bin/env bash
echo "${LEFT:-1:00:00}"
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Function that runs a script with stand-ins for Slurm's programs."""
    programs = tmp_path / 'bin'
    programs.mkdir()
    for name, text in dict(srun=SRUN, sinfo=SINFO, scontrol=SCONTROL, squeue=SQUEUE).items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def run(script, *arguments, **environ):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(('SLURM', 'GPUS'))}
        path = f'{programs}{os.pathsep}{kept["PATH"]}'
        return subprocess.run(
            ['bash', str(script), *arguments],
            env={**kept, 'PATH': path, 'OUT': str(tmp_path), **environ},
            capture_output=True,
            text=True,
            timeout=30,
        )

    def train(*flags, script=TOOLS / 'slurm_train.sh', **environ):
        work_dir = str(tmp_path / 'work dir')
        return run(script, 'part', 'a name', 'my config.py', work_dir, *flags, **environ)

    run.train = train
    run.folder = tmp_path
    run.srun = lambda: (tmp_path / 'srun').read_text().splitlines()
    return run


def options(slurm):
    arguments = slurm.srun()
    return arguments[: arguments.index('python')]


def command(slurm):
    arguments = slurm.srun()
    return arguments[arguments.index('python') :]


def test_blanks_survive(slurm):
    assert slurm.train('--cfg-options', 'a=b c', PARTITION_GRES='gpu:8').returncode == 0
    assert '--job-name=a name' in options(slurm)
    assert command(slurm) == [
        'python',
        '-u',
        str(TOOLS / 'train.py'),
        'my config.py',
        f'--work-dir={slurm.folder}/work dir',
        '--launcher=slurm',
        '--cfg-options',
        'a=b c',
    ]


@pytest.mark.parametrize(
    ('environ', 'expected'),
    [
        (
            dict(PARTITION_GRES='gpu:a100:8(S:0-1)'),
            ['--gres=gpu:8', '--cpus-per-task=5', '--ntasks=8', '--ntasks-per-node=8'],
        ),
        (
            dict(PARTITION_GRES='gpu:4', GPUS='2'),
            ['--gres=gpu:2', '--cpus-per-task=5', '--ntasks=2', '--ntasks-per-node=2'],
        ),
        (
            dict(PARTITION_GRES='gpu:8', GPUS='16', CPUS_PER_TASK='3'),
            ['--gres=gpu:8', '--cpus-per-task=3', '--ntasks=16', '--ntasks-per-node=8'],
        ),
        (
            dict(PARTITION_GRES='gpu:4', GPUS='8', GPUS_PER_NODE='4'),
            ['--gres=gpu:4', '--cpus-per-task=5', '--ntasks=8', '--ntasks-per-node=4'],
        ),
        (dict(GPUS='2'), ['--ntasks=2', '--ntasks-per-node=2']),
        (
            dict(GPUS='2', PARTITION_GRES='gpu:8', GRES='none'),
            ['--ntasks=2', '--ntasks-per-node=2'],
        ),
        (
            dict(GPUS='1', GRES='gpu:v100:1'),
            ['--gres=gpu:v100:1', '--cpus-per-task=5', '--ntasks=1', '--ntasks-per-node=1'],
        ),
    ],
)
def test_what_is_reserved(slurm, environ, expected):
    assert slurm.train(**environ, SRUN_ARGS='--qos=x --exclusive').returncode == 0
    found = options(slurm)
    assert found[:2] == ['-p', 'part']
    assert [o for o in found[2:] if o != '--job-name=a name'] == [
        *expected,
        '--kill-on-bad-exit=0',
        '--qos=x',
        '--exclusive',
    ]


def test_a_step_takes_what_its_job_has(slurm):
    job = dict(SLURM_JOB_ID='7', SLURM_NTASKS='4', SLURM_CPUS_PER_TASK='6', REQUEUE='0')
    slurm.train(**job, SLURM_JOB_GPUS='0,1', SLURM_NTASKS_PER_NODE='2')
    assert options(slurm) == [
        '--gres=gpu:2',
        '--cpus-per-task=6',
        '--job-name=a name',
        '--ntasks=4',
        '--ntasks-per-node=2',
        '--kill-on-bad-exit=0',
    ]
    slurm.train(**job, PARTITION_GRES='gpu:8')
    assert not any(option.startswith(('--gres', '-p')) for option in options(slurm))
    assert not (slurm.folder / 'sinfo').exists()


def test_testing(slurm):
    result = slurm(TOOLS / 'slurm_test.sh', 'part', 'x', 'c.py', 'a b.pth', '--tta', GPUS='2')
    assert result.returncode == 0
    expected = ['-u', str(TOOLS / 'test.py'), 'c.py', 'a b.pth', '--launcher=slurm', '--tta']
    assert command(slurm)[1:] == expected


@pytest.mark.parametrize('script', ['slurm_train.sh', 'slurm_test.sh'])
def test_too_few_arguments(slurm, script):
    result = slurm(TOOLS / script, 'part', 'x', 'c.py')
    assert result.returncode == 2
    assert f'tools/{script} PARTITION JOB_NAME CONFIG' in result.stderr


def test_gpus_that_is_no_number(slurm):
    result = slurm.train(GPUS='all')
    assert (result.returncode, result.stderr) == (
        2,
        'GPUS must be a whole number of at least 1, but is "all".\n',
    )


def calls(slurm):
    return (slurm.folder / 'scontrol').read_text().splitlines()


def test_sigterm_requeues_a_batch_job(slurm):
    (slurm.folder / 'work dir').mkdir()
    saved = slurm.folder / 'work dir' / 'interrupted_iter_3.pth'
    result = slurm.train(SLURM_JOB_ID='7', SLURM_NTASKS='2', CODE='143', SAVES=str(saved))
    assert result.returncode == 143
    assert calls(slurm)[-1] == 'requeue 7'
    assert f'job 7 queues again and resumes from {saved}.' in result.stdout


def test_a_job_of_an_array_is_named_by_its_place(slurm):
    """The last one has the number of the whole array."""
    (slurm.folder / 'work dir').mkdir()
    saved = slurm.folder / 'work dir' / 'interrupted_iter_3.pth'
    array = dict(SLURM_JOB_ID='7', SLURM_ARRAY_JOB_ID='7', SLURM_ARRAY_TASK_ID='2')
    result = slurm.train(**array, SLURM_NTASKS='2', CODE='143', SAVES=str(saved))
    assert result.returncode == 143
    assert calls(slurm) == ['show job -o 7_2', 'show job -o 7_2', 'requeue 7_2']


@pytest.mark.parametrize(
    'environ',
    [
        dict(CODE='0'),
        dict(CODE='1'),
        dict(CODE='137'),
        dict(CODE='143', REQUEUE='0'),
        dict(CODE='143', BATCH='0'),
        dict(CODE='143', MAY_REQUEUE='0'),
        dict(CODE='143', STATE='CANCELLED'),
        dict(CODE='143', LEFT='1:30'),
    ],
)
def test_other_ends_do_not_requeue(slurm, environ):
    result = slurm.train(SLURM_JOB_ID='7', SLURM_NTASKS='2', **environ)
    assert result.returncode == int(environ['CODE'])
    seen = slurm.folder / 'scontrol'
    assert not seen.exists() or 'requeue 7' not in seen.read_text()
    if 'LEFT' in environ:
        assert 'SIGTERM came before the first checkpoint, 1:30 before the end' in result.stderr


def test_a_restarted_job_resumes(slurm):
    job = dict(SLURM_JOB_ID='7', SLURM_NTASKS='2', SLURM_RESTART_COUNT='1')
    # Nothing was saved yet: as the user began.
    slurm.train('--resume', 'other.pth', **job)
    assert command(slurm)[-2:] == ['--resume', 'other.pth']
    (slurm.folder / 'work dir').mkdir()
    (slurm.folder / 'work dir' / 'epoch_1.pth').touch()
    slurm.train('--resume', 'other.pth', **job)
    assert command(slurm)[-3:] == ['--resume', 'other.pth', '--resume']
    slurm.train(**{**job, 'SLURM_RESTART_COUNT': '0'})
    assert '--resume' not in command(slurm)


def test_sbatch_runs_a_copy_elsewhere(slurm):
    copy = slurm.folder / 'slurm_script'
    shutil.copy(TOOLS / 'slurm_train.sh', copy)
    original = f'{TOOLS}/slurm_train.sh part name config.py work'
    slurm.train(script=copy, SLURM_JOB_ID='7', SLURM_NTASKS='2', COMMAND=original)
    assert command(slurm)[2] == str(TOOLS / 'train.py')


@pytest.mark.skipif(shutil.which('shellcheck') is None, reason='needs shellcheck')
def test_shellcheck():
    scripts = [str(path) for path in [*TOOLS.glob('*.sh'), *TOOLS.glob('dev/*.sh')]]
    result = subprocess.run(
        ['shellcheck', '-x', *scripts], capture_output=True, text=True, cwd=TOOLS.parent
    )
    assert result.returncode == 0, result.stdout
