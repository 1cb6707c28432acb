# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Networks of timm in mmpretrain's classifiers, and their checkpoints."""

import sys

import pytest
import torch
from safetensors.torch import save_file

from mtkdrl_mm.models import TimmFeatures, build_pool
from mtkdrl_mm.models.classifier_output import run_classifier
from mtkdrl_mm.models.teachers import Preprocessing, Teacher
from mtkdrl_mm.utils import InputError

timm = pytest.importorskip('timm')

CAIT = dict(model_name='cait_xxs24_224', img_size=32, depth=2)
SMALL = {  # arguments, and size of the embedding
    'cait': (CAIT, 192),
    'deit': (dict(model_name='deit_tiny_patch16_224', img_size=32, depth=2), 192),
    'resnet': (dict(model_name='resnet18'), 512),
    'swin': (dict(model_name='swin_tiny_patch4_window7_224', depths=(1, 1, 1, 1)), 768),
    'convnext': (dict(model_name='convnext_atto', depths=(1, 1, 1, 1)), 320),
}


ONE = (1, 1, 1, 1)
# Networks with other classifiers or features: arguments, sizes of embedding and map.
OTHERS = {
    '1x1 convolution': (dict(model_name='resnetv2_50', layers=ONE), 2048, (2048, 7, 7)),
    '1x1 convolution of DLA': (dict(model_name='dla46x_c'), 256, (256, 7, 7)),
    'MLP': (dict(model_name='inception_next_tiny', depths=ONE), 2304, (768, 7, 7)),
    'MLP that timm leaves out': (dict(model_name='caformer_s18'), 2048, (512, 7, 7)),
    'BatchNorm': (dict(model_name='efficientvit_m0'), 192, (192, 4, 4)),
    'class token alone': (dict(model_name='pit_ti_224', depth=(1, 1, 1)), 256, None),
    'list of features': (
        dict(model_name='coat_tiny', serial_depths=ONE, parallel_depth=1),
        152,
        None,
    ),
    'first convolution of 48 channels': (
        dict(model_name='tresnet_m', layers=ONE),
        2048,
        (2048, 7, 7),
    ),
}


def load_teacher(network, path, name, which=None):
    return Teacher(name, network, Preprocessing(), path, which).load_weights()


def classifier_config(backbone, size, num_classes=5):
    return dict(
        type='ImageClassifier',
        backbone=dict(type='mtkdrl_mm.TimmFeatures', **backbone),
        head=dict(type='VisionTransformerClsHead', num_classes=num_classes, in_channels=size),
    )


def original(backbone, num_classes=5):
    """The same network as timm makes it, with weights that matter."""
    network = timm.create_model(**backbone, num_classes=num_classes).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.copy_(noise / fan_in**0.5 + (parameter.ndim == 1) * 0.5)
    return network


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('name', SMALL)
def test_timms_file_gives_timms_logits(make_classifier, tmp_path, name, suffix):
    backbone, size = SMALL[name]
    expected = original(backbone)
    path = str(tmp_path / f'teacher{suffix}')
    weights = {key: value.contiguous() for key, value in expected.state_dict().items()}
    if suffix == '.pth':
        torch.save(dict(model=weights), path)
    else:
        save_file(weights, path)
    network = make_classifier(classifier_config(backbone, size))
    assert load_teacher(network, path, name) == len(weights)
    inputs = torch.randn(2, 3, *network.backbone.img_size)
    with torch.no_grad():
        output = run_classifier(network, inputs)
        torch.testing.assert_close(output.logits, expected(inputs), rtol=0, atol=1e-5)
        assert torch.equal(network(inputs), output.logits)
        features = expected.forward_head(expected.forward_features(inputs), pre_logits=True)
    torch.testing.assert_close(output.embedding, features)
    assert output.embedding.shape == (2, size)
    assert (output.logits[0] - output.logits[1]).abs().max() > 1e-3


@pytest.mark.parametrize('kind', OTHERS)
def test_other_classifiers_and_features(make_pool, tmp_path, kind):
    backbone, size, map_shape = OTHERS[kind]
    expected = original(backbone)
    torch.save(expected.state_dict(), tmp_path / 'timm.pth')
    entry = dict(backbone, checkpoint=str(tmp_path / 'timm.pth'), num_classes=5)
    (teacher,) = make_pool([dict(entry, input_size=224)])
    assert teacher.load_weights() == len(expected.state_dict())
    assert len(teacher.preprocessing.mean) == 3
    seen = []
    classifier = expected.get_submodule(expected.pretrained_cfg['classifier'])
    classifier.register_forward_hook(lambda module, args, output: seen.append(args[0].flatten(1)))
    inputs = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        output = run_classifier(teacher.network, inputs, token_maps=True)
        logits = expected(inputs)
    scale = float(logits.std())
    torch.testing.assert_close(output.logits / scale, logits / scale, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.embedding, seen[0], rtol=1e-4, atol=1e-4)
    assert output.embedding.shape == (2, size)
    found = None if output.feature_map is None else output.feature_map.shape[1:]
    assert found == map_shape


def test_patch_tokens_are_the_map_if_asked_for(make_classifier):
    backbone, size = SMALL['cait']
    network = make_classifier(classifier_config(backbone, size), seed=1)
    inputs = torch.randn(2, 3, 32, 32)
    assert run_classifier(network, inputs).feature_map is None
    output = run_classifier(network, inputs, token_maps=True)
    tokens = network.backbone.model.forward_features(inputs)
    assert output.feature_map.shape == (2, 192, 2, 2)
    for row in range(2):
        for column in range(2):
            patch = tokens[:, 1 + 2 * row + column]
            assert torch.equal(output.feature_map[:, :, row, column], patch)
    assert torch.equal(output.embedding, tokens[:, 0])


