# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Trainings that are cut in two give what uncut ones give."""

import hashlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from waiting import patience

from mtkdrl_mm.models.teachers import choose_mode
from mtkdrl_mm.utils import InputError

from .conftest import ROOT, Workshop, environment, largest_difference, weights_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('update_interval', [None, 3])
def test_two_and_two_epochs_are_four(workshop, workers, update_interval):
    # With an interval of 3 and 4 iterations an epoch, the checkpoint after
    # epoch 2 holds a rollout buffer that is not used up.
    config = workshop.config(workers=workers)
    options = {'default_hooks.agent.update_interval': update_interval}
    workshop.runner(config, 'whole', **options).train()
    workshop.runner(config, 'parts', **options, **{'train_cfg.max_epochs': 2}).train()
    workshop.runner(config, 'parts', **options, resume=True).train()

    whole = torch.load(workshop.folder / 'whole' / 'epoch_4.pth')
    parts = torch.load(workshop.folder / 'parts' / 'epoch_4.pth')
    assert largest_difference(whole['state_dict'], parts['state_dict']) == 0
    first, second = whole['agent_hook'], parts['agent_hook']
    assert first['algorithm']['updates'] == second['algorithm']['updates'] > 3
    momenta = [
        [s['momentum_buffer'] for s in hook['algorithm']['optimizer']['state'].values()]
        for hook in (first, second)
    ]
    assert len(momenta[0]) > 0
    assert all(torch.equal(a, b) for a, b in zip(*momenta))
    for a, b in zip(first['buffers'], second['buffers'], strict=True):
        assert a['seen'] == b['seen'] > 0
        assert torch.equal(a['states'], b['states'])


def test_resumed_trainings_run_their_teachers_as_before(workshop, monkeypatch):
    """Also where a new measurement would choose another mode, with other rounding errors."""
    fastest = []

    def measured(teachers, inputs):
        return [[0.5 if str(t.mode) == fastest[-1] else 1.0] for t in teachers]

    monkeypatch.setattr(choose_mode, '_interleaved', measured)
    monkeypatch.setattr(choose_mode, '_MIN_SECONDS', 0)
    monkeypatch.setattr(choose_mode, 'cpu_has_bfloat16', lambda: True)
    config = workshop.config()
    for folder, last, mode, resume in (
        ('whole', 4, 'channels_last, bfloat16', False),
        ('parts', 2, 'channels_last, bfloat16', False),
        ('parts', 4, 'channels_last', True),
        ('other', 4, 'channels_last', False),
    ):
        fastest.append(mode)
        options = {'model.teacher_inference': 'auto', 'train_cfg.max_epochs': last}
        workshop.runner(config, folder, **options, resume=resume).train()
    whole, parts, other = (
        torch.load(workshop.folder / name / 'epoch_4.pth') for name in ('whole', 'parts', 'other')
    )
    modes = whole['meta']['teacher_inference']
    assert modes.keys() == {'teacher0', 'teacher1'}
    assert parts['meta']['teacher_inference'] == modes
    assert {mode['dtype'] for mode in modes.values()} == {'bfloat16'}
    assert largest_difference(whole['state_dict'], parts['state_dict']) == 0
    # The mode matters to the last bits, so that the equality says something.
    assert largest_difference(whole['state_dict'], other['state_dict']) > 0
    parts_of_the_model = {key.split('.')[0] for key in whole['state_dict']}
    assert parts_of_the_model == {'student', 'connectors', 'weighting'}


def test_other_weights_of_a_teacher_end_the_resumption(workshop):
    """Its file may be moved, but a file of that name with other contents is another teacher."""
    config = workshop.config()
    workshop.runner(config, 'run', **{'train_cfg.max_epochs': 1}).train()
    saved = torch.load(workshop.folder / 'run' / 'epoch_1.pth')['meta']['teachers']
    first = workshop.runner(config, 'unused').model.teacher_configs[0].checkpoint
    digest = hashlib.sha256(Path(first).read_bytes()).hexdigest()
    assert [entry['name'] for entry in saved] == ['teacher0', 'teacher1']
    assert saved[0]['weights_sha256'] == digest != saved[1]['weights_sha256']

    moved = workshop.folder / 'moved.pth'
    shutil.copy(first, moved)
    options = {'resume': True, 'model.teachers.0.checkpoint': str(moved)}
    workshop.runner(config, 'run', **options, **{'train_cfg.max_epochs': 2}).train()
    weights = torch.load(moved)
    key = next(key for key in weights['state_dict'] if key.endswith('weight'))
    weights['state_dict'][key][0] += 1
    torch.save(weights, moved)
    with pytest.raises(InputError, match=f'"teacher0" with another version .*{digest[:12]} then'):
        workshop.runner(config, 'run', **options).train()


