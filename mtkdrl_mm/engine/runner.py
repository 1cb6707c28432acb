# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""mmengine's runner with exact resuming and durable checkpoints."""

import itertools
import logging
import math
import os
import os.path as osp
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mmengine.config import ConfigDict
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, ParamSchedulerHook
from mmengine.registry import HOOKS, LOOPS, Registry
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from mtkdrl_mm.models.load_weights import load_network_weights
from mtkdrl_mm.registry import RUNNERS
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.distributed import broadcast_from_main
from mtkdrl_mm.utils.files import PARTIAL_SUFFIX, replace_file
from mtkdrl_mm.utils.unwrap_model import unwrap_model
from mtkdrl_mm.weights.checkpoint import read_checkpoint

from .build_dataloader import build_dataloader, check_passes_end
from .checkpoint_files import (
    SavedCheckpoint,
    check_same_checkpoint,
    find_checkpoint,
    forget_earlier_training,
    note_earlier_training,
)
from .full_disk import WriteErrorGuard, report_write_error_once
from .hooks.step_hook import last_good_state
from .hyperparameters import follow_hyperparameters, hyperparameters
from .log_history import bound_log_history
from .optim_wrappers import optim_wrappers
from .resume_checks import (
    check_same_classes,
    check_same_groups,
    check_same_teachers,
    check_same_training,
    describe_teachers,
    describe_training,
    load_whole,
)
from .run_record import set_class_weights_aside
from .scale_learning_rate import scale_learning_rate
from .schedules import follow_schedules
from .work_dir_lock import WorkDirLock

# mmengine's components and their replacements.
_REPLACED = {
    EpochBasedTrainLoop: 'mtkdrl_mm.ResumableEpochLoop',
    IterBasedTrainLoop: 'mtkdrl_mm.ResumableIterLoop',
    CheckpointHook: 'mtkdrl_mm.DurableCheckpointHook',
    ParamSchedulerHook: 'mtkdrl_mm.ElasticParamSchedulerHook',
    EarlyStoppingHook: 'mtkdrl_mm.ResumableEarlyStoppingHook',
}
# Hooks that mmengine registers itself, and leaves out where they are None.
_MMENGINES = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
# Hook methods that write logs, so that a full disk must not end the training in them.
_GUARDED_HOOK_METHODS = ('after_train_iter', 'after_val_epoch', 'after_train_epoch')


def _replace(kind: str | type, registry: Registry) -> str | type:
    """The type of this package for one of mmengine's, by its name, scoped or not, or its class."""
    found = registry.get(kind) if isinstance(kind, str) else kind
    return _REPLACED.get(found, kind)


