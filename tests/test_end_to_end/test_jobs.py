# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A comparison whose store and trainings are jobs, of this machine."""

import pytest

from .conftest import Workshop

pytestmark = pytest.mark.slow


def test_store_and_training_as_jobs(workshop: Workshop):
    config = workshop.config('student_mtkdrl')
    work_dir, store = workshop.folder / 'the runs', workshop.folder / 'the store'
    command = ['tools/analysis_tools/compare_methods.py', config, '--reference', 'mtkdrl']
    command += ['--launcher', 'local', '--seeds', '3', '--work-dir', str(work_dir)]
    command += ['--store', str(store), '--views', '1']
    command += ['--cfg-options', 'train_cfg.max_epochs=2']
    # submitit's local jobs have the numbers of their processes.
    done = workshop.tool(*command, fresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'mtkdrl, seed 3: ' in done.stdout
    assert '" is complete.' in (work_dir / 'store_output.txt').read_text()
    output = (work_dir / 'mtkdrl' / 'seed_3' / 'output.txt').read_text()
    assert '1 view' in output and 'No network is run' in output
    # One log for the job that wrote the store, and one for the training.
    assert len(list((work_dir / 'jobs').glob('*_log.out'))) == 2
    assert list((work_dir / 'jobs').glob('store_*')) == []
