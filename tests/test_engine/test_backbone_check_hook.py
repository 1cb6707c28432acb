# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A backbone that was trained on images of another normalisation is told."""

import logging
from types import SimpleNamespace

import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmengine.config import Config
from mmengine.model import BaseModule
from mmpretrain.models import ClsDataPreprocessor, RepVGG
from mmseg.models import SegDataPreProcessor
from mmseg.models.backbones import SwinTransformer
from torch import nn

from mtkdrl_mm.engine.hooks import BackboneCheckHook
from mtkdrl_mm.engine.hooks.backbone_check_hook import trained_preprocessing
from mtkdrl_mm.models.teachers.preprocessing import Preprocessing
from mtkdrl_mm.utils import InputError

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
IMAGENET = dict(mean=MEAN, std=STD, to_rgb=True)
MODEL = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18))


@pytest.fixture
def warnings(tmp_path, caplog):
    """Function that checks a model with a backbone from a checkpoint of this ``meta``."""

    def check(preprocessor, meta, step=0):
        path = str(tmp_path / 'backbone.pth')
        torch.save(dict(meta=meta, state_dict=dict(a=torch.ones(1))), path)
        model = nn.Module()
        if preprocessor is not None:
            model.data_preprocessor = preprocessor
        model.backbone = nn.Module()
        model.backbone.init_cfg = dict(type='Pretrained', checkpoint=path)
        model.head = nn.Module()
        model.head.init_cfg = [dict(type='Normal', std=0.01)]
        caplog.clear()
        # With --resume, also at the first start.
        runner = SimpleNamespace(
            model=model, iter=step, _resume=True, logger=logging.getLogger('test')
        )
        BackboneCheckHook().before_train(runner)
        return [record.getMessage().replace(path, 'FILE') for record in caplog.records]

    return check


def student(**preprocessor):
    return dict(student_cfg=dict(model=MODEL, data_preprocessor=preprocessor or None))


@pytest.mark.parametrize(
    'build',
    [
        lambda given, rgb: DetDataPreprocessor(**given, bgr_to_rgb=rgb),
        lambda given, rgb: SegDataPreProcessor(**given, bgr_to_rgb=rgb, size=(8, 8)),
        lambda given, rgb: ClsDataPreprocessor(**given, to_rgb=rgb),
    ],
)
def test_all_packages_models(warnings, build):
    given = dict(mean=MEAN, std=STD)
    right = build(given, True)
    assert warnings(right, student(**IMAGENET)) == []
    rounded = dict(mean=[123.68, 116.28, 103.53], std=[58.4, 57.12, 57.38], to_rgb=True)
    assert warnings(right, student(**rounded)) == []
    cifar = dict(mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255], to_rgb=False)
    assert warnings(right, student(**cifar)) == [
        'The backbone in "FILE" was trained on images normalised by mean 125.307, 122.961, 113.858 '
        'and std 51.5865, 50.847, 51.255 in BGR order, and this model normalises them by mean '
        '123.675, 116.28, 103.53 and std 58.395, 57.12, 57.375 in RGB order. Set its '
        '`data_preprocessor` to that of the backbone, unless this is meant.'
    ]
    # Of one difference alone, too.
    for changes in (dict(to_rgb=False), dict(std=[57.0] * 3), dict(mean=[120.0] * 3)):
        assert len(warnings(right, student(**{**IMAGENET, **changes}))) == 1
    assert len(warnings(build(given, False), student(**IMAGENET))) == 1
    # Not where it goes on from a checkpoint of its own.
    assert warnings(right, student(**cifar), step=1) == []


def test_what_cannot_be_compared(warnings):
    right = DetDataPreprocessor(mean=MEAN, std=STD, bgr_to_rgb=True)
    for meta in ({}, dict(cfg='model = open("x")'), dict(student_cfg=dict(model=MODEL)), student()):
        assert warnings(right, meta) == []
    other = student(mean=[0.0] * 3, std=[255.0] * 3)
    assert warnings(None, other) == [] and warnings(DetDataPreprocessor(), other) == []
    assert len(warnings(right, other)) == 1


