# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The one command of the CIFAR-100 experiments, with a Python that only notes what it is told."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PYTHON = """#!/usr/bin/env bash
echo "${STUDENT+STUDENT=$STUDENT }$*" >> "$LOG"
case "${STUDENT-} $*" in *"$FAIL"*) exit 1 ;; esac
for argument; do
    name=$(basename "$argument" .py)
    case "$name" in teacher_*) mkdir -p "work_dirs/cifar100/$name/seed_0" &&
        touch "work_dirs/cifar100/$name/seed_0/epoch_240.pth" ;; esac
done
"""


@pytest.fixture
def run(tmp_path):
    """Function that runs the script in a copy of the project; returns its end and its commands."""
    (tmp_path / 'tools').mkdir()
    shutil.copy(ROOT / 'tools' / 'cifar100.sh', tmp_path / 'tools')
    shutil.copytree(ROOT / 'configs' / 'cifar100', tmp_path / 'configs' / 'cifar100')
    (tmp_path / 'bin').mkdir()
    python = tmp_path / 'bin' / 'python'
    python.write_text(PYTHON)
    python.chmod(0o755)

    def call(*arguments, fail='nothing', **variables):
        log = tmp_path / 'log.txt'
        log.write_text('')
        environment = {
            **os.environ,
            **variables,
            'PATH': f'{python.parent}:{os.environ["PATH"]}',
            'LOG': str(log),
            'FAIL': fail,
        }
        done = subprocess.run(
            ['bash', tmp_path / 'tools' / 'cifar100.sh', *arguments],
            env=environment,
            capture_output=True,
            text=True,
        )
        return done, log.read_text().splitlines()

    return call


def test_teachers_come_first_and_only_once(run, tmp_path):
    done, commands = run('2', '--cfg-options', 'train_dataloader.num_workers=4')
    assert done.returncode == 0, done.stderr
    data, teachers, *students = commands
    assert "CIFAR100('data/cifar100')" in data and (tmp_path / 'data' / 'cifar100').is_dir()
    assert all(command.endswith('train_dataloader.num_workers=4') for command in commands[1:])
    assert all(' --jobs 2 --cfg-options ' in command for command in commands[1:])
    assert (
        teachers.count('/teacher_') == 4
        and ' --seeds 0 --work-dir work_dirs/cifar100 --out ' in teachers
    )
    for teacher in ('regnety_400mf', 'regnetx_400mf', 'resnet32x4', 'wrn_28_4'):
        assert (tmp_path / f'work_dirs/cifar100/teacher_{teacher}/epoch_240.pth').is_file()
    names = ['regnetx_200mf', 'mobilenetv2', 'shufflenetv2', 'resnet56']
    for command, name in zip(students, names, strict=True):
        assert command.startswith(f'STUDENT={name} tools/analysis_tools/compare_methods.py ')
        assert command.count('/student_') == 9
        assert f' --seeds 0 1 2 --work-dir work_dirs/cifar100/{name} ' in command
        assert f' --out work_dirs/cifar100/table_{name} ' in command

    done, again = run('2', '--cfg-options', 'train_dataloader.num_workers=4')
    assert again == [data, *students]


def test_seeds_and_students_can_be_chosen(run):
    done, commands = run(SEEDS='7', STUDENTS='resnet56')
    assert done.returncode == 0 and len(commands) == 3
    assert commands[2].startswith('STUDENT=resnet56 ') and ' --seeds 7 --work-dir ' in commands[2]
    assert commands[2].endswith(' --jobs 1')


def test_failures(run):
    done, commands = run(fail='mobilenetv2 ')
    assert done.returncode == 1 and len(commands) == 6  # the other students are trained
    done, commands = run(fail='teacher_')
    assert done.returncode == 0 and len(commands) == 5  # the teachers exist by now


def test_no_students_without_teachers(run):
    done, commands = run(fail='teacher_')
    assert done.returncode == 1 and len(commands) == 2


def test_wrong_number_of_gpus(run):
    done, commands = run('configs/cifar100')
    assert done.returncode == 2 and not commands
    assert 'tools/cifar100.sh [GPUS]' in done.stderr
