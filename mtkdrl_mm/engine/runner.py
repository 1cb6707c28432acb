# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""mmengine's runner, of which nothing is lost."""

import os
import os.path as osp
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mtkdrl_mm.models.load_weights import load_network_weights
from mtkdrl_mm.registry import RUNNERS
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.checkpoint import read_checkpoint
from mtkdrl_mm.utils.files import (
    MEDIUM_ERRORS,
    PARTIAL_SUFFIX,
    describe_medium_error,
    replace_file,
)

from .build_dataloader import build_dataloader
from .checkpoint_files import find_resumable
from .resume_checks import check_same_classes, check_same_training, describe_training, load_whole
from .work_dir_lock import WorkDirLock

# mmengine's own components, and those that take their place.
_LOOPS = {
    'EpochBasedTrainLoop': 'mtkdrl_mm.ResumableEpochLoop',
    'IterBasedTrainLoop': 'mtkdrl_mm.ResumableIterLoop',
}
_HOOKS = {
    'CheckpointHook': 'mtkdrl_mm.DurableCheckpointHook',
    'ParamSchedulerHook': 'mtkdrl_mm.ElasticParamSchedulerHook',
}
# Entries of a log history that are kept at least: more than any usual window.
_MIN_HISTORY = 1000


@RUNNERS.register_module()
class ResumableRunner(Runner):
    """mmengine's runner for trainings that are interrupted, moved and resumed.

    It differs from mmengine's in this:

    - Training loops, checkpoint hook and schedule hook of mmengine are replaced
      by those of this package, and there is a :class:`PreemptionHook`.
    - Checkpoints are read as plain data, and written wholly or not at all.
      They say where the training is, whatever the batch size, and hold a
      bounded log history.
    - ``resume`` finds the newest readable checkpoint of the work dir, and stops
      where the checkpoint is of another training.
    - Two trainings cannot use one work dir at once.
    - Data workers survive signals to the whole job.
    - A full disk stops hooks from writing, and not the training.

    For any OpenMMLab config: ``runner_type = 'mtkdrl_mm.ResumableRunner'`` with
    ``custom_imports = dict(imports=['mtkdrl_mm'])``; this package's tools use it
    without being told. The arguments are those of mmengine's ``Runner``.

    A hook may have two more methods: ``gather_state()`` is called on all
    processes before the main process saves a checkpoint, and ``release()``
    when training has ended in any way, an error included.
    """

    _lock: WorkDirLock | None = None

    @classmethod
    def from_cfg(cls, cfg: Any) -> 'ResumableRunner':
        """Build a runner from a config; where it resumes, look at the checkpoint first."""
        found = None
        if cfg.get('resume'):
            found = cls._find_checkpoint(cfg.get('load_from'), cfg.get('work_dir'))
            if found is not None:
                check_same_training(cfg, *found)
        runner = super().from_cfg(cfg)
        assert isinstance(runner, cls)
        runner._found = found
        return runner

    _found: tuple[str, dict[str, Any]] | None = None

    @staticmethod
    def _find_checkpoint(load_from: str | None, work_dir: str) -> tuple[str, dict[str, Any]] | None:
        if load_from is None:
            return find_resumable(work_dir)
        contents = read_checkpoint(load_from, 'checkpoint')
        if 'state_dict' not in contents or not {'epoch', 'iter'} <= set(contents.get('meta') or ()):
            raise InputError(
                f'"{load_from}" cannot be resumed: it is no training checkpoint. To start a new '
                'training from its weights, set `load_from` without --resume.'
            )
        return load_from, contents

    # -- Components -------------------------------------------------------------------------

    def register_default_hooks(self, hooks: dict[str, Any] | None = None) -> None:
        """Register mmengine's default hooks, with this package's in place of some."""
        hooks = {} if hooks is None else dict(hooks)
        defaults = dict(
            checkpoint=dict(type='CheckpointHook'),
            param_scheduler=dict(type='ParamSchedulerHook'),
            preemption=dict(type='mtkdrl_mm.PreemptionHook'),
        )
        for key, default in defaults.items():
            hook = hooks.get(key, default)  # None switches a hook off
            if isinstance(hook, dict) and hook.get('type') in _HOOKS:
                hook = {**hook, 'type': _HOOKS[hook['type']]}
            hooks[key] = hook
        if hooks['preemption'] is None:
            del hooks['preemption']
        super().register_default_hooks(hooks)

    def build_train_loop(self, loop: Any) -> Any:
        """Build the training loop, a resumable one in place of mmengine's."""
        if isinstance(loop, dict):
            loop = ConfigDict(loop)
            by_epoch = loop.get('by_epoch')
            if 'type' not in loop and by_epoch is not None:
                loop.pop('by_epoch')
                loop.type = 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop'
            loop.type = _LOOPS.get(loop.get('type'), loop.get('type'))
        return super().build_train_loop(loop)

    def build_dataloader(  # type: ignore[override]
        self,
        dataloader: DataLoader | dict[str, Any],
        seed: int | None = None,
        diff_rank_seed: bool = False,
    ) -> DataLoader:
        """Build a data loader, check it, and let its workers survive signals to the whole job.

        Args:
            dataloader (DataLoader | dict): A loader, or its config.
            seed (int, optional): Seed of sampler and workers. Defaults to None.
            diff_rank_seed (bool): Whether the samplers of the processes have
                different seeds. Defaults to False.

        Returns:
            DataLoader: The loader.

        Raises:
            InputError: If training would make no step.
        """
        return build_dataloader(dataloader, seed, diff_rank_seed, self.model)

    # -- Training ---------------------------------------------------------------------------

    def train(self) -> nn.Module:
        """Launch training, alone in its work dir."""
        self._take_work_dir()
        try:
            return super().train()
        finally:
            for hook in self._hooks:
                if hasattr(hook, 'release'):
                    hook.release()
            if self._lock is not None:
                self._lock.release()

    def _take_work_dir(self) -> None:
        problem = None
        if is_main_process():
            self._lock = WorkDirLock(self.work_dir)
            try:
                self._lock.acquire()
            except InputError as error:
                problem = str(error)
        problem = _from_main(problem)
        if problem is not None:
            raise InputError(problem)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call all hooks; one that cannot write to a full disk does not end the training."""
        if fn_name not in ('after_train_iter', 'after_val_epoch', 'after_train_epoch'):
            super().call_hook(fn_name, **kwargs)
            return
        for hook in self._hooks:
            if not hasattr(hook, fn_name):
                continue
            try:
                getattr(hook, fn_name)(self, **kwargs)
            except OSError as error:
                if error.errno not in MEDIUM_ERRORS:
                    raise
                self._warn_once(hook, error)

    def _warn_once(self, hook: Hook, error: OSError) -> None:
        name = type(hook).__name__
        warned = self.__dict__.setdefault('_warned_hooks', set())
        if name not in warned:
            warned.add(name)
            path = error.filename or self.work_dir
            self.logger.error(
                f'{name}: {describe_medium_error(error, str(path))}. Training goes on; what '
                'this hook writes is missing until there is space.'
            )

    # -- Checkpoints ------------------------------------------------------------------------

    def load_or_resume(self) -> None:
        """Load or resume a checkpoint."""
        if self._has_loaded:
            return
        if not self._resume:
            super().load_or_resume()
            return
        if self._found is None:
            self._found = self._find_checkpoint(self._load_from, self.work_dir)
        self._check_same_everywhere()
        if self._found is None:
            self.logger.info(
                f'There is no checkpoint in {self.work_dir}: training starts from the beginning.'
            )
            return
        self.logger.info(f'Resuming from {self._found[0]}.')
        self.resume(self._found[0])

    def dump_config(self) -> None:
        """Write the config to the work dir; on resuming, only when all checks have passed."""
        if not self._resume or self._has_loaded:
            super().dump_config()

    def _check_same_everywhere(self) -> None:
        """Make sure that all processes resume the same checkpoint, or none."""
        mine = None
        if self._found is not None:
            meta = self._found[1]['meta']
            mine = (osp.basename(self._found[0]), meta['epoch'], meta['iter'])
        found = all_gather_object(mine)
        if any(other != found[0] for other in found):
            listed = ', '.join(
                f'process {rank}: {other[0] if other else "none"}'
                for rank, other in enumerate(found)
            )
            raise InputError(
                f'The processes would resume different checkpoints ({listed}). The work dir must '
                'be on a file system that all machines share, or be copied to each of them.'
            )

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: str | Callable = 'default',
    ) -> None:
        """Resume a training, also with another batch size or number of processes.

        Args:
            filename (str): The checkpoint.
            resume_optimizer (bool): Whether to resume the optimiser's state.
                Defaults to True.
            resume_param_scheduler (bool): Whether to resume the schedules.
                Defaults to True.
            map_location (str | Callable): Not used: files are read on the CPU.

        Raises:
            InputError: If the file cannot be read, or is of another training.
        """
        if self._found is None or self._found[0] != filename:
            self._found = self._find_checkpoint(filename, self.work_dir)
            assert self._found is not None
            check_same_training(self.cfg, *self._found)
        meta = self._found[1]['meta']
        dataset = self.train_dataloader.dataset
        check_same_classes(meta.get('dataset_meta'), getattr(dataset, 'metainfo', None), filename)
        # A training loop that is not built yet is built by the parent's method.
        super().resume(filename, resume_optimizer, resume_param_scheduler, 'cpu')
        self._found = None
        position = getattr(self.train_loop, 'resume', None)
        difference = position(meta.get('progress')) if position is not None else ''
        self.dump_config()
        if difference:
            self.logger.warning(f'{difference} {self._adapt_learning_rate(meta["progress"])}')

    def _adapt_learning_rate(self, saved: dict[str, Any]) -> str:
        """Scale a resumed learning rate with the batch size if that was asked for."""
        sampler = self.train_loop.batch_sampler
        before = saved['batch_size'] * saved['world_size']
        if sampler.images_per_step == before:
            return ''
        groups = self.optim_wrapper.param_groups
        if not (self.auto_scale_lr or {}).get('enable'):
            return (
                f'The learning rate stays {groups[0]["lr"]:.4g}; --auto-scale-lr would scale it '
                f'by {sampler.images_per_step / before:g}.'
            )
        factor = sampler.images_per_step / before
        for group in groups:
            for key in ('lr', 'initial_lr'):
                if key in group:
                    group[key] *= factor
        schedulers = self.param_schedulers if isinstance(self.param_schedulers, list) else []
        for scheduler in schedulers:
            if scheduler.param_name == 'lr':
                scheduler.base_values = [value * factor for value in scheduler.base_values]
                if hasattr(scheduler, '_last_value'):
                    scheduler._last_value = [value * factor for value in scheduler._last_value]
        return f'The learning rate was scaled by {factor:g} to {groups[0]["lr"]:.4g}.'

    def load_checkpoint(
        self,
        filename: str,
        map_location: str | Callable = 'cpu',
        strict: bool = False,
        revise_keys: list | None = None,
    ) -> dict[str, Any]:
        """Load weights: all of the network's, or none.

        Args:
            filename (str): The checkpoint.
            map_location (str | Callable): Not used: files are read on the CPU.
            strict (bool): Not used: it is always so.
            revise_keys (list, optional): Not used: prefixes are found by what fits.

        Returns:
            dict[str, Any]: The checkpoint's contents.

        Raises:
            InputError: If the file cannot be read or does not fit.
        """
        resuming = self._found is not None and self._found[0] == filename
        if resuming:
            assert self._found is not None
            contents = self._found[1]
        else:
            contents = read_checkpoint(filename, 'checkpoint')
        # mmengine would execute a config that it finds there.
        if isinstance(contents.get('meta'), dict):
            contents['meta'].pop('config', None)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        if resuming:
            self.call_hook('after_load_checkpoint', checkpoint=contents)
            message = load_whole(model, contents['state_dict'], filename)
        else:
            role = 'student' if hasattr(model, 'student') else 'network'
            message = load_network_weights(model, contents, filename, role)
            # Hooks see the names of the model, whatever those in the file were.
            contents = {**contents, 'state_dict': model.state_dict()}
            self.call_hook('after_load_checkpoint', checkpoint=contents)
        self.logger.info(message)
        self._has_loaded = True
        return contents

    @property
    def _unwrapped(self) -> nn.Module:
        return self.model.module if is_model_wrapper(self.model) else self.model

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict | None = None,
        by_epoch: bool = True,
        backend_args: dict | None = None,
    ) -> None:
        """Save a checkpoint, wholly or not at all. To be called on all processes.

        Args:
            out_dir (str): The folder.
            filename (str): Name of the file in it.
            file_client_args (dict, optional): See mmengine.
            save_optimizer (bool): Whether to save the optimiser. Defaults to True.
            save_param_scheduler (bool): Whether to save the schedules. Defaults to True.
            meta (dict, optional): What else to write down. Defaults to None.
            by_epoch (bool): Whether it is an epoch's end. Defaults to True.
            backend_args (dict, optional): See mmengine.

        Raises:
            OSError: On all processes, if the medium refuses. An older file of that name is
                then still there.
        """
        for hook in self._hooks:
            if hasattr(hook, 'gather_state'):
                hook.gather_state()
        meta = dict(meta or {})
        meta.setdefault('epoch', self.epoch + 1 if by_epoch else self.epoch)
        meta.setdefault('iter', self.iter if by_epoch else self.iter + 1)
        if hasattr(self.train_loop, 'progress'):
            meta['progress'] = self.train_loop.progress(meta['epoch'], meta['iter'])
        meta['training'] = describe_training(self.cfg)
        student_cfg = getattr(self._unwrapped, 'student_cfg', None)
        if student_cfg is not None:
            meta['student_cfg'] = student_cfg
        self._bound_history()
        local = '://' not in str(out_dir) and file_client_args is None and not backend_args
        written = filename + PARTIAL_SUFFIX if local else filename
        problem: OSError | None = None
        try:
            # Of the parent's method only the main process runs anything.
            super().save_checkpoint(
                out_dir,
                written,
                file_client_args,
                save_optimizer,
                save_param_scheduler,
                meta,
                by_epoch,
                backend_args,
            )
            if local and is_main_process():
                replace_file(osp.join(out_dir, written), osp.join(out_dir, filename))
        except OSError as error:
            problem = error
            with suppress(OSError):
                os.remove(osp.join(out_dir, written))
        # What the main process could not do, no process did: they must take the same way.
        number, text = _from_main((problem.errno, problem.strerror) if problem else (0, None))
        if number or text:
            raise OSError(number, text, osp.join(out_dir, filename)) from problem

    def _bound_history(self) -> None:
        """Cut what no later log line needs off the log history; in mmengine it only grows."""
        windows = [self.log_processor.window_size, _MIN_HISTORY]
        for item in self.log_processor.custom_cfg:
            window = item.get('window_size', 0)
            if window == 'global':
                return
            windows.append(len(self.train_dataloader) if window == 'epoch' else window)
        limit = max(int(window) for window in windows)
        for buffer in self.message_hub.log_scalars.values():
            assert isinstance(buffer, HistoryBuffer)
            buffer._log_history = buffer._log_history[-limit:]
            buffer._count_history = buffer._count_history[-limit:]


def _from_main(value: Any) -> Any:
    """The main process's value, on all processes."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return value
    values = [copy(value)]
    broadcast_object_list(values)
    return values[0]
