# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What identifies a teacher, with and without its files."""

import hashlib
from dataclasses import replace

import pytest
import torch

from mtkdrl_mm.models import Preprocessing
from mtkdrl_mm.models.teachers.build_teacher import read_teacher_config
from mtkdrl_mm.models.teachers.teacher_record import complete_record, teacher_record
from mtkdrl_mm.utils import InputError

STUDENT = Preprocessing((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), True)


@pytest.fixture
def files(tmp_path):
    """A checkpoint and text embeddings."""
    for name in ('a.pth', 'texts.pt'):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    return tmp_path


@pytest.fixture
def record(files, make_resnet):
    """Function that describes a teacher."""

    def make(num_classes=None, token_maps=False, inference=None, **changes):
        entry = dict(make_resnet(4), name='t', checkpoint=str(files / 'a.pth'))
        config = read_teacher_config({**entry, **changes}, 0, num_classes)
        return teacher_record(config, STUDENT, token_maps, inference)

    return make


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_teacher_is_its_weights_network_and_preprocessing(record, files):
    found = record(inference=dict(mode='eager'))
    assert (found.name, found.checkpoint, found.class_map) == ('t', f'{files.name}/a.pth', None)
    assert found.weights_sha256 == sha256(files / 'a.pth')
    assert found.config['model']['backbone'] == dict(
        type='ResNet', depth=18, base_channels=4, stem_channels=4
    )
    assert found.preprocessing == dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=True)
    assert found.input_size is None
    assert found.inference == dict(mode='eager')


def test_no_path_is_part_of_it(record, files, tmp_path):
    moved = tmp_path / 'elsewhere'
    moved.mkdir()
    (files / 'a.pth').rename(moved / 'b.pth')
    found = record(checkpoint=str(moved / 'b.pth'))
    assert found.weights_sha256 == sha256(moved / 'b.pth')
    assert str(tmp_path) not in str(found)


def test_what_changes_outputs(record, make_resnet, make_vit):
    wide = make_resnet(6)
    others = [
        record(),
        record(name='u'),
        record(backbone=wide['backbone'], head=wide['head']),
        record(weights='raw'),
        record(token_maps=True),
        record(data_preprocessor=dict(mean=[9.0] * 3, std=[1.0] * 3)),
        record(data_preprocessor=dict(mean=[9.0] * 3, std=[1.0] * 3, to_rgb=False)),
        record(input_size=48),
        record(input_size=(48, 64)),
        record(class_map=[0, 1, 2]),
        record(class_map=[0, 2, 1]),
    ]
    assert len({str(one) for one in others}) == len(others)
    assert record(input_size=48).input_size == (48, 48)
    assert record(class_map=(4, 0)).class_map == dict(indices=[4, 0])


def test_what_changes_no_output(record, make_resnet):
    backbone = dict(make_resnet(4)['backbone'], init_cfg=dict(type='Pretrained'), with_cp=True)
    assert record(backbone=backbone, train_cfg=dict(augments=dict(type='Mixup'))) == record()


def test_number_of_classes_of_a_config_file(record, tmp_path, make_resnet):
    path = tmp_path / 'net.py'
    path.write_text(f'model = {make_resnet(4, num_classes=9)!r}\n')
    entry = dict(cfg_path=str(path), checkpoint='x.pth', name='t')
    heads = [
        teacher_record(read_teacher_config(entry, 0, count), STUDENT).config['model']['head']
        for count in (None, 7)
    ]
    assert [head['num_classes'] for head in heads] == [9, 7]


def test_networks_of_timm_record_their_own_normalisation(record):
    timm = dict(
        type='ImageClassifier',
        backbone=dict(type='mtkdrl_mm.TimmFeatures', model_name='resnet10t', pretrained=True),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=512),
    )
    found = record(**timm)
    assert found.preprocessing == dict(of='timm')
    assert 'pretrained' not in found.config['model']['backbone']
    given = record(**timm, data_preprocessor=dict(mean=[0], std=[1]))
    assert given.preprocessing == dict(of='timm', mean=[0.0], std=[1.0])
    given = record(**timm, data_preprocessor=dict(mean=[0], std=[1], to_rgb=False))
    assert given.preprocessing == dict(mean=[0.0], std=[1.0], to_rgb=False)
    assert record(data_preprocessor=dict(std=[2])).preprocessing['mean'] == list(STUDENT.mean)