@RUNNERS.register_module()
class ResumableRunner(Runner):
    """mmengine's runner for trainings that may be interrupted and resumed.

    It differs from mmengine's runner as follows:

    - mmengine's training loops, ``CheckpointHook``, ``ParamSchedulerHook`` and
      ``EarlyStoppingHook`` are replaced by those of this package, and a
      :class:`PreemptionHook`, an :class:`AccumulatedGradientsHook`, a
      :class:`BroadcastBuffersHook` and a :class:`CollectResultsHook` are added.
    - Checkpoints are read as plain data, and written completely or not at all.
      They hold the position in images, which does not depend on the batch size,
      and a bounded log history.
    - ``resume`` takes the newest readable checkpoint of the work dir, and raises
      an error if the checkpoint is of another training. Schedules and
      hyperparameters of the optimiser are those of the config, also if they or the
      training's length have changed.
    - Two trainings cannot use one work dir at the same time.
    - Data workers survive signals to the whole job.
    - On a full disk hooks fail to write, but the training continues.

    It works with any OpenMMLab config that has
    ``runner_type = 'mtkdrl_mm.ResumableRunner'`` and
    ``custom_imports = dict(imports=['mtkdrl_mm'])``; the tools of this package
    use it by default. The arguments are those of mmengine's ``Runner``.

    Hooks may have two more methods: ``gather_state()`` is called on all
    processes before the main process saves a checkpoint, and ``release()`` is
    called when training has ended, also by an error.

    Attributes:
        last_saved (str, optional): The newest checkpoint that has been written
            completely, or the one that was resumed; None if there is none.

    Example:
        >>> import torch
        >>> from mmengine.model import BaseModel
        >>> from mtkdrl_mm.engine.runner import ResumableRunner
        >>> class Model(BaseModel):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = torch.nn.Parameter(torch.ones(1))
        ...     def forward(self, inputs, mode):
        ...         return dict(loss=(self.weight * inputs).square().mean())
        >>> settings = dict(
        ...     work_dir='work_dir',
        ...     train_dataloader=torch.utils.data.DataLoader(
        ...         torch.ones(4, 1), collate_fn=lambda batch: dict(inputs=torch.stack(batch))
        ...     ),
        ...     optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        ...     log_level='ERROR',
        ... )
        >>> one_epoch = dict(by_epoch=True, max_epochs=1)
        >>> runner = ResumableRunner(Model(), train_cfg=one_epoch, **settings)
        >>> runner.train().weight.item() < 0.5
        True
        >>> runner = ResumableRunner(
        ...     Model(), train_cfg=dict(by_epoch=True, max_epochs=2),
        ...     resume=True, experiment_name='resumed', **settings
        ... )
        >>> _ = runner.train()
        >>> runner.iter
        8
    """

    last_saved: str | None = None
    #: The lock of the work dir; set and released in `train`, on the main process only.
    _lock: WorkDirLock | None = None
    #: The checkpoint to resume; set before it is loaded by `from_cfg` (so that it is compared
    #: with the config before anything is built), `load_or_resume` or `resume`; read by
    #: `load_checkpoint`; dropped at the end of `resume`.
    _found: SavedCheckpoint | None = None
    #: The configs of the schedulers; set when they are built; read by `resume`.
    _schedules: Any = None
    #: Those of the config; set when the optimiser is built; read by `resume`, and saved.
    _hyperparameters: list[dict[str, Any]] | None = None
    #: By what the learning rate of the config was scaled; set with them; saved.
    _lr_factor: float = 1.0

    @classmethod
    def from_cfg(cls, cfg: Any) -> 'ResumableRunner':
        """Build a runner from a config; a checkpoint to resume is compared with it first."""
        found = None
        if cfg.get('resume'):
            found = find_checkpoint(cfg.get('load_from'), cfg.get('work_dir'))
            if found is not None:
                check_same_training(cfg, *found)
        runner = super().from_cfg(cfg)
        assert isinstance(runner, cls)
        runner._found = found
        return runner

    def set_randomness(
        self, seed: int | None, diff_rank_seed: bool = False, deterministic: bool = False
    ) -> None:
        """Seed the random generators.

        Args:
            seed (int, optional): The seed; None draws one.
            diff_rank_seed (bool): Whether every process adds its rank, for what is drawn
                from the global generators. Order and views of the images come from the
                run's seed, which is the main process's on all of them. Defaults to False.
            deterministic (bool): Whether CUDA is to be deterministic. Defaults to False.
        """
        super().set_randomness(seed, diff_rank_seed, deterministic)
        self._seed: int = broadcast_from_main(self._seed)  # type: ignore[has-type]

    # -- Components -------------------------------------------------------------------------

    def build_logger(self, *args: Any, **kwargs: Any) -> Any:
        """Build the logger; a log file on a full disk is reported once."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                report_write_error_once(handler)
        return logger

    def register_default_hooks(self, hooks: dict[str, Any] | None = None) -> None:
        """Register the default hooks, with those that this package adds."""
        hooks = {} if hooks is None else dict(hooks)
        defaults = dict(
            checkpoint=dict(type='CheckpointHook'),
            param_scheduler=dict(type='ParamSchedulerHook'),
            preemption=dict(type='mtkdrl_mm.PreemptionHook'),
            accumulated_gradients=dict(type='mtkdrl_mm.AccumulatedGradientsHook'),
            broadcast_buffers=dict(type='mtkdrl_mm.BroadcastBuffersHook'),
            collect_results=dict(type='mtkdrl_mm.CollectResultsHook'),
        )
        for key, default in defaults.items():
            hooks.setdefault(key, default)
        # None disables a hook; mmengine knows that of its own only.
        hooks = {key: hook for key, hook in hooks.items() if hook is not None or key in _MMENGINES}
        if getattr(unwrap_model(self.model), 'teacher_outputs', None) is not None:
            hooks.setdefault('teacher_outputs', dict(type='mtkdrl_mm.TeacherOutputsHook'))
        super().register_default_hooks(hooks)

    def register_hook(self, hook: Any, priority: Any = None) -> None:
        """Register a hook; some of mmengine's are replaced by those of this package."""
        if isinstance(hook, dict) and 'type' in hook:
            hook = {**hook, 'type': _replace(hook['type'], HOOKS)}
        super().register_hook(hook, priority)

    def build_train_loop(self, loop: Any) -> Any:
        """Build the training loop; mmengine's loops are replaced by resumable ones."""
        if isinstance(loop, dict):
            loop = ConfigDict(loop)
            by_epoch = loop.get('by_epoch')
            if 'type' not in loop and by_epoch is not None:
                loop.pop('by_epoch')
                loop.type = 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop'
            if 'type' in loop:
                loop.type = _replace(loop.type, LOOPS)
        return super().build_train_loop(loop)

    def build_val_loop(self, loop: Any) -> Any:
        """Build the validation loop, and check that it ends."""
        built = super().build_val_loop(loop)
        check_passes_end(built.dataloader, 'val_dataloader')
        return built

    def build_test_loop(self, loop: Any) -> Any:
        """Build the test loop, and check that it ends."""
        built = super().build_test_loop(loop)
        check_passes_end(built.dataloader, 'test_dataloader')
        return built

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Build the schedulers, and remember their configs."""
        if self._schedules is None:
            self._schedules = scheduler
        return super().build_param_scheduler(scheduler)

    def scale_lr(self, optim_wrapper: Any, auto_scale_lr: dict[str, Any] | None = None) -> None:
        """Scale the learning rate with the batch size, and remember the config's."""
        self._hyperparameters = hyperparameters(optim_wrapper)
        super().scale_lr(optim_wrapper, auto_scale_lr)
        if not self._scales_learning_rate:
            return
        loader = self._train_dataloader
        batch = loader['batch_size'] if isinstance(loader, dict) else loader.batch_size
        images = self.world_size * batch
        base = self.auto_scale_lr['base_batch_size']
        self._lr_factor = images / base
        steps = max(wrapper._accumulative_counts for wrapper in optim_wrappers(optim_wrapper))
        if steps > 1:
            self.logger.warning(
                f'--auto-scale-lr counts the {images} images of a step, as in mmengine, and not '
                f'those of the {steps} steps whose gradients are accumulated: to count all, set '
                f'auto_scale_lr.base_batch_size={base / steps:g}.'
            )

    @property
    def _scales_learning_rate(self) -> bool:
        return bool((self.auto_scale_lr or {}).get('enable'))

    def build_dataloader(  # type: ignore[override]
        self,
        dataloader: DataLoader | dict[str, Any],
        seed: int | None = None,
        diff_rank_seed: bool = False,
    ) -> DataLoader:
        """Build and check a data loader, whose workers survive signals to the whole job.

        Args:
            dataloader (DataLoader | dict): A loader, or its config.
            seed (int, optional): Seed of sampler and workers. Defaults to None.
            diff_rank_seed (bool): Whether the samplers of the processes have
                different seeds. Defaults to False.

        Returns:
            DataLoader: The loader.

        Raises:
            InputError: If an epoch would have no step.
        """
        return build_dataloader(dataloader, seed, diff_rank_seed, self.model)

    # -- Training ---------------------------------------------------------------------------

    def train(self) -> nn.Module:
        """Launch training, with a lock on the work dir."""
        self._lock_work_dir()
        self.dump_config()  # another one, which was refused, may have written its own
        self._note_earlier_training()
        try:
            if is_main_process():
                # Checkpoints hold the digests of the teachers' files. They are computed before
                # there is work to lose, and while the files are those that were loaded.
                getattr(unwrap_model(self.model), 'teacher_records', None)
            return super().train()
        finally:
            for hook in self._hooks:
                if hasattr(hook, 'release'):
                    hook.release()
            if self._lock is not None:
                self._lock.release()

    def _note_earlier_training(self) -> None:
        """Tell the checkpoints of an earlier training in the work dir apart from those to come."""
        if not is_main_process():
            return
        if self._resume:
            # Whatever is resumed is what was begun last from now on.
            forget_earlier_training(self.work_dir)
            return
        set_class_weights_aside(self.work_dir)
        if note_earlier_training(self.work_dir):
            self.logger.warning(
                f'{self.work_dir} holds the checkpoints of an earlier training, which this one '
                'will overwrite. To continue the earlier training, stop this one and name the '
                'checkpoint (--resume CHECKPOINT); to keep both, set another --work-dir.'
            )

    def _lock_work_dir(self) -> None:
        problem = None
        if is_main_process():
            self._lock = WorkDirLock(self.work_dir)
            try:
                self._lock.acquire()
            except InputError as error:
                problem = str(error)
        problem = broadcast_from_main(problem)
        if problem is not None:
            raise InputError(problem)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call all hooks; a hook that cannot write to a full disk does not end the training."""
        if fn_name not in _GUARDED_HOOK_METHODS:
            super().call_hook(fn_name, **kwargs)
            return
        if not hasattr(self, '_write_errors'):
            self._write_errors = WriteErrorGuard(self.logger, self.work_dir)
        for hook in self._hooks:
            if hasattr(hook, fn_name):
                self._write_errors.call(hook, getattr(hook, fn_name), self, **kwargs)

    # -- Checkpoints ------------------------------------------------------------------------

    def load_or_resume(self) -> None:
        """Load the weights of ``load_from``, or resume a checkpoint."""
        if self._has_loaded:
            return
        if not self._resume:
            super().load_or_resume()
            return
        if self._found is None:
            self._found = find_checkpoint(self._load_from, self.work_dir)
        check_same_checkpoint(self._found)
        if self._found is None:
            self.logger.info(
                f'There is no checkpoint in {self.work_dir}: training starts from the beginning.'
            )
            return
        self.logger.info(f'Resuming from {self._found.path}.')
        self.resume(self._found.path)

    def dump_config(self) -> None:
        """Write the config to the work dir; on resuming, only after all checks have passed.

        That of another training that runs there is left as it is.
        """
        if self._resume and not self._has_loaded:
            return
        # A second lock in this process would end the first one.
        lock = self._lock or WorkDirLock(self.work_dir)
        if not lock.is_held_elsewhere():
            super().dump_config()

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: str | Callable = 'default',
    ) -> None:
        """Resume a training, also with another batch size or number of processes.

        Args:
            filename (str): Path or URL of the checkpoint.
            resume_optimizer (bool): Whether to resume the optimiser's state.
                Defaults to True.
            resume_param_scheduler (bool): Whether to resume the schedules.
                Defaults to True.
            map_location (str | Callable): Not used: files are read on the CPU.

        Raises:
            InputError: If the file cannot be read, or is of another training.
        """
        if self._found is None or self._found.path != filename:
            self._found = find_checkpoint(filename, self.work_dir)
            assert self._found is not None
            check_same_training(self.cfg, *self._found)
        meta = self._found.meta
        dataset = self.train_dataloader.dataset
        check_same_classes(meta.get('dataset_meta'), getattr(dataset, 'metainfo', None), filename)
        try:
            # The parent's method builds the training loop if that has not been done.
            super().resume(filename, resume_optimizer, resume_param_scheduler, 'cpu')
        except ValueError:
            # torch's words for it name neither file nor key.
            check_same_groups(self.optim_wrapper, self._found.contents['optimizer'], filename)
            raise
        saved_schedules = self._found.contents.get('param_schedulers')
        self._found = None
        self.last_saved = filename
        resume_loop = getattr(self.train_loop, 'resume', None)
        changes = ''
        if resume_loop is not None:
            changes = resume_loop(meta.get('progress'), validated=meta.get('validated', False))
        rescaled = False
        if resume_optimizer and self._hyperparameters is not None:
            optimizer_changes, rescaled = follow_hyperparameters(
                self, self._hyperparameters, meta.get('hyperparameters')
            )
            if optimizer_changes:
                self.logger.info(optimizer_changes)
        if resume_param_scheduler and self.param_schedulers is not None:
            schedule_changes = follow_schedules(self, self._schedules, saved_schedules, rescaled)
            if schedule_changes:
                self.logger.info(schedule_changes)
        self.dump_config()
        progress, factor = meta.get('progress'), meta.get('learning_rate_factor')
        adapted = self._adapt_learning_rate(progress, factor) if progress else ''
        if changes or adapted:
            self.logger.warning(f'{changes} {adapted}'.strip())

    def _adapt_learning_rate(self, saved: dict[str, Any], then: float | None) -> str:
        """Scale a resumed learning rate with the batch size, if `auto_scale_lr` is enabled.

        Args:
            saved (dict): The checkpoint's progress.
            then (float, optional): Its factor of the config's learning rate; None if it was
                written by an earlier version.

        Returns:
            str: What was done, or would be, for the log; '' if nothing.
        """
        images = self.train_loop.batch_sampler.images_per_step
        factor = images / (saved['batch_size'] * saved['world_size'])
        if then is not None and self._scales_learning_rate:
            factor = self._lr_factor / then
        elif then is not None:
            self._lr_factor = then
        group = self.optim_wrapper.param_groups[0]
        if math.isclose(factor, 1):
            return ''
        if not self._scales_learning_rate:
            return (
                f'The learning rate stays {group["lr"]:.4g}; --auto-scale-lr would scale it by '
                f'{factor:g}.'
            )
        scale_learning_rate(self.optim_wrapper, self.param_schedulers, factor)
        return f'The learning rate was scaled by {factor:g} to {group["lr"]:.4g}.'

    def load_checkpoint(
        self,
        filename: str,
        map_location: str | Callable = 'cpu',
        strict: bool = False,
        revise_keys: list | None = None,
    ) -> dict[str, Any]:
        """Load the weights of a network completely, or raise an error.

        Args:
            filename (str): Path or URL of the checkpoint.
            map_location (str | Callable): Not used: files are read on the CPU.
            strict (bool): Not used: loading is always strict.
            revise_keys (list, optional): Not used: prefixes are found by matching.

        Returns:
            dict[str, Any]: The checkpoint's contents.

        Raises:
            InputError: If the file cannot be read or does not fit.
        """
        resuming = self._found is not None and self._found.path == filename
        if resuming:
            assert self._found is not None
            contents = self._found.contents
        else:
            contents = read_checkpoint(filename, 'checkpoint')
        # mmengine executes a config under this key.
        if isinstance(contents.get('meta'), dict):
            contents['meta'].pop('config', None)
        model = unwrap_model(self.model)
        if resuming:
            meta = contents.get('meta') or {}
            if getattr(model, 'has_teachers', False):
                check_same_teachers(meta.get('teachers'), model.teacher_records, filename)
            self.call_hook('after_load_checkpoint', checkpoint=contents)
            message = load_whole(model, contents['state_dict'], filename)
            if getattr(model, 'has_teachers', False):
                model.teachers.restore_inference(meta.get('teacher_inference'))
        else:
            role = 'student' if hasattr(model, 'student') else 'network'
            message = load_network_weights(model, contents, filename, role)
            # Hooks get the model's names, which may differ from those in the file.
            contents = {**contents, 'state_dict': model.state_dict()}
            self.call_hook('after_load_checkpoint', checkpoint=contents)
        self.logger.info(message)
        self._has_loaded = True
        return contents

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
        """Save a checkpoint completely, or not at all. Must be called on all processes.

        Args:
            out_dir (str): The folder.
            filename (str): Name of the file.
            file_client_args (dict, optional): See mmengine.
            save_optimizer (bool): Whether to save the optimiser. Defaults to True.
            save_param_scheduler (bool): Whether to save the schedules. Defaults to True.
            meta (dict, optional): Further entries of ``meta``. Defaults to None.
            by_epoch (bool): Whether an epoch has ended. Defaults to True.
            backend_args (dict, optional): See mmengine.

        Raises:
            InputError: On all processes, if the weights are not finite. They are not saved.
            OSError: On all processes, if the file cannot be written. An older file of that
                name is then unchanged.
        """
        self._check_finite_weights(osp.join(out_dir, filename))
        for hook in self._hooks:
            if hasattr(hook, 'gather_state'):
                hook.gather_state()
        meta = dict(meta or {})
        meta.setdefault('epoch', self.epoch + 1 if by_epoch else self.epoch)
        meta.setdefault('iter', self.iter if by_epoch else self.iter + 1)
        if hasattr(self.train_loop, 'progress'):
            meta['progress'] = self.train_loop.progress(meta['epoch'], meta['iter'])
        meta['training'] = describe_training(self.cfg)
        if self._hyperparameters is not None:
            meta['hyperparameters'] = self._hyperparameters
            meta['learning_rate_factor'] = self._lr_factor
        model = unwrap_model(self.model)
        student_cfg = getattr(model, 'student_cfg', None)
        if student_cfg is not None:
            meta['student_cfg'] = student_cfg
        if getattr(model, 'has_teachers', False):
            # Another mode of the teachers would have other rounding errors.
            meta['teacher_inference'] = model.teachers.inference_state()
            if is_main_process():
                meta['teachers'] = describe_teachers(model.teacher_records)
        bound_log_history(self.message_hub, self.log_processor, len(self.train_dataloader))
        local = '://' not in str(out_dir) and file_client_args is None and not backend_args
        written = filename + PARTIAL_SUFFIX if local else filename
        problem: OSError | None = None
        try:
            # Only the main process writes in the parent's method.
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
        # All processes raise the main process's error, and continue in the same way.
        number, text = broadcast_from_main(
            (problem.errno, problem.strerror) if problem else (0, None)
        )
        if number or text:
            raise OSError(number, text, osp.join(out_dir, filename)) from problem
        self.last_saved = osp.join(out_dir, filename)

    def _check_finite_weights(self, path: str) -> None:
        """Refuse weights that are lost before they are saved, and an older file is removed.

        A step with a finite loss may have made them NaN, if its gradients were.
        """
        bad = None
        if is_main_process():
            model = unwrap_model(self.model)
            tensors = itertools.chain(model.named_parameters(), model.named_buffers())
            # Infinite buffers may be masks.
            finite = (
                (name, tensor.isfinite() if isinstance(tensor, nn.Parameter) else ~tensor.isnan())
                for name, tensor in tensors
            )
            bad = next((name for name, values in finite if not values.all()), None)
        bad = broadcast_from_main(bad)
        if bad is not None:
            raise InputError(
                f'"{path}" is not saved, because "{bad}" in it would not be finite. '
                f'{last_good_state(self)} Lower the learning rate, or clip gradients '
                '(optim_wrapper.clip_grad).'
            )
