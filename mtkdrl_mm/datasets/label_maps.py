# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Check of label maps, and of the labels of boxes, on some images."""

import logging
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.class_names import dataset_classes, shorten

# Number of images that are read before label maps of a single class are refused.
_MORE_SAMPLES = 512
_NAMES = {'train': 'training', 'val': 'validation'}


class _LabelMap(NamedTuple):
    """Values and file of a label map, and whether 0 has become the ignored value."""

    values: set[int]
    path: str | None
    reduced: bool


def check_samples(
    dataset: Any, split: str, heads: list[tuple[str, int, int]], num_samples: int
) -> None:
    """Check some labels of a detection or segmentation set, read through the pipeline.

    If these label maps are all of one class, many more are read. It warns if those are
    of the same class, too, and some of them have no ignored pixel.

    Args:
        dataset (Dataset): The data set, built.
        split (str): 'train', 'val' or 'test', for messages.
        heads (list[tuple[str, int, int]]): Config key of the number of classes, the
            number, and the ignored label of every head; at least one.
        num_samples (int): Number of images that are read, spread evenly over the set.

    Raises:
        InputError: If a label is not a class, a label map is not 2-D, or all label
            maps are of one class and the ignored value.
    """
    key, num_classes, ignored = heads[0]
    maps: list[_LabelMap] = []
    indices = _spread(len(dataset), num_samples)
    for index in indices:
        maps += _check_sample(_read_sample(dataset, index, split), heads)
    if not maps or num_classes < 2 or 0 <= ignored < num_classes:
        return
    if split != 'train' and len(dataset) < num_samples:  # a few images may lack a class
        return
    for index in sorted({*_spread(len(dataset), _MORE_SAMPLES)} - {*indices}):
        if len(_classes(maps, ignored)) > 1:
            return
        maps += _check_sample(_read_sample(dataset, index, split), heads)
    known = _classes(maps, ignored)
    if len(known) > 1:
        return
    with_ignored = [one for one in maps if ignored in one.values]
    example = (with_ignored or maps)[0]
    values = [*known, ignored] if with_ignored else known
    text = (
        f'The label maps of the {_NAMES.get(split, split)} set, among them "{example.path}", have '
        f'only the value{"s" * (len(values) > 1)} {" and ".join(map(str, values))}, '
    )
    if not with_ignored:
        text += (
            f'but `{key}` is {num_classes}. Check that these are the label maps that are meant: '
            f'`data_prefix` and `seg_map_suffix` of {split}_dataloader.dataset.'
        )
    else:
        advice = _advice(example, known, heads[0], dataset_classes(dataset))
        text += f'and {ignored} is ignored, but `{key}` is {num_classes}. {advice}'
    if len(with_ignored) == len(maps):
        raise InputError(text)
    print_log(
        f'{len(maps)} label maps have been read. {text}', logger='current', level=logging.WARNING
    )


def _classes(maps: list[_LabelMap], ignored: int) -> list[int]:
    """The classes that label maps have."""
    return sorted(set().union(*(one.values for one in maps)) - {ignored})


def _spread(length: int, count: int) -> list[int]:
    """Up to this many indices, spread evenly."""
    return torch.linspace(0, length - 1, min(count, length)).long().tolist()


def _read_sample(dataset: Any, index: int, split: str) -> Any:
    """Read the labels of an image through the pipeline."""
    try:
        sample = dataset[index]['data_samples']
    except FileNotFoundError as error:
        raise InputError(
            f'The {_NAMES.get(split, split)} set names a file that does not exist: '
            f'"{error.filename}". Check {split}_dataloader.dataset: `data_root`, `data_prefix`, '
            '`img_suffix` and `seg_map_suffix`; labels of Cityscapes and COCO-Stuff have to be '
            "converted first, by mmseg's tools/dataset_converters."
        ) from error
    # Of test-time augmentation, the views of an image.
    return sample[0] if isinstance(sample, (list, tuple)) else sample


def _check_sample(sample: Any, heads: list[tuple[str, int, int]]) -> list[_LabelMap]:
    """Check the labels of a sample; return its label map, if it has one."""
    is_map = 'gt_sem_seg' in sample and 'data' in sample.gt_sem_seg
    if is_map:
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
        return []
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
    return [_LabelMap(values, path, bool(sample.get('reduce_zero_label')))] if is_map else []


def _advice(
    label_map: _LabelMap, known: list[int], head: tuple[str, int, int], classes: list[str] | None
) -> str:
    """What to do about label maps of one class and the ignored value."""
    _, num_classes, ignored = head
    if label_map.reduced:
        return (
            f'`reduce_zero_label=True` turns 0 into {ignored}, 1 into 0 and so on: set it to False '
            'if 0 is a class.'
        )
    other = next(label for label in range(num_classes) if label not in known)
    what = f' ("{classes[other]}")' if classes and len(classes) == num_classes else ''
    return f'If {ignored} means class {other}{what}, write {other} for {ignored} in them.'
