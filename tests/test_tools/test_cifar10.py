# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A sample of CIFAR-10 with lists of right and wrong labels."""

import os
import subprocess
import tarfile

import numpy as np
import pytest
from PIL import Image
from warm_python import tool_python

pytestmark = pytest.mark.slow

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CLASSES = 'airplane automobile bird cat deer dog frog horse ship truck'.split()


def run(*arguments):
    tool = 'tools/dataset_converters/cifar10.py'
    return subprocess.run(
        [tool_python(), tool, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp('cifar')
    for split, count in (('train', 30), ('test', 5)):
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(np.full((2, 2, 3), 20 * label + number, np.uint8))
                image.save(folder / split / name / f'{number:04d}.png')
    return folder


def read(out, name):
    rows = [line.split() for line in (out / 'meta' / f'{name}.txt').read_text().splitlines()]
    return {path: int(label) for path, label in rows}


SIZES = ['--train', 20, '--student', 8, '--val', 4]


@pytest.fixture(scope='module')
def sample(source, tmp_path_factory):
    out = tmp_path_factory.mktemp('sample') / 'out'
    done = run(out, '--source', source, *SIZES)
    assert done.returncode == 0, done.stderr
    return out


def test_lists_and_files(source, sample):
    lists = {name: read(sample, name) for name in ('train', 'student', 'val', 'train_noisy')}
    assert {name: len(rows) for name, rows in lists.items()} == dict(
        train=200, student=80, val=40, train_noisy=200
    )
    for name, folder in (('train', 'train'), ('val', 'val')):
        for path, label in lists[name].items():
            assert path.split('/')[0] == CLASSES[label]
            original = source / ('test' if name == 'val' else 'train') / path
            assert (sample / folder / path).read_bytes() == original.read_bytes()
    assert lists['student'].items() <= lists['train'].items()
    assert list(lists['student'].values()).count(3) == 8


def test_two_fifths_of_the_noisy_labels_are_wrong(sample):
    right, noisy = read(sample, 'train'), read(sample, 'train_noisy')
    assert right.keys() == noisy.keys()
    wrong = [noisy[path] for path in right if noisy[path] != right[path]]
    assert len(wrong) / len(right) == pytest.approx(0.4, abs=0.1)
    assert set(wrong) == set(range(10))


def test_an_archive_gives_the_same_and_another_seed_another_sample(source, sample, tmp_path):
    with tarfile.open(tmp_path / 'cifar.tar.xz', 'w:xz') as archive:
        for split in ('train', 'test'):
            archive.add(source / split, arcname=f'cifar10/{split}')
    assert run(tmp_path / 'a', '--source', tmp_path / 'cifar.tar.xz', *SIZES).returncode == 0
    assert run(tmp_path / 'b', '--source', source, *SIZES, '--seed', 1).returncode == 0
    assert read(tmp_path / 'a', 'train_noisy') == read(sample, 'train_noisy')
    assert read(tmp_path / 'b', 'train').keys() != read(sample, 'train').keys()


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--source', 'nowhere'], 'source "nowhere" does not exist'),
        (['--source', 'configs'], 'has no folder train/airplane'),
        (['--source', 'README.md'], '"README.md" is no tar or zip archive'),
        (
            ['--source', '{source}', '--train', '31', '--student', '5'],
            'The sample needs 31 images of',
        ),
        (['--source', '{source}', '--train', '5', '--student', '6'], 'must not exceed --train (5)'),
        (['--source', '{source}', '--noise', '1.5'], '`--noise` must be at least 0 and at most 1'),
    ],
)
def test_bad_input_is_one_sentence(source, tmp_path, flags, message):
    done = run(tmp_path / 'out', *(flag.format(source=source) for flag in flags))
    assert done.returncode != 0
    assert message in done.stderr and 'Traceback' not in done.stderr
    assert not (tmp_path / 'out').exists()


def test_what_exists_is_not_overwritten(source, sample):
    done = run(sample, '--source', source, *SIZES)
    assert done.returncode != 0 and 'exists. Remove it' in done.stderr
