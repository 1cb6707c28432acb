# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Every kind of classifier in mmpretrain's zoo as student and as teacher."""

import pytest
import torch
from mmpretrain.models import backbones
from torch import nn

from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.models.build_classifier import build_classifier, read_network_config
from mtkdrl_mm.models.classifier_output import run_classifier
from mtkdrl_mm.models.infer_output import infer_output
from mtkdrl_mm.utils import InputError

# One small config for every pair of backbone and head in the zoo: length of the embedding, and
# channels of the map; None where the backbone itself averages it, or has a class token.
ZOO = {
    'arcface/resnet50-arcface_8xb32_inshop': 'is no classifier',
    'beit/benchmarks/beit-base-p16_8xb128-coslr-100e_in1k': (768, None),
    'conformer/conformer-tiny-p16_8xb128_in1k': (256 + 384, None),
    'convmixer/convmixer-1024-20_10xb64_in1k': (1024, 1024),
    'convnext/convnext-tiny_32xb128_in1k': (768, None),
    'convnext_v2/convnext-v2-atto_32xb32_in1k': (320, None),
    'cspnet/cspdarknet50_8xb32_in1k': (1024, 1024),
    'cspnet/cspresnet50_8xb32_in1k': (1024, 1024),
    'cspnet/cspresnext50_8xb32_in1k': (2048, 2048),
    'csra/resnet101-csra_1xb16_voc07-448px': (2048, 2048),
    'davit/davit-tiny_4xb256_in1k': (768, 768),
    'deit/deit-tiny-distilled_4xb256_in1k': (192, None),
    'deit/deit-tiny_4xb256_in1k': (192, None),
    'deit3/deit3-small-p16_64xb64_in1k': (384, None),
    'densenet/densenet121_4xb256_in1k': (1024, 1024),
    'edgenext/edgenext-xxsmall_8xb256_in1k': (168, None),
    'efficientformer/efficientformer-l1_8xb128_in1k': (448, None),
    'efficientnet/efficientnet-b0_8xb32_in1k': (1280, 1280),
    'efficientnet_v2/efficientnetv2-b0_8xb32_in1k': (1280, 1280),
    'eva02/eva02-tiny-p14_in1k': (192, None),
    'hivit/hivit-tiny-p16_16xb64_in1k': (384, 384),
    'hornet/hornet-tiny_8xb128_in1k': (512, None),
    'hrnet/hrnet-w18_4xb32_in1k': (2048, 144),
    'inception_v3/inception-v3_8xb32_in1k': (2048, 2048),
    'lenet/lenet5_mnist': (84, 16),
    'levit/levit-128s_8xb256_in1k': (384, 384),
    'mixmim/benchmarks/mixmim-base_8xb128-coslr-100e_in1k': (1024, None),
    'mlp_mixer/mlp-mixer-base-p16_64xb64_in1k': (768, None),
    'mobilenet_v2/mobilenet-v2_8xb32_in1k': (1280, 1280),
    'mobilenet_v3/mobilenet-v3-small-050_8xb128_in1k': (1024, 288),
    'mobileone/mobileone-s0_8xb32_in1k': (1024, 1024),
    'mobilevit/mobilevit-xxsmall_8xb128_in1k': (320, 320),
    'mocov3/benchmarks/vit-small-p16_8xb128-linear-coslr-90e_in1k': (384, None),
    'mvit/mvitv2-tiny_8xb256_in1k': (768, 768),
    'poolformer/poolformer-s12_32xb128_in1k': (512, 512),
    'regnet/regnetx-400mf_8xb128_in1k': (384, 384),
    'replknet/replknet-31L_32xb64_in1k-384px': (1536, 1536),
    'repmlp/repmlp-base_8xb64_in1k': (768, 768),
    'repvgg/repvgg-A0_8xb32_in1k': (1280, 1280),
    'res2net/res2net50-w14-s8_8xb32_in1k': (2048, 2048),
    'resnest/resnest50_32xb64_in1k': (2048, 2048),
    'resnet/resnet18_8xb16_cifar10': (512, 512),
    'resnet/resnet18_8xb32_in1k': (512, 512),
    'resnet/resnet50_8xb16-mixup_cifar10': (2048, 2048),
    'resnet/resnet50_8xb32-cutmix_in1k': (2048, 2048),
    'resnet/resnetv1c50_8xb32_in1k': (2048, 2048),
    'resnet/resnetv1d50_8xb32_in1k': (2048, 2048),
    'resnext/resnext50-32x4d_8xb32_in1k': (2048, 2048),
    'revvit/revvit-small_8xb256_in1k': (768, None),
    'riformer/riformer-s12_8xb128_in1k': (512, 512),
    'seresnet/seresnet50_8xb32_in1k': (2048, 2048),
    'seresnet/seresnext50-32x4d_8xb32_in1k': (2048, 2048),
    'shufflenet_v1/shufflenet-v1-1x_16xb64_in1k': (960, 960),
    'shufflenet_v2/shufflenet-v2-1x_16xb64_in1k': (1024, 1024),
    'swin_transformer/swin-tiny_16xb64_in1k': (768, 768),
    'swin_transformer_v2/swinv2-tiny-w8_16xb64_in1k-256px': (768, 768),
    't2t_vit/t2t-vit-t-14_8xb64_in1k': (384, None),
    'tinyvit/tinyvit-5m_8xb256_in1k': (320, None),
    'tnt/tnt-s-p16_16xb64_in1k': (384, None),
    'twins/twins-pcpvt-small_8xb128_in1k': (512, 512),
    'twins/twins-svt-small_8xb128_in1k': (512, 512),
    'van/van-tiny_8xb128_in1k': (256, 256),
    'vgg/vgg11bn_8xb32_in1k': (4096, 512),
    'vig/pvig-tiny_8xb128_in1k': (1024, 384),
    'vig/vig-tiny_8xb128_in1k': (1024, 192),
    'vision_transformer/vit-base-p16_8xb64-lora_in1k-384px': 'cannot be built',
    'wrn/wide-resnet50_8xb32_in1k': (2048, 2048),
    'xcit/xcit-nano-12-p16_8xb128_in1k': (128, None),
}
# Teachers, but no students: heads whose distillation token only its own recipe trains, and a
# config with the name that an augmentation had in an earlier version of mmpretrain.
TOKEN = r"cannot be trained.*cfg_options={'model.head.distillation': False}"
TEACHERS_ONLY = {
    'efficientformer/efficientformer-l1_8xb128_in1k': TOKEN,
    'levit/levit-128s_8xb256_in1k': TOKEN,
    'resnet/resnet50_8xb32-cutmix_in1k': 'augmentation "BatchCutMix".*Did you mean "CutMix"',
}
# Backbones that no classifier of the zoo has, and the base class of CSPDarkNet and others.
ELSEWHERE = {'AlexNet', 'CSPNet', 'SparseConvNeXt', 'SparseResNet', 'TIMMBackbone', 'ViTSAM'}


