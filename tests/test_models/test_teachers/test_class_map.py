# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Teachers with other classes than the student."""

import pytest
import torch

from mtkdrl_mm.models import build_pool
from mtkdrl_mm.models.teachers.class_map import check_class_names
from mtkdrl_mm.models.teachers.preprocessing import Preprocessing
from mtkdrl_mm.utils import InputError


def test_logits_of_a_larger_teacher_are_picked(make_pool, make_resnet):
    order = [6, 0, 3, 2, 5]
    pool = make_pool(
        [
            dict(make_resnet(4), name='a'),
            dict(make_resnet(4, num_classes=7), name='b', class_map=order),
        ]
    )
    inputs = torch.randn(3, 3, 32, 32)
    own = pool[1].network(inputs)
    logits = pool(inputs)[1].logits
    assert own.shape == (3, 7) and pool.spec.num_classes == 5
    for student_class, teacher_class in enumerate(order):
        assert torch.equal(logits[:, student_class], own[:, teacher_class])


def test_same_classes_in_another_order_agree_after_mapping(make_pool, make_resnet):
    order = [4, 2, 0, 1, 3]  # the student's class c is the teacher's class order[c]
    pool = make_pool([dict(make_resnet(4), name='a'), dict(make_resnet(4), name='b')])
    mapped = make_pool(
        [dict(make_resnet(4), name='a'), dict(make_resnet(4), name='b', class_map=order)]
    )
    for part in ('weight', 'bias'):
        rows = getattr(pool[1].network.head.fc, part)
        getattr(mapped[1].network.head.fc, part)[torch.tensor(order)] = rows
    inputs = torch.randn(3, 3, 32, 32)
    expected, actual = pool(inputs)[1], mapped(inputs)[1]
    torch.testing.assert_close(actual.logits, expected.logits)
    assert torch.equal(actual.embedding, expected.embedding)


def test_config_files_number_of_classes_is_kept(make_pool, tmp_path, make_resnet):
    (tmp_path / 'big.py').write_text(f'model = {make_resnet(4, num_classes=9)!r}\n')
    entry = dict(cfg_path=str(tmp_path / 'big.py'))
    teachers = [dict(entry, class_map=[8, 1, 0]), dict(entry, name='b')]
    pool = make_pool(teachers, num_classes=3)
    assert [network.head.fc.out_features for network in [t.network for t in pool]] == [9, 3]
    assert pool.spec.num_classes == 3


def test_map_follows_the_pool(make_pool, make_resnet):
    pool = make_pool([dict(make_resnet(4), class_map=[1, 0])]).double()
    assert pool[0].class_map.indices.dtype == torch.long
    assert pool(torch.zeros(1, 3, 32, 32).double())[0].logits.shape == (1, 2)


@pytest.mark.parametrize(
    ('class_map', 'message'),
    [
        ([0, 1, 2], r'`class_map` of teacher "t" has 3 entries, but the student has 5 classes'),
        (
            [0, 1, 2, 3, 7],
            r'"t" has the class 7 in entry 4, but the teacher has 7 classes \(0 to',
        ),
        ([0, 1, 2, 3, 1], r'contains class 1 of the teacher twice: entries 1 and 4'),
        ([0, 1, -2, 3, 4], r'must hold class indices .* but entry 2 is -2'),
        ([0, 1, 'cat', 3, 4], r"must hold class indices .* but entry 2 is 'cat'"),
        (3, r'must be a list that gives, for every student class.* is 3'),
        ([], r'must be a list'),
    ],
)
def test_bad_maps(make_resnet, class_map, message):
    teacher = dict(make_resnet(4, num_classes=7), name='t', class_map=class_map)
    with pytest.raises(InputError, match=message):
        build_pool([teacher], Preprocessing(), student_classes=5)


@pytest.mark.parametrize('text', ['3\n0\n6\n', '\ufeffn01\ttailed frog\t3\r\n\r\nn02 0\r\n6'])
def test_map_from_a_file(make_pool, make_resnet, tmp_path, text):
    path = tmp_path / 'classes.txt'
    path.write_bytes(text.encode())
    pool = make_pool([dict(make_resnet(4, num_classes=7), class_map=str(path))])
    assert pool[0].class_map.indices.tolist() == [3, 0, 6]


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, r'"t", "\S+map.txt", cannot be read: No such file'),
        (b'', r'"t", "\S+map.txt", has no line'),
        (b'cat 3\ndog -1\n', r'line 2 ends in "-1"'),
        (b'3 cat\n', r'line 1 ends in "cat"'),
        ('cat \u00b2'.encode(), r'line 1 ends in "\u00b2"'),  # int() refuses what isdigit() takes
        (b'\xff\xfe3', r'is no text file'),
        (b'a 1\nb 1\n', r'class 1 of the teacher twice: entries 0 and 1'),
        (b'a 1\nb 7\n', r'class 7 in entry 1, but the teacher has 7 classes'),
        (b'a 1\n', r'has 1 entries, but the student has 2 classes'),
    ],
)
def test_bad_files(make_resnet, tmp_path, content, message):
    path = tmp_path / 'map.txt'
    if content is not None:
        path.write_bytes(content)
    teacher = dict(make_resnet(4, num_classes=7), name='t', class_map=str(path))
    with pytest.raises(InputError, match=message):
        build_pool([teacher], Preprocessing(), student_classes=2)