def test_text_embeddings(record, files):
    zero_shot = dict(text_embeddings=str(files / 'texts.pt'), logit_scale=10)
    assert record(zero_shot=zero_shot).class_map == dict(
        indices=None,
        text_embeddings=f'{files.name}/texts.pt',
        text_sha256=sha256(files / 'texts.pt'),
        logit_scale=10.0,
    )
    both = record(zero_shot=dict(text_embeddings='gone.pt'), class_map=[3, 1]).class_map
    assert both == dict(
        indices=[3, 1], text_embeddings='gone.pt', text_sha256='', logit_scale=100.0
    )


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        (dict(checkpoint=None), 'Teacher "t" has no `checkpoint`, and random weights are of no'),
        (dict(class_map=3), 'The `class_map` of teacher "t" must be a list that gives, for'),
        (dict(class_map=[0, 0]), 'The `class_map` of teacher "t" contains class 0 of the teacher'),
        (dict(zero_shot='x.pt'), '`zero_shot` of teacher "t" must be a dict with `text_embed'),
        (
            dict(zero_shot=dict(text_embeddings='x.pt', logit_scale='big')),
            '`zero_shot.logit_scale of teacher "t"` must be a finite number, but is \'big\'.',
        ),
        (dict(input_size='big'), 'The `input_size` of teacher "t" must be a positive integer or'),
    ],
)
def test_settings_are_checked_without_a_network(record, changes, sentence):
    with pytest.raises(InputError) as error:
        record(**changes)
    assert str(error.value).startswith(sentence)


def test_addresses_are_looked_up_among_downloads(record, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    address = 'https://example.org/models/net.pth?download=1'
    assert record(checkpoint=address).weights_sha256 == ''
    assert record(checkpoint=address).checkpoint == 'models/net.pth'
    (tmp_path / 'hub' / 'checkpoints').mkdir(parents=True)
    (tmp_path / 'hub' / 'checkpoints' / 'net.pth').write_bytes(b'x')
    expected = hashlib.sha256(b'x').hexdigest()
    assert record(checkpoint=address).weights_sha256 == expected


def test_files_that_are_gone_are_known_by_name(record, files):
    zero_shot = dict(text_embeddings=str(files / 'texts.pt'))
    stored = record(zero_shot=zero_shot)
    (files / 'a.pth').unlink()
    (files / 'texts.pt').unlink()
    here = record(zero_shot=zero_shot)
    assert here.weights_sha256 == here.class_map['text_sha256'] == ''
    assert complete_record(here, stored) == stored
    # In another place as well.
    moved = f'/x/{files.name}/a.pth'
    assert complete_record(record(checkpoint=moved, zero_shot=zero_shot), stored) == stored
    # Not of another folder: every training leaves an epoch_100.pth.
    for other in (f'/x/{files.name}/b.pth', '/x/y/a.pth'):
        with pytest.raises(InputError) as error:
            complete_record(record(checkpoint=other, zero_shot=zero_shot), stored)
        assert str(error.value) == (
            f'The outputs of teacher "t" were stored with the weights of "{files.name}/a.pth", but '
            f'the config names "{other[3:]}", which is not on this machine, so that the contents '
            'cannot be compared. Name the same file, or store this teacher again.'
        )
    other = dict(text_embeddings='/x/words.pt')
    with pytest.raises(InputError, match=r'the text embeddings of ".*/texts\.pt", but .*words'):
        complete_record(record(zero_shot=other), stored)


def test_stores_of_earlier_versions_name_no_folder(record, files):
    zero_shot = dict(text_embeddings=str(files / 'texts.pt'))
    stored = record(zero_shot=zero_shot)
    names = dict(stored.class_map, text_embeddings='texts.pt')
    stored = replace(stored, checkpoint='a.pth', class_map=names)
    (files / 'a.pth').unlink()
    (files / 'texts.pt').unlink()
    here = record(checkpoint='/x/y/a.pth', zero_shot=zero_shot)
    found = complete_record(here, stored)
    assert replace(found, checkpoint='a.pth') == stored
    with pytest.raises(InputError, match=r'names "y/b\.pth"'):
        complete_record(record(checkpoint='/x/y/b.pth'), stored)


def test_files_that_are_there_count_by_their_contents(record, files):
    zero_shot = dict(text_embeddings=str(files / 'texts.pt'))
    stored = record(zero_shot=zero_shot)
    # Another name of the same contents is the same teacher.
    (files / 'texts.pt').rename(files / 'words.pt')
    renamed = record(zero_shot=dict(text_embeddings=str(files / 'words.pt')))
    assert complete_record(renamed, stored) == stored
    # Other contents of the same name are not.
    (files / 'a.pth').write_bytes(b'other')
    (files / 'texts.pt').write_bytes(b'other')
    here = complete_record(record(zero_shot=zero_shot), stored)
    assert here.weights_sha256 == here.class_map['text_sha256'] == sha256(files / 'a.pth')
    assert here.weights_sha256 != stored.weights_sha256


def test_a_store_without_class_map(record, files):
    stored = record()
    assert complete_record(record(), stored) == stored
    mapped = record(class_map=[1, 0])
    assert complete_record(mapped, stored) == mapped
    assert complete_record(stored, mapped) == stored
    (files / 'a.pth').unlink()
    assert complete_record(record(), mapped).class_map is None
