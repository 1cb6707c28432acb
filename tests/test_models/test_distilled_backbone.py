# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Distilled backbones in mmpretrain, mmdet and mmseg."""

import importlib
import logging

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from safetensors.torch import save_file

from mtkdrl_mm.models import distilled_backbone
from mtkdrl_mm.utils import InputError

KINDS = ['mmpretrain.ResNet', 'mmdet.ResNet', 'mmseg.ResNet']


def build(kind, checkpoint=None, depth=18, **kwargs):
    for package in ('mmdet.models', 'mmseg.models'):
        importlib.import_module(package)
    if checkpoint is not None:
        kwargs['init_cfg'] = dict(type='mtkdrl_mm.DistilledBackbone', checkpoint=str(checkpoint))
    kwargs = dict(dict(stem_channels=8, base_channels=8), **kwargs)  # small files
    if kind == 'mmseg.ResNet':  # its BatchNorm is synchronised by default
        kwargs.setdefault('norm_cfg', dict(type='BN'))
    return MODELS.build(dict(type=kind, depth=depth, **kwargs))


@pytest.fixture(scope='module')
def reference():
    """A randomised ResNet-18, whose statistics are not those of a fresh one."""
    init_default_scope('mmpretrain')
    network = build('mmpretrain.ResNet', out_indices=(0, 1, 2, 3))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand(value.shape, generator=generator).mul(0.1))
    network.eval()  # returns None in mmpretrain
    return network


def files(reference, folder):
    """The same backbone as different tools would write it."""
    own = reference.state_dict()
    extra = {'head.fc.weight': torch.zeros(5, 64), 'head.fc.bias': torch.zeros(5)}
    classifier = {**{f'backbone.{k}': v for k, v in own.items()}, **extra}
    contents = {
        'training': dict(
            state_dict={
                **{f'student.{k}': v for k, v in classifier.items()},
                'connectors.0.projection.conv.weight': torch.zeros(3),
                'weighting.agent.stem.0.bias': torch.zeros(3),
            },
            optimizer={},
        ),
        'exported': dict(state_dict=classifier, meta={}),
        'data_parallel': dict(state_dict={f'module.{k}': v for k, v in classifier.items()}),
        'torchvision': {**own, 'fc.weight': torch.zeros(5, 64), 'fc.bias': torch.zeros(5)},
        'bare': dict(own),
        'detector': dict(state_dict={**classifier, 'neck.convs.0.weight': torch.zeros(3)}),
    }
    paths = []
    for name, content in contents.items():
        paths.append(folder / f'{name}.pth')
        torch.save(content, paths[-1])
    save_file({k: v.contiguous() for k, v in classifier.items()}, folder / 'exported.safetensors')
    return [*paths, folder / 'exported.safetensors']


@pytest.mark.parametrize('kind', KINDS)
def test_every_file_gives_the_same_backbone_to_the_bit(reference, tmp_path, kind):
    for path in files(reference, tmp_path):
        network = build(kind, path)
        # zero_init_residual, on by default in places, would undo the loading
        network.init_weights()
        own = network.state_dict()
        for key, value in reference.state_dict().items():
            assert torch.equal(own[key], value), (path.name, key)


@pytest.mark.parametrize(
    'kind',
    [
        'mmpretrain.EfficientNet',
        'mmpretrain.MobileNetV2',
        'mmpretrain.MobileNetV3',
        'mmpretrain.RegNet',
        'mmpretrain.RepVGG',
        'mmpretrain.ShuffleNetV2',
        'mmseg.MobileNetV2',
    ],
)
def test_layers_that_initialise_themselves_keep_what_is_loaded(tmp_path, kind):
    """mmcv's ConvModule does, which many backbones have as their stem."""
    arch = {'EfficientNet': 'b0', 'RegNet': 'regnetx_400mf', 'RepVGG': 'A0'}.get(kind[11:])
    cfg = dict(type=kind) if arch is None else dict(type=kind, arch=arch)
    importlib.import_module('mmseg.models')
    expected = {
        key: value + 0.1 if value.is_floating_point() else value
        for key, value in MODELS.build(cfg).state_dict().items()
    }
    path = str(tmp_path / 'student.pth')
    torch.save(dict(state_dict={f'backbone.{key}': v for key, v in expected.items()}), path)
    init_cfg = dict(type='mtkdrl_mm.DistilledBackbone', checkpoint=path)
    network = MODELS.build(dict(cfg, init_cfg=init_cfg))
    network.init_weights()
    own = network.state_dict()
    assert [key for key, value in expected.items() if not torch.equal(own[key], value)] == []


