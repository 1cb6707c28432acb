# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""One way to build and to run any classifier."""

import pytest
import torch

from mtkdrl_mm.models.build_classifier import build_classifier, read_network_config
from mtkdrl_mm.models.classifier_output import check_classifier, run_classifier
from mtkdrl_mm.utils import InputError


def test_logits_are_the_networks_own(make_classifier, make_resnet, make_vit):
    inputs = torch.randn(3, 3, 32, 32)
    for cfg in (make_resnet(4), make_vit(16)):
        network = make_classifier(cfg, seed=1)
        assert torch.equal(run_classifier(network, inputs).logits, network(inputs))


def test_class_token_has_no_map(make_classifier, make_vit):
    output = run_classifier(make_classifier(make_vit(16)), torch.zeros(2, 3, 32, 32))
    assert output.feature_map is None and output.embedding.shape == (2, 16)


def test_head_that_answers_with_two_tokens(make_classifier):
    # DeiT's head gives the class and the distillation token.
    arch = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32)
    network = make_classifier(
        dict(
            type='ImageClassifier',
            backbone=dict(type='DistilledVisionTransformer', arch=arch, img_size=32, patch_size=16),
            head=dict(type='DeiTClsHead', num_classes=5, in_channels=16),
        ),
        seed=1,
    )
    inputs = torch.randn(2, 3, 32, 32)
    output = run_classifier(network, inputs)
    token = network.backbone(inputs)[-1][0]
    torch.testing.assert_close(output.embedding, token)
    torch.testing.assert_close(output.logits, network(inputs))


def test_only_the_last_map_counts(make_classifier, make_resnet):
    cfg = make_resnet(4)
    cfg['backbone']['out_indices'] = (1, 3)
    network = make_classifier(cfg, seed=1)
    output = run_classifier(network, torch.randn(2, 3, 64, 64))
    assert output.feature_map.shape == (2, 32, 2, 2) and output.logits.shape == (2, 5)


def test_config_and_preprocessing_of_an_installed_package():
    model, preprocessor = read_network_config(
        dict(cfg_path='mmpretrain::resnet/resnet34_8xb32_in1k.py'), 'student'
    )
    assert model.backbone.depth == 34
    assert preprocessor['mean'] == [123.675, 116.28, 103.53] and preprocessor['to_rgb']


def test_options_are_merged_over_the_file():
    options = {'model.head.num_classes': 10, 'model.backbone': dict(depth=50)}
    model, _ = read_network_config(
        dict(cfg_path='mmpretrain::resnet/resnet34_8xb32_in1k.py', cfg_options=options), 'student'
    )
    assert (model.head.num_classes, model.backbone.depth) == (10, 50)
    assert model.head.in_channels == 512


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (1, 'must be a dict with dotted keys, for example .*, but is 1'),
        ([1, 2], r'must be a dict with dotted keys, .*, but is \[1, 2\]'),
        ({1: 2}, 'must be a dict with dotted keys, .*, but is {1: 2}'),
        ({'model.head.num_classes.x': 1}, 'do not fit its config: num_classes='),
        (
            {'modl.head.num_classes': 5},
            'has "modl.head.num_classes", which would change nothing: of',
        ),
    ],
)
@pytest.mark.parametrize('role', ['student', 'teacher "a"'])
def test_options_that_cannot_be_merged(options, message, role):
    cfg = dict(cfg_path='mmpretrain::resnet/resnet34_8xb32_in1k.py', cfg_options=options)
    with pytest.raises(InputError, match=f'^`cfg_options` of the {role} {message}'):
        read_network_config(cfg, role)


def test_given_config_is_not_changed(make_resnet):
    cfg = make_resnet(4)
    model, _ = read_network_config(cfg, 'student')
    build_classifier(model, None, 9, 'student')
    assert cfg == make_resnet(4)


def test_built_whatever_the_default_scope_is(make_resnet):
    from mmengine.registry import DefaultScope

    model, _ = read_network_config(make_resnet(4), 'student')
    with DefaultScope.overwrite_default_scope('mtkdrl_mm'):
        assert build_classifier(model, None, None, 'student').head.fc.out_features == 5


def test_networks_that_cannot_be_run():
    with pytest.raises(InputError, match='student is a Linear, which has no `backbone`'):
        check_classifier(torch.nn.Linear(2, 2), 'student')


def test_classifiers_without_a_backbone(monkeypatch):
    pytest.importorskip('timm')
    model, _ = read_network_config(
        dict(type='TimmClassifier', model_name='mobilenetv3_small_050', num_classes=7), 'student'
    )
    with pytest.raises(InputError) as error:
        build_classifier(model, None, None, 'student')
    message = str(error.value)
    assert message.startswith('The student is a TimmClassifier, which returns logits only.')
    # What it advises works, and gives as many classes.
    start, end = message.index("type='ImageClassifier'"), message.rindex('.')
    cfg = eval(f'dict({message[start:end]})')
    network = build_classifier(read_network_config(cfg, 'student')[0], None, None, 'student')
    output = run_classifier(network.eval(), torch.randn(2, 3, 64, 64))
    assert output.logits.shape == (2, 7) and output.embedding.shape == (2, 1024)


def test_classifiers_of_huggingface_are_not_built():
    cfg = dict(type='HuggingFaceClassifier', model_name='microsoft/resnet-50', pretrained=True)
    model, _ = read_network_config(cfg, 'student')
    with pytest.raises(InputError, match=r"HuggingFaceClassifier.*mtkdrl_mm.TimmFeatures.*'NAME'"):
        build_classifier(model, None, None, 'teacher "x"')


def test_network_that_needs_a_file(make_vit):
    cfg = make_vit(16)
    weights = dict(type='Pretrained', checkpoint='no/such/file.pth')
    backbone = dict(
        type='LoRAModel',
        module=dict(cfg['backbone'], init_cfg=weights),
        targets=[dict(type='qkv')],
    )
    with pytest.raises(InputError, match=r'student cannot be built: .*no/such/file.pth" does not'):
        build_classifier(
            read_network_config(dict(cfg, backbone=backbone), 'student')[0], None, None, 'student'
        )
