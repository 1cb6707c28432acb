# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Validation by processes that share no folder."""

from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mtkdrl_mm.registry import HOOKS
from mtkdrl_mm.utils.distributed import is_shared_folder

# mmengine's, in the current folder.
_DEFAULT_FOLDER = '.dist_test'


@HOOKS.register_module()
class CollectResultsHook(Hook):
    """Lets metrics collect the results of processes that share no folder.

    Metrics with ``collect_device='cpu'``, the default, bring the results of all
    processes together in files of the current folder. On several machines it is often
    one of each machine, and may be read-only: the first validation ended the training.

    When it acts: before every validation and test. Metrics whose folder is not seen by
    all processes collect by messages (``collect_device='gpu'``, which is not for GPUs
    alone). It saves nothing.
    """

    priority = 'NORMAL'

    def before_val(self, runner: Runner) -> None:
        """Look at the folders of the validation's metrics."""
        _collect_by_messages(runner.val_evaluator)

    def before_test(self, runner: Runner) -> None:
        """Look at the folders of the test's metrics."""
        _collect_by_messages(runner.test_evaluator)


def _collect_by_messages(evaluator: Evaluator) -> None:
    """Change the metrics whose folder is not shared; to be called on all processes."""
    shared: dict[str, bool] = {}
    for metric in evaluator.metrics:
        if metric.collect_device != 'cpu':
            continue
        folder = metric.collect_dir or _DEFAULT_FOLDER
        if folder not in shared:
            shared[folder] = is_shared_folder(folder)
        if not shared[folder]:
            metric.collect_device, metric.collect_dir = 'gpu', None
            print_log(
                f'{type(metric).__name__} collects its results by messages, since "{folder}" is no '
                'folder that all processes share.',
                'current',
            )
