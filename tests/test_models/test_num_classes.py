# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The number of classes in every part of a config."""

import pytest
from mmengine.config import ConfigDict
from mmpretrain.registry import MODELS

from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.models.build_classifier import build_classifier, read_network_config
from mtkdrl_mm.models.infer_output import infer_output
from mtkdrl_mm.models.num_classes import set_num_classes
from mtkdrl_mm.utils import InputError


class PassesOn(MODELS.get('LinearClsHead')):
    def __init__(self, extra=1, **kwargs):
        super().__init__(**kwargs)


@pytest.mark.parametrize(
    ('before', 'after'),
    [
        # heads
        (
            dict(type='LinearClsHead', num_classes=1000, topk=(1, 5)),
            dict(type='LinearClsHead', num_classes=3, topk=(1,)),
        ),
        (dict(type='LinearClsHead'), dict(type='LinearClsHead', num_classes=3)),
        (dict(type='ClsHead', topk=5), dict(type='ClsHead', topk=3)),
        (
            dict(type='LeViTClsHead', in_channels=8),
            dict(type='LeViTClsHead', in_channels=8, num_classes=3),
        ),
        (dict(type='DeiTClsHead'), dict(type='DeiTClsHead', num_classes=3)),
        (dict(type=PassesOn), dict(type=PassesOn, num_classes=3)),
        # losses
        (
            dict(type='LabelSmoothLoss', num_classes=1000),
            dict(type='LabelSmoothLoss', num_classes=3),
        ),
        (dict(type='LabelSmoothLoss'), dict(type='LabelSmoothLoss')),  # it sees the logits
        (dict(type='SeesawLoss'), dict(type='SeesawLoss', num_classes=3)),
        (dict(type='mmpretrain.SeesawLoss'), dict(type='mmpretrain.SeesawLoss', num_classes=3)),
        (dict(type='CrossEntropyLoss'), dict(type='CrossEntropyLoss')),
        # backbones
        (dict(type='VGG', depth=11), dict(type='VGG', depth=11)),
        (dict(type='VGG', num_classes=-1), dict(type='VGG', num_classes=-1)),
        (dict(type='VGG', num_classes=1000), dict(type='VGG', num_classes=3)),
        (dict(type='InceptionV3'), dict(type='InceptionV3', num_classes=3)),
        (dict(type='ResNet', depth=18), dict(type='ResNet', depth=18)),
        # batch augmentation, and what is not known
        (
            dict(augments=[dict(type='Mixup', alpha=0.2, num_classes=1000)]),
            dict(augments=[dict(type='Mixup', alpha=0.2, num_classes=3)]),
        ),
        (dict(type='NoSuchHead', num_classes=7), dict(type='NoSuchHead', num_classes=3)),
        (dict(init_cfg=dict(num_classes=7)), dict(init_cfg=dict(num_classes=7))),
    ],
    ids=lambda cfg: str(cfg.get('type')),
)
def test_every_part(before, after):
    for wrap in (lambda part: part, lambda part: dict(head=dict(heads=[part]))):
        cfg = wrap(dict(before))
        set_num_classes(cfg, 3)
        assert cfg == wrap(after)


@pytest.mark.parametrize(
    ('backbone', 'head', 'size'),
    [
        (dict(type='AlexNet', num_classes=1000), dict(type='ClsHead', topk=(1, 5)), 224),
        (dict(type='LeNet5', num_classes=10), dict(type='ClsHead'), 32),
        (
            dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4),
            dict(
                type='StackedLinearClsHead',
                num_classes=1000,
                in_channels=32,
                mid_channels=[6],
                loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=1000),
            ),
            32,
        ),
    ],
)
def test_built_network_has_the_classes(backbone, head, size):
    neck = dict(type='GlobalAveragePooling') if head['type'] != 'ClsHead' else None
    model = ConfigDict(type='ImageClassifier', backbone=backbone, neck=neck, head=head)
    network = build_classifier(model, None, 3, 'student')
    output = infer_output(network, 'student', (size, size))
    assert output.logits.shape == (2, 3) and output.embedding.shape[1] in (4096, 84, 6)
    assert model.head == head  # the given config is left alone


def test_distiller_sets_the_zoos_smoothing():
    # Its head smooths over 1,000 classes.
    path = 'mmpretrain::resnet/resnet50_32xb64-warmup-lbs_in1k.py'
    model, _ = read_network_config(dict(cfg_path=path), 'student')
    assert model.head.loss.num_classes == 1000
    small = {'model.backbone.depth': 18, 'model.head.in_channels': 512}
    distiller = MultiTeacherDistiller(
        dict(cfg_path=path, cfg_options=small),
        [dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py')],
        num_classes=4,
    )
    assert distiller.student.head.loss_module.num_classes == 4


class Stubborn(MODELS.get('ClsHead')):
    """Has four classes, whatever it is told."""

    def forward(self, feats):
        return feats[-1][:, :4]


def test_number_that_reaches_nothing(make_resnet):
    student = dict(make_resnet(4), head=dict(type=Stubborn))
    with pytest.raises(InputError, match='`num_classes` is 7, but the student has 4: its ResNet '):
        MultiTeacherDistiller(student, [make_resnet(4)], num_classes=7)
