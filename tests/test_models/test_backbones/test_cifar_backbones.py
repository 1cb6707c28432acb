# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The networks of the CIFAR-100 experiments: their figures, and mmpretrain's arguments."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtkdrl_mm.models import (
    CIFARMobileNetV2,
    CIFARRegNet,
    CIFARResNet,
    CIFARShuffleNetV2,
    CIFARWideResNet,
)
from mtkdrl_mm.models.backbones.cifar_wide_resnet import PreActBlock
from mtkdrl_mm.models.classifier_output import run_classifier
from mtkdrl_mm.utils import InputError

SMALL = [
    lambda **kwargs: CIFARResNet(8, stem_channels=4, base_channels=4, **kwargs),
    lambda **kwargs: CIFARWideResNet(10, base_channels=4, **kwargs),
    lambda **kwargs: CIFARRegNet(
        dict(w0=8, wa=8.0, wm=2.0, group_w=4, depth=8, bot_mul=1.0, se_ratio=0.25),
        stem_channels=8,
        **kwargs,
    ),
    lambda **kwargs: CIFARMobileNetV2(0.25, **kwargs),
    lambda **kwargs: CIFARShuffleNetV2(0.5, **kwargs),
]
IDS = ['resnet', 'wide_resnet', 'regnet', 'mobilenet_v2', 'shufflenet_v2']
LAST_STAGE = [2, 2, 3, 6, 3]
LAST_SIZE = [8, 8, 8, 2, 4]


