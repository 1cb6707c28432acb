# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Manifests: kept exactly, compared by what matters, and never read half."""

import json
import random
import re

import pytest

from mtkdrl_mm.openmmlab import installed_distributions
from mtkdrl_mm.teacher_outputs import Manifest, TensorSpec, inputs_manifest, library_versions
from mtkdrl_mm.utils import InputError

from .stores import DATASET, TENSORS, VIEWS, changed, manifest


def test_read_returns_what_was_written(tmp_path):
    for number, written in enumerate(
        [
            manifest(basis_sha256='ab'),
            changed(
                manifest(),
                teacher__class_map={2: (1, 0)},  # JSON has neither tuples nor such keys
                teacher__input_size=None,
                views__blends=dict(mixup=0.2),
            ),
            inputs_manifest(DATASET, VIEWS, 4),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert written.write(str(folder))
        read = Manifest.read(str(folder))
        assert read == written
        assert read.identity == written.identity


def test_the_first_manifest_stays(tmp_path):
    assert manifest().write(str(tmp_path))
    assert not manifest('b').write(str(tmp_path))
    assert Manifest.read(str(tmp_path)).teacher.name == 'a'
    assert [path.name for path in tmp_path.iterdir()] == ['manifest.json']


def test_a_manifest_that_may_be_missing(tmp_path):
    assert Manifest.find(str(tmp_path)) is None
    assert Manifest.find(str(tmp_path / 'missing')) is None
    manifest().write(str(tmp_path))
    assert Manifest.find(str(tmp_path)) == manifest()
    (tmp_path / 'manifest.json').write_text('{}')
    with pytest.raises(InputError, match='is no manifest of stored teacher outputs'):
        Manifest.find(str(tmp_path))


def test_numbers():
    of = manifest()
    assert of.num_parts == 3
    assert [list(of.samples(part)) for part in (0, 2)] == [[0, 1, 2, 3], [8, 9]]
    assert of.row_bytes == 3 * 2 + 5 * 4 + 8 * 2
    with pytest.raises(InputError, match='has no part 3, but 0 to 2'):
        of.samples(3)


AGAIN = (
    'Use the same, or store this teacher again: under another name, or after removing that folder.'
)
SAME = 'Use the same, or another folder for the store.'


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        (
            dict(teacher__weights_sha256='77' * 32, teacher__input_size=None),
            f'version of the weights (sha256): 5e5e5e5e5e5e there, 777777777777 here. {AGAIN}',
        ),
        (dict(teacher__name='b'), f'teacher: a there, b here. {AGAIN}'),
        (dict(teacher__class_map=[1, 0, 2]), f'class map: None there, [1, 0, 2] here. {AGAIN}'),
        (
            dict(teacher__preprocessing=dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=False)),
            f'preprocessing (`mean`): [1.0, 2.0, 3.0] there, [1, 2, 3] here. {AGAIN}',
        ),
        (
            dict(teacher__preprocessing=dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])),
            f'preprocessing (`to_rgb`): True there, none here. {AGAIN}',
        ),
        (
            dict(teacher__input_size=(64, 32)),
            f'input size: [32, 32] there, [64, 32] here. {AGAIN}',
        ),
        (
            dict(teacher__config=dict(backbone=dict(type='ResNet', depth=101))),
            f'network config (`backbone.depth`): 50 there, 101 here. {AGAIN}',
        ),
        (dict(dataset__num_samples=11), f'number of samples: 10 there, 11 here. {SAME}'),
        (
            dict(dataset__fingerprint='00' * 32),
            'data set (files, labels or order): 3f3f3f3f3f3f there, 000000000000 here. ' + SAME,
        ),
        (
            dict(views__pipeline='00' * 32),
            f'data pipeline: 9c9c9c9c9c9c there, 000000000000 here. {SAME}',
        ),
        (dict(views__scheme=2), f'version of the seed scheme: 1 there, 2 here. {SAME}'),
        (dict(views__seed=5), f'augmentation seed: 0 there, 5 here. {SAME}'),
        (dict(views__num_views=4), f'number of views: 2 there, 4 here. {SAME}'),
        (
            dict(views__blends=dict(mixup=0.2)),
            f"setting of blends: None there, {{'mixup': 0.2}} here. {SAME}",
        ),
    ],
)
def test_the_first_difference_is_named(changes, sentence):
    here = changed(manifest(), **changes)
    start = '"store/a" was stored for teacher "a" with another '
    with pytest.raises(InputError, match='^' + re.escape(start + sentence) + '$'):
        manifest().check(here, 'store/a')


def test_a_long_list_names_the_entry():
    here = changed(manifest(), teacher__class_map=[*range(500), 7, *range(501, 1000)])
    stored = changed(manifest(), teacher__class_map=list(range(1000)))
    with pytest.raises(InputError, match=r'class map \(entry 500\): 500 there, 7 here'):
        stored.check(here, 'store/a')


def test_teacher_and_inputs_differ():
    with pytest.raises(InputError, match='kind of contents: teacher "a" there, the inputs here'):
        manifest().check(inputs_manifest(DATASET, VIEWS, 4), 'store/a')


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        (
            dict(tensors=(TensorSpec('logits', (3,), 'float32'), *TENSORS[1:])),
            "choice of tensors (`logits`): [3, 'float16'] there, [3, 'float32'] here",
        ),
        (dict(part_size=5), 'part size: 4 there, 5 here'),
        (dict(basis_sha256='ab'), 'basis of the maps: None there, ab here'),
    ],
)
def test_the_form_of_the_contents_matters_to_writers_only(changes, sentence):
    here = changed(manifest(), **changes)
    assert manifest().check(here, 'store/a') == []
    with pytest.raises(InputError, match=re.escape(sentence)):
        manifest().check(here, 'store/a', writing=True)


