# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Draw a sample of CIFAR-10 as image files, with lists of labels.

The source is CIFAR-10 as class folders (``train/<class>/*`` and
``test/<class>/*``, or an archive of them); without a source, it is downloaded
by torchvision. The tool writes the sample and three lists of training labels:
``train.txt`` for teachers, ``train_noisy.txt`` with 40 % wrong labels for a weak
teacher, and the shorter ``student.txt``.

    python tools/dataset_converters/cifar10.py data/cifar10_sample --source cifar10.tar.xz
"""

import argparse
import os
import os.path as osp
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from mmengine.utils import track_iter_progress

from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.image_folders import new_folder, open_source, write_labels
from mtkdrl_mm.utils.launch import run_tool

CLASSES = (
    'airplane',
    'automobile',
    'bird',
    'cat',
    'deer',
    'dog',
    'frog',
    'horse',
    'ship',
    'truck',
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('out', nargs='?', default='data/cifar10_sample', help='folder to write to')
    parser.add_argument('--source', help='folder or archive with train/ and test/ folders')
    parser.add_argument('--train', type=int, default=1200, help='images per class for teachers')
    parser.add_argument(
        '--student', type=int, default=600, help='number of these images for the student'
    )
    parser.add_argument('--val', type=int, default=500, help='test images per class')
    parser.add_argument('--noise', type=float, default=0.4, help='share of wrong labels')
    parser.add_argument('--seed', type=int, default=0, help='seed of the sample')
    return parser.parse_args()


@contextmanager
def class_folders(source: str | None) -> Iterator[str]:
    """Find or download the folder with ``train/<class>`` and ``test/<class>``.

    Raises:
        InputError: If a class folder is missing.
    """
    if source is None:
        with tempfile.TemporaryDirectory() as scratch:
            yield download(scratch)
        return
    with open_source(source, osp.join('train', CLASSES[0])) as folder:
        for split in ('train', 'test'):
            for name in CLASSES:
                if not osp.isdir(osp.join(folder, split, name)):
                    raise InputError(
                        f'"{source}" has no folder {split}/{name}. CIFAR-10 is expected as '
                        'train/<class>/*.jpg and test/<class>/*.jpg with the usual class names.'
                    )
        yield folder


def download(root: str) -> str:
    """Download CIFAR-10 with torchvision and write it as class folders."""
    from torchvision.datasets import CIFAR10

    for split, train in (('train', True), ('test', False)):
        images = CIFAR10(osp.join(root, 'download'), train=train, download=True)
        for number, (image, label) in enumerate(images):
            folder = osp.join(root, split, CLASSES[label])
            os.makedirs(folder, exist_ok=True)
            image.save(osp.join(folder, f'{number:05d}.png'))
    return root


def draw(folder: str, count: int, rng: np.random.Generator) -> list[str]:
    """Draw ``count`` different images of a class folder, in random order."""
    names = sorted(os.listdir(folder))
    if count > len(names):
        raise InputError(
            f'The sample needs {count} images of "{folder}", which has only {len(names)}.'
        )
    return [names[i] for i in rng.permutation(len(names))[:count]]


def write_sample(source: str, out: str, args: argparse.Namespace) -> None:
    """Copy the drawn images and write the lists.

    Args:
        source (str): Folder with ``train/<class>`` and ``test/<class>``.
        out (str): Gets ``train/<class>``, ``val/<class>`` and ``meta/*.txt``.
        args (argparse.Namespace): The command line.
    """
    rng = np.random.default_rng(args.seed)
    lists: dict[str, list[tuple[str, int]]] = dict(train=[], train_noisy=[], student=[], val=[])
    for label, name in enumerate(track_iter_progress(list(CLASSES))):
        for split, folder, count in (('train', 'train', args.train), ('val', 'test', args.val)):
            os.makedirs(osp.join(out, split, name))
            for number, file in enumerate(draw(osp.join(source, folder, name), count, rng)):
                shutil.copy(osp.join(source, folder, name, file), osp.join(out, split, name))
                row = f'{name}/{file}'
                lists[split].append((row, label))
                if split == 'train' and number < args.student:
                    lists['student'].append((row, label))
    for row, label in lists['train']:
        wrong = (label + int(rng.integers(1, len(CLASSES)))) % len(CLASSES)
        lists['train_noisy'].append((row, wrong if rng.random() < args.noise else label))
    os.makedirs(osp.join(out, 'meta'))
    for key, rows in lists.items():
        write_labels(osp.join(out, 'meta', f'{key}.txt'), rows)


def main() -> None:
    args = parse_args()
    check_number('--noise', args.noise, maximum=1)
    for option in ('train', 'student', 'val'):
        check_number(f'--{option}', getattr(args, option), minimum=1)
    if args.student > args.train:
        raise InputError(
            f'--student is {args.student}, but must not exceed --train ({args.train}).'
        )
    with new_folder(args.out) as part, class_folders(args.source) as source:
        write_sample(source, part, args)
    print(
        f'{10 * args.train} training images ({10 * args.student} of them for the student) and '
        f'{10 * args.val} test images are in {args.out}.'
    )


if __name__ == '__main__':
    run_tool(main)
