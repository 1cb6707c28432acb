# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""List of the damaged images that were left out."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mtkdrl_mm.datasets import built_datasets
from mtkdrl_mm.registry import HOOKS


@HOOKS.register_module()
class LeftOutImagesHook(Hook):
    """Logs the damaged images that ``IntactImages`` has left out.

    When it acts: after training and test. It saves nothing.
    """

    priority = 'LOW'

    def after_train(self, runner: Runner) -> None:
        """Log the images that were left out."""
        datasets = {'training': runner.train_dataloader.dataset}
        if runner.val_loop is not None:
            datasets['validation'] = runner.val_dataloader.dataset
        for name, dataset in datasets.items():
            _list(runner, name, dataset)

    def after_test(self, runner: Runner) -> None:
        """Log the images that were left out."""
        _list(runner, 'test', runner.test_dataloader.dataset)


def _left_out(dataset: Any) -> list[str]:
    # A file may be in two parts of a concatenated set.
    paths = [path for part in built_datasets(dataset) for path in getattr(part, 'left_out', [])]
    return list(dict.fromkeys(paths))


def _list(runner: Runner, name: str, dataset: Any) -> None:
    paths = _left_out(dataset)
    if paths:
        lines = '\n'.join(f'  {path}' for path in paths)
        runner.logger.warning(f'Damaged images left out of the {name} set: {len(paths)}\n{lines}')
