# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Tiny-ImageNet as class folders, from its own layout and from class folders."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from warm_python import tool_python

from mtkdrl_mm.models.teachers.class_map import ClassMap

pytestmark = pytest.mark.slow

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Some of ImageNet's classes, and their indices among the 1,000.
INDICES = {'n01443537': 1, 'n01644900': 32, 'n02123045': 281, 'n04285008': 817}
WNIDS = list(INDICES)


def run(*arguments):
    tool = 'tools/dataset_converters/tiny_imagenet.py'
    return subprocess.run(
        [tool_python(), tool, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(scope='module')
def official(tmp_path_factory):
    """Three training and two test images a class, as in tiny-imagenet-200.zip."""
    root = tmp_path_factory.mktemp('official') / 'tiny-imagenet-200'
    rows = []
    for label, wnid in enumerate(WNIDS):
        write(root / 'train' / wnid / f'{wnid}_boxes.txt', 'no image')
        for number in (0, 1, 10):
            name = f'{wnid}_{number}.JPEG'
            write(root / 'train' / wnid / 'images' / name, name)
        for number in range(2):
            name = f'val_{len(WNIDS) * number + 3 - label}.JPEG'
            write(root / 'val' / 'images' / name, name)
            rows.append(f'{name}\t{wnid}\t0\t32\t44\t62\n')
    write(root / 'val' / 'val_annotations.txt', ''.join(rows))
    write(root / 'test' / 'images' / 'test_0.JPEG', 'without a label')
    return root


@pytest.fixture(scope='module')
def converted(official, tmp_path_factory):
    out = tmp_path_factory.mktemp('converted') / 'out'
    done = run(out, '--source', official, '--student', 2)
    assert done.returncode == 0, done.stderr
    return out


def tree(folder):
    """Contents of all files of a folder by their paths."""
    paths = [path for path in Path(folder).rglob('*') if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


def test_official_layout(converted):
    files = tree(converted)
    train = [f'{wnid}/{wnid}_{number}.JPEG' for wnid in WNIDS for number in (0, 1, 10)]
    rows = {path: label for label, wnid in enumerate(WNIDS) for path in train if wnid in path}
    assert files.pop('meta/train.txt') == ''.join(f'{path} {rows[path]}\n' for path in train)
    student = [path for path in train if not path.endswith('_10.JPEG')]
    assert files.pop('meta/student.txt') == ''.join(f'{path} {rows[path]}\n' for path in student)
    table = [line.split('\t') for line in files.pop('meta/classes.txt').splitlines()]
    assert [(wnid, int(index)) for wnid, _, index in table] == list(INDICES.items())
    assert table[0][1].startswith('goldfish')
    val = {f'val/{w}/val_{4 * n + 3 - i}.JPEG' for i, w in enumerate(WNIDS) for n in range(2)}
    assert files.keys() == {f'train/{path}' for path in train} | val
    assert all(os.path.basename(path) == text for path, text in files.items())


def test_table_is_a_class_map(converted):
    table = ClassMap(str(converted / 'meta' / 'classes.txt'), 'teacher "t"')
    assert table.indices.tolist() == list(INDICES.values())


def test_archive_and_evenly_spaced_classes(official, tmp_path):
    archive = shutil.make_archive(tmp_path / 'data', 'zip', official.parent)
    done = run(tmp_path / 'out', '--source', archive, '--student', 3, '--classes', 2)
    assert done.returncode == 0, done.stderr
    chosen = [WNIDS[0], WNIDS[2]]
    assert '6 training images (6 of them for the student) and 4 test images of 2' in done.stdout
    assert sorted(os.listdir(tmp_path / 'out' / 'train')) == chosen
    lines = (tmp_path / 'out' / 'meta' / 'student.txt').read_text().splitlines()
    assert [line.split()[1] for line in lines] == ['0'] * 3 + ['1'] * 3
    assert ClassMap(str(tmp_path / 'out' / 'meta' / 'classes.txt'), '').indices.tolist() == [1, 281]


@pytest.fixture
def folders(converted, tmp_path):
    """The class folders that were written, as a source with its own table."""
    root = tmp_path / 'folders'
    for split in ('train', 'val'):
        shutil.copytree(converted / split, root / split)
    shutil.copy(converted / 'meta' / 'classes.txt', root)
    return root


def test_class_folders_give_the_same(folders, converted, tmp_path):
    archive = shutil.make_archive(tmp_path / 'data', 'xztar', folders)
    done = run(tmp_path / 'out', '--source', archive, '--student', 2)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / 'out') == tree(converted)


def test_table_of_the_source_decides(folders, tmp_path):
    rows = [f'{wnid}\tname {n}\t{900 - n}\n' for n, wnid in enumerate(WNIDS)]
    (folders / 'classes.txt').write_text(''.join(reversed(rows)))
    done = run(tmp_path / 'out', '--source', folders, '--student', 2)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'out' / 'meta' / 'classes.txt').read_text() == ''.join(rows)


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--source', 'nowhere'], 'source "nowhere" does not exist'),
        (['--source', 'configs'], '"configs" has no class folders train/<wnid>'),
        (['--source', 'README.md'], '"README.md" is no tar or zip archive'),
        (['--student', '4'], '--student is 4, but the class n01443537 has only 3 training images'),
        (['--student', '0'], '`--student` must be at least 1'),
        (['--classes', '5'], '--classes is 5, but "{folders}" has only 4 classes'),
        (['--classes', '1'], '`--classes` must be at least 2'),
    ],
)
def test_bad_arguments(folders, tmp_path, flags, message):
    done = run(tmp_path / 'out', '--source', folders, '--student', 2, *flags)
    assert done.returncode != 0 and message.format(folders=folders) in done.stderr
    assert 'Traceback' not in done.stderr
    assert not list(tmp_path.glob('out*'))


def add_class(root):
    (root / 'classes.txt').unlink()
    write(root / 'train' / 'n00000000' / '1.JPEG', '')


def annotate(*rows):
    return lambda root: write(root / 'val' / 'val_annotations.txt', '\n'.join(rows))


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (add_class, 'class n00000000 of "{folders}" is not in timm\'s list'),
        (
            lambda root: write(root / 'classes.txt', 'n01443537\tgoldfish\t1\n'),
            'The class n01644900 of "{folders}" is not in classes.txt',
        ),
        (
            lambda root: write(root / 'classes.txt', 'n01443537\tgoldfish\n'),
            'classes.txt of "{folders}" needs 3 columns, separated by tabs, but has 2 in row 1',
        ),
        (
            lambda root: write(root / 'classes.txt', 'n01443537\tgoldfish\tone\n'),
            'has "one" as the index of n01443537',
        ),
        (
            lambda root: shutil.rmtree(root / 'val' / 'n01644900'),
            '"{folders}" has no images in val/n01644900',
        ),
        (annotate('val_0.JPEG'), 'needs 2 columns, separated by tabs, but has 1 in row 1'),
        (annotate('val_0.JPEG\tn01443537'), 'has no val/images/val_0.JPEG, which is listed'),
        (annotate('val_0.JPEG\tn02123045'), 'has no image of the class n01443537'),
    ],
)
def test_damaged_sources(folders, tmp_path, damage, message):
    damage(folders)
    done = run(tmp_path / 'out', '--source', folders, '--student', 1)
    assert done.returncode != 0 and message.format(folders=folders) in done.stderr
    assert 'Traceback' not in done.stderr
    assert not list(tmp_path.glob('out*'))
