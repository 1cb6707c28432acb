# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Schedules that keep their pace when the batch size changes."""

from mmengine.hooks import ParamSchedulerHook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import Runner

from mtkdrl_mm.registry import HOOKS

from ..loops import schedule_steps


@HOOKS.register_module()
class ElasticParamSchedulerHook(ParamSchedulerHook):
    """mmengine's ParamSchedulerHook for trainings that are resumed with other batches.

    When it acts: after every iteration, for schedules by iteration, and after
    every epoch for those by epoch, as mmengine's. Where a resumed training has
    another batch size or number of processes, a schedule by iteration goes on
    in the iterations of the first part: two steps at a time with twice the
    batch, a step every second time with half of it.
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
