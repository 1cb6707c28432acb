# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Compose scenes of handwritten digits or of photographs, for detection and segmentation.

A scene has several of scikit-learn's digits, scaled, overlapping, in random
colours, on a textured background. Training scenes use the digits of the training
set of ``digits.py``, test scenes those of its test set. With ``--photographs``,
a scene has several photographs of a sample of CIFAR-10 (``cifar10.py``): the
student's images in training scenes, the test images in test scenes. The same
scenes are written twice: as COCO detection with instance masks, and as
Cityscapes-like semantic segmentation (background and the classes).

    python tools/dataset_converters/make_scenes.py
    python tools/dataset_converters/make_scenes.py --photographs data/cifar10_sample
"""

import argparse
import hashlib
import os
import os.path as osp
import shutil
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from mmengine.utils import track_iter_progress
from PIL import Image

from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.digits import load_split_digits
from mtkdrl_mm.utils.files import write_json
from mtkdrl_mm.utils.json_files import read_json_object
from mtkdrl_mm.utils.launch import run_tool
from mtkdrl_mm.utils.optional_packages import import_optional

#: File with the settings of the scenes.
SETTINGS_NAME = 'scenes.json'
# Opacity above which a pixel is part of an object's mask.
MASK_THRESHOLD = 0.35
# Objects with fewer visible pixels cannot be recognised.
MIN_VISIBLE_PIXELS = 20


@dataclass
class Objects:
    """Images of objects for scenes.

    Attributes:
        names (list[str]): Class names.
        images (list[np.ndarray]): Digits as opacity in [0, 1], float, shape
            (8, 8); or photographs as RGB in [0, 1], float, shape (H, W, 3).
        labels (np.ndarray): Class labels, shape (N,).
    """

    names: list[str]
    images: list[np.ndarray]
    labels: np.ndarray


@dataclass
class Scene:
    """A scene of N objects.

    Attributes:
        image (np.ndarray): RGB, uint8, shape (H, W, 3).
        labels (list[int]): Class labels, from back to front.
        masks (list[np.ndarray]): Visible pixels of every object, bool, (H, W).
    """

    image: np.ndarray
    labels: list[int]
    masks: list[np.ndarray]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'out', nargs='?', help='folder to write to, by default data/digit_scenes or cifar10_scenes'
    )
    parser.add_argument('--train', type=int, default=400, help='scenes for training')
    parser.add_argument('--val', type=int, default=200, help='scenes for testing')
    parser.add_argument('--size', type=int, default=96, help='height and width in pixels')
    parser.add_argument(
        '--objects',
        type=int,
        nargs=2,
        default=(2, 5),
        help='smallest and largest number in a scene',
    )
    parser.add_argument('--photographs', help='folder of cifar10.py; without it, digits are used')
    parser.add_argument('--seed', type=int, default=0, help='seed of the scenes')
    args = parser.parse_args()
    if args.out is not None:
        args.out = osp.normpath(args.out)  # without a slash at its end
    else:
        args.out = osp.join('data', 'cifar10_scenes' if args.photographs else 'digit_scenes')
    return args


def texture(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a dark background, float, shape (size, size, 3), in [0, 0.5]."""
    result = np.zeros((size, size, 3), dtype=np.float32)
    for cells, strength in ((3, 0.35), (12, 0.2), (size // 2, 0.15)):
        noise = rng.random((cells, cells, 3)).astype(np.float32)
        result += strength * cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(result, 0, 1) / 2


def digits() -> dict[str, Objects]:
    """Load scikit-learn's digits, in the split of ``digits.py``."""
    data = load_split_digits()
    names = [str(digit) for digit in range(10)]
    ink = list((data.images / 16).astype(np.float32))
    return {
        split: Objects(names, [ink[index] for index in chosen], data.labels[chosen])
        for split, chosen in (('train', data.train), ('val', data.val))
    }


def photographs(folder: str) -> dict[str, Objects]:
    """Load the photographs of a sample of ``cifar10.py``.

    Raises:
        InputError: If a list or an image is missing.
    """
    found = {}
    for split, listed in (('train', 'student'), ('val', 'val')):
        path = osp.join(folder, 'meta', f'{listed}.txt')
        if not osp.isfile(path):
            raise InputError(
                f'--photographs "{folder}" has no meta/{listed}.txt. '
                'tools/dataset_converters/cifar10.py writes such a folder.'
            )
        with open(path) as file:
            lines = [line.rsplit(maxsplit=1) for line in file if line.strip()]
        images = []
        for name, _ in lines:
            image = cv2.imread(osp.join(folder, split, name))
            if image is None:
                raise InputError(f'"{osp.join(folder, split, name)}", in {path}, is no image.')
            images.append(image[..., ::-1].astype(np.float32) / 255)
        names = {int(label): name.split('/')[0] for name, label in lines}
        found[split] = Objects(
            [names[label] for label in sorted(names)],
            images,
            np.array([int(label) for _, label in lines]),
        )
    return found


def cut_out(
    image: np.ndarray, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return colours, shape (side, side, 3) or (3,), and opacity, shape (side, side)."""
    resized = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    if image.ndim == 3:
        return resized, np.ones((side, side), dtype=np.float32)
    # Bright digits of any colour, similar to the training images of the backbones.
    return rng.uniform(0.55, 1.0, 3).astype(np.float32), resized


def compose(objects: Objects, args: argparse.Namespace, rng: np.random.Generator) -> Scene:
    """Compose one scene.

    Args:
        objects (Objects): Objects to draw from.
        args (argparse.Namespace): The command line.
        rng (np.random.Generator): The random generator.

    Returns:
        Scene: The scene, without hidden objects.
    """
    size = args.size
    canvas = texture(size, rng)
    owner = np.zeros((size, size), dtype=np.int64)
    drawn: list[int] = []
    for _ in range(int(rng.integers(args.objects[0], args.objects[1] + 1))):
        index = int(rng.integers(len(objects.labels)))
        side = int(rng.integers(size // 5, size // 2))
        top, left = (int(v) for v in rng.integers(0, size - side + 1, 2))
        colours, opacity = cut_out(objects.images[index], side, rng)
        window = canvas[top : top + side, left : left + side]
        window += opacity[..., None] * (colours - window)
        drawn.append(int(objects.labels[index]))
        owner[top : top + side, left : left + side][opacity > MASK_THRESHOLD] = len(drawn)
    noise = rng.normal(0, 0.02, canvas.shape)
    image = np.round((canvas + noise).clip(0, 1) * 255).astype(np.uint8)
    masks = [owner == number for number in range(1, len(drawn) + 1)]
    visible = [n for n, mask in enumerate(masks) if mask.sum() >= MIN_VISIBLE_PIXELS]
    return Scene(image, [drawn[n] for n in visible], [masks[n] for n in visible])


def coco_annotation(mask: np.ndarray, label: int, image: int, number: int) -> dict[str, Any]:
    """Make a COCO annotation with box and run-length mask."""
    from pycocotools import mask as coco_mask

    run_length = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(
        id=number,
        image_id=image,
        category_id=label + 1,
        bbox=[float(v) for v in coco_mask.toBbox(run_length)],
        area=float(mask.sum()),
        segmentation=dict(size=run_length['size'], counts=run_length['counts'].decode()),
        iscrowd=0,
    )


def semantic_map(scene: Scene) -> np.ndarray:
    """Make the label map: background 0, class c is c + 1; uint8, shape (H, W)."""
    result = np.zeros(scene.image.shape[:2], dtype=np.uint8)
    for label, mask in zip(scene.labels, scene.masks):
        result[mask] = label + 1
    return result


def write_split(
    split: str, count: int, objects: Objects, out: str, args: argparse.Namespace
) -> None:
    """Write the scenes of one split in both formats.

    Args:
        split (str): 'train' or 'val'.
        count (int): Number of scenes.
        objects (Objects): Objects to draw from.
        out (str): Folder for ``coco/`` and ``cityscapes/``.
        args (argparse.Namespace): The command line.
    """
    rng = np.random.default_rng([args.seed, split == 'val'])
    coco: dict[str, list[Any]] = dict(
        images=[],
        annotations=[],
        categories=[dict(id=number + 1, name=name) for number, name in enumerate(objects.names)],
    )
    coco_folder = osp.join(out, 'coco', split)
    image_folder = osp.join(out, 'cityscapes', 'leftImg8bit', split, 'scenes')
    label_folder = osp.join(out, 'cityscapes', 'gtFine', split, 'scenes')
    for folder in (coco_folder, image_folder, label_folder, osp.join(out, 'coco', 'annotations')):
        os.makedirs(folder, exist_ok=True)
    print(f'{split}:')
    for number in track_iter_progress(list(range(count))):
        scene = compose(objects, args, rng)
        name = f'{number:05d}'
        Image.fromarray(scene.image).save(osp.join(coco_folder, f'{name}.png'))
        Image.fromarray(scene.image).save(osp.join(image_folder, f'{name}_leftImg8bit.png'))
        Image.fromarray(semantic_map(scene)).save(
            osp.join(label_folder, f'{name}_gtFine_labelTrainIds.png')
        )
        coco['images'].append(
            dict(id=number, file_name=f'{name}.png', height=args.size, width=args.size)
        )
        for label, mask in zip(scene.labels, scene.masks):
            coco['annotations'].append(
                coco_annotation(mask, label, number, len(coco['annotations']) + 1)
            )
    print()
    write_json(coco, osp.join(out, 'coco', 'annotations', f'instances_{split}.json'))


def describe_scenes(objects: dict[str, Objects], args: argparse.Namespace) -> dict[str, Any]:
    """What decides the scenes: the settings, and the objects in them."""
    digest = hashlib.sha256()
    for split in objects.values():
        for pixels, label in zip(split.images, split.labels):
            digest.update(np.ascontiguousarray(pixels).tobytes() + bytes([int(label)]))
    settings = {key: getattr(args, key) for key in ('train', 'val', 'size', 'seed')}
    return dict(settings, objects=list(args.objects), images=digest.hexdigest()[:16])


def main() -> None:
    args = parse_args()
    for option, least in (('train', 1), ('val', 1), ('size', 32)):
        check_number(f'--{option}', getattr(args, option), minimum=least)
    if not 1 <= args.objects[0] <= args.objects[1]:
        raise InputError(
            f'--objects is {args.objects[0]} {args.objects[1]}, but must be the smallest number, '
            'which is at least 1, and then the largest.'
        )
    import_optional('pycocotools.mask', 'The masks of COCO')  # before anything is drawn
    objects = photographs(args.photographs) if args.photographs else digits()
    settings = describe_scenes(objects, args)
    if osp.isdir(args.out) and os.listdir(args.out):
        # Only this file tells scenes from other data: a folder of OpenMMLab's data sets has
        # coco/annotations, too.
        path = osp.join(args.out, SETTINGS_NAME)
        if not osp.isfile(path):
            raise InputError(
                f'"{args.out}" holds something else than scenes, or scenes of an earlier version. '
                'Choose another folder, or remove it.'
            )
        if read_json_object(path) == settings:
            print(f'The scenes are in {args.out}.')
            return
        print(f'{args.out} holds scenes with other settings, which are replaced.')
    part = f'{args.out}.part'
    shutil.rmtree(part, ignore_errors=True)
    write_split('train', args.train, objects['train'], part, args)
    write_split('val', args.val, objects['val'], part, args)
    write_json(settings, osp.join(part, SETTINGS_NAME))
    # The folder gets its name only when the data set is complete.
    shutil.rmtree(args.out, ignore_errors=True)
    os.replace(part, args.out)
    print(f'{args.train} + {args.val} scenes are in {args.out}.')


if __name__ == '__main__':
    run_tool(main)
