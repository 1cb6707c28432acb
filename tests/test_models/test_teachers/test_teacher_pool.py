# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The frozen teachers."""

from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models import ClsDataPreprocessor

from mtkdrl_mm.models import build_pool
from mtkdrl_mm.models.connectors.build_connectors import build_connectors
from mtkdrl_mm.models.teachers import teacher_pool
from mtkdrl_mm.models.teachers.inference_mode import EAGER, InferenceSettings
from mtkdrl_mm.models.teachers.preprocessing import Preprocessing
from mtkdrl_mm.utils import InputError

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
FIVE = {'model.head.num_classes': 5}
OTHER = dict(mean=[110.0, 120.0, 130.0], std=[20.0, 80.0, 127.5], to_rgb=False)


@pytest.fixture
def config_file(tmp_path, make_resnet):
    """A config file as mmpretrain's, with a model and its preprocessing."""
    path = tmp_path / 'tiny_8xb32_digits.py'
    path.write_text(f'model = {make_resnet(4, num_classes=10)!r}\ndata_preprocessor = {OTHER!r}\n')
    return str(path)


def test_teacher_sees_what_it_sees_when_it_runs_alone(make_pool, make_resnet):
    source = Preprocessing.from_config(IMAGENET, 'the student')
    teachers = [
        dict(make_resnet(4), name='as the student'),
        dict(make_resnet(4), name='bgr', data_preprocessor=OTHER),
        dict(make_resnet(4, num_classes=5), name='in the model', data_preprocessor=dict(OTHER)),
        dict(make_resnet(6), name='large', data_preprocessor=OTHER, input_size=48),
    ]
    pool = make_pool(teachers, source)
    raw = torch.randint(256, (4, 3, 32, 32)).float()
    outputs = pool(ClsDataPreprocessor(**IMAGENET)(dict(inputs=raw))['inputs'])
    for m, cfg in enumerate((IMAGENET, OTHER, OTHER, OTHER)):
        inputs = ClsDataPreprocessor(**cfg)(dict(inputs=raw))['inputs']
        if m == 3:
            inputs = F.interpolate(
                inputs, size=(48, 48), mode='bicubic', align_corners=False, antialias=True
            )
        expected = pool[m].network(inputs)
        torch.testing.assert_close(outputs[m].logits, expected, rtol=1e-3, atol=1e-4)
    # and preprocessing matters to these networks
    wrong = pool[1].network(ClsDataPreprocessor(**IMAGENET)(dict(inputs=raw))['inputs'])
    assert (wrong - outputs[1].logits).abs().max() > 0.05


def test_preprocessing_comes_from_the_config_file(make_pool, config_file):
    own = dict(mean=[1.0] * 3, std=[2.0] * 3, to_rgb=True)
    source = Preprocessing.from_config(IMAGENET, 's')
    pool = make_pool(
        [dict(cfg_path=config_file), dict(cfg_path=config_file, data_preprocessor=own, name='b')],
        source,
    )
    assert pool[0].preprocessing == Preprocessing.from_config(OTHER, 't')
    assert pool[1].preprocessing == Preprocessing.from_config(own, 't')


def test_a_part_of_a_preprocessing_leaves_the_rest_as_it_is(make_pool, config_file, make_resnet):
    """As of dicts in configs that inherit from each other."""
    source = Preprocessing.from_config(IMAGENET, 's')
    timm = dict(type='mtkdrl_mm.TimmImageClassifier', model_name='resnet10t', num_classes=5)
    pool = make_pool(
        [
            dict(cfg_path=config_file, data_preprocessor=dict(to_rgb=True), cfg_options=FIVE),
            dict(make_resnet(4), name='inline', data_preprocessor=dict(to_rgb=False)),
            dict(timm, name='timm', data_preprocessor=dict(to_rgb=False)),
            dict(timm, name='mean', data_preprocessor=dict(mean=[1.0, 2.0, 3.0])),
        ],
        source,
    )
    expected = [
        dict(OTHER, to_rgb=True),
        dict(IMAGENET, to_rgb=False),  # the student's
        dict(IMAGENET, to_rgb=False),  # timm's numbers are ImageNet's
        dict(IMAGENET, mean=[1.0, 2.0, 3.0]),
    ]
    for teacher, cfg in zip(pool, expected):
        found = teacher.preprocessing
        assert found.mean == pytest.approx(cfg['mean'], abs=1e-2)
        assert found.std == pytest.approx(cfg['std'], abs=1e-2)
        assert found.to_rgb == cfg['to_rgb'], teacher.name


