# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Write scikit-learn's handwritten digits as image files in ImageNet's layout.

The 1,797 images of 8x8 pixels are part of scikit-learn; nothing is downloaded.
350 of them are the training set, the rest the test set. 50 training images are held
out for the agent; the lists of labels are for the others:

- ``train.txt``: right labels.
- ``student.txt``: labels as from a crowd, a share of them (``--noise``) wrong.
- ``confused_3_8_5_6.txt``: every 3 is called an 8 and every 8 a 3, the same with 5
  and 6; ``confused_1_7_4_9.txt``: 1 with 7, and 4 with 9. For teachers that are
  systematically wrong about some digits.
- ``held_out.txt``: right labels of the held-out images.
- ``student_and_held_out.txt``: both, for what the held-out labels are worth to a student.
- ``train_noisy.txt``: all training images, with labels as in ``student.txt``.

    python tools/dataset_converters/digits.py data/digits
"""

import argparse
import os
import os.path as osp
import shutil
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.digits import load_split_digits
from mtkdrl_mm.utils.image_folders import new_folder, write_labels
from mtkdrl_mm.utils.launch import run_tool

#: Number of training images for the agent.
HELD_OUT = 50
#: Pairs of digits that look alike.
CONFUSIONS = (((3, 8), (5, 6)), ((1, 7), (4, 9)))

Rows = list[tuple[str, int]]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('out', nargs='?', default='data/digits', help='folder to write to')
    parser.add_argument(
        '--noise', type=float, default=0.4, help="share of wrong labels among the student's"
    )
    return parser.parse_args()


def image_path(label: int, index: int) -> str:
    """Path of a digit below the folder of its split."""
    return f'{label}/{index:04d}.png'


def swap_pairs(rows: Rows, pairs: Sequence[tuple[int, int]]) -> Rows:
    """Give the images of either digit of a pair the label of the other one."""
    other = {digit: pair[1 - place] for pair in pairs for place, digit in enumerate(pair)}
    return [(path, other.get(label, label)) for path, label in rows]


def list_labels(labels: np.ndarray, train: np.ndarray, noise: float) -> dict[str, Rows]:
    """Make all lists of labels.

    Args:
        labels (np.ndarray): The right label of every digit, shape (N,).
        train (np.ndarray): Indices of the training images, shape (K,).
        noise (float): Share of wrong labels in ``student`` and ``train_noisy``.

    Returns:
        dict[str, Rows]: Paths and labels, by the name of the list.
    """
    from sklearn.model_selection import train_test_split

    rng = np.random.default_rng(0)
    noisy = {}
    for index in sorted(train):
        label = int(labels[index])
        wrong = rng.random() < noise
        noisy[index] = int((label + rng.integers(1, 10)) % 10) if wrong else label
    _, held_out = train_test_split(
        train, test_size=HELD_OUT, stratify=labels[train], random_state=0
    )
    paths = {index: image_path(labels[index], index) for index in noisy}
    rest = [index for index in noisy if index not in set(held_out)]
    right = [(paths[index], int(labels[index])) for index in rest]
    kept = [(paths[index], int(labels[index])) for index in sorted(held_out)]
    student = [(paths[index], noisy[index]) for index in rest]
    return dict(
        train=right,
        held_out=kept,
        student=student,
        student_and_held_out=student + kept,
        train_noisy=[(paths[index], noisy[index]) for index in noisy],
        **{
            '_'.join(['confused', *(str(digit) for pair in pairs for digit in pair)]): swap_pairs(
                right, pairs
            )
            for pairs in CONFUSIONS
        },
    )


def lists_match(out: str, lists: dict[str, Rows]) -> bool:
    """Whether a data set has these lists."""
    for name, rows in lists.items():
        path = osp.join(out, 'meta', f'{name}.txt')
        if not osp.isfile(path):
            return False
        with open(path) as file:
            if file.read() != ''.join(f'{image} {label}\n' for image, label in rows):
                return False
    return True


def holds_digits(out: str) -> bool:
    """Whether a folder was written by this tool; the sample of CIFAR-10 has such a list, too."""
    train = osp.join(out, 'train')
    classes = set(os.listdir(train)) if osp.isdir(train) else set()
    noisy = osp.join(out, 'meta', 'train_noisy.txt')
    return classes == set('0123456789') and osp.isfile(noisy)


def write_digits(out: str, noise: float = 0.4) -> None:
    """Write the data set, unless it exists; one of another version is replaced.

    Args:
        out (str): Folder that gets ``train/0..9``, ``val/0..9`` and
            ``meta/*.txt``.
        noise (float): Share of wrong labels. Defaults to 0.4.

    Raises:
        InputError: If the folder holds something else.
    """
    digits = load_split_digits()
    lists = list_labels(digits.labels, digits.train, noise)
    if lists_match(out, lists):
        return
    if osp.isdir(out):
        if os.listdir(out) and not holds_digits(out):
            raise InputError(f'"{out}" holds something else than digits. Choose another folder.')
        shutil.rmtree(out)
    with new_folder(out) as part:
        for split, chosen in (('train', digits.train), ('val', digits.val)):
            for index in sorted(chosen):
                path = osp.join(part, split, image_path(digits.labels[index], index))
                os.makedirs(osp.dirname(path), exist_ok=True)
                pixels = np.round(digits.images[index] * 255 / 16).astype(np.uint8)
                Image.fromarray(pixels).save(path)
        os.makedirs(osp.join(part, 'meta'))
        for name, rows in lists.items():
            write_labels(osp.join(part, 'meta', f'{name}.txt'), rows)


def main() -> None:
    args = parse_args()
    check_number('--noise', args.noise, maximum=1)
    write_digits(args.out, args.noise)
    print(f'The digits are in {args.out}.')


if __name__ == '__main__':
    run_tool(main)
