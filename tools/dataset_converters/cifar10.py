# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Draw a sample of CIFAR-10 as image files, with lists of labels.

The source is CIFAR-10 as class folders (``train/<class>/*`` and
``test/<class>/*``, or an archive of them); without a source, it is downloaded
by torchvision. The tool writes the images, and these lists to ``meta/``:

- ``train.txt``: the teachers' images;
- ``train_noisy.txt``: the same with 40 % wrong labels, for a weak teacher;
- ``specialist_a.txt``, ``specialist_b.txt``: all of them for the first five classes,
  and few for the last five, and the other way round;
- ``coarse_animals.txt``, ``coarse_vehicles.txt``: all of them, with one label for two
  animals or two vehicles: cats are dogs, and deer are horses, or airplanes are ships, and
  automobiles are trucks;
- ``student.txt``: the first of them in each class, for the student;
- ``student_noisy.txt``: the same with 40 % wrong labels;
- ``held_out.txt``: images that neither teachers nor student learn from, for an agent;
- ``select.txt``: others, to choose settings by;
- ``val.txt``: test images.

    python tools/dataset_converters/cifar10.py data/cifar10_sample --source cifar10.tar.xz
"""

import argparse
import os
import os.path as osp
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice

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
# The path of an image below its split, and its label.
Row = tuple[str, int]
# A specialist's list has one in so many of the teachers' images outside its classes.
SPECIALIST_STEP = 20
# What a coarse list calls the images of a class, in others' words.
COARSE = dict(
    animals=dict(cat='dog', deer='horse'), vehicles=dict(airplane='ship', automobile='truck')
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('out', nargs='?', default='data/cifar10_sample', help='folder to write to')
    parser.add_argument('--source', help='folder or archive with train/ and test/ folders')
    parser.add_argument('--train', type=int, default=1200, help='images per class for teachers')
    parser.add_argument(
        '--student', type=int, default=600, help='number of these images for the student'
    )
    parser.add_argument(
        '--held-out', type=int, default=200, help='images per class for an agent, not for --train'
    )
    parser.add_argument(
        '--select', type=int, default=100, help='further images per class, to choose settings by'
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


def shuffle(folder: str, rng: np.random.Generator) -> list[str]:
    """List the images of a class folder in random order."""
    names = sorted(os.listdir(folder))
    return [names[i] for i in rng.permutation(len(names))]


def mislabel(rows: list[Row], share: float, rng: np.random.Generator) -> list[Row]:
    """Replace a share of the labels by other classes, drawn evenly."""
    noisy = []
    for path, label in rows:
        wrong = (label + int(rng.integers(1, len(CLASSES)))) % len(CLASSES)
        noisy.append((path, wrong if rng.random() < share else label))
    return noisy


def specialize(rows: list[list[Row]], classes: range) -> list[Row]:
    """Choose a specialist's images: all of its classes, few of the others.

    Args:
        rows (list[list[Row]]): The teachers' images of every class.
        classes (range): The labels of the specialist's classes.

    Returns:
        list[Row]: In the order of the classes.
    """
    return [
        row
        for label, images in enumerate(rows)
        for row in (images if label in classes else images[::SPECIALIST_STEP])
    ]


def merge(rows: list[Row], names: dict[str, str]) -> list[Row]:
    """Label the images of some classes as those of others.

    Args:
        rows (list[Row]): The images.
        names (dict[str, str]): By the name of a class, that of the other one.

    Returns:
        list[Row]: In the same order.
    """
    labels = {CLASSES.index(name): CLASSES.index(other) for name, other in names.items()}
    return [(path, labels.get(label, label)) for path, label in rows]


def draw_images(
    source: str, out: str, args: argparse.Namespace, rng: np.random.Generator
) -> dict[str, list[list[Row]]]:
    """Draw the images of all lists and copy them.

    A list gets the images of its class that follow those of the lists before it,
    so its size changes no list before it.

    Args:
        source (str): Folder with ``train/<class>`` and ``test/<class>``.
        out (str): Gets ``train/<class>`` and ``val/<class>``.
        args (argparse.Namespace): The command line.
        rng (np.random.Generator): Draws one permutation per folder.

    Returns:
        dict[str, list[list[Row]]]: For ``train``, ``held_out``, ``select`` and
        ``val`` the images of every class.

    Raises:
        InputError: If a class folder has too few images.
    """
    splits = {
        ('train', 'train'): dict(train=args.train, held_out=args.held_out, select=args.select),
        ('test', 'val'): dict(val=args.val),
    }
    drawn: dict[str, list[list[Row]]] = {name: [] for counts in splits.values() for name in counts}
    for label, name in enumerate(track_iter_progress(list(CLASSES))):
        for (split, target), counts in splits.items():
            images = shuffle(osp.join(source, split, name), rng)
            needed = sum(counts.values())
            if needed > len(images):
                flags = ', '.join(f'--{key.replace("_", "-")} {n}' for key, n in counts.items())
                whole = f'"{args.source}"' if args.source else 'CIFAR-10'
                raise InputError(
                    f'The sample needs {needed} images of {split}/{name} ({flags}), but {whole} '
                    f'has only {len(images)}. Choose smaller numbers.'
                )
            os.makedirs(osp.join(out, target, name))
            for file in images[:needed]:
                shutil.copy(osp.join(source, split, name, file), osp.join(out, target, name))
            rest = iter(images)
            for key, count in counts.items():
                drawn[key].append([(f'{name}/{file}', label) for file in islice(rest, count)])
    return drawn


def write_sample(source: str, out: str, args: argparse.Namespace) -> None:
    """Copy the drawn images and write the lists.

    Args:
        source (str): Folder with ``train/<class>`` and ``test/<class>``.
        out (str): Gets ``train/<class>``, ``val/<class>`` and ``meta/*.txt``.
        args (argparse.Namespace): The command line.

    Raises:
        InputError: If a class folder has too few images.
    """
    rng = np.random.default_rng(args.seed)
    drawn = draw_images(source, out, args, rng)
    lists = {key: list(chain.from_iterable(rows)) for key, rows in drawn.items()}
    lists['train_noisy'] = mislabel(lists['train'], args.noise, rng)
    lists['student'] = [row for rows in drawn['train'] for row in rows[: args.student]]
    # A generator of its own: the state of the other depends on the number of teachers' images.
    student_rng = np.random.default_rng([args.seed, 1])
    lists['student_noisy'] = mislabel(lists['student'], args.noise, student_rng)
    if lists['held_out']:
        for key in ('student', 'student_noisy'):
            lists[f'{key}_and_held_out'] = lists[key] + lists['held_out']
    half = len(CLASSES) // 2
    lists['specialist_a'] = specialize(drawn['train'], range(half))
    lists['specialist_b'] = specialize(drawn['train'], range(half, len(CLASSES)))
    for key, names in COARSE.items():
        lists[f'coarse_{key}'] = merge(lists['train'], names)
    os.makedirs(osp.join(out, 'meta'))
    for key, rows in lists.items():
        if rows:  # nothing can be trained from an empty list
            write_labels(osp.join(out, 'meta', f'{key}.txt'), rows)


def main() -> None:
    args = parse_args()
    check_number('--noise', args.noise, maximum=1)
    for option in ('train', 'student', 'val'):
        check_number(f'--{option}', getattr(args, option), minimum=1)
    check_number('--held-out', args.held_out)
    check_number('--select', args.select)
    if args.student > args.train:
        raise InputError(
            f'--student is {args.student}, but must not exceed --train ({args.train}).'
        )
    with new_folder(args.out) as part, class_folders(args.source) as source:
        write_sample(source, part, args)
    print(
        f'{10 * args.train} training images ({10 * args.student} of them for the student), '
        f'{10 * args.held_out} held-out images, {10 * args.select} to choose settings by and '
        f'{10 * args.val} test images are in {args.out}.'
    )


if __name__ == '__main__':
    run_tool(main)
