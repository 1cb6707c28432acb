# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Patch tokens as maps."""

import pytest
import torch

from mtkdrl_mm.models.classifier_output import run_classifier
from mtkdrl_mm.models.token_map import token_grid, tokens_to_map


@pytest.mark.parametrize(('height', 'width', 'extra'), [(2, 2, 1), (3, 5, 2), (4, 1, 0)])
def test_tokens_lie_as_in_the_image(height, width, extra):
    tokens = torch.randn(2, extra + height * width, 7)
    feature_map = tokens_to_map(tokens, (16 * height, 16 * width), extra)
    assert feature_map.shape == (2, 7, height, width)
    for y in range(height):
        for x in range(width):
            assert torch.equal(feature_map[:, :, y, x], tokens[:, extra + y * width + x])


@pytest.mark.parametrize(
    ('count', 'size', 'grid'),
    [(12, (96, 128), (3, 4)), (4, (224, 224), (2, 2)), (0, (224, 224), None), (-1, (8, 8), None)],
)
def test_height_and_width_of_a_map(count, size, grid):
    assert token_grid(count, size) == grid
    assert token_grid(5, (224, 224)) is None


def distilled(make_vit):
    config = make_vit(16)
    config['backbone']['type'] = 'DistilledVisionTransformer'
    config['head']['type'] = 'DeiTClsHead'
    return config


@pytest.mark.parametrize('out_type', ['cls_token', 'avg_featmap', 'distilled'])
def test_one_pass_gives_what_two_give(make_classifier, make_vit, out_type):
    config = distilled(make_vit) if out_type == 'distilled' else make_vit(16)
    if out_type == 'avg_featmap':
        config['backbone']['out_type'] = out_type
    network = make_classifier(config, seed=1)
    inputs = torch.randn(2, 3, 48, 64)
    output = run_classifier(network, inputs, token_maps=True)
    plain = run_classifier(network, inputs)
    assert torch.equal(output.logits, plain.logits)
    assert torch.equal(output.embedding, plain.embedding)
    assert plain.feature_map is None
    assert network.backbone.out_type == config['backbone'].get('out_type', 'cls_token')
    network.backbone.out_type = 'featmap'
    assert torch.equal(output.feature_map, network.backbone(inputs)[-1])
    assert output.feature_map.shape == (2, 16, 3, 4)


def test_distillation_of_patch_tokens(make_distiller, make_vit, make_resnet, make_batch):
    teachers = [dict(make_vit(24), name='vit'), dict(make_resnet(4), name='cnn')]
    distiller = make_distiller(teachers, student=make_vit(16), token_maps=True)
    assert distiller.teachers.spec.map_channels == (24, 32)
    assert distiller.teachers.spec.signed_maps == (True, False)
    vit, cnn = distiller.connectors.values()
    assert vit.projection.with_activation is False and cnn.projection.with_activation
    steps = []
    distiller.register_step_hook(lambda terms, weights: steps.append(terms))
    inputs, samples = make_batch(4)
    distiller(inputs, samples, mode='loss')
    (terms,) = steps
    target = run_classifier(distiller.teachers[0].network, inputs, token_maps=True).feature_map
    assert torch.equal(terms.projections[0].target, target)
    expected = (terms.projections[0].features - target).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(terms.feature_loss[:, 0], expected)


def test_by_default_embeddings_of_transformers_are_compared(make_distiller, make_vit, make_resnet):
    teachers = [dict(make_vit(24), name='vit'), dict(make_resnet(4), name='cnn')]
    distiller = make_distiller(teachers, student=make_vit(16))
    assert [type(c).__name__ for c in distiller.connectors.values()] == ['EmbeddingConnector'] * 2
    sizes = [c.projection.weight.shape for c in distiller.connectors.values()]
    assert sizes == [(24, 16), (32, 16)]


def test_one_connector_for_own_arguments(make_distiller, make_vit):
    distiller = make_distiller(
        [make_vit(24)],
        student=make_vit(16),
        token_maps=True,
        connector=dict(act_cfg=dict(type='GELU')),
    )
    assert type(next(iter(distiller.connectors.values())).projection.activate).__name__ == 'GELU'
