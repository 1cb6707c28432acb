# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Loading a teacher's weights completely, or raising an error."""

import pytest
import torch
import torchvision

from mtkdrl_mm.models.teachers import Preprocessing, Teacher
from mtkdrl_mm.utils import InputError

CONFIGS = {
    'resnet18': 'resnet/resnet18_8xb32_in1k.py',
    'resnet50': 'resnet/resnet50_8xb32_in1k.py',
    'wide_resnet50_2': 'wrn/wide-resnet50_8xb32_in1k.py',
    'resnext50_32x4d': 'resnext/resnext50-32x4d_8xb32_in1k.py',
}


def load_teacher(network, path, name, which=None):
    return Teacher(name, network, Preprocessing(), path, which).load_weights()


@pytest.fixture
def save(tmp_path):
    """Function that saves something and returns its path."""

    def write(contents, name='teacher.pth'):
        torch.save(contents, tmp_path / name)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize('name', CONFIGS)
def test_torchvision_checkpoints_give_torchvisions_logits(name, make_classifier, save):
    original = getattr(torchvision.models, name)(weights=None).eval()
    with torch.no_grad():
        for module in original.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.2, 0.6)
                module.weight.uniform_(0.5, 0.9)
                module.bias.normal_(std=0.1)
        inputs = torch.randn(2, 3, 64, 64) + 2 * torch.randn(2, 3, 1, 1)
        original.fc.weight.div_(original(inputs).std())  # logits of the usual size
    network = make_classifier(dict(cfg_path=f'mmpretrain::{CONFIGS[name]}'))
    count = load_teacher(network, save(original.state_dict()), name)
    assert count == len(original.state_dict())
    with torch.no_grad():
        expected = original(inputs)
        torch.testing.assert_close(network(inputs), expected, rtol=0, atol=1e-4)
    assert (expected[0] - expected[1]).abs().mean() > 0.03


@pytest.mark.parametrize(
    'wrap',
    [
        lambda weights: weights,
        lambda weights: dict(state_dict=weights, meta=dict(epoch=3)),
        lambda weights: dict(model=weights),
        lambda weights: dict(state_dict={f'module.{k}': v for k, v in weights.items()}),
        lambda weights: {f'student.{k}': v for k, v in weights.items()},
        lambda weights: dict(state_dict={f'module.student.{k}': v for k, v in weights.items()}),
        lambda weights: {**weights, 'data_preprocessor.mean': torch.zeros(3, 1, 1)},
        lambda weights: {k: v for k, v in weights.items() if 'num_batches_tracked' not in k},
    ],
    ids=['plain', 'mm', 'model', 'parallel', 'student', 'both', 'preprocessor', 'old'],
)
def test_usual_wrappers(make_classifier, make_resnet, save, wrap):
    original, network = (make_classifier(make_resnet(4), seed=seed) for seed in (1, 2))
    inputs = torch.randn(3, 3, 32, 32)
    assert not torch.allclose(network(inputs), original(inputs))
    load_teacher(network, save(wrap(original.state_dict())), 't')
    assert torch.equal(network(inputs), original(inputs))


def test_checkpoint_of_a_distillation_gives_its_student(
    make_classifier, make_distiller, make_resnet, save
):
    distiller = make_distiller(weighting='MTKDRL', student=make_resnet(6)).eval()
    path = save(dict(meta={}, state_dict=distiller.state_dict()))
    network = make_classifier(make_resnet(6))
    load_teacher(network, path, 'former student')
    inputs = torch.randn(3, 3, 32, 32)
    assert torch.equal(network(inputs), distiller(inputs))


def test_transformer(make_classifier, make_vit, save):
    original, network = (make_classifier(make_vit(16), seed=seed) for seed in (1, 2))
    load_teacher(network, save(original.state_dict()), 'vit')
    inputs = torch.randn(3, 3, 32, 32)
    assert torch.equal(network(inputs), original(inputs))


@pytest.mark.parametrize('kind', ['make_resnet', 'make_vit'])
def test_other_number_of_classes(make_classifier, save, request, kind):
    config = request.getfixturevalue(kind)
    path = save(make_classifier(config(16, num_classes=7)).state_dict())
    network = make_classifier(config(16))
    with pytest.raises(InputError) as error:
        load_teacher(network, path, 'digits')
    message = str(error.value)
    assert 'Teacher "digits"' in message and path in message
    assert 'has 7 classes, but the config has 5' in message
    assert '`cfg_options={"model.head.num_classes": 7}` beside a `cfg_path`' in message


def test_other_width(make_classifier, make_resnet, save):
    path = save(make_classifier(make_resnet(6)).state_dict())
    with pytest.raises(InputError) as error:
        load_teacher(make_classifier(make_resnet(4)), path, 'small')
    message = str(error.value)
    assert 'Teacher "small"' in message and path in message
    assert 'another architecture, the shapes differ' in message
    # a key with both shapes, and how many more there are
    assert '[6, 3, 7, 7]' in message and '[4, 3, 7, 7]' in message
    assert 'more' in message and len(message) < 1000


def test_other_depth(make_classifier, make_resnet, save):
    deep = make_resnet(4)
    deep['backbone']['depth'] = 34
    path = save(make_classifier(deep).state_dict())
    with pytest.raises(InputError) as error:
        load_teacher(make_classifier(make_resnet(4)), path, 'r18')
    message = str(error.value)
    assert 'Teacher "r18"' in message and 'another architecture than its config' in message
    assert 'Only in the file: backbone.layer1.2.conv1.weight' in message
    assert 'Not in the file' not in message and len(message) < 500
    path = save(make_classifier(make_resnet(4)).state_dict())
    with pytest.raises(InputError, match=r'Not in the file: backbone\.layer1\.2\.conv1\.weight'):
        load_teacher(make_classifier(deep), path, 'r34')


def test_other_family(make_classifier, make_resnet, make_vit, save):
    path = save(make_classifier(make_vit(16)).state_dict())
    with pytest.raises(InputError) as error:
        load_teacher(make_classifier(make_resnet(4)), path, 'r18')
    message = str(error.value)
    assert 'Not in the file: backbone.conv1.weight' in message
    assert 'Only in the file: backbone.cls_token' in message


def test_a_single_missing_tensor_is_refused(make_classifier, make_resnet, save):
    weights = make_classifier(make_resnet(4)).state_dict()
    del weights['backbone.layer2.0.bn1.running_var']
    with pytest.raises(InputError, match=r'Not in the file: backbone\.layer2\.0\.bn1\.running_var'):
        load_teacher(make_classifier(make_resnet(4)), save(weights), 't')
