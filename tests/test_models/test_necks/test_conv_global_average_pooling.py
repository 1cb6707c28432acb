# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A 1x1 convolution before the pooling."""

import torch
from torch.nn import functional

from mtkdrl_mm.models import ConvGlobalAveragePooling
from mtkdrl_mm.models.classifier_output import run_classifier


def test_widens_then_pools_the_last_map():
    neck = ConvGlobalAveragePooling(4, 6).eval()
    neck.init_weights()
    last = torch.randn(2, 4, 3, 5)
    (embedding,) = neck((torch.randn(2, 2, 6, 10), last))
    weight, norm = neck.conv.conv.weight, neck.conv.bn
    assert neck.conv.conv.bias is None
    widened = norm(functional.conv2d(last, weight)).relu()
    torch.testing.assert_close(embedding, widened.mean(dim=(2, 3)))
    torch.testing.assert_close(neck(last)[0], embedding)


def test_narrow_map_and_wide_embedding_reach_the_distiller(make_classifier, make_resnet):
    cfg = make_resnet(4)
    cfg['neck'] = dict(
        type='mtkdrl_mm.ConvGlobalAveragePooling', in_channels=32, out_channels=40, norm_cfg=None
    )
    cfg['head']['in_channels'] = 40
    network = make_classifier(cfg, seed=1)
    inputs = torch.randn(2, 3, 64, 64)
    output = run_classifier(network, inputs)
    assert output.feature_map.shape == (2, 32, 2, 2) and output.embedding.shape == (2, 40)
    torch.testing.assert_close(output.logits, network(inputs))
