# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Checks of the classes that data sets have and number."""

from typing import Any

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.class_names import dataset_classes, shorten
from mtkdrl_mm.utils.data_checks import check_category_names, find_coco_categories

from .damaged_images import built_datasets


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
