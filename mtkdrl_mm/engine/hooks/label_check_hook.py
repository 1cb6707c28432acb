# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Check of classes and labels before training and testing."""

import os.path as osp
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mtkdrl_mm.datasets import built_datasets
from mtkdrl_mm.evaluation.align_metrics import align_metrics
from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.registry import HOOKS
from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.class_names import checkpoint_classes, dataset_classes, shorten
from mtkdrl_mm.utils.data_checks import check_category_names, find_coco_categories
from mtkdrl_mm.utils.unwrap_model import unwrap_model

# Number of images that are read before label maps of a single class are refused.
_MORE_SAMPLES = 512


@HOOKS.register_module()
class LabelCheckHook(Hook):
    """Raises an error for labels outside of the model's classes.

    When it acts: once, before training or a test. It compares the classes of
    the data sets, also inside wrappers, with each other, with the annotations,
    and with the number of classes of the model's heads. It checks all labels of
    classifiers. For detectors and segmentors it reads a few images with their
    labels from the training and the validation set, or the test set, through the
    pipeline; if label maps have one class beside the ignored value, many more.
    Without this check, such labels end in an index error inside a loss or at the
    first evaluation, in a device assertion, or in wrong results. It also lets
    metrics that read a COCO file evaluate the images and classes of the data set,
    and warns of classes without any object in the training set. It saves nothing.

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
        self._check_samples(dataset, 'train', heads)
        if runner.val_loop is not None:
            self._check_samples(runner.val_dataloader.dataset, 'val', heads)

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
            self._check_samples(dataset, 'test', heads)
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

    def _check_samples(self, dataset: Any, split: str, heads: list[tuple[str, int, int]]) -> None:
        """Check some labels of a detection or segmentation set.

        Args:
            dataset (Dataset): The data set, built.
            split (str): 'train', 'val' or 'test', for messages.
            heads (list[tuple[str, int, int]]): Result of :func:`heads_with_classes`.

        Raises:
            InputError: If a label is not a class, a label map is not 2-D, or all label
                maps are of one class and the ignored value.
        """
        _, num_classes, ignored = heads[0]
        found: set[int] = set()
        indices = _spread(len(dataset), self.num_samples)
        for index in indices:
            sample = _read_sample(dataset, index, split)
            found |= (values := self._check(sample, heads))
            if not ('gt_sem_seg' in sample and ignored in values):
                num_classes = 0  # No label map, or one without ignored pixels.
        # A few images of the test may lack a class.
        enough = split == 'train' or len(dataset) >= self.num_samples
        if num_classes < 2 or 0 <= ignored < num_classes or len(found - {ignored}) > 1:
            return
        if not (indices and enough):
            return
        for index in sorted({*_spread(len(dataset), _MORE_SAMPLES)} - {*indices}):
            sample = _read_sample(dataset, index, split)
            found |= (values := self._check(sample, heads))
            if ignored not in values or len(found - {ignored}) > 1:
                return
        _refuse_single_class(dataset, split, sample, found, heads[0])

    @staticmethod
    def _check(sample: Any, heads: list[tuple[str, int, int]]) -> set[int]:
        """Check the labels of a sample; return those that occur."""
        if 'gt_sem_seg' in sample and 'data' in sample.gt_sem_seg:
            labels, path = sample.gt_sem_seg.data, sample.get('seg_map_path')
            if labels.ndim != 3 or len(labels) != 1:
                raise InputError(
                    f'The label map "{path}" has the shape {tuple(labels.shape)}: it must have one '
                    'channel, with the number of its class in every pixel. Convert the colours, or '
                    'equal channels, of the label maps into such numbers.'
                )
        elif 'gt_instances' in sample and 'labels' in sample.gt_instances:
            labels, path = sample.gt_instances.labels, sample.get('img_path')
        else:
            return set()
        values = set(torch.as_tensor(labels).unique().tolist())
        for key, num_classes, ignored in heads:
            invalid = sorted(v for v in values if not 0 <= v < num_classes and v != ignored)
            if invalid:
                raise InputError(
                    f'"{path}" has the labels {shorten(invalid)}, but `{key}` is '
                    f'{num_classes}: labels must be 0 to {num_classes - 1}, or {ignored} for '
                    'ignored pixels. Convert the label maps, or change `num_classes` and '
                    '`metainfo.classes` of the data sets.'
                )
        return values


def _spread(length: int, count: int) -> list[int]:
    """Up to this many indices, spread evenly."""
    return torch.linspace(0, length - 1, min(count, length)).long().tolist()


def _read_sample(dataset: Any, index: int, split: str) -> Any:
    """Read the labels of an image through the pipeline."""
    try:
        sample = dataset[index]['data_samples']
    except FileNotFoundError as error:
        name = {'train': 'training', 'val': 'validation'}.get(split, split)
        raise InputError(
            f'The {name} set names a file that does not exist: "{error.filename}". '
            f'Check {split}_dataloader.dataset: `data_root`, `data_prefix`, `img_suffix` and '
            '`seg_map_suffix`; labels of Cityscapes and COCO-Stuff have to be converted '
            "first, by mmseg's tools/dataset_converters."
        ) from error
    # Of test-time augmentation, the views of an image.
    return sample[0] if isinstance(sample, (list, tuple)) else sample


def _refuse_single_class(
    dataset: Any, split: str, sample: Any, found: set[int], head: tuple[str, int, int]
) -> None:
    key, num_classes, ignored = head
    name = {'train': 'training', 'val': 'validation'}.get(split, split)
    known = sorted(found - {ignored})
    classes = dataset_classes(dataset)
    values = ' and '.join(map(str, [*known, ignored]))
    if sample.get('reduce_zero_label'):
        advice = (
            f'`reduce_zero_label=True` turns 0 into {ignored}, 1 into 0 and so on: set it to False '
            'if 0 is a class.'
        )
    else:
        other = next(label for label in range(num_classes) if label not in known)
        what = f' ("{classes[other]}")' if classes and len(classes) == num_classes else ''
        advice = f'If {ignored} means class {other}{what}, write {other} for {ignored} in them.'
    raise InputError(
        f'The label maps of the {name} set, among them "{sample.get("seg_map_path")}", have only '
        f'the values {values}, and {ignored} is ignored, but `{key}` is {num_classes}. {advice}'
    )


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


def check_image_labels(dataset: Any, heads: list[tuple[str, int, int]]) -> bool:
    """Check all labels of whole images.

    Args:
        dataset (Dataset): A data set or a wrapper, built.
        heads (list[tuple[str, int, int]]): Result of :func:`heads_with_classes`.

    Returns:
        bool: Whether the data set has labels of whole images.

    Raises:
        InputError: If a label is none of the heads' classes.
    """
    found = False
    for part in built_datasets(dataset):
        if not hasattr(part, 'get_data_info') or len(part) == 0:
            continue
        if 'gt_label' not in part.get_data_info(0):
            continue
        found = True
        # Labels from folders are indices into the list of classes.
        if getattr(part, 'folder_to_idx', None) is None:
            _check_part(part, heads)
    return found


def _check_part(part: Any, heads: list[tuple[str, int, int]]) -> None:
    classes = dataset_classes(part)
    counts = [num_classes for _, num_classes, _ in heads] or ([len(classes)] if classes else [])
    if not counts:
        return
    count, first = min(counts), None
    lowest, highest = count, -1
    for index in range(len(part)):
        info = part.get_data_info(index)
        label = info['gt_label']
        values = [int(value) for value in label] if hasattr(label, '__len__') else [int(label)]
        if not values:
            continue
        lowest, highest = min(lowest, *values), max(highest, *values)
        if first is None and not (min(values) >= 0 and max(values) < count):
            first = info.get('img_path', f'number {index}')
    if first is None:
        return
    where = f'"{part.ann_file}"' if getattr(part, 'ann_file', '') else type(part).__name__
    if lowest == 1 and highest == count:
        advice = 'They seem to start at 1: subtract 1 from every label.'
    elif lowest >= 0 and heads:
        advice = (
            f'Correct the labels; or, if there are {highest + 1} classes, set '
            f'`{heads[0][0]}={highest + 1}`.'
        )
    else:
        advice = 'Correct the labels.'
    raise InputError(
        f'The labels in {where} are {lowest} to {highest}, but with {count} classes they must be '
        f'0 to {count - 1}. The first image with such a label is "{osp.normpath(str(first))}". '
        f'{advice}'
    )


def classes_without_objects(dataset: Any) -> list[str]:
    """List the classes of which a data set for detection has no object to learn from.

    No image is read.

    Args:
        dataset (Dataset): A data set or a wrapper, built.

    Returns:
        list[str]: Their names; none for other kinds of data sets.
    """
    classes = dataset_classes(dataset) or []
    lacking = set(range(len(classes)))
    for part in built_datasets(dataset):
        if not hasattr(part, 'get_data_info'):
            return []
        for index in range(len(part)):
            boxes = part.get_data_info(index).get('instances')
            if boxes is None:
                return []
            lacking -= {box.get('bbox_label') for box in boxes if not box.get('ignore_flag')}
            if not lacking:
                return []
    return [classes[label] for label in sorted(lacking)]


def check_category_labels(dataset: Any) -> None:
    """Compare the labels of COCO's categories with the classes, by name.

    mmdet's data sets and those derived from them number the categories in the
    order of the annotation file.

    Args:
        dataset (Dataset): A data set or a wrapper, built.

    Raises:
        InputError: If a category has the label of another class, or several
            have the name of a class.
    """
    for part in built_datasets(dataset):
        classes, numbers = dataset_classes(part), getattr(part, 'cat2label', None)
        # The XML data sets of mmdet have labels by name here.
        if classes is None or not isinstance(numbers, dict) or not hasattr(part, 'cat_ids'):
            continue
        path = getattr(part, 'ann_file', None)
        categories = find_coco_categories(path) or []
        check_category_names([name for _, name in categories], classes, f'"{path}"')
        for number, name in categories:
            label = numbers.get(number)
            if label is None or name not in classes or classes.index(name) == label:
                continue
            other = f'"{classes[label]}"' if label < len(classes) else 'none'
            raise InputError(
                f'A {type(part).__name__} gives the category "{name}" of "{path}" the label '
                f'{label}, which is {other} of the classes {shorten(classes)}: sort '
                '`metainfo.classes` of all data sets and the `categories` of all files alike, or '
                'derive the class from mtkdrl_mm.datasets.coco_by_names.CocoByNames, whose labels '
                'are by name.'
            )


def compare_classes(classes: list[str], dataset: Any, which: str) -> None:
    """Compare the classes of a data set with those of the training set.

    Args:
        classes (list[str]): Those of the training set.
        dataset (Dataset): A data set or a wrapper, built.
        which (str): "validation", "test" or "held-out", for the message.

    Raises:
        InputError: If their names or order differ.
    """
    for part in built_datasets(dataset):
        others = dataset_classes(part)
        if others is not None and others != classes:
            raise InputError(
                f'The training set has the classes {shorten(classes)}, the {which} set '
                f'{shorten(others)}: the same label would mean another class. Set the same '
                'classes in the same order for both: in `metainfo.classes` if labels are read by '
                'name (class folders, COCO, mmseg), else in the annotation files.'
            )
