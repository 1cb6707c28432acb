# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Names of classes: in configs and metainfo, and as folders of images."""

import os
import os.path as osp
from collections.abc import Iterable, Sequence
from typing import Any

from .errors import InputError

# Folders of notebooks, archives of macOS, network drives and file systems.
_NO_CLASSES = {'__MACOSX', '__pycache__', '@eaDir', '$RECYCLE.BIN', 'lost+found'}


def class_names(metainfo: Any) -> list[str] | None:
    """Class names in the metainfo of a data set or a checkpoint.

    Args:
        metainfo (dict, optional): mmengine's ``metainfo`` or ``dataset_meta``.

    Returns:
        list[str] | None: The names in the order of the labels; None if there
        are none, or only the name of a file.
    """
    classes = metainfo.get('classes') if isinstance(metainfo, dict) else None
    if not isinstance(classes, (list, tuple)):
        return None
    return [str(name) for name in classes]


def read_class_names(key: str, value: Any, single: bool = False) -> list[str]:
    """Class names that a config or the command line gives.

    Args:
        key (str): Config key of the names, for the message.
        value (Sequence[str] | str): The names, or the path of a file with a name in
            each line.
        single (bool): Whether a text that is no file is the name of the only class,
            as on the command line. Defaults to False.

    Returns:
        list[str]: The names in the order of the labels.

    Raises:
        InputError: If it is a text that is no file, or a number.
    """
    if isinstance(value, str):
        if osp.isfile(value):
            with open(value, encoding='utf-8-sig') as file:
                return [line.strip() for line in file if line.strip()]
        if single:
            return [value]
        # OpenMMLab would take every letter for a class.
        raise InputError(
            f'{key} is the text "{value}", and no file of this name exists. Write a list of names, '
            f'also of a single one: ["{value}"]'
        )
    if not isinstance(value, Iterable):
        raise InputError(
            f'{key} is {value!r}, but must be the names of the classes, or a file with a name in '
            'each line: metainfo.classes=NAME,NAME. Their number follows from them.'
        )
    return [str(name) for name in value]


def checkpoint_classes(contents: Any) -> list[str] | None:
    """Class names in the contents of a checkpoint; None if it has none."""
    meta = contents.get('meta') if isinstance(contents, dict) else None
    return class_names(meta.get('dataset_meta')) if isinstance(meta, dict) else None


def dataset_classes(dataset: Any) -> list[str] | None:
    """Class names of a built data set; None if it has none."""
    return class_names(getattr(dataset, 'metainfo', None))


def is_hidden(name: str) -> bool:
    """Whether a folder of this name is no class, such as ``.ipynb_checkpoints``."""
    return name.startswith('.') or name in _NO_CLASSES


def find_class_folders(path: str, keep: Iterable[str] = ()) -> list[str]:
    """List the class folders in a folder, sorted.

    Args:
        path (str): The folder of a split.
        keep (Iterable[str]): Names of classes, whose folders are listed even if
            their names look hidden.

    Returns:
        list[str]: The names, without hidden folders.
    """
    wanted = set(keep)
    names = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    return [name for name in names if name in wanted or not is_hidden(name)]


def order_class_folders(
    folders: Sequence[str], classes: Sequence[str] | None, location: str
) -> list[str]:
    """Sort the class folders of the training data by label.

    Args:
        folders (Sequence[str]): The folders, sorted.
        classes (Sequence[str], optional): Class names in the order of the
            labels. They are either the folders' names (there may be more
            classes than folders), or one other name for every folder, such as
            ImageNet's "tench" for the folder ``n01440764``.
        location (str): Path of the folders, for the message.

    Returns:
        list[str]: The folder of every label.

    Raises:
        InputError: If a folder has no class.
    """
    if classes is None or list(folders) == list(classes):
        return list(folders)
    # "Cat" is a misspelling of the folder "cat", not another name for it.
    lowered = {name.casefold() for name in classes}
    alike = any(name.casefold() in lowered for name in folders)
    if not alike and len(folders) == len(classes):
        return list(folders)
    unknown = [name for name in folders if name not in classes]
    if unknown:
        raise InputError(
            f'{location} holds the class folders {shorten(folders)}, but the classes are '
            f'{shorten(classes)}: there is no class {shorten(unknown)}. Name all folders in '
            '`metainfo.classes` of the training set, rename the folders, or move away those that '
            'are no class.'
        )
    return list(classes)


def shorten(values: Iterable[object], most: int = 8) -> str:
    """Join the first values, for messages: ``"cat, dog, ..."``."""
    listed = [str(value) for value in values]
    return ', '.join(listed[:most]) + (', ...' if len(listed) > most else '')
