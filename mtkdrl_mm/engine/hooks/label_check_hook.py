# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Check of classes and labels before training and testing."""

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mtkdrl_mm.datasets import built_datasets
from mtkdrl_mm.datasets.class_checks import (
    check_category_labels,
    classes_without_objects,
    compare_classes,
)
from mtkdrl_mm.datasets.image_labels import check_image_labels
from mtkdrl_mm.datasets.label_maps import check_samples
from mtkdrl_mm.evaluation.align_metrics import align_metrics
from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.registry import HOOKS
from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.class_names import checkpoint_classes, dataset_classes, shorten
from mtkdrl_mm.utils.unwrap_model import unwrap_model


@HOOKS.register_module()
class LabelCheckHook(Hook):
    """Raises an error for labels outside of the model's classes.

    When it acts: once, before training or a test. It compares the classes of
    the data sets, also inside wrappers, with each other, with the annotations,
    and with the number of classes of the model's heads. It checks all labels of
    classifiers. For detectors and segmentors it reads a few images with their
    labels from the training and the validation set, or the test set, through the
    pipeline; if the label maps are all of one class, many more.
    Without this check, such labels end in an index error inside a loss or at the
    first evaluation, in a device assertion, or in wrong results. It also lets
    metrics that read a COCO file evaluate the images and classes of the data set,
    and warns of classes without any object in the training set, and of label maps
    that are all of one class. It saves nothing.

    Args:
        num_samples (int): Number of images that are read, spread evenly over
            a set. Defaults to 16.

    Raises:
        InputError: If the training set is empty, a file is missing, classes
            disagree, a label is outside of the model's classes, a label map has
            several channels, all are of one class and the ignored value, or the
            file of a metric lacks an image.
    """

    priority = 'NORMAL'

    def __init__(self, num_samples: int = 16) -> None:
        self.num_samples = int(check_number('num_samples', num_samples, minimum=1))

    def before_train(self, runner: Runner) -> None:
        """Check the labels of the training and the validation set."""
        dataset = runner.train_dataloader.dataset
        if len(dataset) == 0:
            classes = dataset_classes(dataset)
            raise InputError(
                'The training set is empty: it has no image with labels of the classes '
                f'{shorten(classes or ())}. Check train_dataloader.dataset: `data_root`, '
                '`ann_file`, `data_prefix`, and whether the names in `metainfo.classes` are those '
                'in the annotations.'
            )
        heads = heads_with_classes(runner)
        self._check_classes(runner, heads)
        check_category_labels(dataset)
        classified = check_image_labels(dataset, heads)
        if runner.val_loop is not None:
            check_image_labels(runner.val_dataloader.dataset, heads)
            check_category_labels(runner.val_dataloader.dataset)
            # What does not fit is refused before the first epoch.
            align_metrics(
                getattr(runner, 'val_evaluator', None), runner.val_dataloader.dataset, 'val'
            )
        # Every process would find the same.
        lacking = classes_without_objects(dataset) if is_main_process() else []
        if lacking:
            runner.logger.warning(
                f'The training set has no object of {len(lacking)} of its classes: '
                f'{shorten(lacking)}. Objects of other names are left out: are the names in '
                '`metainfo.classes` written as in the annotations?'
            )
        if not heads or classified:
            return
        check_samples(dataset, 'train', heads, self.num_samples)
        if runner.val_loop is not None:
            check_samples(runner.val_dataloader.dataset, 'val', heads, self.num_samples)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare the classes of a checkpoint with those of the test set.

        Raises:
            InputError: If they differ.
        """
        classes = checkpoint_classes(checkpoint)
        # A training may start from weights for other classes; it has no built test loop.
        loop = getattr(runner, '_test_loop', None)
        if isinstance(loop, BaseLoop) and classes is not None:
            compare_classes(classes, loop.dataloader.dataset, 'test')

    def before_val(self, runner: Runner) -> None:
        """Let the metrics evaluate the images and classes of the data set."""
        align_metrics(runner.val_evaluator, runner.val_dataloader.dataset, 'val')

    def before_test(self, runner: Runner) -> None:
        """Check the labels of the test set."""
        dataset = runner.test_dataloader.dataset
        heads = heads_with_classes(runner)
        if not check_image_labels(dataset, heads) and heads:
            check_samples(dataset, 'test', heads, self.num_samples)
        check_category_labels(dataset)
        align_metrics(runner.test_evaluator, dataset, 'test')

    @staticmethod
    def _check_classes(runner: Runner, heads: list[tuple[str, int, int]]) -> None:
        """Compare the classes of data sets, annotation file and heads."""
        dataset = runner.train_dataloader.dataset
        classes = dataset_classes(dataset)
        if classes is None:
            return
        for part in built_datasets(dataset):
            known = getattr(part, 'cat_ids', None)
            # Those of a data set with labels by name are negative where the file lacks a class.
            count = len(classes) if known is None else sum(number >= 0 for number in known)
            if count < len(classes):
                raise InputError(
                    f'Of the classes {shorten(classes)}, the annotation file '
                    f'"{getattr(part, "ann_file", None)}" has only {count}. Use '
                    'the names of its `categories` in `metainfo.classes` of the data sets.'
                )
        wrong = [(key, number) for key, number, _ in heads if number != len(classes)]
        if wrong:
            settings = ' '.join(f'{key}={len(classes)}' for key, _ in wrong)
            # This sets the teachers' heads, but their files must have these classes.
            also = ' and use teachers of these classes' if 'model.num_classes' in settings else ''
            raise InputError(
                f'`{wrong[0][0]}` is {wrong[0][1]}, but the training set has {len(classes)} '
                f'classes: {shorten(classes)}. If that is correct, set {settings}{also}; if '
                'not, set the classes: --cfg-options metainfo.classes=NAME,NAME'
            )
        if heads:
            check_class_weights(unwrap_model(runner.model), len(classes))
        if runner.val_loop is not None:
            compare_classes(classes, runner.val_dataloader.dataset, 'validation')


def heads_with_classes(runner: Runner) -> list[tuple[str, int, int]]:
    """List the heads of the runner's model that have a number of classes.

    Args:
        runner (Runner): The runner.

    Returns:
        list[tuple[str, int, int]]: Config key of the number of classes, the
        number, and the ignored label of every head.
    """
    model = unwrap_model(runner.model)
    if isinstance(model, MultiTeacherDistiller):
        # One number for the student's head and all teachers.
        count = getattr(getattr(model.student, 'head', None), 'num_classes', None)
        return [('model.num_classes', count, 255)] if isinstance(count, int) else []
    found = []
    for name, module in model.named_modules():
        num_classes = getattr(module, 'num_classes', None)
        # Region proposals always have the single class "object".
        if 'rpn_head' in name:
            continue
        if name and isinstance(num_classes, int) and 'head' in name and 'loss' not in name:
            ignored = int(getattr(module, 'ignore_index', 255))
            found.append((f'model.{name}.num_classes', num_classes, ignored))
    preprocessor: Any = getattr(model, 'data_preprocessor', None)
    # Batch augmentations turn labels into vectors of this length.
    if getattr(preprocessor, 'batch_augments', None) is not None:
        found.append(('data_preprocessor.num_classes', preprocessor.num_classes or 0, 255))
    return found


def check_class_weights(model: nn.Module, num_classes: int) -> None:
    """Check that losses with a weight per class have one for each.

    Args:
        model (nn.Module): A network, or a distiller.
        num_classes (int): Number of classes.

    Raises:
        InputError: If a ``class_weight`` is a list of another length. One more may be that
            of the background.
    """
    for name, module in model.named_modules():
        weights = getattr(module, 'class_weight', None)
        if isinstance(weights, (list, tuple)) and len(weights) not in (
            num_classes,
            num_classes + 1,
        ):
            raise InputError(
                f'`class_weight` of `model.{name}` has {len(weights)} numbers, but there are '
                f'{num_classes} classes: set it to a list with one for each, or to None.'
            )
