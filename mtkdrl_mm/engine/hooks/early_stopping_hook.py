# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Early stopping that goes on counting in a resumed training."""

from typing import Any

from mmengine.hooks import EarlyStoppingHook
from mmengine.runner import Runner

from mtkdrl_mm.registry import HOOKS

_KEY = 'early_stopping'


@HOOKS.register_module()
class ResumableEarlyStoppingHook(EarlyStoppingHook):
    """mmengine's EarlyStoppingHook, which does not forget what it has seen.

    mmengine's hook begins anew whenever a training is resumed: the best result
    is forgotten, and validations without improvement are counted from 0.

    When it acts: as mmengine's hook, after every validation. In every checkpoint
    it saves the best result and the count under ``early_stopping``, by the name
    of the monitored metric. A resumed training goes on from there, and ends at
    once if the count has reached ``patience``, which may have changed.
    """

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Save the best result and the count."""
        state = dict(best_score=float(self.best_score), wait_count=self.wait_count)
        checkpoint.setdefault(_KEY, {})[self.monitor] = state

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Restore the best result and the count."""
        state = checkpoint.get(_KEY, {}).get(self.monitor) if runner._resume else None
        if state is not None:
            self.best_score, self.wait_count = state['best_score'], state['wait_count']

    def before_train(self, runner: Runner) -> None:
        """Stop a resumed training that had been stopped already."""
        threshold = self.stopping_threshold
        compare = self.rule_map[self.rule]
        if self.wait_count >= self.patience:
            reason = f'`{self.monitor}` did not improve in the last {self.wait_count} records'
        elif threshold is not None and compare(self.best_score, threshold):
            reason = f'`{self.monitor}` = {self.best_score} is {self.rule} than {threshold}'
        else:
            return
        runner.train_loop.stop_training = True
        runner.logger.info(f'This training was stopped early: {reason}.')
