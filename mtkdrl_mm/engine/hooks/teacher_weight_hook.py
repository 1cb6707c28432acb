# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Logging of the teachers' weights."""

import os.path as osp
from typing import Any

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import Runner
from torch import Tensor

from mtkdrl_mm.registry import HOOKS
from mtkdrl_mm.structures import StepTerms, TeacherWeights
from mtkdrl_mm.utils.files import write_json

from ..run_record import CLASS_WEIGHTS_NAME
from .step_hook import StepHook, unwrap_distiller


@HOOKS.register_module()
class TeacherWeightHook(StepHook):
    """Logs each teacher's mean logit and feature weight.

    When it acts: after every step it adds the batch means of the weights to
    the message hub, as ``teacher_weight/logit/NAME`` and, with a feature loss,
    ``teacher_weight/feature/NAME``. From there ``LoggerHook`` takes them to the
    console and the visualiser's backends, averaged as the losses are. After
    training it writes ``class_weights.json`` to the work dir: each teacher's
    mean weights per class over the last epoch; of a training by iterations, over
    all of them. In checkpoints it saves, under ``teacher_weight_hook``, the sums
    of the epoch so far.
    """

    priority = 'NORMAL'

    def __init__(self) -> None:
        self._saved: dict[str, Any] | None = None
        self._epoch_over = True
        self._total: torch.Tensor | None = None
        self._means: torch.Tensor | None = None

    def before_train(self, runner: Runner) -> None:
        """Watch the distiller's steps."""
        distiller = unwrap_distiller(runner, 'TeacherWeightHook')
        names = distiller.teachers.names
        self._names = names
        # Without connectors there is no feature loss, and its weights have no effect.
        self._kinds = ['logit', 'feature'] if distiller.feature_loss_weight > 0 else ['logit']
        # Per class the two weights of every teacher, then the number of images.
        device = next(distiller.student.parameters()).device
        self._classes = torch.zeros(
            distiller.teachers.spec.num_classes, 2 * len(names) + 1, device=device
        )
        if self._saved is not None:
            self._epoch_over = self._saved['epoch_over']
            if is_main_process():
                self._classes += self._saved['classes'].to(device)
            self._saved = None
        super().before_train(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Count the classes anew, or go on where the epoch was interrupted."""
        if self._epoch_over:
            self._classes.zero_()
        self._epoch_over = False

    def after_train_epoch(self, runner: Runner) -> None:
        """Keep the sums of the epoch, which may be the last one."""
        self._epoch_over = True

    def gather_state(self) -> None:
        """Sum the counts over all processes, for the next checkpoint."""
        self._total = self._classes.clone()
        all_reduce(self._total)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Save the sums of the epoch."""
        if self._total is not None:
            checkpoint['teacher_weight_hook'] = dict(
                classes=self._total.cpu(), epoch_over=self._epoch_over
            )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the saved sums until training starts."""
        if runner._resume and 'teacher_weight_hook' in checkpoint:
            # Earlier versions saved the sums only within an epoch.
            self._saved = dict(epoch_over=False) | checkpoint['teacher_weight_hook']

    @torch.no_grad()
    def observe(self, terms: StepTerms, weights: TeacherWeights) -> None:
        """Keep the step's means; add the weights to the sums per class."""
        both = torch.cat([weights.logit, weights.feature], dim=1)
        self._means = both.mean(dim=0)[: len(self._kinds) * len(self._names)]
        rows = torch.cat([both, torch.ones_like(both[:, :1])], dim=1)
        # Blended images count for their classes by their shares. A smoothed label would count
        # for all classes.
        self._classes += terms.soft_data_labels.to(rows.dtype).T @ rows

    def after_train(self, runner: Runner) -> None:
        """Write the weights per class."""
        all_reduce(self._classes)
        if not is_main_process() or not self._classes[:, -1].any():
            return  # nothing was trained: what an earlier run wrote is kept
        sums, images = self._classes[:, :-1], self._classes[:, -1]
        logit, feature = (sums / images[:, None]).chunk(2, dim=1)

        def rows(table: Tensor) -> list[list[float | None]]:
            # Of a class without an image nothing is known.
            return [
                row if count > 0 else [None] * len(row)
                for row, count in zip(table.tolist(), images.tolist())
            ]

        write_json(
            dict(teachers=list(self._names), logit=rows(logit), feature=rows(feature)),
            osp.join(runner.work_dir, CLASS_WEIGHTS_NAME),
        )

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict | None = None,
    ) -> None:
        """Log the means of the step."""
        names = [f'teacher_weight/{kind}/{name}' for kind in self._kinds for name in self._names]
        self.log(runner, names, self._means)
