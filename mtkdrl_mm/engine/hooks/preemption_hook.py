# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Checkpoint and exit on signals of a scheduler or the user."""

import glob
import os
import os.path as osp
import signal
import threading
from contextlib import suppress
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_world_size, master_only
from mmengine.hooks import EMAHook, Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import Runner

from mtkdrl_mm.registry import HOOKS
from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.files import MEDIUM_ERRORS, describe_medium_error
from mtkdrl_mm.weights.local_files import last_checkpoint_named

from ..checkpoint_files import name_last_checkpoint


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Saves a checkpoint and exits on SIGTERM and SIGINT.

    When it acts: after the iteration of training or validation in which a
    signal was received (in distributed runs, after the next iteration at which
    the processes synchronise), it saves ``interrupted_iter_N.pth``, records it
    as the last checkpoint for ``--resume``, and exits with 128 plus the
    signal's number. An interrupted validation is run again on resuming, except
    if its result was known already (``meta['validated']``). A second Ctrl-C ends
    the process at once. When a resumed training saves its next checkpoint, or
    ends at the position of one, the interrupted one is deleted.

    A terminal's Ctrl-C reaches every process, and torchrun sends it to its
    processes once more. Under torchrun the third SIGINT therefore counts as the
    second.

    Args:
        interval (int): Iterations between synchronisations in distributed runs.
            Defaults to 10.
    """

    priority = 'LOWEST'

    def __init__(self, interval: int = 10) -> None:
        self.interval = int(check_number('interval', interval, minimum=1))
        self._received: int | None = None
        self._interrupts = 0
        self._previous: dict[int, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Install the signal handlers."""
        self._received = None
        self._interrupts = 0
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows handlers in the main thread only
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)

    def release(self) -> None:
        """Restore the previous signal handlers; called also after an error."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _note(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            forwarded = 1 if 'TORCHELASTIC_RUN_ID' in os.environ else 0
            if self._interrupts > 1 + forwarded:
                raise KeyboardInterrupt
        if self._received is None:
            self._received = number

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict | None = None,
    ) -> None:
        """Save and exit if a signal was received."""
        if get_world_size() == 1 or self.every_n_train_iters(runner, self.interval):
            self._stop_if_signalled(runner, epoch=runner.epoch, iteration=runner.iter + 1)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Any = None,
    ) -> None:
        """Save and exit if a signal was received during validation."""
        # Processes may have different numbers of validation batches, and synchronise after it.
        # With EMAHook the model holds the averaged weights until then.
        averaged = any(isinstance(hook, EMAHook) for hook in runner.hooks)
        if get_world_size() == 1 and self._training(runner) and not averaged:
            self._stop_if_signalled(runner, epoch=runner.epoch, iteration=runner.iter)

    def after_train_epoch(self, runner: Runner) -> None:
        """Remove the checkpoint of an interruption once a later one exists."""
        self._remove_superseded(runner)

    def before_val(self, runner: Runner) -> None:
        """Save and exit instead of a validation."""
        if self._training(runner):
            self._stop_if_signalled(runner, epoch=runner.epoch, iteration=runner.iter)

    def after_val(self, runner: Runner) -> None:
        """Save and exit if a signal was received during validation."""
        # Schedules and early stopping have seen the result: a second one would count twice.
        if self._training(runner):
            self._stop_if_signalled(runner, runner.epoch, runner.iter, validated=True)

    def after_train(self, runner: Runner) -> None:
        """Remove the checkpoint of an interrupted last validation if another holds that step."""
        name = osp.basename(str(runner.message_hub.runtime_info.get('last_ckpt')))
        path = osp.join(runner.work_dir, name)
        at_end = name in (f'epoch_{runner.epoch}.pth', f'iter_{runner.iter}.pth')
        if at_end and osp.isfile(path):
            self._name_as_last(runner, path)
        self._remove_superseded(runner)

    @staticmethod
    def _training(runner: Runner) -> bool:
        return bool(runner._train_loop) and not isinstance(runner._train_loop, dict)

    def _stop_if_signalled(
        self, runner: Runner, epoch: int, iteration: int, validated: bool = False
    ) -> None:
        number = self._received or 0
        if get_world_size() > 1:
            # Signals do not reach all processes in the same iteration.
            device = next(runner.model.parameters()).device
            flag = torch.tensor(number, device=device)
            all_reduce(flag, op='max')
            number = int(flag)
        if number == 0:
            return
        name = signal.Signals(number).name
        filename = f'interrupted_iter_{iteration}.pth'
        path = osp.join(runner.work_dir, filename)
        try:
            meta = dict(epoch=epoch, iter=iteration, validated=validated)
            runner.save_checkpoint(runner.work_dir, filename, by_epoch=False, meta=meta)
            self._name_as_last(runner, path)
        except OSError as error:
            if error.errno not in MEDIUM_ERRORS:
                raise
            last = last_checkpoint_named(runner.work_dir)
            kept = f'The last good checkpoint is {last}.' if last else 'There is no checkpoint.'
            raise InputError(
                f'{name} received, but {describe_medium_error(error, path)}. {kept}'
            ) from error
        barrier()
        runner.logger.info(
            f'{name} received: saved {filename} in {runner.work_dir}. Continue with --resume.'
        )
        raise SystemExit(128 + number)

    @staticmethod
    @master_only
    def _remove_superseded(runner: Runner) -> None:
        interrupted = glob.glob(osp.join(glob.escape(runner.work_dir), 'interrupted_iter_*.pth'))
        last = last_checkpoint_named(runner.work_dir) if interrupted else None
        if last is None or 'interrupted_iter_' in osp.basename(last) or not osp.isfile(last):
            return
        for path in interrupted:
            with suppress(OSError):
                os.remove(path)

    @staticmethod
    @master_only
    def _name_as_last(runner: Runner, path: str) -> None:
        if last_checkpoint_named(runner.work_dir) != path:
            name_last_checkpoint(runner.work_dir, path)
