# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Looks at the labels of detectors and segmentors before training."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mtkdrl_mm.registry import HOOKS
from mtkdrl_mm.utils import InputError, check_number


@HOOKS.register_module()
class LabelCheckHook(Hook):
    """Stops training on labels that the model has no classes for.

    When it acts: once, before training. It compares the classes of the data
    sets with each other, with the annotations, and with the number of classes
    of the model's heads. It reads a few images with their labels from the
    training set, as the pipeline gives them, and looks for labels outside of
    the classes. What it finds would otherwise end in an index error in the
    middle of a loss or of the first evaluation, or in a device assertion. In
    checkpoints it saves nothing.

    Args:
        num_samples (int): Images to look at, spread evenly over the training
            set. Defaults to 16.

    Raises:
        InputError: If the training set is empty, a file is missing, classes
            disagree, or a label is outside of the model's classes.
    """

    priority = 'NORMAL'

    def __init__(self, num_samples: int = 16) -> None:
        self.num_samples = int(check_number('num_samples', num_samples, minimum=1))

    def before_train(self, runner: Runner) -> None:
        """Look at the labels."""
        dataset = runner.train_dataloader.dataset
        if len(dataset) == 0:
            classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
            raise InputError(
                'The training set is empty: it has no image with labels of the classes '
                f'{_shorten(classes)}. Check train_dataloader.dataset: `data_root`, `ann_file`, '
                '`data_prefix`, and whether `metainfo.classes` are named as in the annotations.'
            )
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        heads = _heads_with_classes(model)
        self._check_classes(runner, heads)
        if not heads:
            return
        count = min(self.num_samples, len(dataset))
        for index in torch.linspace(0, len(dataset) - 1, count).long().tolist():
            try:
                sample = dataset[index]['data_samples']
            except FileNotFoundError as error:
                raise InputError(
                    f'The training set names a file that does not exist: "{error.filename}". '
                    'Check train_dataloader.dataset: `data_root`, `data_prefix`, `img_suffix` and '
                    '`seg_map_suffix`; labels of Cityscapes and COCO-Stuff have to be converted '
                    "first, by mmseg's tools/dataset_converters."
                ) from error
            for name, num_classes, ignored in heads:
                self._check(sample, name, num_classes, ignored)

    @staticmethod
    def _check_classes(runner: Runner, heads: list[tuple[str, int, int]]) -> None:
        """Compare classes of the data sets, the annotation file and the heads."""
        dataset = runner.train_dataloader.dataset
        classes = _classes_of(dataset)
        if classes is None:
            return
        known = getattr(dataset, 'cat_ids', None)
        if known is not None and len(known) < len(classes):
            raise InputError(
                f'Of the classes {_shorten(classes)}, the annotation file '
                f'"{getattr(dataset, "ann_file", None)}" has only {len(known)}. Name '
                '`metainfo.classes` of the data sets as the `categories` in it.'
            )
        for name, num_classes, _ in heads:
            if num_classes != len(classes):
                raise InputError(
                    f'`model.{name}.num_classes` is {num_classes}, but the training set has '
                    f'{len(classes)} classes: {_shorten(classes)}. Set one of them to the '
                    "other's number; --cfg-options metainfo.classes=NAME,NAME sets both."
                )
        if runner.val_loop is not None:
            others = _classes_of(runner.val_dataloader.dataset)
            if others is not None and others != classes:
                raise InputError(
                    f'The training set has the classes {_shorten(classes)}, the validation set '
                    f'{_shorten(others)}. Set `metainfo.classes` of val_dataloader.dataset to the '
                    'same.'
                )

    @staticmethod
    def _check(sample: Any, head: str, num_classes: int, ignored: int) -> None:
        if 'gt_sem_seg' in sample:
            labels, path = sample.gt_sem_seg.data, sample.get('seg_map_path')
        elif 'gt_instances' in sample and 'labels' in sample.gt_instances:
            labels, path = sample.gt_instances.labels, sample.get('img_path')
        else:
            return
        values = torch.as_tensor(labels).unique()
        strange = values[(values < 0) | (values >= num_classes)]
        strange = strange[strange != ignored].tolist()
        if strange:
            raise InputError(
                f'"{path}" has the labels {_shorten(strange)}, but `model.{head}.num_classes` is '
                f'{num_classes}: labels must be 0 to {num_classes - 1}, or {ignored} for what is '
                'ignored. Convert the label maps, or set `num_classes` and '
                '`metainfo.classes` of the data sets to what they hold.'
            )


def _heads_with_classes(model: torch.nn.Module) -> list[tuple[str, int, int]]:
    """Name, number of classes and ignored label of every head that has classes."""
    found = []
    for name, module in model.named_modules():
        num_classes = getattr(module, 'num_classes', None)
        # Region proposals have one class, "object", whatever the labels are.
        if 'rpn_head' in name:
            continue
        if name and isinstance(num_classes, int) and 'head' in name and 'loss' not in name:
            found.append((name, num_classes, int(getattr(module, 'ignore_index', 255))))
    return found


def _classes_of(dataset: Any) -> list[str] | None:
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    return None if classes is None or isinstance(classes, str) else list(classes)


def _shorten(values: Any, most: int = 8) -> str:
    listed = ', '.join(str(value) for value in list(values or ())[:most])
    return f'{listed}, ...' if values is not None and len(values) > most else listed
