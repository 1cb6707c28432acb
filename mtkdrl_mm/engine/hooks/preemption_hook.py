# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Saves a checkpoint when the scheduler, or the user, wants the machine back."""

import glob
import os
import os.path as osp
import signal
import threading
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_world_size, master_only
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import Runner, find_latest_checkpoint

from mtkdrl_mm.registry import HOOKS
from mtkdrl_mm.utils import check_number

from .agent_hook import AgentHook
from .meta_learning_hook import MetaLearningHook


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Ends the training in good order on SIGTERM and SIGINT.

    When it acts: the first signal is noted. After the iteration in progress
    (in distributed runs, after the next iteration at which the processes
    compare notes; during validation, after it) it saves
    ``interrupted_iter_N.pth``, names it as the last checkpoint so that
    ``--resume`` finds it, and exits with 128 plus the signal's number. A second
    SIGINT ends the process at once. When a resumed training saves its next
    checkpoint, the interrupted one is removed.

    Args:
        interval (int): Iterations between comparisons in distributed runs.
            Defaults to 10.
    """

    priority = 'LOWEST'

    def __init__(self, interval: int = 10) -> None:
        self.interval = int(check_number('interval', interval, minimum=1))
        self._received: int | None = None
        self._previous: dict[int, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Start listening."""
        self._received = None
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows handlers in the main thread only
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)

    def after_train(self, runner: Runner) -> None:
        """Stop listening."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _note(self, number: int, frame: Any) -> None:
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict | None = None,
    ) -> None:
        """Save and exit if a signal has come."""
        if get_world_size() == 1 or self.every_n_train_iters(runner, self.interval):
            self._stop_if_asked(runner, epoch=runner.epoch, iteration=runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Remove what an interruption saved once a later checkpoint exists."""
        self._remove_superseded(runner)

    def after_val(self, runner: Runner) -> None:
        """Save and exit if a signal came during validation."""
        if runner.message_hub.runtime_info.get('loop_stage') == 'train':
            self._stop_if_asked(runner, epoch=runner.epoch, iteration=runner.iter)

    def _stop_if_asked(self, runner: Runner, epoch: int, iteration: int) -> None:
        number = self._received or 0
        if get_world_size() > 1:
            # Signals do not reach all processes in the same iteration.
            device = next(runner.model.parameters()).device
            flag = torch.tensor(number, device=device)
            all_reduce(flag, op='max')
            number = int(flag)
        if number == 0:
            return
        for hook in runner.hooks:
            if isinstance(hook, (AgentHook, MetaLearningHook)):
                hook.gather_history()
        filename = f'interrupted_iter_{iteration}.pth'
        runner.save_checkpoint(
            runner.work_dir, filename, by_epoch=False, meta=dict(epoch=epoch, iter=iteration)
        )
        self._name_as_last(runner, filename)
        barrier()
        runner.logger.info(
            f'{signal.Signals(number).name} received: saved {filename} in {runner.work_dir}. '
            'Go on with --resume.'
        )
        self.after_train(runner)
        raise SystemExit(128 + number)

    @staticmethod
    @master_only
    def _remove_superseded(runner: Runner) -> None:
        interrupted = glob.glob(osp.join(runner.work_dir, 'interrupted_iter_*.pth'))
        last = find_latest_checkpoint(runner.work_dir) if interrupted else None
        if last is not None and 'interrupted_iter_' not in osp.basename(last):
            for path in interrupted:
                os.remove(path)

    @staticmethod
    @master_only
    def _name_as_last(runner: Runner, filename: str) -> None:
        with open(osp.join(runner.work_dir, 'last_checkpoint'), 'w') as file:
            file.write(osp.join(runner.work_dir, filename))
