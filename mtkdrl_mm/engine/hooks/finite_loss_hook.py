# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Stops training at a NaN or infinite loss."""

import math

import torch
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import Runner
from torch import Tensor

from mtkdrl_mm.registry import HOOKS
from mtkdrl_mm.structures import StepTerms, TeacherWeights
from mtkdrl_mm.utils import InputError

from .step_hook import StepHook, last_good_state, unwrap_distiller


@HOOKS.register_module()
class FiniteLossHook(StepHook):
    """Stops training at the first NaN or infinite loss, and names its source.

    When it acts: after every step it looks at the loss that mmengine has
    already brought to the host for the log, so it costs no synchronisation.
    The checkpoints saved before that step are kept and nothing is saved over
    them. It saves nothing.
    """

    # After RuntimeInfoHook has read the loss, before anything can be saved.
    priority = 'ABOVE_NORMAL'

    def before_train(self, runner: Runner) -> None:
        """Watch the distiller's steps."""
        self._distiller = unwrap_distiller(runner, 'FiniteLossHook')
        super().before_train(runner)
        self._terms: tuple[Tensor, ...] | None = None

    def observe(self, terms: StepTerms, weights: TeacherWeights) -> None:
        """Keep the terms, which tell where a NaN came from."""
        # Small tensors, of which nothing is computed unless something fails.
        self._terms = (
            terms.student_ce.detach()[:, None],
            terms.logit_loss.detach(),
            terms.feature_loss.detach(),
            terms.teacher_logits.mean(dim=2),
        )

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict | None = None,
    ) -> None:
        """Check the loss.

        Raises:
            InputError: If it is not finite.
        """
        loss = runner.message_hub.get_scalar('train/loss').current()
        if math.isfinite(loss):
            return
        raise InputError(
            f'The loss is {loss} in iteration {runner.iter + 1} (epoch {runner.epoch + 1}): '
            f'{"; ".join(self._culprits())}. {last_good_state(runner)} Lower the learning rate, '
            'clip gradients (optim_wrapper.clip_grad), or check that teacher.'
        )

    def _culprits(self) -> list[str]:
        assert self._terms is not None
        means = torch.cat([term.mean(dim=0) for term in self._terms])
        names = self._distiller.teachers.names
        labels = [
            "the student's cross entropy",
            *(f'the logit loss to teacher "{name}"' for name in names),
            *(f'the feature loss to teacher "{name}"' for name in names),
            *(f'the logits of teacher "{name}"' for name in names),
        ]
        bad = [label for label, value in zip(labels, means.tolist()) if not math.isfinite(value)]
        teachers = [label for label in bad if label.startswith('the logits')]
        # A teacher with non-finite logits spoils every term it enters.
        return (
            [f'{label} are not finite' for label in teachers]
            or [f'{label} is not finite' for label in bad]
            or ['every term is finite, their weighted sum overflows']
        )
