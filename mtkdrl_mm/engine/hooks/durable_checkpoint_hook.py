# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Checkpoints that are deleted only after the next one has been written."""

import os.path as osp
from typing import Any

from mmengine.dist import is_main_process, master_only
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mtkdrl_mm.registry import HOOKS
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.files import describe_medium_error

from ..checkpoint_files import name_last_checkpoint


@HOOKS.register_module()
class DurableCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, but there is a complete checkpoint at any time.

    When it acts: as mmengine's hook, with the same arguments. Older checkpoints
    (``max_keep_ckpts``, the previous best one) are deleted after the new one
    has been written; mmengine deletes them before. If a checkpoint cannot be
    written (a full disk), the hook logs an error and keeps the older ones, and
    the training continues. Only the last checkpoint of a training must succeed.

    A work dir may be moved or copied: the best checkpoint so far is looked up
    in the work dir by its name, and a copy never deletes the original's.
    """

    def before_train(self, runner: Runner) -> None:
        """Find the folder and the previous best checkpoint."""
        info = runner.message_hub.runtime_info
        folder = str(self.out_dir or runner.work_dir)
        if '://' not in folder:
            if self.out_dir is not None:
                folder = osp.join(folder, osp.basename(runner.work_dir.rstrip(osp.sep)))
            for key in [key for key in info if key.startswith('best_ckpt')]:
                if isinstance(info[key], str):
                    info[key] = osp.join(folder, osp.basename(info[key]))
        # mmengine deletes the checkpoints in excess of a smaller `max_keep_ckpts`.
        super().before_train(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        # Overrides mmengine's, which removes the oldest checkpoint before it writes.
        outdated: list[int] = []
        kept = list(getattr(self, 'keep_ckpt_ids', ()))
        if self.max_keep_ckpts > 0:
            if step not in kept:
                kept.append(step)
            # If the process is killed before it has deleted them, a resumed training does.
            runner.message_hub.update_info('keep_ckpt_ids', list(kept))
            outdated, kept = kept[: -self.max_keep_ckpts], kept[-self.max_keep_ckpts :]
        filename = self.filename_tmpl.format(step)
        path = self.file_backend.join_path(self.out_dir, filename)
        before = runner.message_hub.runtime_info.get('last_ckpt')
        runner.message_hub.update_info('last_ckpt', path)
        try:
            runner.save_checkpoint(
                self.out_dir,
                filename,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            self._name_as_last(runner, path)
        except OSError as error:
            runner.message_hub.update_info('last_ckpt', before)
            if self.max_keep_ckpts > 0:
                runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
            self._report(runner, error, path, before)
            return
        self.last_ckpt = path
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids.clear()
            self.keep_ckpt_ids.extend(kept)
            runner.message_hub.update_info('keep_ckpt_ids', kept)
            for old in outdated:
                self._remove(
                    self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old))
                )

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        if not self.save_best:
            return
        # Without a path, mmengine's method removes nothing before it writes.
        single = len(self.key_indicators) == 1
        before = self._best_paths()
        if single:
            self.best_ckpt_path = None
        else:
            self.best_ckpt_path_dict = dict.fromkeys(before)
        info = dict(runner.message_hub.runtime_info)
        try:
            super()._save_best_checkpoint(runner, metrics)
        except OSError as error:
            # The previous best result stays, so that the next better checkpoint is saved.
            for key in [k for k in runner.message_hub.runtime_info if k.startswith('best_')]:
                runner.message_hub.runtime_info.pop(key)
                if key in info:
                    runner.message_hub.update_info(key, info[key])
            self._restore(before, single)
            self._report(runner, error, osp.join(str(self.out_dir), 'best_*.pth'), None)
            return
        now = self._best_paths()
        self._restore({key: now[key] or old for key, old in before.items()}, single)
        for key, old in before.items():
            if old and now[key] and old != now[key]:
                self._remove(old)
                runner.logger.info(f'The previous best checkpoint {old} is removed')

    def _best_paths(self) -> dict[str, Any]:
        several = self.__dict__.get('best_ckpt_path_dict')
        return dict(best=self.__dict__.get('best_ckpt_path')) if several is None else dict(several)

    def _restore(self, paths: dict[str, Any], single: bool) -> None:
        if single:
            self.best_ckpt_path = paths['best']
        else:
            self.best_ckpt_path_dict = paths

    @master_only
    def _name_as_last(self, runner: Runner, path: str) -> None:
        name_last_checkpoint(runner.work_dir, path)

    def _remove(self, path: str) -> None:
        if not is_main_process():
            return
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            self.file_backend.rmtree(path)

    def _report(self, runner: Runner, error: OSError, path: str, before: str | None) -> None:
        kept = (
            f'The last good checkpoint is {before}.'
            if before
            else 'Older checkpoints are unchanged.'
        )
        message = f'{describe_medium_error(error, path)}. {kept}'
        at_end = (
            self.is_last_train_epoch(runner) if self.by_epoch else self.is_last_train_iter(runner)
        )
        if at_end and 'best_' not in osp.basename(path):
            raise InputError(
                f'{message} It is the last checkpoint of the training: free some space and '
                'continue with --resume.'
            ) from error
        runner.logger.error(
            f'{message} Training continues, and the next checkpoint will be tried as usual.'
        )
