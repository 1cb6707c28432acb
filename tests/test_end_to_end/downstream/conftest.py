# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Tiny data sets in the real formats of COCO, Cityscapes, ADE20K and COCO-Stuff."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from mmpretrain.models import ResNet
from PIL import Image

SIZE = 64


def write_image(path: Path, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(path)


def write_labels(path: Path, rng: np.random.Generator, values: Sequence[int]) -> None:
    """A label map with all the values, in squares of 16 x 16 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    squares = rng.choice(np.array(values, dtype=np.uint8), (SIZE // 16, SIZE // 16))
    Image.fromarray(squares.repeat(16, axis=0).repeat(16, axis=1)).save(path)


def write_coco(root: Path, classes: Sequence[str], images: int = 2) -> Path:
    """COCO-2017's folders and JSON files, boxes with polygons, category ids from 1 on."""
    rng = np.random.default_rng(0)
    for split in ('train2017', 'val2017'):
        content: dict[str, list] = dict(
            images=[],
            annotations=[],
            categories=[dict(id=i + 1, name=name) for i, name in enumerate(classes)],
        )
        for index in range(images):
            write_image(root / split / f'{index}.jpg', rng)
            content['images'].append(
                dict(id=index, file_name=f'{index}.jpg', width=SIZE, height=SIZE)
            )
            for number in range(2):
                x, y, w, h = 4 + 28 * number, 8, 24, 40
                content['annotations'].append(
                    dict(
                        id=2 * index + number + 1,
                        image_id=index,
                        category_id=int(rng.integers(len(classes))) + 1,
                        bbox=[x, y, w, h],
                        area=w * h,
                        iscrowd=0,
                        segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                    )
                )
        path = root / 'annotations' / f'instances_{split}.json'
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return root


def write_cityscapes(root: Path, values: Sequence[int] = (*range(19), 255)) -> Path:
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for index in range(2):
            stem = f'town/town_{index:06d}_000019'
            write_image(root / 'leftImg8bit' / split / f'{stem}_leftImg8bit.png', rng)
            write_labels(root / 'gtFine' / split / f'{stem}_gtFine_labelTrainIds.png', rng, values)
    return root


def write_ade20k(root: Path) -> Path:
    """Labels 0 (nothing) and 1 to 150."""
    rng = np.random.default_rng(0)
    for split in ('training', 'validation'):
        for index in range(2):
            write_image(root / 'images' / split / f'ADE_{split}_{index:08d}.jpg', rng)
            write_labels(
                root / 'annotations' / split / f'ADE_{split}_{index:08d}.png', rng, range(151)
            )
    return root


def write_coco_stuff(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ('train2017', 'val2017'):
        for index in range(2):
            write_image(root / 'images' / split / f'{index:012d}.jpg', rng)
            write_labels(
                root / 'annotations' / split / f'{index:012d}_labelTrainIds.png',
                rng,
                (*range(171), 255),
            )
    return root


@pytest.fixture(scope='session')
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Classification checkpoints of ResNet-18 and ResNet-34, as mmpretrain names them."""
    folder = tmp_path_factory.mktemp('backbones')
    paths = {}
    for depth in (18, 34):
        torch.manual_seed(depth)
        weights = {f'backbone.{k}': v for k, v in ResNet(depth).state_dict().items()}
        weights['head.fc.weight'], weights['head.fc.bias'] = torch.zeros(10, 512), torch.zeros(10)
        paths[depth] = str(folder / f'resnet{depth}.pth')
        torch.save(dict(state_dict=weights), paths[depth])
    return paths
