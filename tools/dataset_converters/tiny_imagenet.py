# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Write Tiny-ImageNet as class folders, with lists of labels and ImageNet's class indices.

Tiny-ImageNet has 200 of ImageNet's classes at 64x64 pixels. The source is its
folder or archive, ``train/<wnid>/images/*.JPEG`` with
``val/val_annotations.txt``; or class folders ``train/<wnid>/*.JPEG`` and
``val/<wnid>/*.JPEG``. Nothing is downloaded. OUT gets the images in class
folders, and

- ``meta/train.txt``: all training images;
- ``meta/student.txt``: the first images of every class, for the student;
- ``meta/classes.txt``: wnid, name, and index among ImageNet's 1,000 classes, the
  ``class_map`` of teachers. It is taken from a ``classes.txt`` of the source, and
  else from timm.

    python tools/dataset_converters/tiny_imagenet.py data/tiny_imagenet \\
        --source tiny-imagenet-200.zip --classes 50
"""

import argparse
import os
import os.path as osp
import shutil
from collections import defaultdict
from dataclasses import dataclass

from mmengine.utils import track_iter_progress

from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.files import atomic_write
from mtkdrl_mm.utils.image_folders import new_folder, open_source, write_labels
from mtkdrl_mm.utils.launch import run_tool
from mtkdrl_mm.utils.optional_packages import import_optional

SUFFIXES = ('.jpeg', '.jpg', '.png')


@dataclass
class ImageNetClass:
    """One of ImageNet's classes.

    Attributes:
        name (str): Its name in words.
        index (int): Its index among the 1,000.
    """

    name: str
    index: int


@dataclass
class Source:
    """Tiny-ImageNet, where it is read from.

    Attributes:
        root (str): Its folder, that of an unpacked archive included.
        location (str): The folder or archive, for messages.
    """

    root: str
    location: str

    def path(self, name: str) -> str:
        """Path of a file or folder of the data set."""
        return osp.join(self.root, name)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('out', nargs='?', default='data/tiny_imagenet', help='folder to write to')
    parser.add_argument(
        '--source', required=True, help='folder, or tar or zip archive, of Tiny-ImageNet'
    )
    parser.add_argument('--student', type=int, default=100, help='images per class for the student')
    parser.add_argument(
        '--classes', type=int, help='number of classes, evenly spaced among all; by default all'
    )
    return parser.parse_args()


def read_table(data: Source, path: str, columns: int) -> list[list[str]]:
    """Read a table of tabs.

    Args:
        data (Source): The data set.
        path (str): Path of the file in it.
        columns (int): The least number of columns.

    Raises:
        InputError: If a line has fewer columns.
    """
    with open(data.path(path), encoding='utf-8-sig', errors='replace') as file:
        rows = [line.rstrip('\r\n').split('\t') for line in file if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) < columns:
            raise InputError(
                f'{path} of "{data.location}" needs {columns} columns, separated by tabs, but has '
                f'{len(row)} in row {number}.'
            )
    return rows


def list_images(data: Source, folder: str) -> list[str]:
    """Paths of the images in a folder, sorted.

    Raises:
        InputError: If the folder does not exist or has no image.
    """
    path = data.path(folder)
    names = sorted(os.listdir(path)) if osp.isdir(path) else []
    names = [name for name in names if name.lower().endswith(SUFFIXES)]
    if not names:
        raise InputError(f'"{data.location}" has no images in {folder}.')
    return [osp.join(path, name) for name in names]


def find_wnids(data: Source, count: int | None) -> list[str]:
    """Names of the class folders, sorted.

    Args:
        data (Source): The data set.
        count (int, optional): Number of classes to choose. None for all.

    Raises:
        InputError: If there is none, or fewer than ``count``.
    """
    train = data.path('train')
    entries = os.scandir(train) if osp.isdir(train) else ()
    names = sorted(entry.name for entry in entries if entry.is_dir())
    if not names:
        raise InputError(
            f'"{data.location}" has no class folders train/<wnid>, so it is not Tiny-ImageNet.'
        )
    if count is None:
        return names
    if count > len(names):
        raise InputError(
            f'--classes is {count}, but "{data.location}" has only {len(names)} classes.'
        )
    return [names[i * len(names) // count] for i in range(count)]


def find_training_images(data: Source, wnids: list[str]) -> dict[str, list[str]]:
    """Paths of the training images of every class, in both layouts."""
    found = {}
    for wnid in wnids:
        inner = f'train/{wnid}/images'
        found[wnid] = list_images(data, inner if osp.isdir(data.path(inner)) else f'train/{wnid}')
    return found


def find_test_images(data: Source, wnids: list[str]) -> dict[str, list[str]]:
    """Paths of the test images of every class, in both layouts.

    Raises:
        InputError: If a class has none, or an image that is listed is missing.
    """
    listed = 'val/val_annotations.txt'
    if not osp.isfile(data.path(listed)):
        return {wnid: list_images(data, f'val/{wnid}') for wnid in wnids}
    found = defaultdict(list)
    for name, wnid, *_ in read_table(data, listed, 2):
        found[wnid].append(data.path(f'val/images/{name}'))
    for wnid in wnids:
        if wnid not in found:
            raise InputError(f'{listed} of "{data.location}" has no image of the class {wnid}.')
        for path in found[wnid]:
            if not osp.isfile(path):
                raise InputError(
                    f'"{data.location}" has no val/images/{osp.basename(path)}, which is listed '
                    f'in {listed}.'
                )
    return {wnid: sorted(found[wnid]) for wnid in wnids}


def find_classes(data: Source, wnids: list[str]) -> dict[str, ImageNetClass]:
    """Find names and indices of classes in the source's table, or else in timm.

    Raises:
        InputError: If a class is unknown, or an index is no number.
    """
    table = 'classes.txt'
    if osp.isfile(data.path(table)):
        known, where = {}, f'{table} of "{data.location}"'
        for wnid, name, index, *_ in read_table(data, table, 3):
            if not (index.isascii() and index.isdigit()):
                raise InputError(f'{where} has "{index}" as the index of {wnid}.')
            known[wnid] = ImageNetClass(name, int(index))
    else:
        known, where = imagenet_classes(), "timm's list of ImageNet's 1,000 classes"
    for wnid in wnids:
        if wnid not in known:
            raise InputError(f'The class {wnid} of "{data.location}" is not in {where}.')
    return {wnid: known[wnid] for wnid in wnids}


def imagenet_classes() -> dict[str, ImageNetClass]:
    """ImageNet's 1,000 classes by their wnids.

    Raises:
        InputError: If timm is not installed.
    """
    info = import_optional('timm.data', "The order of ImageNet's classes").ImageNetInfo()
    return {
        wnid: ImageNetClass(info.index_to_description(index), index)
        for index, wnid in enumerate(info.label_names())
    }


def copy_images(images: dict[str, list[str]], folder: str) -> list[tuple[str, int]]:
    """Copy images into class folders; return their paths and labels.

    Args:
        images (dict[str, list[str]]): Paths by class, in the order of the labels.
        folder (str): Gets a folder per class.
    """
    rows: list[tuple[str, int]] = []
    for label, (wnid, paths) in enumerate(track_iter_progress(list(images.items()))):
        os.makedirs(osp.join(folder, wnid))
        for path in paths:
            shutil.copy(path, osp.join(folder, wnid))
            rows.append((f'{wnid}/{osp.basename(path)}', label))
    print()
    return rows


def write_data(data: Source, out: str, args: argparse.Namespace) -> list[int]:
    """Write everything; return the numbers of classes, training, student and test images.

    Args:
        data (Source): Tiny-ImageNet.
        out (str): Gets ``train/``, ``val/`` and ``meta/``.
        args (argparse.Namespace): The command line.

    Raises:
        InputError: If something is missing in the source.
    """
    wnids = find_wnids(data, args.classes)
    classes = find_classes(data, wnids)
    train, val = find_training_images(data, wnids), find_test_images(data, wnids)
    for wnid, paths in train.items():
        if args.student > len(paths):
            raise InputError(
                f'--student is {args.student}, but the class {wnid} has only {len(paths)} '
                'training images.'
            )
    rows = copy_images(train, osp.join(out, 'train'))
    tested = copy_images(val, osp.join(out, 'val'))
    os.makedirs(osp.join(out, 'meta'))
    write_labels(osp.join(out, 'meta', 'train.txt'), rows)
    student = [
        (f'{wnid}/{osp.basename(path)}', label)
        for label, (wnid, paths) in enumerate(train.items())
        for path in paths[: args.student]
    ]
    write_labels(osp.join(out, 'meta', 'student.txt'), student)
    # A class map, because every line ends in the index.
    with atomic_write(osp.join(out, 'meta', 'classes.txt'), encoding='utf-8') as file:
        for wnid, entry in classes.items():
            file.write(f'{wnid}\t{entry.name}\t{entry.index}\n')
    return [len(wnids), len(rows), len(student), len(tested)]


def main() -> None:
    args = parse_args()
    check_number('--student', args.student, minimum=1)
    if args.classes is not None:
        check_number('--classes', args.classes, minimum=2)
    with new_folder(args.out) as part, open_source(args.source, 'train') as root:
        classes, train, student, val = write_data(Source(root, args.source), part, args)
    print(
        f'{train} training images ({student} of them for the student) and {val} test images of '
        f'{classes} classes are in {args.out}.'
    )


if __name__ == '__main__':
    run_tool(main)
