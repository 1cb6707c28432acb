# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What every tool has in common."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Other tests run these in a new interpreter.
STARTED_ELSEWHERE = {
    'train.py',
    'test.py',
    'demo.py',
    'dist_run.py',
    'store_teacher_outputs.py',
    'analysis_tools/benchmark_distill.py',
    'analysis_tools/check_teachers.py',
    'analysis_tools/compute_class_centers.py',
}
TOOLS = sorted(
    name
    for path in (ROOT / 'tools').rglob('*.py')
    if (name := path.relative_to(ROOT / 'tools').as_posix()) not in STARTED_ELSEWHERE
    and not name.startswith('dev/')
)


@pytest.mark.slow
@pytest.mark.parametrize('tool', TOOLS)
def test_help_in_a_new_interpreter(tool, tmp_path):
    """Other tests start tools as forks of a process that has imported nearly everything.

    From a folder that is not the checkout's, as users may.
    """
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / tool), '--help'],
        cwd=tmp_path,
        env={**os.environ, 'COLUMNS': '100'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # The maintained forks of mmpretrain, mmdet and mmseg print a line of their own when they are
    # imported (docs/getting_started.md); nothing else may come before the usage.
    said = done.stdout.removeprefix('Could not import OneDL\n')
    assert said.startswith('usage:')
    # What it does, in a line below the usage.
    paragraphs = said.split('\n\n')
    assert len(paragraphs) > 2 and len(paragraphs[1].split()) > 3
    assert not os.listdir(tmp_path)
