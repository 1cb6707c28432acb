# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Checks that the data of a config exists. Nothing here changes the config."""

import inspect
import json
import mmap
import os
import os.path as osp
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from .class_names import shorten
from .data_settings import evaluators, loader_datasets
from .errors import InputError

# Bytes of an annotation file whose JSON would take seconds.
_LARGE = 64 * 2**20


def check_files(cfg: Config, loaders: tuple[str, ...]) -> None:
    """Check that data folders and annotation files exist.

    Args:
        cfg (Config): The merged config.
        loaders (tuple[str, ...]): Names of the loaders that are used.

    Raises:
        InputError: If a data folder or annotation file does not exist, or has
            another format.
    """
    roots = {dataset.get('data_root') for _, dataset in loader_datasets(cfg)} - {None, ''}
    for key, dataset in loader_datasets(cfg, loaders):
        # `data_root` sets the folder of all loaders, also of those that have another one.
        root_key = 'data_root' if len(roots) == 1 else f'{key}.data_root'
        _check_dataset(key, dataset, cfg.get('default_scope'), root_key)
    for name in loaders:
        for key, evaluator in evaluators(cfg, name.removesuffix('_dataloader')):
            path = evaluator.get('ann_file')
            if isinstance(path, str) and '://' not in path and not osp.isfile(path):
                raise InputError(f'The annotation file "{path}" ({key}.ann_file) does not exist.')


def dataset_class(dataset: dict[str, Any], scope: str | None) -> Any:
    """Look up the class of a data set's config; None if it is not registered."""
    cls = dataset.get('type')
    if isinstance(cls, str):
        if cls == 'mtkdrl_mm.CocoByNames':
            # From the config that a training has saved; it needs mmdet.
            import mtkdrl_mm.datasets.coco_by_names  # noqa: F401
        current = DefaultScope.get_current_instance()
        scope = scope or (current.scope_name if current else None)
        cls = DATASETS.get(f'{scope}.{cls}' if scope and '.' not in cls else cls)
    return cls


def split_folder(dataset: dict[str, Any]) -> str:
    """Folder of the images, or class folders, of a data set of mmpretrain."""
    prefix = dataset.get('data_prefix')
    if isinstance(prefix, dict):
        prefix = prefix.get('img_path')
    return osp.join(dataset.get('data_root') or '', prefix or dataset.get('split') or '')


def list_file(dataset: dict[str, Any]) -> str | None:
    """Path of the annotation file of a data set of mmpretrain; None without one."""
    root, path = dataset.get('data_root') or '', dataset.get('ann_file')
    if not path and dataset.get('split'):
        # mmpretrain's ImageNet reads this list if it exists.
        path = osp.join('meta', f'{dataset["split"]}.txt')
        return osp.join(root, path) if osp.isfile(osp.join(root, path)) else None
    return osp.join(root, path) if path else None


def _check_dataset(key: str, dataset: dict[str, Any], scope: str | None, root_key: str) -> None:
    root = dataset.get('data_root')
    if not root or '://' in root:
        return
    if not osp.isdir(root):
        if _downloads_itself(dataset, scope):
            return
        raise InputError(
            f'The data folder "{root}" ({key}.data_root) does not exist. Put the data there, or '
            f'set its folder: --cfg-options {root_key}=FOLDER'
        )
    prefix = dataset.get('data_prefix')
    by_folder = str(dataset.get('type')).endswith(('ImageNet', 'CustomDataset'))
    if by_folder and list_file(dataset) is None:
        folder = split_folder(dataset)
        if not osp.isdir(folder):
            raise InputError(
                f'The data folder "{folder}" ({key}) does not exist. "{root}" should contain '
                f'a folder per split with a folder per class in it, but contains '
                f'{sorted(os.listdir(root))[:8]}.'
            )
    for name, folder in prefix.items() if isinstance(prefix, dict) else ():
        path = osp.join(root, folder) if isinstance(folder, str) else root
        if not osp.isdir(path):
            raise InputError(
                f'The data folder "{path}" ({key}.data_prefix.{name}) does not exist. "{root}" '
                f'contains {sorted(os.listdir(root))[:8]}.'
            )
    if isinstance(dataset.get('ann_file'), str) and dataset['ann_file']:
        path = osp.join(root, dataset['ann_file'])
        if not osp.exists(path) and not osp.exists(dataset['ann_file']):
            raise InputError(f'The annotation file "{path}" ({key}.ann_file) does not exist.')
        if is_coco_dataset(dataset_class(dataset, scope)):
            read_coco_categories(key, path if osp.exists(path) else dataset['ann_file'])


