# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Configs: what works, and what is said of those that do not."""

import copy

import pytest
import torch

from mtkdrl_mm.models import EmbeddingConnector, MapConnector, MultiTeacherDistiller, TeacherPool
from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.utils import InputError

# Wrong argument, and what the message has to name.
BAD = [
    (dict(logit_loss_weight=-0.5), '`logit_loss_weight` must be at least 0, but is -0.5'),
    (dict(logit_loss_weight='1'), "`logit_loss_weight` must be a finite number, but is '1'"),
    (dict(feature_loss_weight=-1), '`feature_loss_weight` must be at least 0, but is -1'),
    (
        dict(feature_loss_weight=float('nan')),
        '`feature_loss_weight` must be a finite number, but is nan',
    ),
    (
        dict(logit_loss=dict(type='KLDivergence', temperature=0)),
        '`temperature` must be greater than 0, but is 0',
    ),
    (
        dict(logit_loss=dict(type='KLDivergence', temperature=-4.0)),
        '`temperature` must be greater than 0, but is -4.0',
    ),
    (
        dict(logit_loss=dict(type='KLDivergence', temprature=4)),
        'logit loss "KLDivergence" takes no argument "temprature". Did you mean "temperature"',
    ),
    (dict(logit_loss='KLDivergense'), 'logit loss "KLDivergense". Did you mean "KLDivergence"'),
    (dict(feature_loss='FeatureMSEE'), 'feature loss "FeatureMSEE". Did you mean "FeatureMSE"'),
    (dict(feature_loss='AVER'), 'Unknown feature loss "AVER"'),
    (dict(weighting='AVERR'), 'weighting "AVERR". Did you mean "AVER"'),
    (dict(weighting='MTKD_RL'), 'weighting "MTKD_RL". Did you mean "MTKDRL"'),
    (dict(weighting=dict(kind='AVER')), 'weighting must be a dict with a `type`'),
    (
        dict(weighting=dict(type='MTKDRL', agnt=None)),
        'weighting "MTKDRL" takes no argument "agnt". Did you mean "agent"',
    ),
    (dict(connector=dict(type='MapConector')), 'connector "MapConector". Did you mean "MapConn'),
    (
        dict(connector=dict(norm=None)),
        'connector "MapConnector" takes no argument "norm". Did you mean "norm_cfg"',
    ),
    (
        dict(student=dict(backbone=dict())),
        "student needs either `cfg_path`.*got the keys.*'backbone'",
    ),
    (
        dict(student=dict(cfg_path='no/such/config.py')),
        'student\'s `cfg_path` "no/such/config.py" cannot be read',
    ),
    (
        dict(student=dict(cfg_path='mmpretrain::resnet/resnet19_8xb32_in1k.py')),
        'student\'s `cfg_path` "mmpretrain::resnet/resnet19_8xb32_in1k.py" cannot be read',
    ),
    (
        dict(student=dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py', depth=34)),
        r"unknown keys \['depth'\].*`cfg_options`",
    ),
    (
        dict(student=dict(type='ResNet', depth=18)),
        'student must be an mmpretrain classifier.*ResNet',
    ),
    (
        dict(student=dict(type='ImageClasifier')),
        '"ImageClasifier" is none. Did you mean "ImageClassifier"',
    ),
    (dict(teachers=[]), r'at least one teacher, but is \[\]'),
    (dict(teachers=dict(type='ImageClassifier')), '`teachers` must be a list'),
    (dict(teachers=['resnet50.pth']), "Teacher number 0 must be a dict, but is 'resnet50.pth'"),
    (dict(student=1), 'student must be a dict with `cfg_path`, or with a `type`, but is 1'),
    (dict(student=None), 'student must be a dict with `cfg_path`, or with a `type`, but is None'),
    (dict(student=dict(cfg_path=1)), "student's `cfg_path` must be the path of a config, but is 1"),
    (dict(num_classes='ten'), "`num_classes` must be a finite number, but is 'ten'"),
    (dict(connector=1), '`connector` must be a dict of arguments, with or without a `type`, but'),
    (dict(connector='MapConnector'), "`connector` must be a dict.*, but is 'MapConnector'"),
    (dict(extra_losses=1), '`extra_losses` must be a list of dicts, but is 1'),
    (dict(extra_losses=['DIST']), r"`extra_losses` must be a list of dicts, but is \['DIST'\]"),
    (dict(extra_losses=dict(type='DIST')), '`extra_losses` must be a list of dicts, but is {'),
    (dict(data_preprocessor=1), '`data_preprocessor` of the student must be a dict.*, but is 1'),
    (dict(data_preprocessor=[]), r'`data_preprocessor` of the student .*, but is \[\]'),
    (dict(data_preprocessor=dict(batch_augments=dict(augments=[1]))), '`augments` .*has 1'),
]


@pytest.mark.parametrize(('kwargs', 'message'), BAD, ids=[m[:40] for _, m in BAD])
def test_bad_configs(make_distiller, kwargs, message):
    with pytest.raises(InputError, match=message):
        make_distiller(**kwargs)


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        (
            1,
            '`data_preprocessor` of {role} must be a dict with `mean`, `std` and `to_rgb`, but '
            'is 1.',
        ),
        (
            0,
            '`data_preprocessor` of {role} must be a dict with `mean`, `std` and `to_rgb`, but '
            'is 0.',
        ),
        (
            dict(mean=[1.0], std='one'),
            "The data_preprocessor of {role} has mean=[1.0] and std='one': give one or three "
            'numbers in `mean`, and as many positive ones in `std`.',
        ),
    ],
)
def test_preprocessing_of_students_and_teachers(make_distiller, make_resnet, value, message):
    teacher = dict(make_resnet(4), name='a', data_preprocessor=value)
    with pytest.raises(InputError) as error:
        make_distiller([teacher])
    assert str(error.value) == message.format(role='teacher "a"')
    if isinstance(value, int):  # mmpretrain refuses others first
        with pytest.raises(InputError) as error:
            make_distiller(student=dict(make_resnet(4), data_preprocessor=value))
        assert str(error.value) == message.format(role='the student')


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(name=1), '`name` of teacher number 0 must be a string, but is 1.'),
        (dict(name=0), '`name` of teacher number 0 must be a string, but is 0.'),
        (dict(checkpoint=1), '`checkpoint` of teacher "a" must be a path or URL, but is 1.'),
        (dict(checkpoint=[]), '`checkpoint` of teacher "a" must be a path or URL, but is [].'),
        (
            dict(data_preprocessor=dict(meen=[0.0])),
            '`data_preprocessor` of teacher "a" takes no "meen". Did you mean "mean"? Known: '
            '"mean", "std", "to_rgb".',
        ),
    ],
)
def test_bad_keys_of_a_teacher(make_distiller, make_resnet, settings, message):
    with pytest.raises(InputError) as error:
        make_distiller([{**make_resnet(4), 'name': 'a', **settings}])
    assert str(error.value) == message


