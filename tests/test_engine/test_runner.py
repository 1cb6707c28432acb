# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A runner of which nothing is lost, with a model of one parameter."""

import errno
import json
import logging
import os
import signal
import uuid
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS, RUNNERS
from mmengine.runner import EpochBasedTrainLoop
from torch import distributed as dist
from torch import nn
from torch.multiprocessing.spawn import start_processes

from mtkdrl_mm.datasets import sample_digest
from mtkdrl_mm.engine import runner as runner_module
from mtkdrl_mm.engine.hooks import (
    DurableCheckpointHook,
    ElasticParamSchedulerHook,
    PreemptionHook,
    TeacherOutputsHook,
)
from mtkdrl_mm.engine.loops import ResumableEpochLoop, ResumableIterLoop
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.weights.checkpoint import read_checkpoint


@DATASETS.register_module(name='RunnerTestNumbers')
class Numbers(BaseDataset):
    METAINFO = dict(classes=('a', 'b'))

    def __init__(self, size=10, labels=(0, 1), **kwargs):
        self.size, self.labels = size, labels
        super().__init__(**kwargs)

    def load_data_list(self):
        labels = [self.labels[i % len(self.labels)] for i in range(self.size)]
        return [dict(index=i, gt_label=label) for i, label in enumerate(labels)]

    def prepare_data(self, idx):
        return dict(inputs=torch.tensor([float(idx)]) + torch.rand(1))


@MODELS.register_module(name='RunnerTestLine')
class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen = []

    def forward(self, inputs, mode='tensor'):
        inputs = torch.stack(list(inputs)) if isinstance(inputs, (list, tuple)) else inputs
        if mode == 'loss':
            self.seen.append(inputs.flatten().tolist())
            return dict(loss=((self.layer(inputs) - inputs) ** 2).mean())
        return self.layer(inputs)


