# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Schedules that keep their count of iterations when the batch size changes."""

from mmengine.hooks import ParamSchedulerHook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import Runner

from mtkdrl_mm.registry import HOOKS

from ..loops import schedule_steps


@HOOKS.register_module()
class ElasticParamSchedulerHook(ParamSchedulerHook):
    """mmengine's ParamSchedulerHook, also for trainings resumed with another batch size.

    When it acts: after every iteration for schedules by iteration, and after
    every epoch for schedules by epoch, as mmengine's hook. If a training is
    resumed with another batch size or number of processes, schedules by
    iteration keep the count of the first run: with twice the batch size they
    take two steps per iteration, with half of it one step in two iterations.
    """

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict | None = None,
    ) -> None:
        """Step the schedules by iteration."""
        before, after = schedule_steps(runner)
        for _ in range(after - before):
            super().after_train_iter(runner, batch_idx, data_batch, outputs)