@pytest.fixture(autouse=True)
def _no_random_weights(monkeypatch):
    """Drawing random weights takes longer than all else."""

    def scaled(tensor, *args, **kwargs):
        with torch.no_grad():
            return tensor.fill_(0.01)

    for name in ('kaiming_uniform_', 'uniform_', 'trunc_normal_', 'normal_', 'xavier_uniform_'):
        monkeypatch.setattr(nn.init, name, scaled)


@pytest.fixture(autouse=True)
def _one_run_per_network(monkeypatch):
    """One network is student and teacher, and its outputs for equal dummy images are equal.

    Without this, every network runs three times, which takes two thirds of all time here.
    """
    outputs = {}

    def run_once(network, inputs, token_maps=False, **kwargs):
        key = (network, inputs.shape, token_maps)
        # The student's run is watched by a hook.
        if key not in outputs or network.head._forward_pre_hooks:
            outputs[key] = (inputs, run_classifier(network, inputs, token_maps, **kwargs))
        first, output = outputs[key]
        assert torch.equal(first, inputs)
        return output

    monkeypatch.setattr('mtkdrl_mm.models.infer_output.run_classifier', run_once)


def path_of(name):
    return dict(cfg_path=f'mmpretrain::{name}.py')


@pytest.mark.slow
@pytest.mark.parametrize('num_classes', [1000, 10])
@pytest.mark.parametrize('name', ZOO)
def test_kinds_of_the_zoo(name, num_classes):
    expected = ZOO[name]
    model, _ = read_network_config(path_of(name), 'student')
    model.pop('train_cfg', None)
    if isinstance(expected, str):
        with pytest.raises(InputError, match=f'student .*{expected}|student .* is none'):
            build_classifier(model, None, num_classes, 'student')
        return
    network = build_classifier(model, None, num_classes, 'student')
    # The whole distiller, with this very network as its student and its teacher.
    with pytest.MonkeyPatch.context() as patch:
        for module in ('distillers.multi_teacher_distiller', 'teachers.build_teacher'):
            patch.setattr(f'mtkdrl_mm.models.{module}.build_classifier', lambda *args: network)
        if name in TEACHERS_ONLY:
            with pytest.raises(InputError, match=TEACHERS_ONLY[name]):
                MultiTeacherDistiller(path_of(name), [path_of(name)], num_classes=num_classes)
            distiller = None
        else:
            teachers = [path_of(name)]
            distiller = MultiTeacherDistiller(path_of(name), teachers, num_classes=num_classes)
    output = infer_output(network, 'student')
    channels = None if output.feature_map is None else output.feature_map.shape[1]
    assert output.logits.shape == (2, num_classes)
    assert (output.embedding.shape[1], channels) == expected
    if distiller is None:
        return
    spec = distiller.teachers.spec
    assert spec.num_classes == num_classes
    assert (spec.embedding_sizes, spec.map_channels) == ((expected[0],), (expected[1],))
    projection = next(iter(distiller.connectors.values()))(output, output)
    assert projection.features.shape == projection.target.shape


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in TEACHERS_ONLY if 'cutmix' not in name])
def test_students_without_their_distillation_token(name):
    student = dict(path_of(name), cfg_options={'model.head.distillation': False})
    distiller = MultiTeacherDistiller(student, [path_of(name)], num_classes=10)
    assert distiller.teachers.spec.num_classes == 10


@pytest.mark.slow
def test_every_backbone_of_mmpretrain_is_known():
    tested = set()
    for name in ZOO:
        model, _ = read_network_config(path_of(name), 'student')
        network = model.get('backbone') or model.image_encoder[0]
        tested.add(network.type)
    assert set(backbones.__all__) - tested == ELSEWHERE
