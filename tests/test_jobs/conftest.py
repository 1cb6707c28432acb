# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Jobs, and stand-ins for Slurm's programs."""

import os

import pytest

from mtkdrl_mm.jobs import CommandJob, JobSettings

# A queue that is the text of a file; every look removes its first line.
PROGRAMS = dict(
    sbatch="""#!/usr/bin/env bash
cp "$1" "$TEST_FOLDER/script"
env | cut -d= -f1 >"$TEST_FOLDER/names"
if [ -e "$TEST_FOLDER/refusal" ]; then cat "$TEST_FOLDER/refusal" >&2; exit 1; fi
echo 'Submitted batch job 7'
""",
    squeue="""#!/usr/bin/env bash
head -1 "$TEST_FOLDER/queue" | tr ' ' '\\n'
sed -i 1d "$TEST_FOLDER/queue"
""",
    scontrol="""#!/usr/bin/env bash
echo "JobId=7 JobState=${STATE:-NODE_FAIL} Requeue=${REQUEUE:-1} BatchFlag=1 ExitCode=0:9 X=1"
""",
    sinfo="""#!/usr/bin/env bash
printf 'cpu* (null)\\ngpu gpu:8\\n' | grep "^${5-.}"
""",
    srun='#!/usr/bin/env bash\n',
)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder with stand-ins for Slurm's programs, which are found first."""
    programs = tmp_path / 'bin'
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (tmp_path / 'queue').write_text('')
    for name in [name for name in os.environ if name.startswith(('SLURM', 'SBATCH'))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv('PATH', f'{programs}{os.pathsep}{os.environ["PATH"]}')
    monkeypatch.setenv('TEST_FOLDER', str(tmp_path))
    return tmp_path


@pytest.fixture
def settings(tmp_path):
    """Function that returns settings of jobs."""

    def make(launcher='slurm', **kwargs):
        defaults = dict(jobs=2, folder=str(tmp_path / 'jobs'), name='test', minutes=60)
        return JobSettings(launcher=launcher, **{**defaults, **kwargs})

    return make


@pytest.fixture
def make_job(tmp_path):
    """Function that returns a job with a shell's command."""

    def make(command='true', name='job', save_seconds=10.0):
        folder = tmp_path / 'work'
        folder.mkdir(exist_ok=True)
        return CommandJob(
            ['bash', '-c', command],
            outcome=str(folder / f'{name}.json'),
            progress=str(folder / f'{name}_*.pth'),
            save_seconds=save_seconds,
        )

    return make
