# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Identity of a data set and its pipeline, for stores of teacher outputs and for resuming."""

import hashlib
import itertools
import json
import os.path as osp
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mtkdrl_mm.teacher_outputs import DatasetRecord
from mtkdrl_mm.utils.errors import InputError
from mtkdrl_mm.utils.literal_config import plain_config

from .damaged_images import built_datasets

# Keys of transforms that say how files are fetched, and not what is in them.
_IGNORED = ('backend_args', 'file_client_args', 'ignore_empty')
# Samples that are looked at where all would take too long.
_NUM_SAMPLES = 4096


def dataset_record(dataset: Any) -> DatasetRecord:
    """Compute a digest of all files and labels of a data set, in their order.

    Paths count from the folder that all files have in common, so that a data set
    may be moved. The contents of files are not read; the checksums of the pixels
    are there for that. Images in memory are.

    Args:
        dataset (Dataset): A data set of mmengine, or a wrapper of it such as
            ``RepeatDataset``, ``ClassBalancedDataset`` or ``ConcatDataset``.

    Returns:
        DatasetRecord: Digest and number of samples.

    Raises:
        InputError: If a data set does not describe its samples.
    """
    if not hasattr(dataset, 'get_data_info'):
        raise InputError(
            f'{_name(dataset)} has no `get_data_info`, so that its samples cannot be identified '
            'in a store of teacher outputs. Use a data set of mmpretrain or mmengine, or its '
            'RepeatDataset, ClassBalancedDataset or ConcatDataset.'
        )
    paths: list[str] = []
    rest = hashlib.sha256()
    for info in _infos(dataset):
        path = info.get('img_path')
        paths.append('' if path is None else _full(str(path)))
        rest.update(_label(info))
        if path is None:
            rest.update(_pixels(info, dataset))
    root = _length_of_root([path for path in paths if path])  # images in memory have none
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path[root:].encode())
        digest.update(b'\n')
    digest.update(rest.digest())
    return DatasetRecord(digest.hexdigest(), len(paths))


def sample_digest(dataset: Any) -> str:
    """Compute a digest of the files' names and labels of some samples, in less than a second.

    They are spread evenly over the data set, so that another list of files, other
    labels or another order are noticed, but not the correction of a few labels.
    Folders do not matter.

    Args:
        dataset (Dataset): As for :func:`dataset_record`.

    Returns:
        str: A sha256; '' for data sets that do not describe their samples.
    """
    if not hasattr(dataset, 'get_data_info'):
        return ''
    digest = hashlib.sha256()
    total = len(dataset)
    count = min(total, _NUM_SAMPLES)
    for number in range(count):
        info = dataset.get_data_info(number * total // count)
        if not isinstance(info, dict):
            return ''
        for key in ('img_path', 'seg_map_path'):
            digest.update(osp.basename(str(info.get(key) or '')).encode() + b'\n')
        digest.update(_label(info))
        for instance in info.get('instances') or ():
            digest.update(str(instance.get('bbox_label')).encode())
    return digest.hexdigest()


def _length_of_root(paths: Sequence[str]) -> int:
    """Length of the folder that all paths have in common."""
    if not paths:
        return 0
    # What the first and the last in alphabetical order share, all share.
    ends = [path.split('/')[:-1] for path in (min(paths), max(paths))]
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*ends))
    return len('/'.join(name for name, _ in shared))


def _full(path: str) -> str:
    return path if '://' in path else osp.abspath(path).replace('\\', '/')


def _name(dataset: Any) -> str:
    return type(next(built_datasets(dataset))).__name__


def _infos(dataset: Any) -> Iterator[dict[str, Any]]:
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        yield info if isinstance(info, dict) else {}


def _label(info: dict[str, Any]) -> bytes:
    label = info.get('gt_label', info.get('gt_score'))
    return b'-' if label is None else np.asarray(label).astype('<f8').tobytes() + b';'


def _pixels(info: dict[str, Any], dataset: Any) -> bytes:
    image = info.get('img')
    if image is None:
        raise InputError(
            f'Samples of {_name(dataset)} have neither `img_path` nor `img`, so that they cannot '
            'be identified in a store of teacher outputs.'
        )
    return hashlib.sha256(np.ascontiguousarray(image).data).digest()


def pipeline_digest(config: dict[str, Any], preprocessor: dict[str, Any]) -> str:
    """Digest of all pipelines in the config of a data set, and of the padding of batches.

    Args:
        config (dict): Config of the data set, with those inside wrappers.
        preprocessor (dict): What pads batches: ``pad_size_divisor`` and
            ``pad_value``.

    Returns:
        str: A sha256.
    """
    content = dict(pipelines=list(_pipelines(plain_config(config))), preprocessor=preprocessor)
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _pipelines(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        for key in sorted(node):
            if key == 'pipeline':
                yield _without(node[key])
            else:
                yield from _pipelines(node[key])
    elif isinstance(node, (list, tuple)):
        for entry in node:
            yield from _pipelines(entry)


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without(v) for k, v in value.items() if k not in _IGNORED}
    if isinstance(value, (list, tuple)):
        return [_without(entry) for entry in value]
    return value
