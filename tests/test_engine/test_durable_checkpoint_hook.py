# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""At no moment is a training without a checkpoint."""

import errno
import os
from types import SimpleNamespace

import pytest
from mmengine.logging import MessageHub

from mtkdrl_mm.engine.hooks import DurableCheckpointHook
from mtkdrl_mm.utils import InputError


class Runner:
    """Writes small files as checkpoints, and notes what is there when it does."""

    def __init__(self, work_dir, name, epochs=9):
        self.work_dir = str(work_dir)
        self.message_hub = MessageHub.get_instance(name)
        self.epoch, self.iter, self.max_epochs = 0, 0, epochs
        self.messages, self.there, self.full = [], [], set()
        self.logger = SimpleNamespace(
            info=lambda text: None, error=self.messages.append, warning=self.messages.append
        )

    def save_checkpoint(self, out_dir, filename, *args, **kwargs):
        self.there.append(self.files())
        if filename in self.full:
            raise OSError(errno.ENOSPC, 'No space left on device', os.path.join(out_dir, filename))
        with open(os.path.join(out_dir, filename), 'w') as file:
            file.write('weights')

    def files(self):
        return sorted(f for f in os.listdir(self.work_dir) if f.endswith('.pth'))

    def last(self):
        with open(os.path.join(self.work_dir, 'last_checkpoint')) as file:
            return os.path.basename(file.read())


@pytest.fixture
def train(tmp_path, request):
    def run(accuracies, full=(), runner=None, epochs=9, **kwargs):
        hook = DurableCheckpointHook(interval=1, **kwargs)
        runner = runner or Runner(tmp_path, request.node.name, epochs)
        runner.full = set(full)
        hook.before_train(runner)
        for accuracy in accuracies:
            hook.after_train_epoch(runner)
            runner.epoch += 1
            hook.after_val_epoch(runner, dict(accuracy=accuracy))
        return runner

    return run


def test_the_older_one_is_deleted_after_the_newer_one_is_written(train):
    runner = train([1, 2, 3], max_keep_ckpts=1)
    assert runner.there == [[], ['epoch_1.pth'], ['epoch_2.pth']]
    assert runner.files() == ['epoch_3.pth'] and runner.last() == 'epoch_3.pth'


@pytest.mark.parametrize('most', [1, 2, 3, 4])
def test_as_many_as_configured_are_kept(train, most):
    runner = train([1] * 6, max_keep_ckpts=most)
    assert runner.files() == [f'epoch_{i}.pth' for i in range(7 - most, 7)]
    assert runner.message_hub.get_info('keep_ckpt_ids') == list(range(7 - most, 7))


def test_so_are_best_ones(train):
    runner = train([1, 3, 2, 4], max_keep_ckpts=1, save_best='accuracy', rule='greater')
    assert runner.files() == ['best_accuracy_epoch_4.pth', 'epoch_4.pth']
    # every new best one was written while the one before was still there
    assert ['best_accuracy_epoch_1.pth', 'epoch_2.pth'] in runner.there
    assert ['best_accuracy_epoch_2.pth', 'epoch_4.pth'] in runner.there


def test_a_full_disk_keeps_the_last_good_one_and_training_goes_on(train):
    runner = train([1, 2, 3, 4], full=['epoch_2.pth', 'epoch_3.pth'], max_keep_ckpts=1)
    assert runner.files() == ['epoch_4.pth'] and runner.last() == 'epoch_4.pth'
    assert runner.there == [[], ['epoch_1.pth'], ['epoch_1.pth'], ['epoch_1.pth']]
    assert len(runner.messages) == 2
    assert 'epoch_2.pth" cannot be written: No space left on device (' in runner.messages[0]
    assert 'The last good checkpoint is' in runner.messages[0]
    assert 'epoch_1.pth. Training continues' in runner.messages[0]
    assert runner.message_hub.get_info('keep_ckpt_ids') == [4]


def test_the_last_one_of_a_training_has_to_succeed(train):
    with pytest.raises(InputError, match=r'It is the last .* free some space and .* --resume'):
        train([1, 2], full=['epoch_2.pth'], epochs=2)


def test_a_best_one_that_could_not_be_written_keeps_the_one_before(train):
    runner = train(
        [1, 3, 2], full=['best_accuracy_epoch_2.pth'], save_best='accuracy', rule='greater'
    )
    # 2 is better than the best that was saved
    assert [f for f in runner.files() if 'best' in f] == ['best_accuracy_epoch_3.pth']
    assert 'best_*.pth" cannot be written' in runner.messages[0]
    assert runner.message_hub.get_info('best_score') == 2


def test_several_best_ones(train, tmp_path, request):
    hook = DurableCheckpointHook(
        interval=1, save_best=['accuracy', 'error'], rule=['greater', 'less']
    )
    runner = Runner(tmp_path, request.node.name)
    hook.before_train(runner)
    for accuracy, error in ((1, 9), (2, 9), (1, 5)):
        hook.after_train_epoch(runner)
        runner.epoch += 1
        hook.after_val_epoch(runner, dict(accuracy=accuracy, error=error))
    best = [f for f in runner.files() if 'best' in f]
    assert best == ['best_accuracy_epoch_2.pth', 'best_error_epoch_3.pth']


def test_a_copied_work_dir_never_deletes_the_original_s_best(train, tmp_path, request):
    original, copied = tmp_path / 'original', tmp_path / 'copied'
    for folder in (original, copied):
        folder.mkdir()
        (folder / 'best_accuracy_epoch_1.pth').write_text('weights')
    runner = Runner(copied, request.node.name)
    runner.message_hub.update_info('best_ckpt', str(original / 'best_accuracy_epoch_1.pth'))
    runner.message_hub.update_info('best_score', 1)
    train([2], runner=runner, save_best='accuracy', rule='greater')
    assert os.listdir(original) == ['best_accuracy_epoch_1.pth']
    assert [f for f in runner.files() if 'best' in f] == ['best_accuracy_epoch_1.pth']
