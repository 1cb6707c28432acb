# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Compose scenes of real handwritten digits, for detection and segmentation.

Several of scikit-learn's digits per scene, scaled, overlapping, in a colour of
their own on a textured background. Scenes for training use the digits that
``digits.py`` gives to training, scenes for testing the others. The same scenes
are written twice: as COCO detection with instance masks, and as Cityscapes-like
semantic segmentation (background and the ten digits).

    python tools/dataset_converters/make_digit_scenes.py data/digit_scenes
"""

import argparse
import json
import os
import os.path as osp
import shutil
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from mmengine.utils import track_iter_progress
from PIL import Image
from pycocotools import mask as coco_mask
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.launch import run_tool

# Pixels of a digit brighter than this belong to it.
INK = 0.35


@dataclass
class Scene:
    """A scene of N digits.

    Attributes:
        image (np.ndarray): RGB, uint8, shape (H, W, 3).
        digits (list[int]): What they are, from back to front.
        masks (list[np.ndarray]): Which pixels of each can be seen, bool, (H, W).
    """

    image: np.ndarray
    digits: list[int]
    masks: list[np.ndarray]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('out', nargs='?', default='data/digit_scenes', help='folder to write to')
    parser.add_argument('--train', type=int, default=400, help='scenes for training')
    parser.add_argument('--val', type=int, default=200, help='scenes for testing')
    parser.add_argument('--size', type=int, default=96, help='height and width in pixels')
    parser.add_argument('--digits', type=int, nargs=2, default=(2, 5), help='fewest and most')
    parser.add_argument('--seed', type=int, default=0, help='decides all that is random')
    return parser.parse_args()


def texture(size: int, rng: np.random.Generator) -> np.ndarray:
    """A dark random background, float, shape (size, size, 3), in [0, 0.5]."""
    result = np.zeros((size, size, 3), dtype=np.float32)
    for cells, strength in ((3, 0.35), (12, 0.2), (size // 2, 0.15)):
        noise = rng.random((cells, cells, 3)).astype(np.float32)
        result += strength * cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(result, 0, 1) / 2


def compose(
    images: np.ndarray, labels: np.ndarray, args: argparse.Namespace, rng: np.random.Generator
) -> Scene:
    """Compose one scene.

    Args:
        images (np.ndarray): Digits to draw from, shape (N, 8, 8), in [0, 16].
        labels (np.ndarray): What they are, shape (N,).
        args (argparse.Namespace): The command line.
        rng (np.random.Generator): Decides everything.

    Returns:
        Scene: The scene; digits that cannot be seen are left out.
    """
    size = args.size
    canvas = texture(size, rng)
    owner = np.zeros((size, size), dtype=np.int64)
    drawn: list[int] = []
    for _ in range(int(rng.integers(args.digits[0], args.digits[1] + 1))):
        index = int(rng.integers(len(labels)))
        side = int(rng.integers(size // 5, size // 2))
        ink = cv2.resize(
            (images[index] / 16).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC
        ).clip(0, 1)
        top, left = (int(v) for v in rng.integers(0, size - side + 1, 2))
        window = canvas[top : top + side, left : left + side]
        # Bright ink of any colour, as the digits that the backbones have learnt.
        colour = rng.uniform(0.55, 1.0, 3).astype(np.float32)
        window += ink[..., None] * (colour - window)
        drawn.append(int(labels[index]))
        owner[top : top + side, left : left + side][ink > INK] = len(drawn)
    noise = rng.normal(0, 0.02, canvas.shape)
    image = np.round((canvas + noise).clip(0, 1) * 255).astype(np.uint8)
    masks = [owner == number for number in range(1, len(drawn) + 1)]
    # Fewer than 20 pixels show nobody what the digit is.
    seen = [number for number, mask in enumerate(masks) if mask.sum() >= 20]
    return Scene(image, [drawn[n] for n in seen], [masks[n] for n in seen])


def coco_annotation(mask: np.ndarray, digit: int, image: int, number: int) -> dict[str, Any]:
    """A COCO annotation with box and run-length mask."""
    run_length = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(
        id=number,
        image_id=image,
        category_id=digit + 1,
        bbox=[float(v) for v in coco_mask.toBbox(run_length)],
        area=float(mask.sum()),
        segmentation=dict(size=run_length['size'], counts=run_length['counts'].decode()),
        iscrowd=0,
    )


def semantic_map(scene: Scene) -> np.ndarray:
    """Background 0, digit d is d + 1; uint8, shape (H, W)."""
    result = np.zeros(scene.image.shape[:2], dtype=np.uint8)
    for digit, mask in zip(scene.digits, scene.masks):
        result[mask] = digit + 1
    return result


def write_split(
    split: str, count: int, chosen: np.ndarray, out: str, args: argparse.Namespace
) -> None:
    """Write the scenes of one split in both formats.

    Args:
        split (str): 'train' or 'val'.
        count (int): Number of scenes.
        chosen (np.ndarray): Indices of the digits to draw from.
        out (str): Gets ``coco/`` and ``cityscapes/``.
        args (argparse.Namespace): The command line.
    """
    data = load_digits()
    rng = np.random.default_rng([args.seed, split == 'val'])
    coco: dict[str, list[Any]] = dict(
        images=[],
        annotations=[],
        categories=[dict(id=digit + 1, name=str(digit)) for digit in range(10)],
    )
    coco_folder = osp.join(out, 'coco', split)
    image_folder = osp.join(out, 'cityscapes', 'leftImg8bit', split, 'digits')
    label_folder = osp.join(out, 'cityscapes', 'gtFine', split, 'digits')
    for folder in (coco_folder, image_folder, label_folder, osp.join(out, 'coco', 'annotations')):
        os.makedirs(folder, exist_ok=True)
    print(f'{split}:')
    for number in track_iter_progress(list(range(count))):
        scene = compose(data.images[chosen], data.target[chosen], args, rng)
        name = f'{number:05d}'
        Image.fromarray(scene.image).save(osp.join(coco_folder, f'{name}.png'))
        Image.fromarray(scene.image).save(osp.join(image_folder, f'{name}_leftImg8bit.png'))
        Image.fromarray(semantic_map(scene)).save(
            osp.join(label_folder, f'{name}_gtFine_labelTrainIds.png')
        )
        coco['images'].append(
            dict(id=number, file_name=f'{name}.png', height=args.size, width=args.size)
        )
        for digit, mask in zip(scene.digits, scene.masks):
            coco['annotations'].append(
                coco_annotation(mask, digit, number, len(coco['annotations']) + 1)
            )
    print()
    with open(osp.join(out, 'coco', 'annotations', f'instances_{split}.json'), 'w') as file:
        json.dump(coco, file)


def main() -> None:
    args = parse_args()
    for option, least in (('train', 1), ('val', 1), ('size', 32)):
        check_number(f'--{option}', getattr(args, option), minimum=least)
    if not 1 <= args.digits[0] <= args.digits[1]:
        raise InputError(
            f'--digits {args.digits[0]} {args.digits[1]}: give the fewest, then the most.'
        )
    if osp.isdir(osp.join(args.out, 'coco', 'annotations')):
        print(f'The scenes are in {args.out}.')
        return
    part = f'{args.out}.part'
    shutil.rmtree(part, ignore_errors=True)
    labels = load_digits().target
    # The same split as digits.py makes.
    train, val = train_test_split(
        np.arange(len(labels)), test_size=0.75, stratify=labels, random_state=0
    )
    write_split('train', args.train, train, part, args)
    write_split('val', args.val, val, part, args)
    # Only a complete set gets the name that others look for.
    shutil.rmtree(args.out, ignore_errors=True)
    os.replace(part, args.out)
    print(f'{args.train} + {args.val} scenes are in {args.out}.')


if __name__ == '__main__':
    run_tool(main)
