# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""MMKD's meta networks."""

import pytest
import torch

from mtkdrl_mm.models import MMKD
from mtkdrl_mm.structures import NetworkOutput, StepTerms
from mtkdrl_mm.utils import InputError


def original(peers, peers_terms, make_spec, **kwargs):
    weighting = MMKD(make_spec(peers_terms), **kwargs).double()
    for name in ('logit', 'feature'):
        getattr(weighting, f'{name}_network').load_state_dict(
            {
                f'{position}.{kind}': peers[f'mmkd_{name}_net/{layer}.{kind}']
                for position, layer in (('0', 'layer'), ('2', 'all_act'))
                for kind in ('weight', 'bias')
            }
        )
    return weighting


def test_original_code(peers, peers_terms, make_spec):
    """With bins = batch size and inner products as they are it is the authors' MMKD."""
    terms = StepTerms(
        NetworkOutput(peers_terms.student.logits, None, peers['student_map']),
        peers_terms.teachers,
        peers_terms.labels,
    )
    weights = original(peers, peers_terms, make_spec, bins=6, normalize=False)(terms)
    for ours, key in ((weights.logit, 'logit'), (weights.feature, 'feature')):
        torch.testing.assert_close(ours, peers[f'mmkd_{key}_weights'], rtol=0, atol=1e-6)


@pytest.mark.parametrize('images', [1, 3, 16, 23])
def test_works_with_any_batch_size(make_terms, make_spec, images):
    weighting = MMKD(make_spec(make_terms())).double()
    terms = make_terms(images=images)
    weights = weighting(terms)
    for values in (weights.logit, weights.feature):
        assert values.shape == (images, 3) and not values.requires_grad
        torch.testing.assert_close(values.sum(1), torch.ones(images, dtype=torch.float64))


def test_a_batch_shown_twice_is_weighed_as_once(make_spec, make_terms):
    """Bins of images that come in pairs: the mean similarity does not know the batch size."""
    terms = make_terms(images=4)

    def twice(output):
        return NetworkOutput(
            output.logits.repeat_interleave(2, 0),
            output.embedding.repeat_interleave(2, 0),
            None if output.feature_map is None else output.feature_map.repeat_interleave(2, 0),
        )

    double = StepTerms(
        twice(terms.student),
        [twice(teacher) for teacher in terms.teachers],
        terms.labels.repeat_interleave(2),
    )
    weighting = MMKD(make_spec(terms), bins=4).double()
    torch.testing.assert_close(weighting(double).feature[::2], weighting(terms).feature)


def test_scale_of_the_features_does_not_matter(make_terms, make_spec):
    terms = make_terms()
    scaled = [NetworkOutput(t.logits, t.embedding * 9, t.feature_map * 9) for t in terms.teachers]
    other = StepTerms(terms.student, scaled, terms.labels)
    weighting = MMKD(make_spec(terms)).double()
    torch.testing.assert_close(weighting(other).feature, weighting(terms).feature)
    raw = MMKD(make_spec(terms), normalize=False).double()
    assert not torch.allclose(raw(other).feature, raw(terms).feature, atol=1e-3)


def test_networks_are_no_parameters_that_the_student_waits_for(make_terms, make_spec):
    weighting = MMKD(make_spec(make_terms()))
    assert not any(p.requires_grad for p in weighting.parameters())
    with pytest.raises(InputError, match=r"add meta_learning=dict\(type='mtkdrl_mm.Meta"):
        weighting.check_trainer()


def test_width(make_terms, make_spec):
    spec = make_spec(make_terms())
    assert MMKD(spec, bins=7).feature_network[0].weight.shape == (14, 28)
    assert MMKD(spec, bins=1000).feature_network[0].out_features == 512
    assert MMKD(spec, hidden=5).logit_network[0].out_features == 5


@pytest.mark.parametrize('kwargs', [dict(bins=0), dict(hidden=0)])
def test_bad_arguments(make_terms, make_spec, kwargs):
    with pytest.raises(InputError, match=f'`{next(iter(kwargs))}` must be at least 1'):
        MMKD(make_spec(make_terms()), **kwargs)
