# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Students under torchvision's names compute in torchvision what they compute in mmpretrain."""

import pytest
import torch
import torchvision
from mmpretrain.models import build_classifier

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.weights.torchvision_resnet import to_torchvision


def classifier(in_channels=2048, **backbone):
    """A classifier of three classes whose BatchNorms have seen images."""
    torch.manual_seed(0)
    model = build_classifier(
        dict(
            type='ImageClassifier',
            backbone=backbone,
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=3, in_channels=in_channels),
        )
    )
    with torch.no_grad():
        model.train()(torch.randn(2, 3, 64, 64))
    return model.eval()


@pytest.mark.parametrize(
    ('backbone', 'name', 'backbone_only'),
    [
        (dict(type='ResNet', depth=18, in_channels=512), 'resnet18', False),
        (dict(type='ResNet', depth=18, in_channels=512), 'resnet18', True),
        pytest.param(dict(type='ResNet', depth=50), 'resnet50', True, marks=pytest.mark.slow),
        pytest.param(
            dict(type='ResNeXt', depth=50), 'resnext50_32x4d', False, marks=pytest.mark.slow
        ),
        pytest.param(
            dict(type='ResNet', depth=50, base_channels=128, expansion=2),
            'wide_resnet50_2',
            False,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_network_of_torchvision_has_equal_outputs(backbone, name, backbone_only):
    model = classifier(**backbone)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = model.backbone(images)[-1].mean((2, 3)) if backbone_only else model(images)
    weights = {
        key: value.clone()
        for key, value in model.state_dict().items()
        if not (backbone_only and key.startswith('head.'))
    }
    found, renamed = to_torchvision(model, weights, 'run/epoch_2.pth')
    assert found == name
    network = torchvision.models.get_model(name, num_classes=3).eval()
    if backbone_only:
        network.fc = torch.nn.Identity()
    network.load_state_dict(renamed)
    with torch.no_grad():
        torch.testing.assert_close(network(images), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    'backbone',
    [
        dict(type='ResNet', depth=50, style='caffe'),
        dict(type='ResNet', depth=18, in_channels=512, strides=(1, 2, 2, 1)),
        dict(type='ResNet', depth=18, in_channels=512, norm_cfg=dict(type='BN', eps=1e-3)),
    ],
)
def test_another_computation_with_the_same_tensors_is_refused(backbone):
    model = classifier(**backbone)
    with pytest.raises(InputError) as error:
        to_torchvision(model, model.state_dict(), 'run/epoch_2.pth')
    name = f'resnet{backbone["depth"]}'
    assert f'"run/epoch_2.pth" has the tensors of torchvision\'s {name}, but' in str(error.value)
    assert 'export it without --format torchvision' in str(error.value)


@pytest.mark.parametrize(
    ('backbone', 'differences'),
    [
        (
            dict(type='ResNet_CIFAR', depth=18, in_channels=512),
            'it differs from resnet18 in conv1.weight.',
        ),
        (
            dict(type='ResNet', depth=18, in_channels=512, avg_down=True),
            'it differs from resnet18 in layer2.0.downsample.0.weight, ',
        ),
    ],
)
def test_other_tensors_are_refused(backbone, differences):
    model = classifier(**backbone)
    with pytest.raises(InputError) as error:
        to_torchvision(model, model.state_dict(), 'run/epoch_2.pth')
    assert '"run/epoch_2.pth" holds none of them: ' in str(error.value)
    assert differences in str(error.value)