def test_all_keys_of_mmpretrains_preprocessing_are_fine(make_distiller, make_resnet):
    full = dict(type='ClsDataPreprocessor', num_classes=5, mean=[1.0], std=[2.0], to_onehot=False)
    pool = make_distiller([dict(make_resnet(4), name='a', data_preprocessor=full)]).teachers
    assert (pool[0].preprocessing.mean, pool[0].preprocessing.std) == ((1.0,) * 3, (2.0,) * 3)


def test_student_with_other_classes_than_its_teachers(make_distiller, make_resnet):
    with pytest.raises(InputError, match='student has 7 classes, but its teachers have 5'):
        make_distiller(student=make_resnet(4, num_classes=7))


def test_teachers_that_disagree_on_the_classes(make_distiller, make_resnet):
    teachers = [dict(make_resnet(4), name='x'), dict(make_resnet(4, num_classes=7), name='y')]
    with pytest.raises(InputError, match='disagree on the number of classes: "x" has 5, "y" has 7'):
        make_distiller(teachers)


def test_teachers_with_the_same_name(make_distiller, make_resnet):
    with pytest.raises(InputError, match=r'Two teachers are named "a" \(numbers 0 and 1\)'):
        make_distiller([dict(make_resnet(4), name='a'), dict(make_resnet(6), name='a')])


