# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""mmdet's metrics evaluate the images and classes of the data set, whatever file they read."""

import os.path as osp
from collections.abc import Sequence
from typing import Any

from mtkdrl_mm.datasets import built_datasets
from mtkdrl_mm.utils.class_names import dataset_classes, shorten
from mtkdrl_mm.utils.data_checks import check_category_names
from mtkdrl_mm.utils.errors import InputError

# These need more than `cat_ids` for their categories, and take them from the file.
_OWN_CATEGORIES = ('LVISMetric', 'OVCocoMetric')


class CategoryIds(list):
    """Ids of categories: an item is that of a label, and iteration is in ascending order.

    mmdet's ``CocoMetric`` uses one list for two things: it looks up the category
    of a label, and names the rows of COCO's table, which is sorted by id. This is
    right for both.

    Args:
        by_label (Sequence[int]): The id of every label.
    """

    def __init__(self, by_label: Sequence[int]) -> None:
        super().__init__(sorted(by_label))
        self.by_label = list(by_label)

    def __getitem__(self, label: Any) -> Any:
        """The category of a label."""
        return self.by_label[label]


def align_metrics(evaluator: Any, dataset: Any, split: str) -> None:
    """Let metrics that read a COCO file evaluate the images and classes of a data set.

    mmdet's metrics evaluate all images of their file, and number its categories
    in the order of the file. The data set may have fewer images (``indices``,
    another file, damaged images) or another order. Metrics without a file take
    the annotations of the data set, and stay as they are.

    Args:
        evaluator (Evaluator): Its metrics are changed, once.
        dataset (Dataset): The data set that is evaluated, or a wrapper, built.
        split (str): "val" or "test", for messages.

    Raises:
        InputError: If an image or a class of the data set is not in the file,
            or a metric has no annotations at all.
    """
    for metric in getattr(evaluator, 'metrics', ()):
        kinds = {cls.__name__ for cls in type(metric).__mro__}
        api = getattr(metric, '_lvis_api', None) or getattr(metric, '_coco_api', None)
        # A panoptic metric reads the images of the predictions alone.
        if 'CocoPanopticMetric' in kinds or not hasattr(metric, 'img_ids'):
            continue
        key = f'{split}_evaluator ({type(metric).__name__})'
        if api is None:
            _check_annotations(dataset, key)
            continue
        if metric.img_ids is not None or not hasattr(dataset, 'get_data_info'):
            continue
        paths, labels = _contents(dataset, key)
        if not paths:
            continue
        _check_images(paths, api, key, dataset)
        metric.img_ids = list(paths)
        classes = dataset_classes(next(built_datasets(dataset)))
        if metric.cat_ids is None and classes and not kinds.intersection(_OWN_CATEGORIES):
            metric.cat_ids = _category_ids(labels, api, key, classes)


def _check_annotations(dataset: Any, key: str) -> None:
    """Refuse a pipeline without the annotations that a metric without a file needs."""
    for part in built_datasets(dataset):
        for transform in getattr(getattr(part, 'pipeline', None), 'transforms', ()):
            packs = type(transform).__name__ == 'PackDetInputs'
            if packs and 'instances' not in transform.meta_keys:
                raise InputError(
                    f'{key} has no annotations: set its `ann_file` to those of the data set, '
                    f'"{getattr(part, "ann_file", "")}", or add "instances" to the `meta_keys` of '
                    "PackDetInputs in the data set's pipeline."
                )


def _contents(dataset: Any, key: str) -> tuple[dict[Any, str], set[int]]:
    """The path of every image id, and the labels of all objects; nothing without ids."""
    paths: dict[Any, str] = {}
    labels: set[int] = set()
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        if 'img_id' not in info:
            return {}, set()
        number, path = info['img_id'], str(info.get('img_path') or '')
        if paths.setdefault(number, path) != path:
            raise InputError(
                f'"{paths[number]}" and "{path}" have the same image id, {number}, so that {key} '
                'cannot tell them apart: number the images of all files differently.'
            )
        labels.update(box['bbox_label'] for box in info.get('instances') or ())
    return paths, labels


def _check_images(paths: dict[Any, str], api: Any, key: str, dataset: Any) -> None:
    """Refuse images that the metric's file does not have."""
    files = [str(getattr(part, 'ann_file', '')) for part in built_datasets(dataset)]
    advice = f'set its `ann_file` to the annotations of the data set, "{shorten(files)}".'
    lacking = [number for number in paths if number not in api.imgs]
    if lacking:
        raise InputError(
            f'{len(lacking)} of {len(paths)} images are not in the annotation file of {key}, the '
            f'first of them id {lacking[0]}, "{paths[lacking[0]]}": {advice}'
        )
    for number, path in paths.items():
        name = str(api.imgs[number].get('file_name') or '')
        if name and path and osp.basename(name) != osp.basename(path):
            raise InputError(
                f'The image with the id {number} is "{path}" in the data set and "{name}" in the '
                f'annotation file of {key}: {advice}'
            )


def _category_ids(labels: set[int], api: Any, key: str, classes: Sequence[str]) -> CategoryIds:
    """The ids of the classes in the metric's file, by name."""
    categories = api.dataset['categories']
    names = [part['name'] for part in categories]
    check_category_names(names, classes, f'The annotation file of {key}')
    ids = {part['name']: part['id'] for part in categories if part['name'] in classes}
    lacking = [name for label, name in enumerate(classes) if name not in ids]
    # The file may lack a class of which there is no object in these images.
    wrong = [name for name in lacking if classes.index(name) in labels] if ids else lacking
    if wrong:
        raise InputError(
            f'The annotation file of {key} lacks {shorten(wrong)} of the classes '
            f'{shorten(classes)}; its `categories` are {shorten(names)}: set its `ann_file` to '
            'the annotations of the data set, or rename the categories.'
        )
    for name in lacking:
        # No category of a file has a negative id.
        ids[name] = -1 - classes.index(name)
        api.cats[ids[name]] = dict(id=ids[name], name=name)
        categories.append(api.cats[ids[name]])
    return CategoryIds([ids[name] for name in classes])