@pytest.mark.parametrize(
    ('kind', 'arch'), [('mmpretrain.SwinTransformer', 'tiny'), ('mmpretrain.ConvNeXt', 'atto')]
)
def test_further_outputs_have_new_normalisations(tmp_path, kind, arch, monkeypatch):
    """A classifier has that of its last stage alone."""
    lines = []
    monkeypatch.setattr(distilled_backbone, 'print_log', lambda text, *_: lines.append(text))
    cfg = dict(type=kind, arch=arch)
    student = MODELS.build(cfg)
    expected = {k: v + 0.1 if v.is_floating_point() else v for k, v in student.state_dict().items()}
    path = str(tmp_path / 'student.pth')
    torch.save(dict(state_dict={f'student.backbone.{k}': v for k, v in expected.items()}), path)
    init_cfg = dict(type='mtkdrl_mm.DistilledBackbone', checkpoint=path)
    network = MODELS.build(dict(cfg, out_indices=(0, 1, 2, 3), init_cfg=init_cfg))
    network.init_weights()
    own = network.state_dict()
    assert [key for key, value in expected.items() if not torch.equal(own[key], value)] == []
    assert sorted(own.keys() - expected.keys()) == [
        f'norm{i}.{name}' for i in range(3) for name in ('bias', 'weight')
    ]
    assert torch.equal(own['norm0.weight'], torch.ones_like(own['norm0.weight']))
    assert 'new, for outputs that the file does not have: norm0.weight' in lines[0]
    without = MODELS.build(dict(cfg, out_indices=(0, 1), init_cfg=init_cfg))  # the last one
    without.init_weights()
    assert [
        k for k, v in without.state_dict().items() if k in expected and v.ne(expected[k]).any()
    ] == []
    # A network without any such normalisation is another one.
    rest = {key: value for key, value in expected.items() if not key.startswith('norm')}
    torch.save(dict(state_dict=rest), path)
    network = MODELS.build(dict(cfg, init_cfg=init_cfg))
    with pytest.raises(InputError, match=r'Missing in the file: norm3\.weight'):
        network.init_weights()


@pytest.mark.parametrize('kind', KINDS)
def test_same_maps(reference, tmp_path, kind):
    path = files(reference, tmp_path)[0]
    network = build(kind, path, out_indices=(0, 1, 2, 3))
    network.init_weights()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        network.eval()
        maps = zip(network(images), reference(images))
    for ours, expected in maps:
        assert torch.equal(ours, expected)


def test_the_residual_branches_are_kept(reference, tmp_path):
    network = build('mmpretrain.ResNet', files(reference, tmp_path)[1], zero_init_residual=True)
    network.init_weights()
    assert network.layer1[0].bn2.weight.abs().min() > 0


def test_another_initialisation_after_it(reference, tmp_path):
    """It would replace what has been loaded."""
    path = files(reference, tmp_path)[1]
    ours = dict(type='mtkdrl_mm.DistilledBackbone', checkpoint=str(path))
    other = dict(type='Kaiming', layer='Conv2d')
    network = build('mmpretrain.ResNet', init_cfg=[other, ours])
    network.init_weights()
    assert torch.equal(network.conv1.weight, reference.conv1.weight)
    pretrained = dict(type='Pretrained', checkpoint=str(path))  # mmengine moves it to the end
    for entries, name in (([ours, other], 'Kaiming'), ([pretrained, ours], 'Pretrained')):
        network = build('mmpretrain.ResNet', init_cfg=entries)
        with pytest.raises(InputError, match=f'has {name}, which acts after DistilledBackbone'):
            network.init_weights()


