# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Stored outputs of the teachers in a training."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import Runner

from mtkdrl_mm.registry import HOOKS
from mtkdrl_mm.utils import InputError

from ..loops import ResumableEpochLoop, ResumableIterLoop
from ..teacher_outputs import connect_teacher_outputs
from ..write_through import WriteThrough
from .step_hook import planned_switches, unwrap_distiller


@HOOKS.register_module()
class TeacherOutputsHook(Hook):
    """Connects a training to the store of ``model.teacher_outputs``.

    When it acts: before training, it compares the store with teachers, data and
    pipeline, and has the data workers read it. If the training also writes the
    store, it makes parts of a view when all images of it have been seen.
    :class:`ResumableRunner` adds this hook where the model has
    ``teacher_outputs``. It saves nothing in checkpoints.
    """

    # Before the hooks that run the teachers or look at the data.
    priority = 'HIGH'

    def __init__(self) -> None:
        self._write_through: WriteThrough | None = None

    def before_train(self, runner: Runner) -> None:
        """Connect model and training data.

        Raises:
            InputError: If the store does not belong to this training, or the images are
                to change in the course of it.
        """
        distiller = unwrap_distiller(runner, 'TeacherOutputsHook')
        for epoch, key in planned_switches(runner):
            if key in ('batch_augments', 'train_pipeline'):
                raise InputError(
                    f"SwitchRecipeHook switches `{key}` in epoch {epoch}, but the teachers' "
                    'outputs are stored for the images of the config. Take it out of the '
                    '`schedule`, or leave out `model.teacher_outputs`.'
                )
        self._write_through = connect_teacher_outputs(distiller, runner.train_dataloader)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """In a training by iterations, finish the views that have been passed."""
        loop = runner.train_loop
        if self._write_through is not None and isinstance(loop, ResumableIterLoop):
            self._write_through.finish(loop.passes(runner.epoch, runner.iter + 1))

    def after_train_epoch(self, runner: Runner) -> None:
        """In a training by epochs, finish the view of the epoch."""
        loop = runner.train_loop
        if self._write_through is not None and isinstance(loop, ResumableEpochLoop):
            self._write_through.finish(loop.passes(runner.epoch + 1, runner.iter))
