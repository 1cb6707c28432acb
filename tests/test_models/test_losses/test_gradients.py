# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Gradients of the losses to the student are those of finite differences."""

import pytest
import torch

from mtkdrl_mm.models import (
    DIST,
    DistillationLoss,
    FeatureKL,
    FeatureMSE,
    KLDivergence,
    NormDirection,
    StandardizedKL,
)
from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import NetworkOutput, Projection, StepTerms

IMAGES, CLASSES, CHANNELS = 5, 4, (3, 2)
LOSSES = dict(
    dist=DIST(beta=0.5, gamma=2.0, temperature=1.5),
    feature_kl=FeatureKL(temperature=2.0),
    feature_mse=FeatureMSE(),
    feature_mse_relative=FeatureMSE(relative=True),
    feature_mse_normalized=FeatureMSE(normalize='dataset', channels=CHANNELS),
    kl=KLDivergence(temperature=2.0),
    norm_direction=NormDirection,
    standardized_kl=StandardizedKL(),
)


def test_no_loss_is_left_out():
    registered = {
        kind
        for kind in MODELS.module_dict.values()
        if isinstance(kind, type)
        and issubclass(kind, DistillationLoss)
        and kind.__module__.startswith('mtkdrl_mm.')
    }
    assert registered == {
        loss if isinstance(loss, type) else type(loss) for loss in LOSSES.values()
    }


@pytest.mark.parametrize('size', [(), (2, 2)], ids=['embeddings', 'maps'])
@pytest.mark.parametrize('name', LOSSES)
def test_gradient(tmp_path, name, size):
    loss = LOSSES[name]
    if loss is NormDirection:
        centers = {f't{m}': torch.randn(CLASSES, c) for m, c in enumerate(CHANNELS)}
        torch.save(centers, tmp_path / 'centers.pth')
        loss = NormDirection(str(tmp_path / 'centers.pth'), list(centers))
    teachers = [NetworkOutput(torch.randn(IMAGES, CLASSES).double(), None) for _ in CHANNELS]
    targets = [torch.randn(IMAGES, c, *size).double() for c in CHANNELS]
    labels = torch.randint(CLASSES, (IMAGES,))

    def terms(logits, *features):
        projections = [Projection(*pair) for pair in zip(features, targets)]
        return StepTerms(NetworkOutput(logits, None), teachers, labels, projections)

    def losses(*inputs):
        return loss(terms(*inputs))

    logits = torch.randn(IMAGES, CLASSES).double().requires_grad_()
    features = [torch.randn_like(target).requires_grad_() for target in targets]
    loss.observe(terms(logits, *features))
    assert torch.autograd.gradcheck(losses, (logits, *features))
    read = [logits] if loss.level == 'logit' else features
    for gradient in torch.autograd.grad(losses(logits, *features).sum(), read):
        assert gradient.abs().max() > 1e-3
