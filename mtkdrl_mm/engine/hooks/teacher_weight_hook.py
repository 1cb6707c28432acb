# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Logs how much each teacher counts."""

import torch
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import Runner

from mtkdrl_mm.registry import HOOKS
from mtkdrl_mm.structures import StepTerms, TeacherWeights

from ..distiller_of import distiller_of
from ..scalar_meter import ScalarMeter, log_is_due


@HOOKS.register_module()
class TeacherWeightHook(Hook):
    """Logs each teacher's mean logit and feature weight.

    When it acts: it sums the weights in every step, and hands their means over
    the steps since the last log line to the message hub just before
    ``LoggerHook`` prints, as ``weight_logit/NAME`` and ``weight_feature/NAME``.
    From there they reach the console and the visualiser's backends. It saves
    nothing.
    """

    priority = 'NORMAL'

    def before_train(self, runner: Runner) -> None:
        """Watch the distiller's steps."""
        distiller = distiller_of(runner, 'TeacherWeightHook')
        names = distiller.teachers.names
        self._meter = ScalarMeter(
            [f'weight_{kind}/{name}' for kind in ('logit', 'feature') for name in names]
        )
        distiller.step_observers.append(self._record)

    def _record(self, terms: StepTerms, weights: TeacherWeights) -> None:
        self._meter.add(torch.cat([weights.logit.mean(dim=0), weights.feature.mean(dim=0)]))

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict | None = None,
    ) -> None:
        """Hand the means over when a log line is due."""
        if log_is_due(runner, batch_idx):
            for name, value in self._meter.flush().items():
                runner.message_hub.update_scalar(f'train/{name}', value)
