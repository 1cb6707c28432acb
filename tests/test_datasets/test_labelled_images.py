# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Lists of images in the forms that people write."""

import pytest

from mtkdrl_mm.datasets import LabelledImageDataset
from mtkdrl_mm.datasets.labelled_images import is_plain_list
from mtkdrl_mm.utils import InputError

CLASSES = ('cat', 'traffic light', 'fox')


def read(path, content, classes=CLASSES):
    file = path / 'list.txt'
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    dataset = LabelledImageDataset(
        data_root=str(path), ann_file='list.txt', metainfo=dict(classes=classes), pipeline=[]
    )
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [(info['img_path'].removeprefix(f'{path}/'), info['gt_label']) for info in infos]


@pytest.mark.parametrize(
    ('content', 'plain'),
    [
        ('a/1.png 0\nb c/2 3.JPG 2\n', True),
        ('a/1.png 0\r\nb c/2 3.JPG 2\r\n', True),
        ('a/1.png\t0\nb c/2 3.JPG\t2\n', False),
        ('a/1.png,0\nb c/2 3.JPG, 2\n', False),
        ('"a/1.png";0\n"b c/2 3.JPG";"2"', False),
        ('\ufeffa/1.png 0\nb c/2 3.JPG 2', False),
        ('a/1.png  0\n\nb c/2 3.JPG   2 \n\n', False),
        ('a/1.png cat\nb c/2 3.JPG fox', False),
    ],
)
def test_lists(tmp_path, content, plain):
    assert read(tmp_path, content) == [('a/1.png', 0), ('b c/2 3.JPG', 2)]
    assert is_plain_list(str(tmp_path / 'list.txt')) is plain


def test_names_of_classes_with_blanks_and_files_without_ending(tmp_path):
    assert read(tmp_path, 'a b.png traffic light') == [('a b.png', 1)]
    assert read(tmp_path, 'ILSVRC2012_val_00000001 2') == [('ILSVRC2012_val_00000001', 2)]


@pytest.mark.parametrize(
    'line', ['name,label', 'a.png', 'a.png 1.0', 'a.png 1,2', 'a.png wolf', 'a.png 0 1']
)
def test_lines_that_cannot_be_read(tmp_path, line):
    with pytest.raises(InputError) as error:
        read(tmp_path, f'a.png 0\n{line}\n')
    assert str(error.value) == (
        f'Line 2 of the list "{tmp_path}/list.txt" cannot be read: {line!r}. Every line must be '
        'the name of an image, a blank, tab or comma, and its label, a number from 0 or one of '
        'cat, traffic light, fox.'
    )


def test_lists_that_are_no_text_or_empty(tmp_path):
    with pytest.raises(InputError, match=r'list\.txt" is no text in UTF-8 .*at byte 1'):
        read(tmp_path, b'a\xff\xfe\n')
    with pytest.raises(InputError, match=r'list\.txt" names no image'):
        read(tmp_path, '\n\n')


def test_folders_by_name(tmp_path):
    for name in ('fox', 'cat', '.hidden', 'cat/.ipynb_checkpoints', 'cat/more'):
        (tmp_path / name).mkdir()
        (tmp_path / name / '1.png').touch()
    dataset = LabelledImageDataset(
        data_root=str(tmp_path), class_folders=['fox', 'dog', 'cat'], pipeline=[]
    )
    assert dataset.get_gt_labels().tolist() == [2, 2, 0]
    assert dataset.metainfo['classes'] == ('fox', 'dog', 'cat')
    with pytest.raises(InputError, match='holds the folders cat, which are none of the 2 classes'):
        LabelledImageDataset(data_root=str(tmp_path), class_folders=['fox', 'dog'], pipeline=[])
    with pytest.raises(InputError, match=r'names no image in its class folders that ends in \.b'):
        LabelledImageDataset(data_root=str(tmp_path), extensions=['.bmp'], pipeline=[])