@pytest.mark.parametrize(
    ('text', 'wrong'),
    [
        ('circle 2\nsquare 0\ntriangle 4\n', None),
        ('n1\tcircle\t2\nn2\tsquare\t0\n\nn3\ttriangle\t4\n', None),
        ('triangle 4\nsquare 0\ncircle 2\n', '"circle" is class 0 of the data and in line 3'),
        ('circle 2\ntriangle 0\nsquare 4\n', '"square" is class 1 of the data and in line 3'),
        # Names of another kind say nothing, and neither do some of the names.
        ('a 4\nb 0\nc 2\n', None),
        ('triangle 4\nb 0\ncircle 2\n', None),
        ('4\n0\n2\n', None),
    ],
)
def test_names_of_the_datas_classes_are_in_their_order(tmp_path, text, wrong):
    path = tmp_path / 'map.txt'
    path.write_text(text)
    classes = ('circle', 'square', 'triangle')
    if wrong is None:
        check_class_names(str(path), 'teacher "t"', classes)
        return
    with pytest.raises(InputError, match=f'^The `class_map` of teacher "t", .* but {wrong} of the'):
        check_class_names(str(path), 'teacher "t"', classes)


def test_distiller_knows_the_students_classes(make_distiller, make_resnet):
    larger = make_resnet(4, num_classes=7)
    with pytest.raises(InputError, match='"t" has 4 entries, but the student has 5 classes'):
        make_distiller([dict(larger, name='t', class_map=[0, 1, 2, 3])])
    with pytest.raises(InputError, match=r'teachers have 7.*`class_map`'):
        make_distiller([dict(larger, name='t')])
    distiller = make_distiller([dict(larger, name='t', class_map=[6, 5, 4, 3, 2])])
    assert distiller.teachers.spec.num_classes == 5


@pytest.fixture
def named(make_resnet, make_classifier, tmp_path):
    """Function that loads a teacher "b" whose file names its classes."""

    def load(classes, class_map=None, **settings):
        network = make_resnet(4, num_classes=len(classes) if classes else 3)
        contents = dict(state_dict=make_classifier(network).state_dict())
        if classes is not None:
            contents['meta'] = dict(dataset_meta=dict(classes=classes))
        torch.save(contents, tmp_path / 'b.pth')
        teacher = dict(network, name='b', checkpoint=str(tmp_path / 'b.pth'), **settings)
        pool = build_pool(
            [teacher if class_map is None else dict(teacher, class_map=class_map)],
            student_preprocessing=Preprocessing(),
        )
        pool.load_weights()
        return pool

    return load


@pytest.mark.parametrize(
    ('classes', 'class_map'),
    [
        (None, None),
        (('cat', 'dog', 'fox'), None),
        (('tabby', 'poodle', 'fox'), None),  # other names
        (('fox', 'elk', 'cat', 'dog'), [2, 3, 0]),
        (('dog', 'cat', 'fox', 'cat'), [3, 0, 2]),  # two classes of one name
    ],
)
def test_classes_that_are_those_of_the_data(named, classes, class_map):
    named(classes, class_map).check_classes(['cat', 'dog', 'fox'])


@pytest.mark.parametrize(
    ('classes', 'class_map', 'message'),
    [
        (
            ('cat', 'fox', 'dog'),
            None,
            'class 1 of the data is "dog", which is class 2 in "{}", but class 1 of the teacher '
            'would be taken for it. Give the teacher `class_map=[0, 2, 1]`, or if',
        ),
        (('dog', 'wolf', 'fox'), None, 'is class 0 in .* taken for it. Give the teacher a `cl'),
        (('fox', 'elk', 'cat', 'dog'), [3, 2, 0], 'class 0 .* is class 2 .* Correct the `class_m'),
    ],
)
def test_classes_in_another_order_than_the_datas(named, tmp_path, classes, class_map, message):
    """The accuracy would not tell, if only some of many are exchanged."""
    message = message.replace('[0, 2, 1]', r'\[0, 2, 1\]').format(tmp_path / 'b.pth')
    with pytest.raises(InputError, match=message):
        named(classes, class_map).check_classes(['cat', 'dog', 'fox'])
    named(classes, class_map, check_classes=False).check_classes(['cat', 'dog', 'fox'])


def test_whether_names_are_checked_is_true_or_false(named):
    with pytest.raises(InputError, match='`check_classes` of teacher "b" must be True or False'):
        named(None, check_classes='off')
