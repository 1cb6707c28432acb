# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A sample of CIFAR-10 with lists of right and wrong labels."""

import os
import subprocess
import tarfile
import zlib

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


# All 30 training images of a class, no more.
SIZES = ['--train', 20, '--student', 8, '--held-out', 6, '--select', 4, '--val', 4]


@pytest.fixture(scope='module')
def sample(source, tmp_path_factory):
    out = tmp_path_factory.mktemp('sample') / 'out'
    done = run(out, '--source', source, *SIZES)
    assert done.returncode == 0, done.stderr
    return out


LISTS = {
    'train': 200,
    'train_noisy': 200,
    'specialist_a': 5 * 20 + 5,
    'specialist_b': 5 * 20 + 5,
    'coarse_animals': 200,
    'coarse_vehicles': 200,
    'student': 80,
    'student_noisy': 80,
    'student_and_held_out': 140,
    'student_noisy_and_held_out': 140,
    'held_out': 60,
    'select': 40,
    'val': 40,
}


def test_lists_and_files(source, sample):
    files = {file.stem for file in (sample / 'meta').iterdir()}
    lists = {name: read(sample, name) for name in files}
    assert {name: len(rows) for name, rows in lists.items()} == LISTS
    for name, rows in lists.items():
        split = 'test' if name == 'val' else 'train'
        for path, label in rows.items():
            if 'noisy' not in name and 'coarse' not in name:
                assert path.split('/')[0] == CLASSES[label]
            original = source / split / path
            copy = sample / ('val' if name == 'val' else 'train') / path
            assert copy.read_bytes() == original.read_bytes()
    assert lists['student'].items() <= lists['train'].items()
    for name in ('student', 'held_out', 'select'):
        assert set(np.bincount(list(lists[name].values()))) == {LISTS[name] // 10}


def test_coarse_labels(sample):
    right = read(sample, 'train')
    for name, pairs in (('animals', {3: 5, 4: 7}), ('vehicles', {0: 8, 1: 9})):
        coarse = read(sample, f'coarse_{name}')
        assert list(coarse) == list(right)
        assert all(coarse[path] == pairs.get(label, label) for path, label in right.items())
        assert len(set(coarse.values())) == 8


def test_no_image_is_in_two_of_the_parts(sample):
    parts = [read(sample, name).keys() for name in ('train', 'held_out', 'select')]
    assert len(set().union(*parts)) == sum(map(len, parts)) == 300
    copied = {str(file.relative_to(sample / 'train')) for file in sample.glob('train/*/*')}
    assert copied == set().union(*parts)


def test_further_lists_leave_those_of_older_samples_as_they_are(sample):
    """Checksums of the files as they were when these four were all."""
    found = {
        name: zlib.crc32((sample / 'meta' / f'{name}.txt').read_bytes())
        for name in ('train', 'train_noisy', 'student', 'val')
    }
    assert found == dict(train=2819027898, train_noisy=134405196, student=1252725853, val=406809253)


@pytest.mark.parametrize(('name', 'tolerance'), [('train', 0.1), ('student', 0.15)])
def test_two_fifths_of_the_noisy_labels_are_wrong(sample, name, tolerance):
    right, noisy = read(sample, name), read(sample, f'{name}_noisy')
    assert list(right) == list(noisy)
    wrong = [noisy[path] for path in right if noisy[path] != right[path]]
    assert len(wrong) / len(right) == pytest.approx(0.4, abs=tolerance)
    assert set(wrong) == set(range(10))


def test_sizes_of_other_lists_change_neither_student_nor_its_noise(source, sample, tmp_path):
    sizes = ['--train', 21, '--student', 8, '--held-out', 0, '--select', 9, '--val', 4]
    assert run(tmp_path / 'out', '--source', source, *sizes).returncode == 0
    for name in ('student', 'student_noisy', 'val'):
        assert read(tmp_path / 'out', name) == read(sample, name)
    # The images are handed out in the same order.
    assert read(tmp_path / 'out', 'train').keys() > read(sample, 'train').keys()
    assert read(tmp_path / 'out', 'select').keys() > read(sample, 'select').keys()
    assert not (tmp_path / 'out' / 'meta' / 'held_out.txt').exists()
    # Specialists get the first of the 21 images and the 21st of a class outside their own.
    train = list(read(tmp_path / 'out', 'train').items())
    classes = [train[21 * label : 21 * label + 21] for label in range(10)]
    for name, own in (('specialist_a', range(5)), ('specialist_b', range(5, 10))):
        expected = [
            row
            for label, rows in enumerate(classes)
            for row in (rows if label in own else [rows[0], rows[20]])
        ]
        assert list(read(tmp_path / 'out', name).items()) == expected


def test_an_archive_gives_the_same_and_another_seed_another_sample(source, sample, tmp_path):
    with tarfile.open(tmp_path / 'cifar.tar.xz', 'w:xz') as archive:
        for split in ('train', 'test'):
            archive.add(source / split, arcname=f'cifar10/{split}')
    assert run(tmp_path / 'a', '--source', tmp_path / 'cifar.tar.xz', *SIZES).returncode == 0
    assert run(tmp_path / 'b', '--source', source, *SIZES, '--seed', 1).returncode == 0
    for name in LISTS:
        assert read(tmp_path / 'a', name) == read(sample, name)
        assert read(tmp_path / 'b', name) != read(sample, name)


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--source', 'nowhere'], 'source "nowhere" does not exist'),
        (['--source', 'configs'], 'has no folder train/airplane'),
        (['--source', 'README.md'], '"README.md" is no tar or zip archive'),
        (
            '--source {source} --train 20 --student 5 --held-out 6 --select 5'.split(),
            'The sample needs 31 images of train/airplane (--train 20, --held-out 6, --select 5), '
            'but "{source}" has only 30.',
        ),
        (
            '--source {source} --train 5 --student 5 --held-out 1 --select 1 --val 6'.split(),
            'The sample needs 6 images of test/airplane (--val 6), but "{source}" has only 5.',
        ),
        (['--source', '{source}', '--held-out', '-1'], '`--held-out` must be at least 0'),
        (['--source', '{source}', '--train', '5', '--student', '6'], 'must not exceed --train (5)'),
        (['--source', '{source}', '--noise', '1.5'], '`--noise` must be at least 0 and at most 1'),
    ],
)
def test_bad_input_is_one_sentence(source, tmp_path, flags, message):
    done = run(tmp_path / 'out', *(flag.format(source=source) for flag in flags))
    assert done.returncode != 0
    assert message.format(source=source) in done.stderr and 'Traceback' not in done.stderr
    assert not (tmp_path / 'out').exists()


def test_what_exists_is_not_overwritten(source, sample):
    done = run(sample, '--source', source, *SIZES)
    assert done.returncode != 0 and 'exists. Remove it' in done.stderr


def test_lists_with_the_images_of_the_agent(sample):
    held_out = read(sample, 'held_out')
    for name in ('student', 'student_noisy'):
        rows = read(sample, f'{name}_and_held_out')
        assert rows == {**read(sample, name), **held_out}