def test_maps_of_convolutions_and_of_swin_are_always_there(make_classifier):
    for name in ('resnet', 'swin', 'convnext'):
        backbone, size = SMALL[name]
        network = make_classifier(classifier_config(backbone, size), seed=1)
        inputs = torch.randn(2, 3, *network.backbone.img_size)
        feature_map = run_classifier(network, inputs).feature_map
        side = network.backbone.img_size[0] // 32
        assert feature_map.shape == (2, size, side, side)


def test_preprocessing_and_size_come_from_timm(make_pool):
    clip = dict(model_name='vit_base_patch32_clip_224', depth=1)
    pool = make_pool(
        [
            dict(classifier_config(clip, 768), name='clip'),
            dict(classifier_config(CAIT, 192), name='cait'),
            dict(classifier_config(*SMALL['resnet']), name='resnet', input_size=64),
        ]
    )
    first, second, third = [t.preprocessing for t in pool]
    # of CLIP, arXiv:2103.00020
    assert first.mean == pytest.approx((122.7709383, 116.7460125, 104.09373615))
    assert first.std == pytest.approx((68.5005327, 66.6321375, 70.32316305))
    assert first.to_rgb and first.input_size == (224, 224)
    assert second.mean == (123.675, 116.28, 103.53) and second.std == (58.395, 57.12, 57.375)
    assert second.input_size == (32, 32) and third.input_size == (64, 64)
    outputs = pool(torch.randn(1, 3, 48, 48))
    assert [output.embedding.shape[1] for output in outputs] == [768, 192, 512]


def test_name_and_own_preprocessing(make_pool):
    config = classifier_config(CAIT, 192)
    own = dict(mean=[1.0] * 3, std=[2.0] * 3)
    pool = make_pool([config, dict(config, name='b', data_preprocessor=own, input_size=32)])
    assert pool.names == ('cait_xxs24_224', 'b')
    assert pool[1].preprocessing.mean == (1, 1, 1)


def test_checkpoint_of_a_classifier_can_be_loaded_as_it_is(make_classifier, tmp_path):
    config = classifier_config(CAIT, 192)
    network, copy = make_classifier(config, seed=1), make_classifier(config, seed=2)
    torch.save(dict(state_dict=network.state_dict()), tmp_path / 'own.pth')
    load_teacher(copy, str(tmp_path / 'own.pth'), 'cait')
    loaded = copy.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in network.state_dict().items())
    inputs = torch.randn(1, 3, 32, 32)
    # Some CPUs run frozen networks by other kernels, with other roundings.
    torch.testing.assert_close(copy(inputs), network(inputs))


def test_other_number_of_classes(make_classifier, tmp_path):
    path = str(tmp_path / 'cait.pth')
    torch.save(original(CAIT, num_classes=7).state_dict(), path)
    network = make_classifier(classifier_config(CAIT, 192))
    with pytest.raises(InputError, match='has 7 classes, but the config has 5'):
        load_teacher(network, path, 'cait')


def test_other_network(make_classifier, tmp_path):
    path = str(tmp_path / 'cait.pth')
    torch.save(original({**CAIT, 'depth': 3}).state_dict(), path)
    network = make_classifier(classifier_config(CAIT, 192))
    with pytest.raises(InputError, match=r'Only in the file: backbone\.model\.blocks\.2\.'):
        load_teacher(network, path, 'cait')


def test_student_of_timm_in_a_distiller(make_distiller, make_batch):
    student = classifier_config(CAIT, 192)
    distiller = make_distiller(student=student)
    losses = distiller(*make_batch(2), mode='loss')
    sum(losses.values()).backward()
    assert distiller.student.backbone.model.cls_token.grad.abs().sum() > 0
    copy = make_distiller(None, student=student)
    copy.load_state_dict(distiller.state_dict())
    inputs = make_batch(2)[0]
    assert torch.equal(copy.eval()(inputs), distiller.eval()(inputs))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(model_name='cait_s99_224'), 'has no network "cait_s99_224".*Did you mean.*cait_s'),
        (dict(model_name='resnet18', pretrained=True), 'takes no `pretrained`.*`checkpoint`'),
        (dict(model_name='cait_xxs24_224', no_such=3), 'timm cannot build "cait_xxs24_224" with'),
        (dict(model_name='deit_tiny_distilled_patch16_224'), 'only networks with one'),
        (
            dict(model_name='resnet10t', pretrained_cfg_overlay=dict(classifier='layer4')),
            'The classifier "layer4" of "resnet10t" is a Sequential, but only networks with one l',
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        TimmFeatures(**arguments)


def test_an_embedding_that_is_no_vector():
    backbone = TimmFeatures('resnet10t', global_pool='')
    with pytest.raises(
        InputError, match=r'"resnet10t" of timm gives .* the shape \(1, 512, 2, 2\)'
    ):
        backbone(torch.zeros(1, 3, 64, 64))


def test_channels_of_the_images():
    assert TimmFeatures('resnet10t').image_channels == 3
    assert TimmFeatures('resnet10t', in_chans=1).image_channels == 1


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(InputError, match="needs timm, which is not installed: pip install 'timm"):
        build_pool([classifier_config(CAIT, 192)], Preprocessing())