def test_a_teacher_is_the_file_that_was_loaded(workshop):
    """Another one in its place, or none, matters no more once the training has begun."""
    config = workshop.config()
    runner = workshop.runner(config, 'run', **{'train_cfg.max_epochs': 1})
    path = workshop.folder / 'loaded.pth'
    shutil.copy(runner.model.teacher_configs[0].checkpoint, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    options = {'train_cfg.max_epochs': 1, 'model.teachers.0.checkpoint': str(path)}
    runner = workshop.runner(config, 'run', **options)

    class Remove(Hook):
        def before_train_epoch(self, runner):
            path.unlink()

    runner.register_hook(Remove())
    runner.train()
    saved = torch.load(workshop.folder / 'run' / 'epoch_1.pth')['meta']['teachers']
    assert saved[0]['weights_sha256'] == digest


def test_the_seed_and_the_agent_matter(workshop):
    """The equality above is not that of trainings in which nothing happens."""
    config = workshop.config()
    workshop.runner(config, 'seed0', **{'train_cfg.max_epochs': 2}).train()
    workshop.runner(config, 'seed1', **{'train_cfg.max_epochs': 2, 'randomness.seed': 1}).train()
    first = weights_of(workshop.folder / 'seed0' / 'epoch_1.pth')
    second = weights_of(workshop.folder / 'seed0' / 'epoch_2.pth')
    other = weights_of(workshop.folder / 'seed1' / 'epoch_2.pth')
    for part in ('student.', 'weighting.agent.networks', 'connectors.'):
        keys = [k for k in first if k.startswith(part)]
        for a, b in ((first, second), (second, other)):
            assert largest_difference({k: a[k] for k in keys}, {k: b[k] for k in keys}) > 1e-4


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_resuming_goes_on_exactly(workshop: Workshop, number):
    config = workshop.config()
    work_dir = workshop.folder / 'cut'
    flags = ['--work-dir', str(work_dir), '--cfg-options', 'train_cfg.max_epochs=30']
    command = [sys.executable, '-u', 'tools/train.py', config, *flags]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(fresh=True),
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.STDOUT,
    )
    for line in process.stdout:
        if 'Epoch(train)  [2][3/4]' in line:
            process.send_signal(number)
            break
    rest = process.stdout.read()
    assert process.wait(timeout=600) == 128 + number, rest[-2000:]
    assert f'{number.name} received: saved interrupted_iter_' in rest
    (saved,) = work_dir.glob('interrupted_iter_*.pth')
    iteration = torch.load(saved)['meta']['iter']
    assert 7 <= iteration < 120

    epochs = iteration // 4 + 2
    flags[-1] = f'train_cfg.max_epochs={epochs}'
    resumed = workshop.train(config, *flags, '--resume')
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert not saved.exists(), 'superseded by the next checkpoint'
    workshop.runner(config, 'whole', **{'train_cfg.max_epochs': epochs}).train()
    whole = weights_of(workshop.folder / 'whole' / f'epoch_{epochs}.pth')
    assert largest_difference(whole, weights_of(work_dir / f'epoch_{epochs}.pth')) < 1e-6


def test_epochs_see_other_augmentations(workshop: Workshop):
    """The same image, unshuffled, is cropped and flipped anew in every epoch."""
    config = workshop.config()
    seen = []
    for workers in (0, 2):
        runner = workshop.runner(
            config,
            f'workers{workers}',
            **{
                'train_dataloader.sampler.shuffle': False,
                'train_dataloader.num_workers': workers,
                'train_dataloader.persistent_workers': workers > 0,
                'train_cfg.max_epochs': 2,
            },
        )
        batches = []
        original = runner.model.data_preprocessor.forward

        def record(data, training=False, batches=batches, original=original):
            if training:
                batches.append(data['inputs'].clone())
            return original(data, training)

        runner.model.data_preprocessor.forward = record
        runner.train()
        assert len(batches) == 8
        assert all(not torch.equal(a, b) for a, b in zip(batches[:4], batches[4:]))
        seen.append(batches)
    assert all(torch.equal(a, b) for a, b in zip(*seen)), 'workers must not matter'


def test_waiting(workshop: Workshop):
    """A signal during validation is obeyed after it."""
    runner = workshop.runner(workshop.config(), 'val', **{'train_cfg.val_interval': 1})
    from mtkdrl_mm.engine.hooks import PreemptionHook

    (hook,) = [h for h in runner.hooks if isinstance(h, PreemptionHook)]
    start = time.time()
    original = runner.call_hook

    def call(name, **kwargs):
        if name == 'before_val_epoch':
            signal.raise_signal(signal.SIGTERM)
        return original(name, **kwargs)

    runner.call_hook = call
    with pytest.raises(SystemExit) as stop:
        runner.train()
    assert stop.value.code == 143
    saved = torch.load(workshop.folder / 'val' / 'interrupted_iter_4.pth')
    assert (saved['meta']['epoch'], saved['meta']['iter']) == (1, 4)
    assert hook._previous == {}
    assert signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.Handlers.SIG_DFL)
    assert time.time() - start < patience(60)