@METRICS.register_module(name='RunnerTestMean')
class Mean(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(float(torch.stack(list(data_samples)).mean()))

    def compute_metrics(self, results):
        return dict(mean=float(np.mean(results)))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """mmengine looks for compilers, to log them, whenever a runner is built."""
    monkeypatch.setattr('mmengine.runner.runner.collect_env', lambda: {})


@pytest.fixture
def build(tmp_path):
    """Function that builds a runner; keys with dots change its config."""

    def make(kind='Epoch', **options):
        from mmengine.config import Config

        loader = dict(
            dataset=dict(type='RunnerTestNumbers'),
            sampler=dict(type='DefaultSampler', shuffle=True),
            batch_size=4,
            num_workers=0,
        )
        if kind == 'Iter':
            loader['sampler'] = dict(type='InfiniteSampler', shuffle=True)
        cfg = Config(
            dict(
                runner_type='mtkdrl_mm.ResumableRunner',
                model=dict(type='RunnerTestLine'),
                work_dir=str(tmp_path / 'run'),
                experiment_name=uuid.uuid4().hex,
                train_dataloader=loader,
                val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
                val_evaluator=dict(type='RunnerTestMean'),
                val_cfg=dict(),
                train_cfg=(
                    dict(by_epoch=True, max_epochs=3, val_interval=99)
                    if kind == 'Epoch'
                    else dict(type='IterBasedTrainLoop', max_iters=9, val_interval=99)
                ),
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
                param_scheduler=dict(type='LinearLR', by_epoch=False, start_factor=0.1, end=6),
                default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
                randomness=dict(seed=1),
            )
        )
        cfg.merge_from_dict(options)
        return RUNNERS.build(cfg)

    return make


def lr(runner):
    return runner.optim_wrapper.param_groups[0]['lr']


def test_mmengine_s_components_are_replaced(build):
    runner = build()
    kinds = [type(hook) for hook in runner.hooks]
    for kind in (DurableCheckpointHook, ElasticParamSchedulerHook, PreemptionHook):
        assert kinds.count(kind) == 1
    runner.train()
    assert type(runner.train_loop) is ResumableEpochLoop
    iterations = build('Iter')
    iterations.train()
    assert type(iterations.train_loop) is ResumableIterLoop


@pytest.mark.parametrize('kind', ['class', 'mmengine.{}'])
def test_they_are_replaced_by_class_and_by_scoped_name_too(build, kind):
    """As configs in the newer, pure Python style name them, and older ones of other packages."""
    hook, loop = CheckpointHook, EpochBasedTrainLoop
    if kind != 'class':
        hook, loop = kind.format(hook.__name__), kind.format(loop.__name__)
    runner = build()
    runner._hooks = []
    runner.register_hook(dict(type=hook))
    assert [type(one) for one in runner.hooks] == [DurableCheckpointHook]
    built = runner.build_train_loop(dict(type=loop, max_epochs=1))
    assert type(built) is ResumableEpochLoop


def test_other_hooks_stay_and_none_switches_off(build):
    hooks = {
        'default_hooks.preemption': None,
        'default_hooks.agent': None,  # mmengine refuses it for hooks that are not its own
        'default_hooks.logger': None,
        'default_hooks.param_scheduler.type': 'SyncBuffersHook',
    }
    kinds = [type(hook).__name__ for hook in build(**hooks).hooks]
    assert 'PreemptionHook' not in kinds and 'ElasticParamSchedulerHook' not in kinds
    assert 'SyncBuffersHook' in kinds and 'LoggerHook' not in kinds


@MODELS.register_module(name='RunnerTestStored')
class Stored(Line):
    def __init__(self, teacher_outputs):
        super().__init__()
        self.teacher_outputs = teacher_outputs


@pytest.mark.parametrize(('setting', 'count'), [(None, 0), ('store', 1)])
def test_stored_outputs_are_connected_by_a_hook(build, setting, count):
    model = dict(type='RunnerTestStored', teacher_outputs=setting, _delete_=True)
    runner = build(model=model)
    assert [type(hook) for hook in runner.hooks].count(TeacherOutputsHook) == count


@pytest.mark.parametrize('kind', ['Epoch', 'Iter'])
def test_interrupted_anywhere_and_resumed(build, tmp_path, kind):
    whole = build(kind, work_dir=str(tmp_path / 'whole'))
    whole.train()
    for stop in (1, 3, 4, 8):
        folder = str(tmp_path / f'cut_{stop}')
        first = build(kind, work_dir=folder)

        class Signal(Hook):
            def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
                if runner.iter + 1 == stop:  # noqa: B023
                    signal.raise_signal(signal.SIGTERM)

        first.register_hook(Signal())
        with pytest.raises(SystemExit) as caught:
            first.train()
        assert caught.value.code == 143
        second = build(kind, work_dir=folder, resume=True)
        second.train()
        assert first.model.seen + second.model.seen == whole.model.seen
        for a, b in zip(whole.model.parameters(), second.model.parameters()):
            assert torch.equal(a, b)
        assert lr(whole) == lr(second)
        assert not [f for f in os.listdir(folder) if 'interrupted' in f or f.endswith('.tmp')]


def test_checkpoints_say_where_the_training_is(build, tmp_path):
    build().train()
    meta = read_checkpoint(str(tmp_path / 'run' / 'epoch_2.pth'), 'test')['meta']
    assert meta['progress'] == dict(
        epoch=2,
        images_done=0,
        num_images=10,
        batch_size=4,
        world_size=1,
        schedule_step=6,
        schedule_steps_per_epoch=3,
        samples=sample_digest(Numbers()),
    )
    assert meta['training'] == {
        'model.type': 'RunnerTestLine',
        'optim_wrapper.optimizer.type': 'SGD',
    }


def test_resuming_with_another_batch_size(build, tmp_path):
    build(**{'train_cfg.max_epochs': 1}).train()
    runner = build(**{'resume': True, 'train_dataloader.batch_size': 2, 'param_scheduler.end': 6})
    logged = []
    runner.logger.warning = lambda text, *a, **k: logged.append(text)
    runner.train()
    assert [len(batch) for batch in runner.model.seen] == [2] * 10
    assert runner.iter == 15
    # 3 of 6 iterations of the warm-up were done; the other 3 take an epoch again
    assert lr(runner) == pytest.approx(0.01)
    assert len(logged) == 1 and '1 x 2 images per step' in logged[0]
    assert 'The learning rate stays 0.0' in logged[0]


@pytest.mark.parametrize(('batch', 'factor'), [(2, 0.5), (4, 1.0), (8, 2.0)])
def test_resuming_scales_the_learning_rate_if_that_is_asked_for(build, batch, factor):
    scale = {'auto_scale_lr': dict(base_batch_size=4, enable=True)}
    build(**scale, **{'train_cfg.max_epochs': 2}).train()
    runner = build(**scale, resume=True, **{'train_dataloader.batch_size': batch})
    runner.train()
    assert lr(runner) == pytest.approx(0.01 * factor)
    assert runner.optim_wrapper.param_groups[0]['initial_lr'] == pytest.approx(0.01 * factor)


def test_scaling_may_begin_or_change_in_a_resumed_training(build):
    """The learning rate is that of a training that had these settings from its beginning."""

    def resume(epochs, base=None):
        scale = {} if base is None else {'auto_scale_lr': dict(base_batch_size=base, enable=True)}
        scale.update({'train_cfg.max_epochs': epochs, 'param_scheduler': None})
        runner = build(resume=epochs > 1, **scale)
        logged = []
        runner.logger.warning = lambda text, *a, **k: logged.append(text)
        runner.train()
        return lr(runner), [text for text in logged if 'learning rate' in text]

    assert resume(1) == (0.01, [])
    line = 'The learning rate was scaled by {:g} to {:.4g}.'
    assert resume(2, base=16) == (pytest.approx(0.0025), [line.format(0.25, 0.0025)])
    assert resume(3, base=16) == (pytest.approx(0.0025), [])
    # Without the flag it stays, and what comes after knows by what it is scaled.
    assert resume(4) == (pytest.approx(0.0025), [])
    assert resume(5, base=8) == (pytest.approx(0.005), [line.format(2, 0.005)])


def test_scaling_tells_that_accumulated_steps_do_not_count(build):
    scale = {'auto_scale_lr': dict(base_batch_size=16, enable=True)}
    for steps, count in ((1, 0), (4, 1)):
        runner = build(**scale, **{'optim_wrapper.accumulative_counts': steps})
        logged = []
        runner.logger.warning = lambda text, *a, logged=logged, **k: logged.append(text)
        runner.train()
        assert lr(runner) == pytest.approx(0.0025)
        assert sum('set auto_scale_lr.base_batch_size=4.' in text for text in logged) == count


def test_a_training_s_data_must_stay(build):
    build(**{'train_cfg.max_epochs': 1}).train()
    with pytest.raises(InputError, match='has 12 images, but had 10'):
        build(**{'resume': True, 'train_dataloader.dataset.size': 12}).train()
    with pytest.raises(
        InputError, match=r'has 10 images, as many as when .* other names or labels'
    ):
        build(**{'resume': True, 'train_dataloader.dataset.labels': (1, 0)}).train()
    with pytest.raises(InputError, match='number 1 was "b" and is "c"'):
        build(
            **{'resume': True, 'train_dataloader.dataset.metainfo': dict(classes=('a', 'c'))}
        ).train()


def test_a_refused_resumption_changes_nothing_in_the_work_dir(build, tmp_path):
    build(**{'train_cfg.max_epochs': 1}).train()

    def contents():
        folder = tmp_path / 'run'
        return {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()}

    before = contents()
    runner = build(**{'resume': True, 'train_dataloader.dataset.size': 12})
    with pytest.raises(InputError):
        runner.train()
    assert contents() == before


def test_resuming_without_a_checkpoint_starts_anew(build):
    runner = build(resume=True)
    runner.train()
    assert runner.iter == 9


def test_two_trainings_do_not_share_a_work_dir(build, tmp_path, monkeypatch):
    def refuse(self):
        raise InputError('in use by another training')

    monkeypatch.setattr(runner_module.WorkDirLock, 'acquire', refuse)
    runner = build()
    with pytest.raises(InputError, match='in use'):
        runner.train()
    assert not (tmp_path / 'run' / 'epoch_1.pth').exists()


def test_the_config_in_a_work_dir_is_that_of_its_training(build, tmp_path, monkeypatch):
    monkeypatch.setattr('mmengine.config.Config.filename', 'line.py')
    path = tmp_path / 'run' / 'line.py'
    runner = build()
    build(**{'train_cfg.max_epochs': 7})  # started at the same time, and then refused
    assert 'max_epochs=7' in path.read_text()
    runner.train()
    assert 'max_epochs=3' in path.read_text()
    monkeypatch.setattr(runner_module.WorkDirLock, 'is_held_elsewhere', lambda self: True)
    build(**{'train_cfg.max_epochs': 7})
    assert 'max_epochs=3' in path.read_text()


def test_the_lock_is_given_back_after_training_and_after_an_error(build, tmp_path):
    build().train()
    lock = tmp_path / 'run' / '.lock'
    assert not lock.exists()
    runner = build()

    class Broken(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            assert lock.exists()
            raise RuntimeError('broken')

    runner.register_hook(Broken())
    with pytest.raises(RuntimeError, match='broken'):
        runner.train()
    assert not lock.exists()


def test_a_checkpoint_is_written_wholly(build, tmp_path, monkeypatch):
    runner = build()
    names = []
    replace = runner_module.replace_file

    def watch(partial, path):
        names.append((os.path.basename(partial), os.path.basename(path), os.path.exists(path)))
        replace(partial, path)

    monkeypatch.setattr(runner_module, 'replace_file', watch)
    runner.train()
    assert names == [(f'epoch_{i}.pth.tmp', f'epoch_{i}.pth', False) for i in (1, 2, 3)]


def test_a_full_disk_while_saving_an_interruption(build, tmp_path, monkeypatch):
    runner = build()

    class Signal(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 4:

                def full(*args):
                    raise OSError(errno.ENOSPC, 'No space left on device')

                monkeypatch.setattr(runner_module, 'replace_file', full)
                signal.raise_signal(signal.SIGTERM)

    runner.register_hook(Signal())
    expected = (
        r'SIGTERM received, but ".*interrupted_iter_5.pth" cannot be written: No space left on '
        r'device .* The last good checkpoint is .*epoch_1.pth'
    )
    with pytest.raises(InputError, match=expected):
        runner.train()
    files = os.listdir(tmp_path / 'run')
    assert 'epoch_1.pth' in files and not [f for f in files if 'interrupted' in f]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_hook_that_cannot_write_does_not_end_the_training(build):
    class Writer(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            raise OSError(errno.ENOSPC, 'No space left on device', '/full/log.json')

    class Broken(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            raise OSError(errno.ENOENT, 'No such file')

    runner = build()
    errors = []
    runner.logger.error = lambda text, *a, **k: errors.append(text)
    runner.register_hook(Writer())
    runner.train()
    assert runner.iter == 9
    assert len(errors) == 1
    assert errors[0].startswith('Writer: "/full/log.json" cannot be written: No space left')
    runner = build()
    runner.register_hook(Broken())
    with pytest.raises(OSError, match='No such file'):
        runner.train()


def test_the_log_history_is_bounded(build, tmp_path, monkeypatch):
    monkeypatch.setattr('mtkdrl_mm.engine.log_history._MIN_ENTRIES', 5)
    build(**{'log_processor': dict(window_size=4)}).train()
    hub = read_checkpoint(str(tmp_path / 'run' / 'epoch_3.pth'), 'test')['message_hub']
    assert {len(buffer.data[0]) for buffer in hub['log_scalars'].values()} == {5}


def test_a_window_over_everything_keeps_everything(build, tmp_path, monkeypatch):
    monkeypatch.setattr('mtkdrl_mm.engine.log_history._MIN_ENTRIES', 5)
    window = dict(data_src='loss', log_name='loss_mean', method_name='mean', window_size='global')
    build(**{'log_processor': dict(window_size=4, custom_cfg=[window])}).train()
    hub = read_checkpoint(str(tmp_path / 'run' / 'epoch_3.pth'), 'test')['message_hub']
    assert len(hub['log_scalars']['train/loss'].data[0]) == 9


def test_a_config_in_a_checkpoint_is_never_executed(build, tmp_path):
    build(**{'train_cfg.max_epochs': 1}).train()
    path = tmp_path / 'run' / 'epoch_1.pth'
    contents = read_checkpoint(str(path), 'test')
    contents['meta']['config'] = f'open({str(tmp_path / "executed")!r}, "w")'
    torch.save(contents, path)
    build(resume=True).train()
    assert not (tmp_path / 'executed').exists()


def test_state_of_all_processes_is_gathered_before_a_checkpoint(build):
    class Gathering(Hook):
        calls = []

        def gather_state(self):
            self.calls.append('gather')

        def before_save_checkpoint(self, runner, checkpoint):
            self.calls.append('save')

    runner = build()
    runner.register_hook(Gathering())
    runner.train()
    assert Gathering.calls == ['gather', 'save'] * 3


def test_a_signal_in_validation_is_obeyed_in_it_and_resuming_validates(build, tmp_path):
    options = {'train_cfg.val_interval': 2, 'train_cfg.max_epochs': 4}
    runner = build(**options)
    seen = []

    class Signal(Hook):
        def before_val_iter(self, runner, batch_idx, data_batch=None):
            seen.append(batch_idx)
            if len(seen) == 2:
                signal.raise_signal(signal.SIGINT)

    runner.register_hook(Signal())
    with pytest.raises(SystemExit) as caught:
        runner.train()
    assert caught.value.code == 130 and seen == [0, 1]
    last = (tmp_path / 'run' / 'last_checkpoint').read_text()
    assert os.path.basename(last) == 'interrupted_iter_6.pth'
    resumed = build(**options, resume=True)
    resumed.train()
    validations = [
        json.loads(line)
        for file in (tmp_path / 'run').glob('*/vis_data/scalars.json')
        for line in file.read_text().splitlines()
        if 'mean' in json.loads(line)
    ]
    assert [record['step'] for record in validations] == [2, 4]


def interrupt_validation(runner):
    """Train until SIGTERM comes in the first validation."""

    class Signal(Hook):
        def before_val_iter(self, runner, batch_idx, data_batch=None):
            signal.raise_signal(signal.SIGTERM)

    runner.register_hook(Signal())
    with pytest.raises(SystemExit):
        runner.train()


@pytest.mark.parametrize(('kind', 'last'), [('Epoch', 'epoch_3.pth'), ('Iter', 'iter_9.pth')])
def test_an_interrupted_last_validation_is_repeated_once(build, tmp_path, kind, last):
    options = {
        f'default_hooks.checkpoint.{key}': value
        for key, value in dict(save_best='mean', rule='less', by_epoch=kind == 'Epoch').items()
    }
    interrupt_validation(build(kind, **options))
    folder = tmp_path / 'run'
    assert (folder / 'interrupted_iter_9.pth').exists()
    for _ in range(2):
        build(kind, resume=True, **options).train()
        records = [
            json.loads(line)
            for file in folder.glob('*/vis_data/scalars.json')
            for line in file.read_text().splitlines()
        ]
        assert sum('mean' in record for record in records) == 1
        assert len(list(folder.glob('best_mean_*.pth'))) == 1
        assert not (folder / 'interrupted_iter_9.pth').exists()
        assert os.path.basename((folder / 'last_checkpoint').read_text()) == last


def test_an_interruption_that_no_other_checkpoint_holds_is_kept(build, tmp_path):
    options = {'default_hooks.checkpoint.save_last': False, 'default_hooks.checkpoint.interval': 2}
    interrupt_validation(build(**options))
    build(resume=True, **options).train()
    last = (tmp_path / 'run' / 'last_checkpoint').read_text()
    assert os.path.basename(last) == 'interrupted_iter_9.pth' and os.path.isfile(last)


def test_ctrl_c_twice_ends_at_once_and_torchrun_s_second_does_not_count(monkeypatch):
    hook = PreemptionHook()
    hook._note(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        hook._note(signal.SIGINT, None)
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'x')
    hook = PreemptionHook()
    hook._note(signal.SIGINT, None)
    hook._note(signal.SIGINT, None)
    assert hook._received == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        hook._note(signal.SIGINT, None)
    hook = PreemptionHook()
    for _ in range(5):
        hook._note(signal.SIGTERM, None)


def test_workers_of_all_loaders_are_shielded(build):
    from mtkdrl_mm.engine.data_workers import ShieldedForkContext

    runner = build()
    loader = dict(runner.cfg.val_dataloader, num_workers=2)
    built = runner.build_dataloader(loader)
    assert isinstance(built.multiprocessing_context, ShieldedForkContext)


@pytest.mark.parametrize('name', ['val', 'test'])
def test_validations_and_tests_need_an_end(build, name):
    sampler = dict(type='InfiniteSampler', shuffle=True)
    runner = build()
    loader = dict(runner.cfg.val_dataloader, sampler=sampler)
    runner = build(
        **{f'{name}_dataloader': loader},
        **(
            dict(test_cfg=dict(), test_evaluator=dict(type='RunnerTestMean'))
            if name == 'test'
            else {}
        ),
    )
    with pytest.raises(InputError, match=f'^{name}_dataloader.sampler: InfiniteSampler never ends'):
        runner.train() if name == 'val' else runner.test()


def test_epochs_need_an_end(build):
    """As with the sampler of mmseg's configs, which train by iterations: nothing was ever saved."""
    runner = build(**{'train_dataloader.sampler.type': 'InfiniteSampler'})
    message = r"^train_dataloader\.sampler: InfiniteSampler never.*'DefaultSampler', shuffle=True"
    with pytest.raises(InputError, match=message):
        runner.train()


def test_a_log_file_on_a_full_disk_is_one_sentence(build, capfd, monkeypatch):
    runner = build()
    (handler,) = (h for h in runner.logger.handlers if isinstance(h, logging.FileHandler))

    def full(text):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(handler, 'stream', SimpleNamespace(write=full, flush=lambda: None))
    for _ in range(3):
        runner.logger.info('a line')
    error = capfd.readouterr().err
    assert error.count('The log file "') == 1 and 'No space left on device (' in error
    assert 'Traceback' not in error
    monkeypatch.undo()


def test_overwriting_an_earlier_training_is_announced(build):
    build().train()
    for resume in (False, True):
        runner = build(resume=resume)
        logged = []
        runner.logger.warning = lambda text, *a, logged=logged, **k: logged.append(text)
        runner.train()
        assert [text for text in logged if 'which this one will overwrite' in text] == (
            [] if resume else logged[:1]
        )


# -- Weights that are lost ----------------------------------------------------------------------


@pytest.mark.parametrize('spoilt', ['parameter', 'buffer'])
def test_weights_that_are_not_finite_are_not_saved(build, tmp_path, spoilt):
    """Those of a step with a finite loss and gradients that are not; an older file stays."""
    runner = build(default_hooks=dict(checkpoint=dict(max_keep_ckpts=1)))
    runner.model.register_buffer('mask', torch.tensor([0.0, float('-inf')]))

    class Spoil(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 5:  # the last step of the second epoch
                tensor = runner.model.mask if spoilt == 'buffer' else runner.model.layer.weight
                tensor.data.fill_(float('nan'))

    runner.register_hook(Spoil())
    name = 'mask' if spoilt == 'buffer' else 'layer.weight'
    last = tmp_path / 'run' / 'epoch_1.pth'
    message = rf'epoch_2\.pth" is not saved, because "{name}" .* last good state is in {last}\. '
    with pytest.raises(InputError, match=message):
        runner.train()
    assert runner.last_saved == str(last)
    assert sorted(path.name for path in last.parent.glob('*.pth*')) == ['epoch_1.pth']
    assert read_checkpoint(str(last), 'checkpoint')['state_dict']['layer.weight'].isfinite().all()


# -- Several processes --------------------------------------------------------------------------


def train_in_a_group(rank, folder, build):
    dist.init_process_group('gloo', init_method=f'file://{folder}/group', rank=rank, world_size=2)
    randomness = dict(seed=1, diff_rank_seed=True)
    runner = build(randomness=randomness, train_cfg=dict(max_epochs=2), work_dir=f'{folder}/run')
    drawn = torch.rand(1)
    runner.train()
    torch.save((runner.seed, drawn, runner.model.seen), f'{folder}/{rank}.pth')


def test_processes_with_seeds_of_their_own_share_the_images(build, tmp_path):
    """Of which each has another half, with `diff_rank_seed` too."""
    start_processes(train_in_a_group, (str(tmp_path), build), nprocs=2, start_method='fork')
    (seed, drawn, seen), (other_seed, other_drawn, other_seen) = (
        torch.load(tmp_path / f'{rank}.pth') for rank in range(2)
    )
    assert seed == other_seed == 1 and drawn != other_drawn
    for epoch in range(2):
        steps = slice(2 * epoch, 2 * epoch + 2)
        images = [int(value) for batch in seen[steps] + other_seen[steps] for value in batch]
        assert sorted(images) == list(range(10))