def count_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def count_multiply_adds(module, inputs):
    """Multiplications of all convolutions and linear layers."""
    counts = []

    def count(layer, _, output):
        per_position = layer.weight[0].numel()
        counts.append(output.numel() * per_position)

    hooks = [
        layer.register_forward_hook(count)
        for layer in module.modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    output = run_classifier(module, inputs)
    for hook in hooks:
        hook.remove()
    return sum(counts), output


# As the paper's authors built them: parameters and multiply-adds in millions, the last map and
# the embedding.
FIGURES = {
    'teacher_regnety_400mf': (5.749, 467.1, (384, 8, 8), 384),
    'teacher_regnetx_400mf': (4.814, 466.2, (384, 8, 8), 384),
    'teacher_resnet32x4': (7.434, 1083.0, (256, 8, 8), 256),
    'teacher_wrn_28_4': (5.872, 845.6, (256, 8, 8), 256),
    'regnetx_200mf': (2.355, 223.4, (368, 8, 8), 368),
    'mobilenetv2': (2.353, 22.4, (320, 2, 2), 1280),
    'shufflenetv2': (1.356, 44.5, (1024, 4, 4), 1024),
    'resnet56': (0.862, 125.8, (64, 8, 8), 64),
}


@pytest.mark.parametrize('name', FIGURES)
def test_figures_of_the_cifar100_networks(name, make_classifier):
    parameters, multiply_adds, map_shape, embedding_size = FIGURES[name]
    network = make_classifier(dict(cfg_path=f'configs/cifar100/{name}.py'))
    with torch.no_grad():
        count, output = count_multiply_adds(network, torch.randn(1, 3, 32, 32))
    assert round(count_parameters(network) / 1e6, 3) == parameters
    assert round(count / 1e6, 1) == multiply_adds
    assert output.feature_map.shape == (1, *map_shape)
    assert output.embedding.shape == (1, embedding_size)
    assert output.logits.shape == (1, 100)


def conv(kernel, inputs, outputs):
    """Weights of a convolution without bias, and of its BatchNorm."""
    return kernel**2 * inputs * outputs + 2 * outputs


@pytest.mark.parametrize(
    ('depth', 'stem', 'base', 'known'),
    # Parameters in millions with a classifier of 100 classes, as the literature prints them.
    [(20, 16, 16, 0.278), (8, 32, 64, 1.234), (110, 16, 16, 1.737), (14, 12, 20, None)],
)
def test_resnets_of_other_depths_and_widths(depth, stem, base, known):
    n = (depth - 2) // 6
    expected = conv(3, 3, stem)
    channels = stem
    for stage, width in enumerate((base, 2 * base, 4 * base)):
        expected += conv(3, channels, width) + (2 * n - 1) * conv(3, width, width)
        if stage > 0 or channels != width:
            expected += conv(1, channels, width)
        channels = width
    backbone = CIFARResNet(depth, stem_channels=stem, base_channels=base)
    assert count_parameters(backbone) == expected
    assert backbone.feat_dim == 4 * base
    if known:
        assert round((expected + (4 * base + 1) * 100) / 1e6, 3) == known


@pytest.mark.parametrize(
    ('depth', 'widen_factor', 'known'), [(16, 2, 0.703), (40, 2, 2.255), (40, 1, 0.570), (10, 3, 0)]
)
def test_wide_resnets_of_other_depths_and_widths(depth, widen_factor, known):
    n = (depth - 4) // 6
    channels, expected = 16, 9 * 3 * 16
    for width in (16 * widen_factor, 32 * widen_factor, 64 * widen_factor):
        expected += 2 * channels + 9 * channels * width + 2 * width + 9 * width**2
        expected += (n - 1) * 2 * conv(3, width, width)
        if channels != width:
            expected += channels * width
        channels = width
    expected += 2 * channels
    backbone = CIFARWideResNet(depth, widen_factor)
    assert count_parameters(backbone) == expected
    if known:
        assert round((expected + (channels + 1) * 100) / 1e6, 3) == known


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: CIFARResNet(18), r'ResNet .* 6n \+ 2 .*\(8, 14, 20, 26, \.\.\.\), but is 18'),
        (lambda: CIFARResNet(2), 'but is 2'),
        (lambda: CIFARResNet('56'), "but is '56'"),
        (lambda: CIFARWideResNet(26), r'WRN .* 6n \+ 4 .*, but is 26'),
        (lambda: CIFARWideResNet(16, 0), '`widen_factor` must be greater than 0, but is 0'),
        (lambda: CIFARWideResNet(16, out_indices=(3,)), '`out_indices` .* 0 to 2, but one is 3'),
        (lambda: CIFARWideResNet(16, frozen_stages=4), '`frozen_stages` .* -1 to 3, but is 4'),
        (lambda: CIFARWideResNet(16, strides=(1, 2)), r'`strides` must be 3 numbers, .* \(1, 2\)'),
        (lambda: CIFARRegNet('regnety_200mf'), 'Did you mean "regnety_400mf" or "regnetx_200mf"'),
        (lambda: CIFARRegNet(400), 'a name or a dict, but is 400'),
    ],
)
def test_what_cannot_be_built(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_wide_resnet_adds_up_what_its_blocks_compute():
    block = PreActBlock(4, 8, stride=2).eval()
    x = torch.randn(2, 4, 8, 8)
    activated = block.norm1(x).relu()
    expected = nn.functional.conv2d(activated, block.shortcut.weight, stride=2)
    first = nn.functional.conv2d(activated, block.conv1.weight, stride=2, padding=1)
    second = nn.functional.conv2d(block.norm2(first).relu(), block.conv2.weight, padding=1)
    torch.testing.assert_close(block(x), expected + second)

    block = PreActBlock(4, 4)
    nn.init.zeros_(block.conv2.weight)
    assert torch.equal(block(x), x)  # the shortcut leads past the normalisation


def test_squeeze_and_excitation_is_in_every_block_of_a_regnety():
    plain, gated = CIFARRegNet('regnetx_400mf'), CIFARRegNet('regnety_400mf')
    assert gated.stage_widths == plain.stage_widths and gated.stage_blocks == plain.stage_blocks
    widths = [width for width, n in zip(gated.stage_widths, gated.stage_blocks) for _ in range(n)]
    inputs = [64, *widths[:-1]]  # of every block
    squeezed = [(2 * width + 1) * (fed // 4) + width for width, fed in zip(widths, inputs)]
    assert count_parameters(gated) - count_parameters(plain) == sum(squeezed)

    block = gated.layer2[1].eval()
    x = torch.randn(2, 64, 4, 4)
    # A closed gate leaves nothing of the convolutions but the last normalisation's shift.
    nn.init.constant_(block.se_layer.conv2.conv.bias, -1e4)
    nn.init.constant_(block.norm3.bias, 0.5)
    torch.testing.assert_close(block(x), (x + 0.5).relu())


def test_regnety_recomputes_for_less_memory():
    make = SMALL[IDS.index('regnet')]
    torch.manual_seed(0)
    plain = make()
    torch.manual_seed(0)
    thrifty = make(with_cp=True)
    # A leaf with gradient, since the first block would not recompute without.
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    for backbone in (plain, thrifty):
        backbone(x)[-1].square().sum().backward()
    for ours, theirs in zip(plain.parameters(), thrifty.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(('make', 'last', 'size'), list(zip(SMALL, LAST_STAGE, LAST_SIZE)), ids=IDS)
def test_maps_of_all_stages(make, last, size):
    backbone = make(out_indices=tuple(range(last + 1)))
    backbone.eval()  # mmpretrain's return nothing
    x = torch.randn(2, 3, 32, 32)
    maps = backbone(x)
    assert len(maps) == last + 1
    assert maps[-1].shape[2:] == (size, size)
    sizes = [feature_map.shape[-1] for feature_map in maps]
    assert sizes == sorted(sizes, reverse=True)
    backbone.out_indices = (last,)
    (single,) = backbone(x)
    assert torch.equal(single, maps[-1])


@pytest.mark.parametrize('make', SMALL, ids=IDS)
def test_images_of_another_size(make):
    (feature_map,) = make()(torch.randn(2, 3, 64, 48))
    (usual,) = make()(torch.randn(2, 3, 32, 32))
    height, width = usual.shape[2:]
    assert feature_map.shape[2:] == (2 * height, 3 * width // 2)


@pytest.mark.parametrize('make', SMALL, ids=IDS)
def test_frozen_stages_and_statistics_stay(make):
    # Stage 2 in mmpretrain's count: the stem and two stages.
    backbone = make(frozen_stages=2)
    backbone.train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1.0)
    backbone(torch.randn(4, 3, 32, 32))[-1].square().mean().backward()
    optimizer.step()
    moved = {key for key, value in backbone.state_dict().items() if not value.equal(before[key])}
    stages = ('layer1.', 'layer2.', 'layers.0.', 'layers.1.')
    assert moved and not [key for key in moved if key.startswith(stages)]
    assert not [key for key in moved if key.startswith('conv1') and key.endswith('weight')]

    backbone = make(norm_eval=True)
    backbone.train()
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    assert norms and not any(norm.training for norm in norms)


def test_wide_resnet_can_be_frozen_as_a_whole():
    backbone = SMALL[IDS.index('wide_resnet')](frozen_stages=3).train()
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not backbone.norm.training


@pytest.mark.parametrize('make', SMALL[:2] + SMALL[3:], ids=[*IDS[:2], *IDS[3:]])
def test_other_normalisation(make):
    backbone = make(norm_cfg=dict(type='GN', num_groups=1))
    kinds = {type(module) for module in backbone.modules()}
    assert nn.GroupNorm in kinds and nn.BatchNorm2d not in kinds


@pytest.mark.parametrize('make', SMALL, ids=IDS)
def test_initialised_network_keeps_the_scale_of_its_input(make):
    backbone = make()
    backbone.init_weights()
    with torch.no_grad():
        (feature_map,) = backbone(torch.randn(8, 3, 32, 32))
    assert 0.1 < feature_map.std() < 10
