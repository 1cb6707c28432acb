# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Image data set with labels by class name."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.fileio import get_file_backend, get_text
from mmpretrain.datasets import CustomDataset

from mtkdrl_mm.registry import DATASETS
from mtkdrl_mm.utils.class_names import is_hidden, shorten
from mtkdrl_mm.utils.errors import InputError


@DATASETS.register_module()
class LabelledImageDataset(CustomDataset):
    """mmpretrain's ``CustomDataset``, with labels by class name.

    ``CustomDataset`` numbers the existing folders: a missing, additional or
    hidden folder shifts all labels after it. Here a folder's label is its index
    in ``class_folders``. A list file may separate names and labels by blanks,
    tabs, commas or semicolons, contain labels as numbers or class names, and
    begin with a byte order mark.

    Args:
        *args: Arguments of ``CustomDataset``.
        class_folders (Sequence[str], optional): The folder of every label.
            Defaults to None: ``metainfo.classes``, or without them the existing
            folders, sorted.
        **kwargs: Keyword arguments of ``CustomDataset``.

    Raises:
        InputError: If a folder is not in ``class_folders``, or a line of the
            list cannot be read.
    """

    def __init__(
        self, *args: Any, class_folders: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        self.class_folders = None if class_folders is None else list(class_folders)
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Paths and labels of all images."""
        if not self.with_label:
            return super().load_data_list()
        samples = list(
            read_list(self.ann_file, self.extensions, list(self.CLASSES or ()))
            if self.ann_file
            else self._samples_in_folders()
        )
        if not samples:
            where = self.ann_file or self.img_prefix
            raise InputError(
                f'"{where}" names no image' + ('.' if self.ann_file else self._extensions())
            )
        backend = get_file_backend(self.img_prefix, enable_singleton=True)
        return [
            dict(img_path=backend.join_path(self.img_prefix, name), gt_label=label)
            for name, label in samples
        ]

    def _extensions(self) -> str:
        return f' in its class folders that ends in {", ".join(sorted(self.extensions))}.'

    def _samples_in_folders(self) -> Iterator[tuple[str, int]]:
        backend = get_file_backend(self.img_prefix, enable_singleton=True)
        expected = self.class_folders or list(self.CLASSES or ())
        found = [
            name
            for name in sorted(
                backend.list_dir_or_file(self.img_prefix, list_dir=True, list_file=False)
            )
            if name in expected or not is_hidden(name)
        ]
        folders = expected or found
        unknown = [name for name in found if name not in folders]
        if unknown:
            raise InputError(unknown_folders(self.img_prefix, unknown, folders))
        self.folder_to_idx = {name: folders.index(name) for name in found}
        if self.CLASSES is None:
            self._metainfo['classes'] = tuple(folders)
        for folder, label in self.folder_to_idx.items():
            path = backend.join_path(self.img_prefix, folder)
            files = backend.list_dir_or_file(path, list_dir=False, recursive=True)
            for file in sorted(files):
                parts = re.split(r'[/\\]', file)
                if self.is_valid_file(file) and not any(is_hidden(part) for part in parts):
                    yield backend.join_path(folder, file), label


def read_list(
    path: str, extensions: Sequence[str], classes: Sequence[str] = ()
) -> Iterator[tuple[str, int]]:
    """Read a list of images and labels.

    Args:
        path (str): Its path, or URL of one of mmengine's file backends.
        extensions (Sequence[str]): Endings of the images' names.
        classes (Sequence[str]): Names that labels may have. Defaults to ().

    Yields:
        tuple[str, int]: Name and label of an image.

    Raises:
        InputError: If it is no text in UTF-8, or a line cannot be read.
    """
    endings = '|'.join(re.escape(ending) for ending in extensions)
    for number, line in enumerate(read_lines(path), start=1):
        if not line:
            continue
        match = re.fullmatch(rf'(.+(?:{endings}))["\']?[\s,;]+(.+)', line, re.IGNORECASE)
        # Names without an extension are read as by mmpretrain.
        match = match or re.fullmatch(r'(.*\S)\s+(-?\d+)', line)
        name, label = (match[1].strip('"\''), match[2].strip(' "\'')) if match else ('', '')
        if re.fullmatch(r'-?\d+', label):
            yield name, int(label)
        elif label in classes:
            yield name, list(classes).index(label)
        else:
            names = f' or one of {shorten(classes)}' if classes else ''
            raise InputError(
                f'Line {number} of the list "{path}" cannot be read: {line[:80]!r}. Every line '
                'must be the name of an image, a blank, tab or comma, and its label, a number '
                f'from 0{names}.'
            )


def unknown_folders(path: str, unknown: Sequence[str], classes: Sequence[str]) -> str:
    """Message about folders that are no class of the training data."""
    return (
        f'"{path}" holds the folders {shorten(unknown)}, which are none of the {len(classes)} '
        f'classes of the training data: {shorten(classes)}. Rename them, move them away, or add '
        'them to the training data.'
    )


def read_lines(path: str) -> list[str]:
    """Read the lines of a list of images, stripped and without byte order mark.

    Raises:
        InputError: If it is no text in UTF-8.
    """
    try:
        return [line.strip() for line in get_text(path, encoding='utf-8-sig').splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(
            f'The list "{path}" is no text in UTF-8 ({error.reason} at byte {error.start}). Save '
            'it as UTF-8.'
        ) from error


def is_plain_list(path: str) -> bool:
    """Whether mmpretrain reads a list correctly: lines ``NAME LABEL`` with one blank."""
    with open(path, 'rb') as file:
        content = file.read()
    if content.startswith(b'\xef\xbb\xbf'):
        return False
    lines = content.replace(b'\r\n', b'\n').rstrip(b'\n').split(b'\n')
    return all(re.fullmatch(rb'[^\t]*[^\s,;] -?\d+\s*', line) for line in lines)
