# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Exact resuming between two steps of the optimiser."""

from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mtkdrl_mm.registry import HOOKS
from mtkdrl_mm.utils.distributed import all_reduce_mean
from mtkdrl_mm.utils.unwrap_model import unwrap_model

from ..optim_wrappers import optim_wrappers


@HOOKS.register_module()
class AccumulatedGradientsHook(Hook):
    """Saves the gradients that were accumulated since the optimiser's last step.

    With ``optim_wrapper.accumulative_counts`` greater than 1, a checkpoint may
    be due between two steps of the optimiser: on a signal, at an interval that
    is no multiple, or at the end of an epoch. mmengine then loses the gradients.

    When it acts: in such a checkpoint it saves them under
    ``accumulated_gradients``, as much again as the trained parameters. On
    resuming it restores them before training. In distributed runs it saves their
    mean over all processes, from which the optimiser's next step is the same.
    """

    def __init__(self) -> None:
        self._runner: Runner | None = None
        self._gradients: dict[str, Tensor] = {}
        self._saved: dict[str, Tensor] = {}

    def before_train(self, runner: Runner) -> None:
        """Restore the gradients of a resumed checkpoint."""
        self._runner = runner
        if not self._saved:
            return
        parameters = dict(unwrap_model(runner.model).named_parameters())
        for name, gradient in self._saved.items():
            parameters[name].grad = gradient.to(parameters[name])
        self._saved = {}
        runner.logger.info(
            'The gradients that were accumulated before the interruption are restored: none is '
            'lost.'
        )

    def gather_state(self) -> None:
        """Average the gradients of all processes, for the next checkpoint."""
        self._gradients = {}
        if self._runner is None or not self._is_between_steps(self._runner):
            return
        parameters = dict(unwrap_model(self._runner.model).named_parameters())
        here = [name for name, parameter in parameters.items() if parameter.grad is not None]
        anywhere = {name for names in all_gather_object(here) for name in names}
        for name, parameter in parameters.items():
            if name in anywhere:
                gradient = parameter.grad
                gradient = torch.zeros_like(parameter) if gradient is None else gradient
                self._gradients[name] = all_reduce_mean(gradient)

    @staticmethod
    def _is_between_steps(runner: Runner) -> bool:
        return any(not wrapper.should_update() for wrapper in optim_wrappers(runner.optim_wrapper))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Save the gradients, if there are any."""
        if self._gradients:
            checkpoint['accumulated_gradients'] = {
                name: gradient.detach().cpu() for name, gradient in self._gradients.items()
            }
        self._gradients = {}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the gradients until training starts."""
        if runner._resume:
            self._saved = checkpoint.get('accumulated_gradients', {})