def test_other_libraries_only_warn():
    here = manifest(libraries=dict(torch='2.11.0', pillow='13.0.0'))
    assert manifest().check(here, 'store/a', writing=True) == [
        '"store/a" was stored with pillow (not installed); here it is 13.0.0.',
        '"store/a" was stored with torch 2.1.2; here it is 2.11.0.',
    ]
    assert manifest().identity == here.identity


def test_libraries_of_this_environment():
    import torch

    assert library_versions()['torch'] == torch.__version__.split('+')[0]
    names = {one.name for one in installed_distributions('mmpretrain')}
    assert names and {'numpy', 'pillow', *names} <= set(library_versions())


def test_the_identity_depends_on_all_that_parts_depend_on():
    changes = [
        dict(teacher__weights_sha256='77'),
        dict(teacher__class_map=[1]),
        dict(dataset__fingerprint='00'),
        dict(views__seed=1),
        dict(views__pipeline='00'),
        dict(part_size=5),
        dict(basis_sha256='ab'),
        dict(tensors=TENSORS[:2]),
    ]
    identities = {changed(manifest(), **each).identity for each in [{}, *changes]}
    assert len(identities) == len(changes) + 1


def test_the_digest_for_reading_depends_on_what_is_read():
    """Not on what changes rounding errors, or where a part ends."""
    same = [
        dict(part_size=5),
        dict(basis_sha256='ab'),
        dict(libraries=dict(torch='2.11.0')),
        dict(views__num_views=8),  # of which two are read
        dict(teacher__inference=dict(mode=dict(channels_last=True))),
        dict(teacher__checkpoint='other.pth'),
    ]
    digests = {changed(manifest(), **each).digest_for_reading(2) for each in [{}, *same]}
    assert len(digests) == 1
    others = [
        dict(teacher__weights_sha256='77'),
        dict(teacher__class_map=[1]),
        dict(dataset__fingerprint='00'),
        dict(views__seed=1),
        dict(views__pipeline='00'),
        dict(tensors=TENSORS[:2]),
    ]
    digests.update(changed(manifest(), **each).digest_for_reading(2) for each in others)
    digests.add(manifest().digest_for_reading(1))
    assert len(digests) == len(others) + 2
    assert inputs_manifest(DATASET, VIEWS, 4).digest_for_reading(2) not in digests


def test_another_format_version(tmp_path):
    manifest().write(str(tmp_path))
    path = tmp_path / 'manifest.json'
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(InputError) as error:
        Manifest.read(str(tmp_path))
    assert str(error.value) == (
        f'"{path}" has version 2 of the format, and this version of mtkdrl_mm reads version 1. Use '
        'the version of mtkdrl_mm that wrote it, or store the outputs again in another folder.'
    )


def test_a_manifest_changed_by_hand(tmp_path):
    manifest().write(str(tmp_path))
    path = tmp_path / 'manifest.json'
    path.write_text(path.read_text().replace('"num_samples": 10', '"num_samples": 9'))
    with pytest.raises(InputError) as error:
        Manifest.read(str(tmp_path))
    assert str(error.value) == (
        f'"{path}" was changed after it was written: its contents do not have its checksum. '
        'Restore it, or remove it and repeat the run that wrote it.'
    )


def test_damage_never_passes(tmp_path):
    manifest().write(str(tmp_path))
    path = tmp_path / 'manifest.json'
    whole = path.read_bytes()
    drawn = random.Random(0)
    for _ in range(200):
        damaged = bytearray(whole[: drawn.randrange(len(whole) - 2)])
        if drawn.random() < 0.7:
            damaged = bytearray(whole)
            damaged[drawn.randrange(len(whole))] ^= 1 << drawn.randrange(8)
        path.write_bytes(damaged)
        try:
            read = Manifest.read(str(tmp_path))
        except InputError as error:
            assert str(path) in str(error)
        else:
            assert read == manifest()  # white space
    path.write_bytes(whole)
    assert Manifest.read(str(tmp_path)) == manifest()


def test_what_is_no_manifest(tmp_path):
    with pytest.raises(InputError, match=r'does not exist: ".*" holds no stored outputs'):
        Manifest.read(str(tmp_path))
    (tmp_path / 'manifest.json').write_text(json.dumps(dict(a=1)))
    with pytest.raises(InputError, match='is no manifest of stored teacher outputs'):
        Manifest.read(str(tmp_path))


@pytest.mark.parametrize(
    ('build', 'sentence'),
    [
        (lambda: manifest(part_size=0), '`part_size` of teacher "a" must be a positive integer'),
        (lambda: changed(manifest(), views__num_views=True), '`num_views` of teacher "a" must be'),
        (lambda: manifest(tensors=()), 'tensors of teacher "a" need different names, but are []'),
        (lambda: manifest(tensors=TENSORS[:1] * 2), "but are ['logits', 'logits']"),
        (lambda: TensorSpec('x', (2, 0), 'float16'), 'positive sides, but is (2, 0)'),
        (lambda: TensorSpec('x', (2,), 'int8'), "float16, float32, uint32, but is 'int8'"),
        (lambda: TensorSpec('', (2,), 'float16'), "cannot have the name ''"),
        (
            lambda: changed(manifest(), teacher__config=dict(a=object())),
            '`config` of teacher "a" must be plain data, but is not: Object of type object',
        ),
        (
            lambda: changed(manifest(), views__blends=float('nan')),
            '`blends` of the views must be plain data',
        ),
    ],
)
def test_values_that_make_no_sense(build, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        build()
