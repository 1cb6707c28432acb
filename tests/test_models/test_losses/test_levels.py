# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Whose weights a loss takes."""

import inspect

import pytest
import torch

from mtkdrl_mm.models import DistillationLoss, FeatureLoss, Weighting
from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import NetworkOutput, Projection, TeacherWeights
from mtkdrl_mm.utils import InputError

LEVELS = dict(
    DIST='logit',
    FeatureKL='feature',
    FeatureMSE='feature',
    KLDivergence='logit',
    NormDirection='feature',
    StandardizedKL='logit',
)


class OppositeWeights(Weighting):
    """Only the first teacher counts for logits, only the second for features."""

    def forward(self, terms):
        first, second = torch.eye(2)
        count = len(terms.student_logits)
        return TeacherWeights(logit=first.expand(count, 2), feature=second.expand(count, 2))


def registered():
    """The losses of this package; tests of the documentation register others."""
    losses = MODELS.module_dict.values()
    return {
        cls.__name__: cls
        for cls in losses
        if inspect.isclass(cls)
        and issubclass(cls, DistillationLoss)
        and cls.__module__.startswith('mtkdrl_mm.')
    }


def test_level_of_every_registered_loss():
    assert {name: cls.level for name, cls in registered().items()} == LEVELS


@pytest.fixture
def make_loss(tmp_path):
    """Function that returns the config of a loss between teachers a and b and 5 classes."""

    def make(name):
        if name != 'NormDirection':
            return dict(type=name)
        path = str(tmp_path / 'centers.pth')
        torch.save(dict(a=torch.randn(5, 32), b=torch.randn(5, 48)), path)
        return dict(type=name, centers=path)

    return make


@pytest.mark.parametrize('name', LEVELS)
def test_level_is_what_a_loss_reads(make_distiller, make_batch, record_steps, make_loss, name):
    """Other logits change losses on logits alone, other features those on features alone."""
    distiller = make_distiller(extra_losses=[make_loss(name)]).eval()
    steps = record_steps(distiller)
    distiller(*make_batch(4, size=64), mode='loss')
    terms, _ = steps[0]
    loss = distiller.extra_losses[name.lower()]
    before = loss(terms)
    terms.projections = [
        Projection(p.features + torch.rand_like(p.features), p.target) for p in terms.projections
    ]
    reads_features = not torch.allclose(loss(terms), before)
    assert reads_features == (LEVELS[name] == 'feature')
    other = terms.__class__(
        NetworkOutput(terms.student.logits.flip(1), terms.student.embedding),
        terms.teachers,
        terms.labels,
        terms.projections,
    )
    assert torch.allclose(loss(other), loss(terms)) == reads_features


@pytest.mark.parametrize('name', LEVELS)
def test_extra_losses_take_the_weights_of_their_level(
    make_distiller, make_batch, record_steps, make_loss, name
):
    loss = dict(make_loss(name), loss_weight=0.7)
    distiller = make_distiller(weighting=dict(type=OppositeWeights), extra_losses=[loss]).eval()
    steps = record_steps(distiller)
    losses = distiller(*make_batch(4, size=64), mode='loss')
    terms, _ = steps[0]
    column = 0 if LEVELS[name] == 'logit' else 1
    expected = 0.7 * distiller.extra_losses[name.lower()](terms)[:, column].mean()
    torch.testing.assert_close(losses[f'loss_{name.lower()}'], expected)


def test_what_an_own_loss_returns_is_checked(make_distiller, make_batch):
    class OwnFeature(FeatureLoss):
        def compare(self, index, terms, projection, target):
            return (projection - target).square().mean()

    class OwnLogit(DistillationLoss):
        def forward(self, terms):
            return terms.student_logits.sum(dim=1)

    batch = make_batch(images=4)
    for settings, message in (
        (
            dict(feature_loss=dict(type=OwnFeature)),
            r'`compare` of OwnFeature must be one number per image, of shape \(4,\), but has shape '
            r'\(\)\.',
        ),
        (
            dict(logit_loss=dict(type=OwnLogit)),
            r'OwnLogit must be one number per image and teacher, of shape \(4, 2\), but has shape '
            r'\(4,\)\.',
        ),
        (dict(extra_losses=[dict(type=OwnLogit)]), 'OwnLogit must be one number per image and'),
    ):
        with pytest.raises(InputError, match=message):
            make_distiller(**settings).loss(*batch)


@pytest.mark.parametrize('name', [name for name, level in LEVELS.items() if level == 'feature'])
def test_losses_on_features_need_features(make_distiller, make_loss, make_terms, name):
    cfg = make_loss(name)
    message = f'^{name} needs connectors: set `feature_loss_weight` above 0.$'
    with pytest.raises(InputError, match=message):
        make_distiller(feature_loss_weight=0, extra_losses=[cfg])
    arguments = {key: value for key, value in cfg.items() if key != 'type'}
    if name == 'NormDirection':
        arguments['names'] = ['a', 'b']
    with pytest.raises(InputError, match=message):
        registered()[name](**arguments)(make_terms(features=False))


def test_losses_of_the_other_level(make_distiller):
    with pytest.raises(InputError, match=r'`logit_loss` is FeatureMSE, which compares features'):
        make_distiller(logit_loss='FeatureMSE')
    with pytest.raises(InputError, match=r'`feature_loss` is DIST, which compares logits.*`extra_'):
        make_distiller(feature_loss='DIST')
