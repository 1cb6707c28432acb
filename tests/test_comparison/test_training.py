# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""How the trainings of a comparison are started."""

import errno
import json
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mtkdrl_mm.comparison import (
    Combination,
    Row,
    Run,
    finished,
    starts,
    train,
    train_all,
    training,
)
from mtkdrl_mm.comparison.results import result_path
from mtkdrl_mm.utils import InputError, child_processes

ROW = Row('fast', 'config.py', ('a=2',), (('BACKBONE', 'aver'),))


@pytest.mark.parametrize(
    ('count', 'visible', 'jobs', 'launch', 'expected'),
    [
        (2, None, 2, '', ['0', '1']),
        (2, None, 3, '', ['0', '1', '0']),
        (4, '3,1', 3, '', ['3', '1', '3']),
        (4, None, 1, '', [None]),  # one training sees them all
        (4, None, 2, 'torchrun --nproc_per_node=4', [None, None]),
        (0, None, 2, '', [None, None]),
        (0, '', 2, '', [None, None]),
    ],
)
def test_gpus_of_jobs(monkeypatch, count, visible, jobs, launch, expected):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if visible is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    free = training.gpus_of_jobs(jobs, launch)
    assert [free.get() for _ in range(free.qsize())] == expected


def test_a_gpu_is_free_again_after_a_failure(settings, monkeypatch):
    free = training.gpus_of_jobs(1, '')

    def fail(combination, settings, gpu, run):
        assert gpu is None and free.qsize() == 0
        raise ValueError

    monkeypatch.setattr(training, 'train', fail)
    with pytest.raises(ValueError):
        training.train_on_free_gpu(Combination(ROW, 0, 'hash'), settings(), free)
    assert free.qsize() == 1


@pytest.fixture
def fake_train(make_run, monkeypatch, tmp_path):
    """Has trainings write a result, but for seed 1; returns the seeds that were trained."""
    ended = []

    def train(combination, settings, gpu, run):
        ended.append(combination.seed)
        if combination.seed != 1:
            folder = combination.folder(str(tmp_path))
            os.makedirs(folder, exist_ok=True)
            make_run(seed=combination.seed).write(result_path(folder))

    monkeypatch.setattr(training, 'train', train)
    return ended


def test_results_are_in_the_order_of_the_trainings(settings, fake_train):
    combinations = [Combination(ROW, seed, 'hash') for seed in (4, 1, 3)]
    results = train_all(combinations, settings(jobs=2))
    assert [run and run.seed for run in results] == [4, None, 3]


def test_every_training_that_ends_is_reported(settings, make_run, fake_train, tmp_path):
    """Those that have finished before are no news."""
    (tmp_path / 'fast' / 'seed_4').mkdir(parents=True)
    make_run(seed=4).write(result_path(str(tmp_path / 'fast' / 'seed_4')))
    combinations = [Combination(ROW, seed, 'hash') for seed in (4, 1, 3)]
    seen = []
    results = train_all(combinations, settings(), on_end=lambda: seen.append(list(fake_train)))
    assert [run and run.seed for run in results] == [4, None, 3]
    assert seen == [[1], [1, 3]]


def test_what_must_not_be_trained_is_refused_before_any_training(settings, fake_train, tmp_path):
    folder = tmp_path / 'fast' / 'seed_3'
    folder.mkdir(parents=True)
    (folder / 'epoch_1.pth').touch()
    with pytest.raises(InputError, match='holds an unfinished training of another config'):
        train_all([Combination(ROW, seed, 'hash') for seed in (4, 3)], settings())
    assert fake_train == []


@pytest.fixture
def start(monkeypatch):
    """Function that has trainings end with a status; returns their commands and environments."""

    def replace(status, logs=None):
        started = []

        class Process:
            pid = 1

            def __init__(self, command, env, **kwargs):
                started.append((command, env))
                if logs is not None:
                    write_logs(command[command.index('--work-dir') + 1], logs)

        monkeypatch.setattr(child_processes.subprocess, 'Popen', Process)
        usage = SimpleNamespace(ru_maxrss=300 * 1024)
        monkeypatch.setattr(
            child_processes.os,
            'wait4',
            lambda pid, options: (pid, status << 8 if status >= 0 else -status, usage),
        )
        return started

    return replace


