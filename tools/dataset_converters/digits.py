# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Write scikit-learn's handwritten digits as image files in ImageNet's layout.

The 1,797 images of 8x8 pixels are part of scikit-learn; nothing is downloaded.
A quarter of them is the training set, the rest the test set. A second list of
training labels, of which 40 % are wrong, is for a weak teacher.

    python tools/dataset_converters/digits.py data/digits
"""

import argparse
import os
import os.path as osp
import shutil

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

NOISE = 0.4


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('out', nargs='?', default='data/digits', help='folder to write to')
    return parser.parse_args()


def write_digits(out: str) -> None:
    """Write the data set, unless it exists.

    Args:
        out (str): Folder that gets ``train/0..9``, ``val/0..9`` and
            ``meta/train_noisy.txt``.
    """
    if osp.isfile(osp.join(out, 'meta', 'train_noisy.txt')):
        return
    digits = load_digits()
    part = f'{out}.part'
    shutil.rmtree(part, ignore_errors=True)
    indices = np.arange(len(digits.target))
    train, val = train_test_split(indices, test_size=0.75, stratify=digits.target, random_state=0)
    for split, chosen in (('train', train), ('val', val)):
        for index in sorted(chosen):
            folder = osp.join(part, split, str(digits.target[index]))
            os.makedirs(folder, exist_ok=True)
            pixels = np.round(digits.images[index] * 255 / 16).astype(np.uint8)
            Image.fromarray(pixels).save(osp.join(folder, f'{index:04d}.png'))

    rng = np.random.default_rng(0)
    os.makedirs(osp.join(part, 'meta'))
    with open(osp.join(part, 'meta', 'train_noisy.txt'), 'w') as file:
        for index in sorted(train):
            label = digits.target[index]
            given = (label + rng.integers(1, 10)) % 10 if rng.random() < NOISE else label
            file.write(f'{label}/{index:04d}.png {given}\n')
    # The folder gets its name only when the data set is complete.
    if osp.isdir(out):
        shutil.rmtree(out)
    os.makedirs(osp.dirname(osp.abspath(out)), exist_ok=True)
    os.replace(part, out)


if __name__ == '__main__':
    args = parse_args()
    write_digits(args.out)
    print(f'The digits are in {args.out}.')
