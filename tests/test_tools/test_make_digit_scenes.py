# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Scenes of digits, as detection and as segmentation."""

import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

pytestmark = pytest.mark.slow

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOOL = 'tools/dataset_converters/make_digit_scenes.py'


def load(path):
    spec = importlib.util.spec_from_file_location('tool', os.path.join(ROOT, path))
    module = importlib.util.module_from_spec(spec)
    sys.modules['tool'] = module
    spec.loader.exec_module(module)
    return module


def run(*arguments):
    return subprocess.run(
        [sys.executable, TOOL, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    out = tmp_path_factory.mktemp('scenes') / 'digits'
    done = run(out, '--train', 6, '--val', 4)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize(('split', 'count'), [('train', 6), ('val', 4)])
def test_both_formats_say_the_same(scenes, split, count):
    coco = COCO(scenes / 'coco' / 'annotations' / f'instances_{split}.json')
    assert len(coco.imgs) == count and len(coco.cats) == 10
    for image in coco.imgs.values():
        stem = image['file_name'][:-4]
        pixels = np.asarray(Image.open(scenes / 'coco' / split / image['file_name']))
        folder = scenes / 'cityscapes' / 'leftImg8bit' / split / 'digits'
        assert np.array_equal(pixels, np.asarray(Image.open(folder / f'{stem}_leftImg8bit.png')))
        assert pixels.shape == (image['height'], image['width'], 3)

        folder = scenes / 'cityscapes' / 'gtFine' / split / 'digits'
        labels = np.asarray(Image.open(folder / f'{stem}_gtFine_labelTrainIds.png'))
        expected = np.zeros_like(labels)
        for annotation in coco.imgToAnns[image['id']]:
            mask = coco.annToMask(annotation).astype(bool)
            assert not expected[mask].any()  # what is seen belongs to one digit
            expected[mask] = annotation['category_id']
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation['bbox'] == box and annotation['area'] == mask.sum() >= 20
        assert np.array_equal(labels, expected)
        assert coco.cats[annotation['category_id']]['name'] == str(annotation['category_id'] - 1)


def test_test_scenes_hold_no_digit_of_training(scenes, tmp_path, monkeypatch):
    """The digits of digits.py's two folders, never mixed."""
    load('tools/dataset_converters/digits.py').write_digits(str(tmp_path / 'digits'))
    tool, given = load(TOOL), {}
    monkeypatch.setattr(
        tool, 'write_split', lambda split, count, chosen, out, args: given.update({split: chosen})
    )
    monkeypatch.setattr(sys, 'argv', ['tool', str(tmp_path / 'out')])
    monkeypatch.setattr(tool.os, 'replace', lambda *args: None)
    tool.main()
    for split in ('train', 'val'):
        files = (tmp_path / 'digits' / split).glob('*/*.png')
        assert sorted(int(file.stem) for file in files) == sorted(given[split])


def test_the_seed_decides(scenes, tmp_path):
    for seed in (0, 1):
        assert run(tmp_path / str(seed), '--train', 6, '--val', 4, '--seed', seed).returncode == 0
    name = 'coco/annotations/instances_val.json'
    texts = [(folder / name).read_text() for folder in (scenes, tmp_path / '0', tmp_path / '1')]
    assert texts[0] == texts[1] != texts[2]
    assert json.loads(texts[0])['annotations']


def test_a_digit_in_front_hides_what_is_behind():
    tool = load(TOOL)
    args = SimpleNamespace(size=48, digits=(5, 5))
    full = np.full((1, 8, 8), 16.0)
    scene = tool.compose(full, np.array([7]), args, np.random.default_rng(0))
    assert np.sum(scene.masks, axis=0).max() == 1
    assert set(scene.digits) == {7}


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--digits', '4', '2'], 'give the fewest, then the most'),
        (['--size', '8'], '`--size` must be at least 32'),
        (['--train', '0'], '`--train` must be at least 1'),
    ],
)
def test_bad_arguments(tmp_path, flags, message):
    done = run(tmp_path / 'out', *flags)
    assert done.returncode != 0 and message in done.stderr and 'Traceback' not in done.stderr