@pytest.mark.parametrize('warm', [True, False])
def test_a_warm_training_is_a_fork_of_its_command(settings, start, monkeypatch, tmp_path, warm):
    started, forked = start(1), []

    def run(command, environment, log):
        forked.append((command, environment, log.name))
        return 1, None

    monkeypatch.setattr(training, 'run_warm', run)
    train(Combination(ROW, 3, 'hash'), settings(warm=warm))
    assert len(started) == (not warm)
    ((command, environment, *log),) = forked if warm else started
    assert command[1] == 'here/tools/train.py' and environment['RUN_SEED'] == '3'
    assert log == ([str(tmp_path / 'fast/seed_3/output.txt')] if warm else [])


def test_training_sees_only_its_gpu(settings, start, tmp_path, capsys):
    started = start(1)
    kwargs = dict(cfg_options=('a=1',), jobs=2)
    assert train(Combination(ROW, 3, 'hash'), settings(**kwargs), '5') is None
    ((command, seen),) = started
    assert seen['CUDA_VISIBLE_DEVICES'] == '5' and seen['RUN_SEED'] == '3'
    assert seen['BACKBONE'] == 'aver'
    # The row's options come last, and win.
    assert command[-3:] == ['randomness.seed=3', 'a=1', 'a=2']
    folder = str(tmp_path / 'fast' / 'seed_3')
    assert command[command.index('--work-dir') + 1] == folder
    assert capsys.readouterr().out == f'  fast, seed 3: FAILED, see {folder}/output.txt\n'
    assert json.loads((tmp_path / 'fast/seed_3/failure.json').read_text()) == dict(exit_code=1)
    for code in (130, 143, -signal.SIGTERM):
        # It saved on Ctrl-C, or its process was ended.
        start(code)
        assert train(Combination(ROW, 4, 'hash'), settings(**kwargs)) is None
        assert capsys.readouterr().out == '  fast, seed 4: interrupted\n'
        assert not (tmp_path / 'fast/seed_4/failure.json').exists()
    started = start(1)
    train(Combination(ROW, 3, 'hash', store='store/1'), settings(launch='torchrun', **kwargs))
    ((command, _),) = started
    assert command[:2] == ['torchrun', 'here/tools/train.py']
    assert command[5:8] == ['--launcher', 'pytorch', '--resume']
    assert command[-1] == 'model.teacher_outputs=store/1'


