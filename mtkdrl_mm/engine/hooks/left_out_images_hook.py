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

    When it acts: before validation and test, it limits metrics that read an
    annotation file, such as mmdet's ``CocoMetric``, to the remaining images;
    after training and test, it logs the list. It saves nothing.
    """

    priority = 'LOW'

    def before_val(self, runner: Runner) -> None:
        """Limit the metrics to the remaining images."""
        _limit_images(runner.val_evaluator, runner.val_dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        """Limit the metrics to the remaining images."""
        _limit_images(runner.test_evaluator, runner.test_dataloader.dataset)

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


def _limit_images(evaluator: Any, dataset: Any) -> None:
    if not _left_out(dataset):
        return
    for metric in evaluator.metrics:
        if hasattr(metric, 'img_ids'):
            infos = (dataset.get_data_info(index) for index in range(len(dataset)))
            metric.img_ids = [info['img_id'] for info in infos]
