# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The digits as image files, and their lists of labels."""

import importlib.util
from pathlib import Path

import pytest

from mtkdrl_mm.utils import InputError

TOOL = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'digits.py'


@pytest.fixture(scope='module')
def tool():
    """The tool, as a module."""
    pytest.importorskip('sklearn')
    spec = importlib.util.spec_from_file_location('digits', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def folder(tool, tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'digits'
    tool.write_digits(str(out))
    return out


def read(folder, name):
    """A list of labels, by image."""
    lines = (folder / 'meta' / f'{name}.txt').read_text().splitlines()
    return {image: int(label) for image, label in map(str.split, lines)}


def right(image):
    """The digit that an image shows: the name of its folder."""
    return int(image.split('/')[0])


def test_no_image_is_in_two_parts(folder):
    student, held_out = read(folder, 'student'), read(folder, 'held_out')
    images = {str(path.relative_to(folder / 'train')) for path in folder.glob('train/*/*.png')}
    assert (len(student), len(held_out), len(images)) == (300, 50, 350)
    assert student.keys() | held_out.keys() == images == read(folder, 'train_noisy').keys()
    for name in ('train', 'confused_3_8_5_6', 'confused_1_7_4_9'):
        assert read(folder, name).keys() == student.keys()
    assert len(list(folder.glob('val/*/*.png'))) == 1447
    assert read(folder, 'student_and_held_out') == {**student, **held_out}
    # Every digit is held out about as often.
    counts = [sum(right(image) == digit for image in held_out) for digit in range(10)]
    assert 4 <= min(counts) and max(counts) <= 6


def test_labels(folder):
    for name in ('train', 'held_out'):
        assert all(label == right(image) for image, label in read(folder, name).items())
    swapped = {3: 8, 8: 3, 5: 6, 6: 5}, {1: 7, 7: 1, 4: 9, 9: 4}
    for name, other in zip(('confused_3_8_5_6', 'confused_1_7_4_9'), swapped):
        for image, label in read(folder, name).items():
            assert label == other.get(right(image), right(image))
    student, noisy = read(folder, 'student'), read(folder, 'train_noisy')
    assert student.items() <= noisy.items()
    wrong = [label for image, label in student.items() if label != right(image)]
    # 40 % of 300, within two standard deviations, and of all digits.
    assert abs(len(wrong) - 0.4 * 300) < 2 * (0.24 * 300) ** 0.5 and set(wrong) == set(range(10))


def test_another_share_replaces_the_data(tool, tmp_path):
    out = tmp_path / 'digits'
    tool.write_digits(str(out), noise=0.0)
    assert read(out, 'student') == read(out, 'train')
    before = (out / 'meta' / 'student.txt').stat().st_mtime_ns
    tool.write_digits(str(out), noise=0.0)
    assert (out / 'meta' / 'student.txt').stat().st_mtime_ns == before
    tool.write_digits(str(out), noise=1.0)
    assert all(label != right(image) for image, label in read(out, 'student').items())


def test_another_folder_is_not_removed(tool, tmp_path):
    # As the sample of CIFAR-10.
    for name in ('train/airplane/1.png', 'meta/train_noisy.txt'):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text('')
    with pytest.raises(InputError, match='holds something else than digits'):
        tool.write_digits(str(tmp_path))
    assert (tmp_path / 'train/airplane/1.png').exists()