def _downloads_itself(dataset: dict[str, Any], scope: str | None) -> bool:
    """Whether a data set downloads missing files, as mmpretrain's CIFAR100 does."""
    cls = dataset_class(dataset, scope)
    flag = inspect.signature(cls).parameters.get('download') if cls else None
    return flag is not None and bool(dataset.get('download', flag.default))


def is_coco_dataset(cls: Any) -> bool:
    """Whether a class is mmdet's ``CocoDataset`` or derived from it, whatever it is called."""
    # By name, because mmdet is optional; a class that is derived from it has imported it.
    bases = getattr(cls, '__mro__', ())
    names = {(base.__module__, base.__name__) for base in bases}
    return ('mmdet.datasets.coco', 'CocoDataset') in names


def read_coco_categories(key: str, path: str) -> list[str] | None:
    """Check that a file is a COCO JSON, and read the names of its categories.

    mmdet reads the file again. Large files, which would take seconds, are not
    parsed: their list of categories is looked for.

    Args:
        key (str): Config key of the data set, for the message.
        path (str): The annotation file.

    Returns:
        list[str] | None: The names in the order of the file; None for a large
        file in which they are not found.

    Raises:
        InputError: If it is no COCO JSON.
    """
    categories, problem = _categories(path, os.stat(path).st_mtime_ns)
    if problem:
        raise InputError(
            f'The annotation file "{path}" ({key}.ann_file) is no COCO JSON: {problem}. It must '
            'be an object with the lists `images`, `annotations` and `categories`.'
        )
    return None if categories is None else [name for _, name in categories]


def find_coco_categories(path: Any) -> list[tuple[Any, str]] | None:
    """Ids and names of the categories of a COCO JSON, in the order of the file.

    Args:
        path (str): The annotation file.

    Returns:
        list[tuple[int, str]] | None: None for another kind of file, one that
        is not on this machine, or a large one in which they are not found.
    """
    if not isinstance(path, str) or not osp.isfile(path):
        return None
    categories, problem = _categories(path, os.stat(path).st_mtime_ns)
    return None if problem else categories


def check_category_names(names: Iterable[str], classes: Sequence[str], where: str) -> None:
    """Check that no class is the name of several categories of a COCO file.

    Args:
        names (Iterable[str]): The names of all categories.
        classes (Sequence[str]): The names that are used.
        where (str): The file, for the message.

    Raises:
        InputError: If a class is.
    """
    counts = Counter(names)
    twice = [name for name in dict.fromkeys(classes) if counts[name] > 1]
    if twice:
        raise InputError(
            f'{where} has several `categories` with the name {shorten(twice)}, and the objects of '
            'only one would be used: give the same `category_id` to the objects of all, and '
            'remove the other categories.'
        )


@lru_cache(maxsize=8)
def _categories(path: str, _modified: int) -> tuple[list[tuple[Any, str]] | None, str | None]:
    """Read ids and names of the categories; return them, and an error or None."""
    if osp.getsize(path) > _LARGE:
        return _search_categories(path), None
    try:
        with open(path) as file:
            content = json.load(file)
    except ValueError as error:
        return None, str(error)
    if not isinstance(content, dict):
        return None, f'it holds a {type(content).__name__}, not an object'
    parts = ('images', 'annotations', 'categories')
    if missing := [part for part in parts if not isinstance(content.get(part), list)]:
        return None, f'it has no list of {", ".join(missing)}, only {sorted(content)[:8]}'
    return _ids_and_names(content['categories']), None


def _search_categories(path: str) -> list[tuple[Any, str]] | None:
    """Find the list of categories in a large file without parsing the rest."""
    with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # A quote inside of a text is escaped, so a match is a key. Images or annotations may have
        # one of this name too.
        found = list(islice(re.finditer(rb'"categories"\s*:\s*\[', content), 2))
        if len(found) != 1:
            return None
        start, size = found[0].end() - 1, 2**20
        while True:
            text = content[start : start + size].decode('utf-8', 'ignore')
            try:
                return _ids_and_names(json.JSONDecoder().raw_decode(text)[0])
            except ValueError:
                if start + size >= len(content):
                    return None
                size *= 8


def _ids_and_names(categories: list[Any]) -> list[tuple[Any, str]]:
    return [(part.get('id'), str(part.get('name'))) for part in categories]
