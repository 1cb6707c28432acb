# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Scenes of digits or photographs, as detection and as segmentation."""

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
from sklearn.datasets import load_digits
from warm_python import tool_python

pytestmark = pytest.mark.slow

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOOL = 'tools/dataset_converters/make_scenes.py'


@pytest.fixture
def load(monkeypatch):
    """Function that imports a tool by its path."""

    def load_tool(path):
        spec = importlib.util.spec_from_file_location('tool', os.path.join(ROOT, path))
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, 'tool', module)  # dataclasses look it up
        spec.loader.exec_module(module)
        return module

    return load_tool


def run(*arguments, python=None):
    command = [python or tool_python(), TOOL, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    out = tmp_path_factory.mktemp('scenes') / 'digits'
    # Here in an interpreter that has imported nothing before.
    done = run(out, '--train', 6, '--val', 4, python=sys.executable)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize(('split', 'count'), [('train', 6), ('val', 4)])
def test_both_formats_say_the_same(scenes, split, count):
    coco = COCO(scenes / 'coco' / 'annotations' / f'instances_{split}.json')
    assert len(coco.imgs) == count and len(coco.cats) == 10
    for image in coco.imgs.values():
        stem = image['file_name'][:-4]
        pixels = np.asarray(Image.open(scenes / 'coco' / split / image['file_name']))
        folder = scenes / 'cityscapes' / 'leftImg8bit' / split / 'scenes'
        assert np.array_equal(pixels, np.asarray(Image.open(folder / f'{stem}_leftImg8bit.png')))
        assert pixels.shape == (image['height'], image['width'], 3)

        folder = scenes / 'cityscapes' / 'gtFine' / split / 'scenes'
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


def test_test_scenes_hold_no_digit_of_training(tmp_path, load):
    """The digits of digits.py's two folders, never mixed."""
    load('tools/dataset_converters/digits.py').write_digits(str(tmp_path / 'digits'))
    data, found = load_digits(), load(TOOL).digits()
    for split in ('train', 'val'):
        numbers = sorted(int(f.stem) for f in (tmp_path / 'digits' / split).glob('*/*.png'))
        ink = np.sort(np.stack(found[split].images).reshape(-1, 64), axis=0)
        np.testing.assert_array_equal(16 * ink, np.sort(data.data[numbers], axis=0))
        np.testing.assert_array_equal(np.sort(found[split].labels), np.sort(data.target[numbers]))


@pytest.fixture
def sample(tmp_path):
    """A sample as cifar10.py writes it: two classes, pure red and pure blue."""
    for split, listed in (('train', 'student'), ('val', 'val')):
        lines = []
        for label, (name, colour) in enumerate([('bird', (255, 0, 0)), ('cat', (0, 0, 255))]):
            folder = tmp_path / 'sample' / split / name
            folder.mkdir(parents=True)
            Image.new('RGB', (32, 32), colour).save(folder / '1.png')
            lines.append(f'{name}/1.png {label}\n')
        (tmp_path / 'sample' / 'meta').mkdir(exist_ok=True)
        (tmp_path / 'sample' / 'meta' / f'{listed}.txt').write_text(''.join(lines))
    return tmp_path / 'sample'


def test_photographs(sample, tmp_path):
    out = tmp_path / 'scenes'
    done = run(out, '--train', 5, '--val', 3, '--photographs', sample)
    assert done.returncode == 0, done.stderr
    coco = COCO(out / 'coco' / 'annotations' / 'instances_train.json')
    assert {c['id']: c['name'] for c in coco.cats.values()} == {1: 'bird', 2: 'cat'}
    assert set(a['category_id'] for a in coco.anns.values()) == {1, 2}
    for image in coco.imgs.values():
        pixels = np.asarray(Image.open(out / 'coco' / 'train' / image['file_name'])).astype(int)
        for annotation in coco.imgToAnns[image['id']]:
            red, _, blue = pixels[coco.annToMask(annotation).astype(bool)].mean(axis=0)
            # whole squares of the class's colour, in RGB
            assert (red > 230 and blue < 25) == (annotation['category_id'] == 1)
            assert (blue > 230 and red < 25) == (annotation['category_id'] == 2)


def test_photographs_that_are_missing(sample, tmp_path):
    (sample / 'val' / 'cat' / '1.png').unlink()
    done = run(tmp_path / 'out', '--photographs', sample)
    assert f'"{sample}/val/cat/1.png", in {sample}/meta/val.txt, is no image' in done.stderr
    (sample / 'meta' / 'student.txt').unlink()
    done = run(tmp_path / 'out', '--photographs', sample)
    assert 'has no meta/student.txt' in done.stderr and 'Traceback' not in done.stderr
    assert not (tmp_path / 'out').exists()


def test_the_seed_decides(scenes, tmp_path):
    for seed in (0, 1):
        assert run(tmp_path / str(seed), '--train', 6, '--val', 4, '--seed', seed).returncode == 0
    name = 'coco/annotations/instances_val.json'
    texts = [(folder / name).read_text() for folder in (scenes, tmp_path / '0', tmp_path / '1')]
    assert texts[0] == texts[1] != texts[2]
    assert json.loads(texts[0])['annotations']
    # Scenes with other settings are replaced, and the same are kept.
    flags = ['--train', 6, '--val', 4]
    done = run(tmp_path / '1', *flags)
    assert f'{tmp_path}/1 holds scenes with other settings, which are replaced.' in done.stdout
    path = tmp_path / '1' / name
    assert path.read_text() == texts[0]
    before = path.stat().st_mtime_ns
    done = run(tmp_path / '1', *flags)
    assert done.stdout == f'The scenes are in {tmp_path}/1.\n'
    assert path.stat().st_mtime_ns == before


def test_a_slash_at_the_end_is_no_other_folder(tmp_path):
    folder = tmp_path / 'scenes'
    counts = ('--train', '2', '--val', '2')
    for flags in ((), ('--seed', '1')):  # the second replaces the first
        done = run(f'{folder}/', *counts, *flags)
        assert done.returncode == 0, done.stderr[-2000:]
        assert f'2 + 2 scenes are in {folder}.' in done.stdout
        assert (folder / 'coco' / 'annotations' / 'instances_val.json').is_file()
    assert os.listdir(tmp_path) == ['scenes']


def test_another_folder_is_not_removed(tmp_path):
    # Where mmdet and mmseg have their data sets.
    names = [tmp_path / 'coco/annotations/instances_val2017.json', tmp_path / 'cityscapes/gtFine/a']
    for name in names:
        name.parent.mkdir(parents=True)
        name.write_text('')
    done = run(tmp_path, '--train', 6, '--val', 4)
    assert f'Error: "{tmp_path}" holds something else than scenes, or' in done.stderr
    assert all(name.exists() for name in names)


def test_a_digit_in_front_hides_what_is_behind(load):
    tool = load(TOOL)
    args = SimpleNamespace(size=48, objects=(5, 5))
    full = tool.Objects(['7'], [np.ones((8, 8), dtype=np.float32)], np.array([7]))
    scene = tool.compose(full, args, np.random.default_rng(0))
    assert np.sum(scene.masks, axis=0).max() == 1
    assert set(scene.labels) == {7}


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (
            ['--objects', '4', '2'],
            'must be the smallest number, which is at least 1, and then the largest',
        ),
        (['--size', '8'], '`--size` must be at least 32'),
        (['--train', '0'], '`--train` must be at least 1'),
    ],
)
def test_bad_arguments(tmp_path, flags, message):
    done = run(tmp_path / 'out', *flags)
    assert done.returncode != 0 and message in done.stderr and 'Traceback' not in done.stderr
