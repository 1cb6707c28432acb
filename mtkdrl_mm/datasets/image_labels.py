# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Check of the labels of whole images."""

import os.path as osp
from typing import Any

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.class_names import dataset_classes

from .damaged_images import built_datasets


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
