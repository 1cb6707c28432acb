# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Which folder means which label."""

import pytest

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.class_names import (
    find_class_folders,
    order_class_folders,
    read_class_names,
)


def test_names_in_configs(tmp_path):
    path = tmp_path / 'classes.txt'
    path.write_bytes('\ufeffhot dog\r\n\nfox\n'.encode())
    assert read_class_names('classes', str(path)) == ['hot dog', 'fox']
    assert read_class_names('classes', ('cat', 2)) == ['cat', '2']
    assert read_class_names('classes', 'road', single=True) == ['road']
    with pytest.raises(InputError) as error:
        read_class_names('metainfo.classes', 'road')
    assert str(error.value) == (
        'metainfo.classes is the text "road", and no file of this name exists. Write a list of '
        'names, also of a single one: ["road"]'
    )
    with pytest.raises(InputError, match=r'^metainfo\.classes is 3, but must be the names of the'):
        read_class_names('metainfo.classes', 3, single=True)


def test_hidden_folders_are_no_classes(tmp_path):
    for name in ('fox', '.ipynb_checkpoints', '.git', '__MACOSX', '@eaDir', 'cat', '.cat'):
        (tmp_path / name).mkdir()
    (tmp_path / 'list.txt').touch()
    assert find_class_folders(str(tmp_path)) == ['cat', 'fox']
    assert find_class_folders(str(tmp_path), keep=['.git']) == ['.git', 'cat', 'fox']


@pytest.mark.parametrize(
    ('classes', 'expected'),
    [
        (None, ['cat', 'dog', 'fox']),
        (['fox', 'cat', 'dog'], ['fox', 'cat', 'dog']),
        (['emu', 'fox', 'cat', 'dog'], ['emu', 'fox', 'cat', 'dog']),
        (['Katze', 'Hund', 'Fuchs'], ['cat', 'dog', 'fox']),
    ],
)
def test_folders_in_the_order_of_the_labels(classes, expected):
    assert order_class_folders(['cat', 'dog', 'fox'], classes, 'x') == expected


@pytest.mark.parametrize(
    ('classes', 'unknown'),
    [
        (['cat', 'dog', 'wolf'], 'fox'),
        (['Fox', 'Cat', 'Dog'], 'cat, dog, fox'),
        (['Katze', 'Hund'], 'cat, dog, fox'),
    ],
)
def test_folders_that_do_not_fit_the_names(classes, unknown):
    with pytest.raises(InputError) as error:
        order_class_folders(['cat', 'dog', 'fox'], classes, '"train"')
    assert str(error.value) == (
        f'"train" holds the class folders cat, dog, fox, but the classes are {", ".join(classes)}: '
        f'there is no class {unknown}. Name all folders in `metainfo.classes` of the training set, '
        'rename the folders, or move away those that are no class.'
    )
