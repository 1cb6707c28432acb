# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Limit of top-k accuracies to the number of classes."""

import logging
from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmpretrain.evaluation import Accuracy, MultiLabelMetric

from mtkdrl_mm.models.num_classes import limit_topk
from mtkdrl_mm.registry import HOOKS
from mtkdrl_mm.utils import InputError

from .label_check_hook import heads_with_classes


@HOOKS.register_module()
class TopKLimitHook(Hook):
    """Limits the k of top-k accuracies to the number of classes.

    When it acts: before training it compares ``save_best`` with the number of
    classes of the model. After the first batch of every validation and test it
    removes every k from the metrics that is larger than the number of scores,
    with a warning. mmpretrain would raise an error after the whole epoch. It
    saves nothing.
    """

    priority = 'NORMAL'

    def before_train(self, runner: Runner) -> None:
        """Check the k of ``save_best``.

        Raises:
            InputError: If it is larger than the number of classes.
        """
        counts = [number for _, number, _ in heads_with_classes(runner)]
        count = min(counts, default=None)
        for hook in runner.hooks:
            for key in getattr(hook, 'key_indicators', None) or []:
                k = str(key).rpartition('top')[2]
                if count and 'top' in str(key) and k.isdigit() and int(k) > count:
                    raise InputError(
                        f'default_hooks.checkpoint.save_best is "{key}", but there are only '
                        f'{count} classes. Set it to "accuracy/top1".'
                    )

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Limit the metrics of validation."""
        if batch_idx == 0 and outputs:
            limit_metrics(runner.val_evaluator, outputs[0], 'val_evaluator')

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Limit the metrics of testing."""
        if batch_idx == 0 and outputs:
            limit_metrics(runner.test_evaluator, outputs[0], 'test_evaluator')


def limit_metrics(evaluator: Evaluator, sample: Any, name: str) -> None:
    """Remove every k above the number of classes from an evaluator's metrics.

    Args:
        evaluator (Evaluator): The evaluator; its metrics are changed in place.
        sample (DataSample): A prediction with ``pred_score`` of shape (C,).
        name (str): The evaluator's key in the config, for the warning.
    """
    score = sample.get('pred_score')
    if score is None:
        return
    count = len(score)
    for metric in evaluator.metrics:
        if not isinstance(metric, (Accuracy, MultiLabelMetric)) or not metric.topk:
            continue
        topk = (metric.topk,) if isinstance(metric.topk, int) else tuple(metric.topk)
        if max(topk) > count:
            metric.topk = limit_topk(metric.topk, count)
            print_log(
                f'{name}: top-{", top-".join(str(k) for k in topk if k > count)} of only {count} '
                f'classes is removed from {type(metric).__name__}.',
                'current',
                logging.WARNING,
            )