def record(step, **values):
    return {'loss': 1.0, 'epoch': 1 + step // 5, 'iter': step, 'step': step, 'time': 0.5, **values}


LOGS = [
    record(2, **{'teacher_weight/logit/a': 0.25, 'teacher_weight/feature/a': 0.5}),
    record(4, time=0.1, **{'teacher_weight/logit/a': 0.75}),
    {'accuracy/top1': 40.0, 'step': 1},
    record(8),
    {'accuracy/top1': 50.0, 'step': 2},
]


def write_logs(folder, records):
    logs = os.path.join(folder, 'now', 'vis_data')
    os.makedirs(logs, exist_ok=True)
    with open(os.path.join(logs, 'scalars.json'), 'w') as file:
        file.writelines(json.dumps(record) + '\n' for record in records)


def test_what_is_trained_is_a_result_and_not_trained_again(
    settings, start, tmp_path, monkeypatch, capsys
):
    started = start(0, LOGS)
    monkeypatch.setattr(training, 'current_commit', lambda root: f'commit of {root}')
    monkeypatch.setattr(training, 'describe_device', lambda: 'a GPU')
    combination = Combination(ROW, 3, 'hash')
    failure = tmp_path / 'fast' / 'seed_3' / 'failure.json'
    failure.parent.mkdir(parents=True)
    failure.write_text('{"exit_code": 1}')  # of an earlier try
    run = train(combination, settings())
    path = result_path(combination.folder(str(tmp_path)))
    assert not failure.exists()
    assert (run.method, run.seed, run.config) == ('fast', 3, 'hash')
    assert (run.metric, run.commit, run.peak_mib) == (50.0, 'commit of here', 300)
    assert run.device == 'a GPU' and run.versions.endswith(f'numpy {np.__version__}')
    assert capsys.readouterr().out == f'  fast, seed 3: 50 in {run.seconds:.0f} s\n'
    again = train(combination, settings())
    assert len(started) == 1 and again == Run.read(path) == finished(combination, settings())
    assert again.metric == run.metric
    # Other seeds have no result, and other configs another one.
    assert finished(Combination(ROW, 4, 'hash'), settings()) is None
    with pytest.raises(InputError) as error:
        train(Combination(ROW, 3, 'other'), settings())
    assert str(error.value) == (
        f'{path} is of another config than config.py with these options is now. Give another '
        '--work-dir, or remove that run to train it again.'
    )


def test_a_result_has_the_time_of_all_starts(settings, start, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, 'current_commit', lambda root: 'commit')
    seconds = iter([100.0, 108.0, 500.0, 500.5, 700.0, 702.0])
    monkeypatch.setattr(starts, 'time', SimpleNamespace(time=lambda: next(seconds)))
    combination = Combination(ROW, 3, 'hash')
    for code in (143, 1):  # it saved and ended; it failed
        start(code)
        assert train(combination, settings()) is None
    start(0, LOGS)
    run = train(combination, settings())
    assert run.seconds == 8 + 0.5 + 2
    assert capsys.readouterr().out.endswith('  fast, seed 3: 50 in 10 s\n')


def test_a_result_of_another_file_is_not_used(settings, start, tmp_path, monkeypatch):
    monkeypatch.setattr(training, 'current_commit', lambda root: 'commit')
    started = start(0, LOGS)

    def combination(*files):
        return Combination(ROW, 3, 'hash', files)

    first = train(combination(('teacher.pth', '1'), ('labels.txt', '1')), settings())
    assert first.files == {'teacher.pth': '1', 'labels.txt': '1'}
    # A file that is gone, or is new, does not matter to what is finished.
    again = finished(combination(('labels.txt', '1'), ('b', '2')), settings())
    assert again.files == first.files and again.metric == first.metric
    with pytest.raises(InputError) as error:
        train(combination(('labels.txt', '1'), ('teacher.pth', '2')), settings())
    path = result_path(combination().folder(str(tmp_path)))
    assert str(error.value) == (
        f'{path} was trained with another "teacher.pth" than is there now. Give another '
        '--work-dir, or remove that run to train it again.'
    )
    # Nor is an unfinished training continued with it.
    os.remove(path)
    folder = tmp_path / 'fast' / 'seed_3'
    (folder / 'epoch_1.pth').touch()
    with pytest.raises(InputError) as error:
        train(combination(('labels.txt', '1'), ('teacher.pth', '2')), settings())
    assert str(error.value) == (
        f'{folder} holds an unfinished training with another "teacher.pth" than is there now. Give '
        'another --work-dir, or remove that folder.'
    )
    train(combination(('labels.txt', '1'), ('teacher.pth', '1')), settings())
    assert len(started) == 2


def test_a_result_of_another_metric_is_read_anew(settings, start, tmp_path, monkeypatch):
    monkeypatch.setattr(training, 'current_commit', lambda root: 'commit')
    logs = [*LOGS, {'accuracy/top1': 51.0, 'accuracy/top5': 90.0, 'step': 3}]
    started = start(0, logs)
    combination = Combination(ROW, 3, 'hash')
    assert train(combination, settings()).metric == 51.0
    path = tmp_path / 'fast' / 'seed_3' / 'result.json'
    before = path.read_bytes()
    run = finished(combination, settings(metric='accuracy/top5'))
    assert (run.metric, run.metric_name) == (90.0, 'accuracy/top5')
    # Another command may be reading the file.
    assert path.read_bytes() == before
    assert finished(combination, settings()).metric == 51.0 and len(started) == 1
    with pytest.raises(InputError) as error:
        finished(combination, settings(metric='mIoU'))
    assert str(error.value) == (
        f'The result in {path.parent} is of "accuracy/top1". No "mIoU" in the logs of '
        f'{path.parent}: its validations have accuracy/top1, accuracy/top5. Name one of them with '
        '--metric.'
    )


def test_a_failed_training_on_a_full_disk_is_reported(settings, start, monkeypatch, capsys):
    def full(content, path):
        raise OSError(errno.ENOSPC, 'No space left on device', path)

    start(1)
    settings = settings()
    combination = Combination(ROW, 3, 'hash')
    training.start_or_continue(combination, settings.work_dir)
    monkeypatch.setattr(training, 'start_or_continue', lambda one, work_dir: one.folder(work_dir))
    monkeypatch.setattr(training, 'write_json', full)
    assert train(combination, settings) is None
    assert capsys.readouterr().out.startswith('  fast, seed 3: FAILED, see ')


def test_a_training_without_the_metric_does_not_stop_the_others(
    settings, start, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(training, 'current_commit', lambda root: 'commit')
    validation = {'accuracy/top5': 90.0, 'time': 0.1, 'data_time': 0.0, 'step': 2}
    logs = {0: [record(2), validation], 1: [LOGS[-1]], 2: LOGS}
    fails = [2]  # how often the last one does
    began = training.start_or_continue

    def begin(combination, work_dir):
        if combination.seed == 2 and fails:
            fails.pop()
            raise PermissionError(errno.EACCES, 'Permission denied', 'output.txt')
        folder = began(combination, work_dir)
        write_logs(folder, logs[combination.seed])
        return folder

    start(0)
    monkeypatch.setattr(training, 'start_or_continue', begin)
    (tmp_path / 'fast' / 'seed_2').mkdir(parents=True)
    combinations = [Combination(ROW, seed, 'hash') for seed in range(3)]
    folder = tmp_path / 'fast'
    reasons = [
        f'No "accuracy/top1" in the logs of {folder}/seed_0: its validations have accuracy/top5. '
        'Name one of them with --metric.',
        f'No "loss" in the logs of {folder}/seed_1: set `default_hooks.logger.interval` to fewer '
        'iterations than the training has.',
        "[Errno 13] Permission denied: 'output.txt'",
    ]
    assert train_all(combinations, settings()) == [None, None, None]
    printed = capsys.readouterr().out.splitlines()
    for seed, reason in enumerate(reasons):
        failure = json.loads((folder / f'seed_{seed}' / 'failure.json').read_text())
        assert failure == dict(exit_code=1, reason=f'Error: {reason}')
        assert printed[seed] == f'  fast, seed {seed}: FAILED: {reason}'
    # Nor does it when they are started again.
    assert [run and run.metric for run in train_all(combinations, settings())] == [None, None, 50.0]


def test_an_unfinished_training_of_another_config_is_not_continued(settings, start, tmp_path):
    started = start(1)
    folder = tmp_path / 'fast' / 'seed_3'

    def refused(description):
        with pytest.raises(InputError) as error:
            train(Combination(ROW, 3, description), settings())
        return str(error.value)

    train(Combination(ROW, 3, 'hash'), settings())
    # Nothing was saved: another config starts afresh.
    train(Combination(ROW, 3, 'other'), settings())
    (folder / 'epoch_1.pth').touch()
    train(Combination(ROW, 3, 'other'), settings())
    assert len(started) == 3
    message = (
        f'{folder} holds an unfinished training of another config than config.py with these '
        'options is now. Give another --work-dir, or remove that folder.'
    )
    assert refused('hash') == message
    # A folder that something else has written.
    (folder / 'started.json').unlink()
    assert refused('other') == message and len(started) == 3