def test_the_log_counts_the_tensors(reference, tmp_path, monkeypatch):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_instance('backbone', log_level='INFO')
    logger.addHandler(handler)
    build('mmdet.ResNet', files(reference, tmp_path)[0]).init_weights()
    assert any('ResNet: loaded 120/120 tensors of' in line for line in lines)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(depth=34), r'Missing in the file: layer1\.2\.conv1\.weight.* and \d+ more'),
        (dict(depth=50), r'Missing in the file: .*Of another shape'),
        (
            dict(base_channels=4, stem_channels=4),
            r'widths differ: conv1\.weight is \(8, 3, 7, 7',
        ),
        (dict(kind='mmseg.ResNetV1c', norm_cfg=dict(type='BN')), 'deep stem of a ResNetV1c'),
        (dict(kind='mmdet.ResNeXt', depth=50), 'Missing in the file'),
    ],
)
def test_another_backbone(reference, tmp_path, kwargs, message):
    path = files(reference, tmp_path)[0]
    network = build(**{'kind': 'mmdet.ResNet', 'checkpoint': path, **kwargs})
    with pytest.raises(InputError, match=message) as info:
        network.init_weights()
    assert str(path) in str(info.value)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('saved', ['pytorch', 'caffe', None])
@pytest.mark.parametrize('style', ['pytorch', 'caffe'])
def test_strides_of_bottlenecks(tmp_path, kind, saved, style):
    """The same shapes, and other outputs."""
    own = build('mmpretrain.ResNet', depth=50)
    contents = dict(state_dict=own.state_dict())
    if saved is not None:
        backbone = dict(
            type='ResNet', depth=50, **({} if saved == 'pytorch' else dict(style=saved))
        )
        contents['meta'] = dict(student_cfg=dict(model=dict(backbone=backbone)))
    torch.save(contents, tmp_path / 'r50.pth')
    network = build(kind, tmp_path / 'r50.pth', depth=50, style=style)
    if style == (saved or 'pytorch'):
        network.init_weights()
        return
    with pytest.raises(InputError, match=rf"style='{style}', .* Set style='{saved or 'pytorch'}'"):
        network.init_weights()


def test_a_record_of_another_program_tells_no_style(tmp_path):
    own = build('mmpretrain.ResNet', depth=50)
    contents = dict(state_dict=own.state_dict(), meta=dict(student_cfg=dict(name='r50')))
    torch.save(contents, tmp_path / 'r50.pth')
    build('mmdet.ResNet', tmp_path / 'r50.pth', depth=50).init_weights()
    with pytest.raises(InputError, match=r"style='caffe', .* Set style='pytorch'"):
        build('mmdet.ResNet', tmp_path / 'r50.pth', depth=50, style='caffe').init_weights()


def test_the_style_of_basic_blocks_changes_nothing(reference, tmp_path):
    torch.save(dict(state_dict=reference.state_dict()), tmp_path / 'r18.pth')
    network = build('mmdet.ResNet', tmp_path / 'r18.pth', style='caffe')
    network.init_weights()
    assert torch.equal(network.conv1.weight, reference.conv1.weight)


def test_deep_stem_in_the_file(tmp_path):
    network = build('mmseg.ResNetV1c', norm_cfg=dict(type='BN'))
    torch.save(network.state_dict(), tmp_path / 'v1c.pth')
    with pytest.raises(InputError, match=r"The file is a ResNetV1c's"):
        build('mmdet.ResNet', tmp_path / 'v1c.pth').init_weights()


def test_unusable_files(tmp_path):
    with pytest.raises(InputError, match='does not exist'):
        build('mmdet.ResNet', tmp_path / 'none.pth').init_weights()
    for name in ('text.pth', 'text.safetensors'):
        (tmp_path / name).write_text('no checkpoint')
        with pytest.raises(InputError, match='cannot be read as a checkpoint'):
            build('mmdet.ResNet', tmp_path / name).init_weights()
    torch.save(dict(state_dict={'neck.weight': torch.zeros(2)}), tmp_path / 'neck.pth')
    with pytest.raises(InputError, match=r'Missing in the file: conv1\.weight'):
        build('mmdet.ResNet', tmp_path / 'neck.pth').init_weights()
    with pytest.raises(InputError, match='needs the path or URL'):
        build('mmdet.ResNet', '').init_weights()


def test_plain_pretrained_takes_the_exported_file(reference, tmp_path):
    path = files(reference, tmp_path)[1]
    cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    network = build('mmdet.ResNet', init_cfg=cfg)
    network.init_weights()
    assert torch.equal(network.conv1.weight, reference.conv1.weight)
