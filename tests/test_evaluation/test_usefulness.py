# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What a student gains from following a teacher for some steps."""

from copy import deepcopy

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch.nn import functional

from mtkdrl_mm.evaluation.usefulness import Usefulness, measure_usefulness
from mtkdrl_mm.models import AVER, StaticWeights

SGD = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9))


def test_gains_are_those_of_a_training_with_that_weighting(make_distiller, make_batch):
    model = make_distiller()
    optim_wrapper = build_optim_wrapper(model, SGD)
    repeats = []
    for seeds in ((1, 2), (3, 4)):
        pairs = [make_batch(seed=seed) for seed in seeds]
        repeats.append([dict(inputs=inputs, data_samples=samples) for inputs, samples in pairs])
    # The student's optimiser has a momentum already.
    model.train_step(repeats[0][0], optim_wrapper)
    images, samples = make_batch(images=12, classes=4, seed=9)
    labels = torch.cat([sample.gt_label for sample in samples])
    pool = model.weighting.pool
    weightings = {'a': StaticWeights(pool, dict(a=1.0)), 'equal': AVER(pool)}

    def losses(of):
        with torch.no_grad():
            return functional.cross_entropy(
                deepcopy(of).eval()(images, mode='tensor'), labels, reduction='none'
            )

    state, optimizer = deepcopy(model.state_dict()), deepcopy(optim_wrapper.state_dict())
    found = measure_usefulness(model, optim_wrapper, weightings, repeats, images, labels)
    # All is as before.
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    after = optim_wrapper.state_dict()['state']
    assert all(
        torch.equal(after[key]['momentum_buffer'], one['momentum_buffer'])
        for key, one in optimizer['state'].items()
    )
    before = losses(model)
    model.weighting = weightings['a']
    for batch in repeats[1]:
        model.train_step(batch, optim_wrapper)
    gains = before - losses(model)
    one = found['a']
    assert one.totals[1].item() == pytest.approx(gains.mean().item(), rel=1e-5)
    for index in range(4):
        expected = gains[labels == index].mean().item()
        assert one.gains[1, index].item() == pytest.approx(expected, rel=1e-4)
        assert one.counts[index] == (labels == index).sum()
    # There is no image of the fifth class.
    assert one.gains[:, 4].isnan().all() and one.counts[4] == 0
    assert one.weights.tolist() == [1, 0] and found['equal'].weights.tolist() == [0.5, 0.5]
    assert abs(one.totals[0] - one.totals[1]) > 1e-4
    assert abs(one.totals[1] - found['equal'].totals[1]) > 1e-4


def test_intervals():
    def of(*totals):
        gains = torch.tensor([[total, total] for total in totals], dtype=torch.float64)
        return Usefulness(gains, torch.tensor([3.0, 1.0]), torch.tensor([1.0]))

    # Student's t with two degrees of freedom: 4.3027 / sqrt(3) = 2.4841 standard deviations.
    assert of(1, 2, 3).gain() == pytest.approx((2, 2.4841), rel=1e-4)
    assert of(1, 2, 3).gain(of(0, 1, 2)) == pytest.approx((1, 0))
    assert of(1).gain() == (1, None)
    uneven = Usefulness(torch.tensor([[1.0, 5.0]]), torch.tensor([3.0, 1.0]), torch.ones(1))
    assert uneven.totals.tolist() == [2]
