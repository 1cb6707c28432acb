# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Damaged images: errors that name them, and data sets without them."""

import os
import os.path as osp
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mmcv
from mmcv.transforms import BaseTransform
from mmengine import fileio
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.logging import print_log
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from torch.utils.data import Dataset

from mtkdrl_mm.registry import DATASETS
from mtkdrl_mm.utils.errors import InputError

# Keys of a sample's files in the data sets of mmpretrain, mmdet and mmseg.
FILE_KEYS = ('img_path', 'seg_map_path')
MISSING = 'it does not exist'


def image_fault(path: str) -> str | None:
    """Check that an image file can be decoded.

    Args:
        path (str): Path, or URL of one of mmengine's file backends.

    Returns:
        str | None: A phrase for messages, or None if the image can be decoded.
    """
    try:
        content = fileio.get(path)
    except FileNotFoundError:
        return MISSING
    except OSError as error:
        return error.strerror or str(error)
    if not content:
        return 'it is empty'
    try:
        decoded = mmcv.imfrombytes(content, flag='unchanged')
    except Exception:
        decoded = None
    return 'it is cut off, damaged, or no image' if decoded is None else None


class NamedErrors(BaseTransform):
    """Wrapper of a loading transform, whose errors name the damaged file.

    Args:
        transform (BaseTransform): For example ``LoadImageFromFile``.
    """

    def __init__(self, transform: BaseTransform) -> None:
        self.inner = transform

    def transform(self, results: dict[str, Any]) -> Any:
        """Load the files of a sample.

        Raises:
            InputError: If an image or label map of the sample cannot be read.
        """
        try:
            return self.inner(results)
        except Exception as error:
            for key in FILE_KEYS:
                path = results.get(key)
                fault = image_fault(path) if isinstance(path, str) else None
                if fault == MISSING:
                    raise InputError(
                        f'The data set names a file that does not exist: "{path}". Check '
                        '`data_root`, `data_prefix`, `ann_file`, `img_suffix` and '
                        '`seg_map_suffix` of the data set; labels of Cityscapes and COCO-Stuff '
                        "have to be converted first, by mmseg's tools/dataset_converters."
                    ) from error
                if fault:
                    raise InputError(
                        f'The image "{path}" cannot be read: {fault}. Replace it, or leave out '
                        'all damaged images: --cfg-options skip_damaged_images=True'
                    ) from error
            raise

    def __repr__(self) -> str:
        return repr(self.inner)


def built_datasets(dataset: Any) -> Iterator[Any]:
    """Iterate over the data sets inside built wrappers.

    Args:
        dataset (Dataset): A data set or a wrapper such as ``RepeatDataset``,
            ``ConcatDataset`` or ``KFoldDataset``.

    Yields:
        Dataset: Every data set that reads files.
    """
    inner = list(getattr(dataset, 'datasets', None) or [])
    # `_dataset` is that of mmengine's wrapper for a part of an epoch.
    for name in ('dataset', '_dataset'):
        if getattr(dataset, name, None) is not None:
            inner.append(getattr(dataset, name))
    for part in inner:
        yield from built_datasets(part)
    if not inner:
        yield dataset


def missing_files(dataset: Any) -> list[str]:
    """List the images and label maps that a data set names and that do not exist.

    Nothing is decoded. Data that is read from elsewhere than a file system is not
    looked for.

    Args:
        dataset (Dataset): A data set or a wrapper, built.

    Returns:
        list[str]: Their paths, in the order of the samples.
    """
    paths = []
    for part in built_datasets(dataset):
        if hasattr(part, 'get_data_info') and _reads_local_files(part):
            infos = map(part.get_data_info, range(len(part)))
            named = (info.get(key) for info in infos for key in FILE_KEYS)
            paths += [path for path in named if isinstance(path, str) and '://' not in path]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # file systems in networks answer slowly
        return [path for path, found in zip(paths, pool.map(osp.isfile, paths)) if not found]


def _reads_local_files(part: Any) -> bool:
    for transform in getattr(getattr(part, 'pipeline', None), 'transforms', []):
        transform = getattr(transform, 'inner', transform)
        for name in ('backend_args', 'file_client_args'):
            backend = (getattr(transform, name, None) or {}).get('backend', 'local')
            if backend not in ('local', 'disk'):
                return False
    return True


def name_damaged_images(dataset: Any) -> None:
    """Wrap the loading transforms of a built data set by :class:`NamedErrors`.

    Args:
        dataset (Dataset): A data set or a wrapper; changed in place.
    """
    for part in built_datasets(dataset):
        transforms: list[Any] = getattr(getattr(part, 'pipeline', None), 'transforms', [])
        for index, transform in enumerate(transforms):
            if type(transform).__name__.startswith('Load'):
                transforms[index] = NamedErrors(transform)


@DATASETS.register_module(name='IntactImages')
def intact_images(dataset: dict[str, Any]) -> Dataset:
    """Build a data set without the images and label maps that cannot be decoded.

    Every file is decoded once, in one thread per CPU core, and the files are
    divided among the processes. The paths that were left out are in the data
    set's attribute ``left_out``.

    Args:
        dataset (dict): Config of a data set of mmpretrain, mmdet or mmseg.

    Returns:
        Dataset: The data set itself, not a wrapper.

    Raises:
        InputError: If no image is left.
    """
    built = MMENGINE_DATASETS.build(dataset)
    built.full_init()
    rank, world_size = get_rank(), get_world_size()

    def damaged(index: int) -> str | None:
        info = built.get_data_info(index)
        for key in FILE_KEYS:
            if isinstance(info.get(key), str) and image_fault(info[key]):
                return info[key]
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        mine = range(rank, len(built), world_size)
        found = {i: path for i, path in zip(mine, pool.map(damaged, mine)) if path}
    faults = {i: path for part in all_gather_object(found) for i, path in part.items()}
    kept = [index for index in range(len(built)) if index not in faults]
    if faults and not kept:
        raise InputError(
            f'None of the {len(built)} images can be read, for example "{faults[0]}": is '
            '`data_root` or `data_prefix` wrong?'
        )
    if faults:
        total = len(built)
        built.get_subset_(kept)
        print_log(f'{len(faults)} of {total} images are damaged and left out.', 'current')
    built.left_out = [faults[index] for index in sorted(faults)]
    return built