def test_a_file_that_only_mmengine_reads_ends_no_training():
    model = nn.Module()
    model.data_preprocessor = DetDataPreprocessor(mean=MEAN, std=STD, bgr_to_rgb=True)
    model.backbone = nn.Module()
    model.backbone.init_cfg = dict(type='Pretrained', checkpoint='petrel://cluster/r50.pth')
    BackboneCheckHook().before_train(SimpleNamespace(model=model, iter=0, logger=None))


@pytest.mark.parametrize('inside', [False, True])
def test_plain_classifiers_tell_it_in_their_config(warnings, inside):
    """A baseline's checkpoint, or one of mmpretrain's own tools."""
    right = DetDataPreprocessor(mean=MEAN, std=STD, bgr_to_rgb=True)
    for std, expected in ((STD, 0), ([1.0, 1.0, 1.0], 1)):
        given = dict(mean=MEAN, std=std, to_rgb=True)
        model = dict(MODEL, data_preprocessor=given) if inside else MODEL
        cfg = dict(model=model) if inside else dict(model=model, data_preprocessor=given)
        assert len(warnings(right, dict(cfg=Config(cfg).pretty_text))) == expected


def test_one_number_stands_for_all_channels(warnings):
    grey = ClsDataPreprocessor(mean=[33.0], std=[78.0])
    assert warnings(grey, student(mean=[33.0], std=[78.0])) == []
    assert warnings(grey, student(mean=[33.0] * 3, std=[78.0] * 3)) == []
    assert len(warnings(grey, student(mean=[34.0], std=[78.0]))) == 1


def test_preprocessing_of_a_student():
    found = trained_preprocessing(dict(meta=student(**IMAGENET)))
    assert found == Preprocessing(tuple(MEAN), tuple(STD), True)


@pytest.mark.parametrize('step', [0, 5])
def test_a_backbone_that_reads_its_init_cfg_itself(tmp_path, step):
    """The loader of mmseg's Swin finds no name of a training checkpoint, and says nothing."""
    small = dict(embed_dims=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
    own = SwinTransformer(**small)
    path = str(tmp_path / 'training.pth')
    torch.save(
        dict(state_dict={f'student.backbone.{k}': v for k, v in own.state_dict().items()}), path
    )
    model = BaseModule()
    init_cfg = dict(type='mtkdrl_mm.DistilledBackbone', checkpoint=path)
    model.backbone = SwinTransformer(**small, init_cfg=init_cfg)
    model.init_weights()
    weight = model.backbone.patch_embed.projection.weight
    assert not torch.equal(weight, own.patch_embed.projection.weight)
    runner = SimpleNamespace(model=model, iter=step, logger=logging.getLogger('test'))
    if step > 0:  # a resumed training has its weights
        BackboneCheckHook().before_train(runner)
        return
    with pytest.raises(InputError, match=r'without DistilledBackbone, and may have loaded nothing'):
        BackboneCheckHook().before_train(runner)


def test_a_backbone_whose_layers_have_its_init_cfg(tmp_path):
    own = RepVGG('A0')
    path = str(tmp_path / 'training.pth')
    torch.save(
        dict(state_dict={f'student.backbone.{k}': v for k, v in own.state_dict().items()}), path
    )
    model = BaseModule()
    init_cfg = dict(type='mtkdrl_mm.DistilledBackbone', checkpoint=path)
    model.backbone = RepVGG('A0', init_cfg=init_cfg)
    model.init_weights()
    layer = model.backbone.stage_1[0]
    assert layer.init_cfg == init_cfg
    assert torch.equal(layer.branch_3x3.conv.weight, own.stage_1[0].branch_3x3.conv.weight)
    runner = SimpleNamespace(model=model, iter=0, logger=logging.getLogger('test'))
    BackboneCheckHook().before_train(runner)