def test_maps_with_negative_entries(make_pool, make_resnet):
    """Hardswish and Swin's norm have them, a ReLU has none."""
    neck = dict(type='GlobalAveragePooling')
    others = [
        dict(
            type='ImageClassifier',
            backbone=backbone,
            neck=neck,
            head=dict(type='LinearClsHead', num_classes=5, in_channels=channels),
        )
        for backbone, channels in (
            (dict(type='MobileNetV3', arch='small_050'), 288),
            (dict(type='SwinTransformer', arch='tiny', img_size=64, window_size=2), 768),
        )
    ]
    pool = make_pool([dict(make_resnet(4), name='resnet'), *others])
    assert pool.spec.signed_maps == (False, True, True)
    connectors = build_connectors(pool[0].infer_output(), pool.spec, {})
    assert [one.projection.with_activation for one in connectors.values()] == [True, False, False]


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_outputs_are_no_views_of_larger_tensors(make_vit, make_resnet, layout):
    """Tokens are; the roundings of what is computed from them would depend on it."""
    teachers = [dict(make_vit(16), name='tokens'), dict(make_resnet(4), name='map')]
    pool = build_pool(teachers, Preprocessing(), token_maps=True)
    for output in pool(torch.randn(4, 3, 32, 32).contiguous(memory_format=layout)):
        assert output.logits.is_contiguous() and output.embedding.is_contiguous()
        assert output.feature_map.is_contiguous(memory_format=layout)


def test_outputs_are_those_of_the_network(make_pool, make_resnet):
    pool = make_pool([dict(make_resnet(4), name='a'), dict(make_resnet(6), name='b')])
    inputs = torch.randn(4, 3, 64, 64)
    for network, output, channels in zip([t.network for t in pool], pool(inputs), (32, 48)):
        feature_map = network.backbone(inputs)[-1]
        assert feature_map.shape == (4, channels, 2, 2)
        assert torch.equal(output.feature_map, feature_map)
        torch.testing.assert_close(output.embedding, feature_map.mean(dim=(2, 3)))
        torch.testing.assert_close(output.logits, network.head.fc(output.embedding))
        assert not output.logits.requires_grad
    spec = pool.spec
    assert spec.embedding_sizes == spec.map_channels == (32, 48)
    assert (spec.num_classes, spec.num_teachers, len(pool)) == (5, 2, 2)


def test_outputs_may_enter_a_loss(make_pool, make_resnet):
    (output,) = make_pool([make_resnet(4)])(torch.randn(2, 3, 32, 32))
    own = torch.randn(2, 5, requires_grad=True)
    (own * output.logits).sum().backward()  # autograd saves the teacher's logits
    assert torch.equal(own.grad, output.logits)


