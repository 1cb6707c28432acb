# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Which tensors of a checkpoint are the network's."""

import pytest
import torch

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.weights.state_dict import extract_state_dict, find_weights

WEIGHTS = dict(weight=torch.arange(6.0).view(2, 3), bias=torch.ones(2, dtype=torch.bfloat16))
AVERAGED = {k: v + 1 for k, v in WEIGHTS.items()}
MMENGINE = dict(mmengine_version='0.10.7')


@pytest.mark.parametrize(
    'contents',
    [
        WEIGHTS,
        dict(state_dict=WEIGHTS, meta={}),
        dict(model_state_dict=WEIGHTS),
        dict(model=WEIGHTS, epoch=3),
        {f'module.{k}': v for k, v in WEIGHTS.items()},
        dict(
            state_dict={
                **{f'student.{k}': v for k, v in WEIGHTS.items()},
                'connectors.0.projection.conv.weight': torch.ones(1),
                'weighting.agent.networks.0.0.weight': torch.ones(1),
            }
        ),
        {**WEIGHTS, 'epoch': 3},
    ],
)
def test_weights_are_found(contents):
    weights = extract_state_dict(contents, 'x.pth', 'x')
    assert weights.keys() == WEIGHTS.keys()
    assert all(weights[key] is WEIGHTS[key] for key in WEIGHTS)


@pytest.mark.parametrize('contents', [{}, dict(epoch=3, lr=0.1), dict(state_dict={})])
def test_no_weights(contents):
    with pytest.raises(InputError, match=r'Teacher "x": "x\.pth" holds no weights \(its keys are'):
        extract_state_dict(contents, 'x.pth', 'teacher "x"')


@pytest.mark.parametrize(
    'contents',
    [
        dict(state_dict=WEIGHTS, state_dict_ema=AVERAGED),
        dict(model=WEIGHTS, model_ema=AVERAGED),
        dict(model=WEIGHTS, ema=AVERAGED, updates=3),
        dict(model=WEIGHTS, model_ema=dict(module=AVERAGED)),
        # mmengine's EMAHook exchanges the two
        dict(state_dict=AVERAGED, ema_state_dict=WEIGHTS, meta=MMENGINE),
        dict(state_dict=WEIGHTS, ema_state_dict=AVERAGED),
    ],
)
def test_averaged_and_raw_weights(contents):
    for which, kind, expected in (
        (None, 'averaged', AVERAGED),
        ('ema', 'averaged', AVERAGED),
        ('raw', 'raw', WEIGHTS),
    ):
        found = find_weights(contents, 'x.pth', 'x', which)
        assert found.kind == kind
        assert torch.equal(found.weights['weight'], expected['weight'])


def test_weights_that_a_file_does_not_have():
    with pytest.raises(InputError, match=r'"x\.pth" holds no averaged weights'):
        find_weights(dict(model=WEIGHTS), 'x.pth', 'x', 'ema')
    with pytest.raises(InputError, match=r'"x\.pth" holds averaged weights only'):
        find_weights(dict(model_ema=WEIGHTS), 'x.pth', 'x', 'raw')
    assert find_weights(dict(model_ema=WEIGHTS), 'x.pth', 'x').kind == ''
    with pytest.raises(InputError, match='`weights` must be "ema" or "raw"'):
        find_weights(dict(model=WEIGHTS), 'x.pth', 'x', 'mean')
