# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Class folders, and the label that each of them means."""

import os
from collections.abc import Iterable, Sequence

from .errors import InputError

# Left behind by notebooks, archives of macOS, network drives and file systems.
_NO_CLASSES = {'__MACOSX', '__pycache__', '@eaDir', '$RECYCLE.BIN', 'lost+found'}


def is_hidden(name: str) -> bool:
    """Whether a folder of this name holds no data, such as ``.ipynb_checkpoints``."""
    return name.startswith('.') or name in _NO_CLASSES


def find_class_folders(path: str, keep: Iterable[str] = ()) -> list[str]:
    """Names of the class folders in a folder, sorted.

    Args:
        path (str): The folder of a split.
        keep (Iterable[str]): Names of classes; folders of these names count
            though they look hidden.

    Returns:
        list[str]: Without hidden folders.
    """
    wanted = set(keep)
    names = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    return [name for name in names if name in wanted or not is_hidden(name)]


def order_class_folders(
    folders: Sequence[str], classes: Sequence[str] | None, place: str
) -> list[str]:
    """Put the class folders of the training data in the order of their labels.

    Args:
        folders (Sequence[str]): The folders, sorted.
        classes (Sequence[str], optional): Class names in the order of the
            labels. They are the folders' names, perhaps of more classes than
            there are folders, or else one other name for every folder, as
            ImageNet's "tench" for the folder ``n01440764``.
        place (str): Where the folders are, for the message.

    Returns:
        list[str]: Name of the folder of every label.

    Raises:
        InputError: If names and folders do not fit together.
    """
    if classes is None or list(folders) == list(classes):
        return list(folders)
    # "Cat" for the folder "cat" is a slip, no other name.
    lowered = {name.casefold() for name in classes}
    alike = any(name.casefold() in lowered for name in folders)
    if not alike and len(folders) == len(classes):
        return list(folders)
    unknown = [name for name in folders if name not in classes]
    if unknown:
        raise InputError(
            f'{place} holds the class folders {shorten(folders)}, but the classes are '
            f'{shorten(classes)}: there is no class {shorten(unknown)}. Name all folders in '
            '`metainfo.classes` of the training set, rename the folders, or move away those that '
            'are no class.'
        )
    return list(classes)


def shorten(values: Iterable[object], most: int = 8) -> str:
    """List the first values, for messages: ``"cat, dog, ..."``."""
    listed = [str(value) for value in values]
    return ', '.join(listed[:most]) + (', ...' if len(listed) > most else '')
