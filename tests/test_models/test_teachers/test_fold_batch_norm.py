# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A network with folded BatchNorm computes what it computed before."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import nn

from mtkdrl_mm.models.build_classifier import build_classifier, read_network_config
from mtkdrl_mm.models.classifier_output import run_classifier
from mtkdrl_mm.models.infer_output import dummy_input_sizes, input_channels
from mtkdrl_mm.models.teachers import fold_batch_norm
from mtkdrl_mm.models.teachers.fold_batch_norm import fold_batch_norms
from mtkdrl_mm.utils import InputError


class Calls(nn.Module):
    """A network whose forward pass is a function of its modules."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.steps = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.steps(self, x)


class StandardizedConv(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


def shared_conv():
    conv = nn.Conv2d(3, 3, 1)
    return Calls(lambda n, x: n.bn(n.conv(n.conv(x))), conv=conv, bn=nn.BatchNorm2d(3))


def chain(*modules):
    return nn.Sequential(*modules)


CONV, BN = (lambda: nn.Conv2d(3, 6, 3)), (lambda: nn.BatchNorm2d(6))
FOLDED = {
    'no bias': (chain(nn.Conv2d(3, 6, 3, bias=False), BN(), nn.ReLU(inplace=True)), 1),
    'bias': (chain(CONV(), BN()), 1),
    'grouped': (chain(nn.Conv2d(3, 6, 3, groups=3), BN()), 1),
    'depthwise': (chain(CONV(), BN(), nn.Conv2d(6, 6, 3, groups=6), BN()), 2),
    'no affine': (chain(CONV(), nn.BatchNorm2d(6, affine=False)), 1),
    'other eps': (chain(CONV(), nn.BatchNorm2d(6, eps=0.1)), 1),
    'synchronised': (chain(CONV(), nn.SyncBatchNorm(6)), 1),
    'linear': (chain(nn.Flatten(), nn.Linear(192, 5), nn.BatchNorm1d(5)), 1),
    '1d': (chain(nn.Flatten(2), nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5)), 1),
    'reflected': (chain(nn.Conv2d(3, 6, 3, padding=1, padding_mode='reflect'), BN()), 1),
    'ConvModule': (chain(ConvModule(3, 6, 3, norm_cfg=dict(type='BN'))), 1),
    'registered in another order': (
        Calls(
            lambda n, x: n.bn(n.second(n.first(x))),
            first=CONV(),
            bn=BN(),
            second=nn.Conv2d(6, 6, 1),
        ),
        1,
    ),
    'twice the same module': (
        Calls(
            lambda n, x: n.norm(n.conv(x)), **dict.fromkeys(('norm', 'other'), BN()), conv=CONV()
        ),
        1,
    ),
}
KEPT = {
    'before a convolution': chain(nn.BatchNorm2d(3), CONV()),
    'after an activation': chain(CONV(), nn.ReLU(), BN()),
    'after a sum': Calls(lambda n, x: n.bn(n.a(x) + n.b(x)), a=CONV(), b=CONV(), bn=BN()),
    'used elsewhere': Calls(lambda n, x: (lambda z: n.bn(z) + z)(n.a(x)), a=CONV(), bn=BN()),
    'shared norm': Calls(lambda n, x: n.bn(n.a(x)) + n.bn(n.b(x)), a=CONV(), b=CONV(), bn=BN()),
    'shared convolution': shared_conv(),
    'computed weight': chain(StandardizedConv(3, 6, 3), BN()),
    'parametrized': chain(nn.utils.parametrizations.weight_norm(CONV()), BN()),
    'batch statistics': chain(CONV(), nn.BatchNorm2d(6, track_running_stats=False)),
    'transposed': chain(nn.ConvTranspose2d(3, 6, 3), BN()),
    'view between': Calls(lambda n, x: n.bn(n.a(x).flatten(2)), a=CONV(), bn=nn.BatchNorm1d(6)),
}


@torch.no_grad()
def scramble(network):
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(noise + 0.5 if name.endswith(('weight', 'var')) else noise - 0.5)
    return network.eval()


@pytest.mark.parametrize('name', FOLDED)
def test_folded(name):
    network, expected_count = FOLDED[name]
    network = scramble(copy.deepcopy(network))
    inputs = torch.randn(2, 3, 8, 8)
    expected = network(inputs)
    norms = len([m for m in network.modules() if 'Norm' in type(m).__name__])
    assert fold_batch_norms(network, lambda: network(inputs)) == expected_count == norms
    assert not [m for m in network.modules() if 'Norm' in type(m).__name__]
    torch.testing.assert_close(network(inputs), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', KEPT)
def test_kept(name):
    network = scramble(copy.deepcopy(KEPT[name]))
    inputs = torch.randn(2, 3, 8, 8)
    expected = network(inputs)
    assert fold_batch_norms(network, lambda: network(inputs)) == 0
    assert torch.equal(network(inputs), expected)


def test_activations_of_timms_norm_remain():
    layers = pytest.importorskip('timm.layers')
    network = scramble(chain(CONV(), layers.BatchNormAct2d(6)))
    inputs = torch.randn(2, 3, 8, 8)
    expected = network(inputs)
    assert (expected == 0).any() and (expected > 0).any()
    assert fold_batch_norms(network, lambda: network(inputs)) == 1
    torch.testing.assert_close(network(inputs), expected, rtol=1e-5, atol=1e-5)


def test_folded_weights_are_frozen():
    network = scramble(chain(CONV(), BN()))
    fold_batch_norms(network, lambda: network(torch.randn(2, 3, 8, 8)))
    assert not network[0].weight.requires_grad and not network[0].bias.requires_grad


@pytest.mark.parametrize('entries', [1, 60])
@pytest.mark.parametrize('name', FOLDED)
def test_weights_are_folded_some_channels_at_a_time(monkeypatch, name, entries):
    whole, parts = (scramble(copy.deepcopy(FOLDED[name][0])) for _ in range(2))
    parts.load_state_dict(whole.state_dict())
    inputs = torch.randn(2, 3, 8, 8)
    fold_batch_norms(whole, lambda: whole(inputs))
    monkeypatch.setattr(fold_batch_norm, '_FOLDED_ENTRIES', entries)
    fold_batch_norms(parts, lambda: parts(inputs))
    assert all(map(torch.equal, whole.state_dict().values(), parts.state_dict().values()))


# BatchNorms of a network, and those that can be folded at least.
QUICK = {
    'densenet/densenet121_4xb256_in1k': (121, 59),
    'mobilenet_v2/mobilenet-v2_8xb32_in1k': (52, 52),
    'repvgg/repvgg-A0_8xb32_in1k': (61, 44),
    'resnet/resnet18_8xb32_in1k': (20, 20),
    'resnext/resnext50-32x4d_8xb32_in1k': (53, 53),
    'shufflenet_v2/shufflenet-v2-1x_16xb64_in1k': (56, 56),
}
SLOW = {
    'conformer/conformer-tiny-p16_8xb128_in1k': (85, 85),
    'convmixer/convmixer-1024-20_10xb64_in1k': (41, 0),  # all follow an activation
    'cspnet/cspdarknet50_8xb32_in1k': (67, 67),
    'cspnet/cspresnet50_8xb32_in1k': (55, 55),
    'cspnet/cspresnext50_8xb32_in1k': (55, 55),
    'csra/resnet101-csra_1xb16_voc07-448px': (104, 104),
    'efficientformer/efficientformer-l1_8xb128_in1k': (33, 33),
    'efficientnet/efficientnet-b0_8xb32_in1k': (49, 49),
    'efficientnet_v2/efficientnetv2-b0_8xb32_in1k': (59, 59),
    'hrnet/hrnet-w18_4xb32_in1k': (325, 325),
    'inception_v3/inception-v3_8xb32_in1k': (94, 94),
    'levit/levit-128s_8xb256_in1k': (52, 4),
    'mobilenet_v3/mobilenet-v3-small-050_8xb128_in1k': (34, 34),
    'mobileone/mobileone-s0_8xb32_in1k': (226, 191),
    'mobilevit/mobilevit-xxsmall_8xb128_in1k': (32, 32),
    'regnet/regnetx-400mf_8xb128_in1k': (71, 71),
    'replknet/replknet-31L_32xb64_in1k-384px': (203, 154),
    'repmlp/repmlp-base_8xb64_in1k': (131, 76),
    'res2net/res2net50-w14-s8_8xb32_in1k': (149, 149),
    'resnest/resnest50_32xb64_in1k': (71, 71),
    'resnet/resnet18_8xb16_cifar10': (20, 20),
    'resnet/resnet50_8xb16-mixup_cifar10': (53, 53),
    'resnet/resnet50_8xb32-cutmix_in1k': (53, 53),
    'resnet/resnetv1c50_8xb32_in1k': (55, 55),
    'resnet/resnetv1d50_8xb32_in1k': (55, 55),
    'seresnet/seresnet50_8xb32_in1k': (53, 53),
    'seresnet/seresnext50-32x4d_8xb32_in1k': (53, 53),
    'shufflenet_v1/shufflenet-v1-1x_16xb64_in1k': (49, 49),
    'tinyvit/tinyvit-5m_8xb256_in1k': (27, 27),
    'van/van-tiny_8xb128_in1k': (30, 4),
    'vgg/vgg11bn_8xb32_in1k': (8, 8),
    'vig/pvig-tiny_8xb128_in1k': (67, 67),
    'vig/vig-tiny_8xb128_in1k': (66, 66),
    'wrn/wide-resnet50_8xb32_in1k': (53, 53),
    'xcit/xcit-nano-12-p16_8xb128_in1k': (16, 4),
}
# Networks whose outputs jump: a rounding error chooses other neighbours in a graph, or is
# amplified by the softmax of random weights. In float64 they are as exact as the others.
UNSTABLE = ('levit', 'repmlp', 'vig')


@torch.no_grad()
def randomized(name):
    """A network of the zoo with random weights and statistics, and images."""
    model, _ = read_network_config(dict(cfg_path=f'mmpretrain::{name}.py'), 'it')
    model.pop('train_cfg', None)
    with pytest.MonkeyPatch.context() as patch:  # the weights are drawn below
        for function in ('kaiming_uniform_', 'trunc_normal_', 'normal_', 'xavier_uniform_'):
            patch.setattr(nn.init, function, lambda tensor, *args, **kwargs: tensor)
        network = build_classifier(model, None, 10, 'it').eval()
    generator = torch.Generator().manual_seed(0)
    for key, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1:
            tensor.copy_(noise * 1.2 / tensor[0].numel() ** 0.5)
        elif key.endswith(('weight', 'running_var')):
            tensor.copy_(noise.mul(0.2).add(1).clamp(min=0.2))
        else:
            tensor.copy_(noise * 0.2)
    for size in dummy_input_sizes(network):
        images = torch.randn(2, input_channels(network), *size, generator=generator)
        try:
            run_classifier(network, images)
        except InputError:
            continue
        return network, images
    raise AssertionError(name)


@pytest.mark.parametrize(
    'name', [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
@torch.no_grad()
def test_kinds_of_the_zoo(name):
    norms, least = {**QUICK, **SLOW}[name]
    network, images = randomized(name)
    if name.startswith(UNSTABLE):
        network, images = network.double(), images.double()
    expected = run_classifier(network, images)
    kinds = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(kinds) == norms
    assert fold_batch_norms(network, lambda: run_classifier(network, images)) == least
    output = run_classifier(network, images)
    for key in ('logits', 'embedding', 'feature_map'):
        value, wanted = getattr(output, key), getattr(expected, key)
        if wanted is not None:
            assert (value - wanted).abs().max() <= 1e-5 * wanted.abs().max(), key