def test_names(make_pool, make_resnet, make_vit, config_file):
    named = dict(make_resnet(4, num_classes=10), name='my teacher')
    plain = make_resnet(4, num_classes=10)
    pool = make_pool([named, plain, make_vit(16, num_classes=10), dict(cfg_path=config_file)])
    assert pool.names == ('my teacher', 'ResNet18', 'VisionTransformer', 'tiny_8xb32_digits')
    installed = make_pool([dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py')])
    assert installed.names == ('resnet18_8xb32_in1k',)


@pytest.mark.parametrize('names', [(None, None), ('x', 'x'), ('ResNet18', None)])
def test_names_must_differ(make_resnet, names):
    teachers = [
        dict(make_resnet(width), **({'name': name} if name else {}))
        for width, name in zip((4, 6), names)
    ]
    with pytest.raises(InputError, match=rf'named "{names[0] or "ResNet18"}" \(numbers 0 and 1\)'):
        build_pool(teachers, Preprocessing())


def test_num_classes_overrides_config_files_only(make_pool, make_resnet, config_file):
    pool = make_pool(
        [dict(cfg_path=config_file), dict(make_resnet(4, num_classes=7), name='b')], num_classes=7
    )
    assert [net.head.fc.out_features for net in [t.network for t in pool]] == [7, 7]
    assert make_pool([dict(cfg_path=config_file)]).spec.num_classes == 10
    with pytest.raises(InputError, match='"a" has 7, "b" has 10'):
        build_pool(
            [
                dict(cfg_path=config_file, name='a'),
                dict(make_resnet(4, num_classes=10), name='b'),
            ],
            Preprocessing(),
            num_classes=7,
        )


def test_cfg_options(make_pool, config_file):
    options = {'model.backbone.base_channels': 6, 'model.head.in_channels': 48}
    pool = make_pool([dict(cfg_path=config_file, cfg_options=options)])
    assert pool.spec.embedding_sizes == (48,)


def test_config_file_without_a_model(tmp_path):
    (tmp_path / 'data.py').write_text('batch_size = 3\n')
    with pytest.raises(InputError, match=r'"data\.py" defines no `model`'):
        build_pool([dict(cfg_path=str(tmp_path / 'data.py'))], Preprocessing())


def test_batch_is_converted_once_for_teachers_that_agree(make_pool, make_resnet, monkeypatch):
    calls = []
    original = Preprocessing.convert
    monkeypatch.setattr(
        Preprocessing, 'convert', lambda self, *args: calls.append(self) or original(self, *args)
    )
    pool = make_pool(
        [
            dict(make_resnet(4), name=name, data_preprocessor=cfg)
            for name, cfg in zip('abcd', (OTHER, IMAGENET, OTHER, IMAGENET))
        ]
    )
    pool(torch.randn(1, 3, 32, 32))
    assert len(calls) == 2


def test_batch_augmentation_of_a_teachers_config_is_dropped(make_pool, make_resnet):
    cfg = dict(make_resnet(4), train_cfg=dict(augments=dict(type='Mixup', alpha=1.0)))
    plain, blending = make_pool([make_resnet(4)]), make_pool([cfg])
    inputs = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain(inputs)[0].logits, blending(inputs)[0].logits)
    assert blending[0].network.data_preprocessor.batch_augments is None


def test_building_draws_no_random_numbers(make_resnet, make_vit):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    build_pool([make_resnet(4), make_vit(16)], Preprocessing())
    assert torch.equal(torch.rand(3), expected)


def test_input_size_of_a_list_works(make_pool, make_resnet):
    pool = make_pool([dict(make_resnet(4), input_size=[48, 64])])
    (output,) = pool(torch.randn(1, 3, 96, 96))
    assert output.feature_map.shape[-2:] == (2, 2)


def test_classifier_without_a_head(make_resnet):
    cfg = make_resnet(4)
    del cfg['head']
    with pytest.raises(InputError, match='teacher "headless" has no classification head'):
        build_pool([dict(cfg, name='headless')], Preprocessing())


def some_images(count=8):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def differences(pool, inputs, chosen):
    """Teachers whose outputs for some images are not, bit by bit, those in the whole batch."""
    found = []
    for name, output, whole in zip(pool.names, pool(inputs[chosen]), pool(inputs)):
        for key in ('logits', 'embedding', 'feature_map'):
            value, expected = getattr(output, key), getattr(whole, key)
            assert (value is None) == (expected is None)
            if value is not None and not torch.equal(value, expected[chosen]):
                found.append(f'{key} of {name}')
    return found


def test_filled_up_batches_round_alike(make_pool, make_resnet, make_vit):
    pool = make_pool([make_resnet(4), make_vit(48, num_classes=5)])
    inputs = some_images()
    # Kernels for few images round in another way, or this test would show nothing.
    assert differences(pool, inputs, [3])
    pool.batch_size = 8
    for chosen in ([3], [7, 0], [5, 2, 7], [6, 4, 2, 0, 1, 3, 5], [7, 6, 5, 4, 3, 2, 1, 0]):
        assert differences(pool, inputs, chosen) == []


def test_batches_are_filled_up_by_their_own_images(make_pool, make_resnet):
    pool = make_pool([make_resnet(4)])
    seen = []
    network = pool[0].network.backbone
    network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    inputs = some_images(3)
    pool.batch_size = 7
    (output,) = pool(inputs)
    assert torch.equal(seen[-1], inputs[[0, 1, 2, 0, 1, 2, 0]])
    assert (len(output.logits), len(output.embedding), len(output.feature_map)) == (3, 3, 3)
    for count in (7, 8):  # whole batches, and larger ones of a validation
        inputs = some_images(count)
        pool(inputs)
        assert torch.equal(seen[-1], inputs)


def test_some_of_the_teachers(make_pool, make_resnet):
    own = dict(mean=[1.0] * 3, std=[2.0] * 3)
    pool = make_pool(
        [dict(make_resnet(4), name=name, data_preprocessor=own) for name in ('a', 'b', 'c')]
    )
    inputs = some_images(2)
    outputs = dict(zip(pool.names, pool(inputs)))
    for names in (['b'], ['c', 'a'], {'a', 'b', 'c'}, ['b', 'b'], []):
        found = pool(inputs, names=names)
        expected = [outputs[name].logits for name in 'abc' if name in names]
        assert len(found) == len(expected)
        assert all(torch.equal(one.logits, two) for one, two in zip(found, expected))


def test_all_missing_files_are_named_at_once(make_pool, make_resnet, tmp_path, monkeypatch):
    """With what to do; a training of this repository writes the second one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'configs' / 'cifar10').mkdir(parents=True)
    (tmp_path / 'configs' / 'cifar10' / 'teacher_resnet.py').touch()
    (tmp_path / 'there.pth').touch()
    paths = ['other/cifar10/teacher_resnet/epoch_2.pth', 'there.pth']
    paths += [f'./work_dirs/cifar10/teacher_{name}/epoch_12.pth' for name in ('resnet', 'regnet')]
    pool = make_pool(
        [dict(make_resnet(4), name=name, checkpoint=path) for name, path in zip('abcd', paths)],
        Preprocessing.from_config(IMAGENET, 'the student'),
    )
    with pytest.raises(InputError) as error:
        pool.load_weights()
    assert str(error.value).splitlines() == [
        f'Teacher "a": the file "{paths[0]}" does not exist. Set model.teachers.0.checkpoint.',
        f'Teacher "c": the file "{paths[2]}" does not exist. Set model.teachers.2.checkpoint, or '
        'train it: python tools/train.py configs/cifar10/teacher_resnet.py',
        f'Teacher "d": the file "{paths[3]}" does not exist. Set model.teachers.3.checkpoint.',
    ]


def test_teachers_without_their_weights_are_named(make_pool, make_resnet, tmp_path, monkeypatch):
    """A distiller that was built by hand, whose `init_weights` has not been called."""
    lines = []
    monkeypatch.setattr(teacher_pool, 'print_log', lambda text, *a, **k: lines.append(text))
    path = str(tmp_path / 'a.pth')
    student = Preprocessing.from_config(IMAGENET, 'the student')
    build = partial(make_pool, [dict(make_resnet(4), name='a', checkpoint=path)], student)
    pool = build()
    weights = deepcopy(pool[0].network.state_dict())  # before its layers may be folded
    pool.prepare(torch.randn(2, 3, 32, 32))  # of a file that is not there, as in benchmarks
    torch.save(dict(state_dict=weights), path)
    assert not [line for line in lines if 'have not been loaded' in line]
    pool = build()
    pool.inference = InferenceSettings.from_config(dict(fold_bn=True, channels_last=False))
    pool.prepare(torch.randn(2, 3, 32, 32))
    assert [line for line in lines if 'have not been loaded' in line] == [
        f'The weights of teacher "a" have not been loaded from "{path}", and it runs with random '
        'ones: call `init_weights()` of the distiller before its first step.'
    ]
    # Folded layers take no weights, so that later is too late.
    assert pool[0].mode != EAGER
    with pytest.raises(InputError, match=r'"a" cannot be loaded any more: it has run with random'):
        pool.load_weights()
    lines.clear()
    pool = build()
    pool.load_weights()
    pool.inference = InferenceSettings.from_config(dict(fold_bn=True, channels_last=False))
    pool.prepare(torch.randn(2, 3, 32, 32))
    pool.load_weights()  # which have been read
    assert not [line for line in lines if 'have not been loaded' in line]