@pytest.mark.parametrize('name', ['keys', 'training', 'init_weights', 'init_cfg'])
def test_a_teacher_cannot_have_the_name_of_an_attribute(make_distiller, make_resnet, name):
    with pytest.raises(InputError, match=f'A teacher cannot be named "{name}": give it another'):
        make_distiller([dict(make_resnet(6), name=name)])


def test_map_connectors_need_maps(make_distiller, make_vit):
    teachers = [dict(make_vit(16), name='vit')]
    with pytest.raises(InputError, match='MapConnector needs a student and teachers with'):
        make_distiller(teachers, connector=dict(type='MapConnector'))


def test_connector_arguments_reach_every_connector(make_distiller, make_batch):
    distiller = make_distiller(connector=dict(norm_cfg=None, act_cfg=None)).eval()
    inputs, _ = make_batch(2)
    own = distiller.student.backbone(inputs)[-1]
    for connector, channels in zip(distiller.connectors.values(), (32, 48)):
        conv = connector.projection.conv
        assert conv.weight.shape == (channels, 32, 1, 1)
        torch.testing.assert_close(connector.projection(own), conv(own))
    embeddings = make_distiller(connector=dict(type='EmbeddingConnector'))
    assert [c.projection.out_features for c in embeddings.connectors.values()] == [32, 48]


@pytest.mark.parametrize(('kind', 'layer'), [('Map', 'Conv2d'), ('Embedding', 'Linear')])
def test_connectors_are_initialised_by_their_init_cfg_alone(
    make_distiller, monkeypatch, kind, layer
):
    monkeypatch.setattr(TeacherPool, 'load_weights', lambda self: None)
    init_cfg = dict(type='Constant', val=0.125, layer=layer)
    cfg = dict(type=f'{kind}Connector')
    states = []
    for settings in (cfg, dict(cfg, init_cfg=init_cfg)):
        torch.manual_seed(3)
        distiller = make_distiller(connector=settings)
        built = copy.deepcopy(distiller.connectors.state_dict())
        torch.manual_seed(4)
        distiller.init_weights()
        states.append((built, distiller.connectors.state_dict(), torch.rand(())))
    (built, plain, drawn), (_, chosen, other_drawn) = states
    assert len(plain) > 2 and all(torch.equal(built[key], plain[key]) for key in plain)
    weights = [value for key, value in chosen.items() if value.ndim > 1]
    assert len(weights) == 2 and all((weight == 0.125).all() for weight in weights)
    # nothing else is drawn, so that the student starts as it would
    assert drawn == other_drawn


def test_a_mixed_pool_takes_arguments_of_map_connectors(make_distiller, make_resnet, make_vit):
    teachers = [dict(make_resnet(4), name='resnet'), dict(make_vit(16), name='vit')]
    distiller = make_distiller(teachers, connector=dict(norm_cfg=None, act_cfg=None))
    of_map, of_embedding = distiller.connectors.values()
    assert isinstance(of_map, MapConnector) and not of_map.projection.with_norm
    assert isinstance(of_embedding, EmbeddingConnector)
    # Where the kind is chosen, all its arguments must be known.
    with pytest.raises(InputError, match='"EmbeddingConnector" takes no argument "norm_cfg"'):
        make_distiller(teachers, connector=dict(type='EmbeddingConnector', norm_cfg=None))
    with pytest.raises(InputError, match='takes no argument "norm"'):
        make_distiller(teachers, connector=dict(norm=None))


def test_num_classes_sets_student_and_teachers_given_by_path(make_batch):
    distiller = MultiTeacherDistiller(
        dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py'),
        [dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py', name='t')],
        num_classes=7,
    )
    assert distiller.teachers.spec.num_classes == 7
    assert distiller.eval()(make_batch(2)[0]).shape == (2, 7)
    # The student's own preprocessing is that of its config file.
    assert distiller.data_preprocessor.mean.flatten().tolist() == pytest.approx(
        [123.675, 116.28, 103.53]
    )
    assert distiller.data_preprocessor.num_classes == 7


def test_found_from_any_scope_by_its_prefix(make_resnet):
    from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS

    cfg = dict(type='mtkdrl_mm.MultiTeacherDistiller', student=make_resnet(4))
    assert isinstance(MMPRETRAIN_MODELS.build(cfg), MultiTeacherDistiller)
    assert MODELS.get('MultiTeacherDistiller') is MultiTeacherDistiller
