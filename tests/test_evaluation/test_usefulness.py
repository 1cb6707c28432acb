# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What a student gains from following a teacher for some steps."""

import math
from copy import deepcopy

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch.nn import functional

from mtkdrl_mm.evaluation.usefulness import Usefulness, measure_usefulness
from mtkdrl_mm.models import AVER, StaticWeights, TeacherDropping
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.seeding import derive_seed, seed_everything

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
    found = measure_usefulness(
        model, optim_wrapper, weightings, repeats, images, labels, seed=0, first_iterations=[0, 2]
    )
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


def test_weightings_share_no_accumulated_gradients(make_distiller, make_batch):
    """Two batches of an accumulation are one twice as large, whatever came before."""
    images, samples = make_batch(images=12, seed=9)
    labels = torch.cat([sample.gt_label for sample in samples])
    # Without BatchNorm, which sees the size of a batch.
    student = make_distiller().student.eval()
    student.train = lambda mode=True: student
    halves = [make_batch(seed=seed) for seed in (1, 2)]
    joined = dict(
        inputs=torch.cat([inputs for inputs, _ in halves]),
        data_samples=[sample for _, samples in halves for sample in samples],
    )
    batches = [dict(inputs=inputs, data_samples=samples) for inputs, samples in halves]

    def measure(names, lists, counts, left_over=False):
        model = make_distiller(feature_loss_weight=0)
        model.student = student
        optim_wrapper = build_optim_wrapper(model, dict(SGD, accumulative_counts=counts))
        if left_over:
            model.train_step(batches[0], optim_wrapper)
        pool = model.weighting.pool
        weightings = {name: StaticWeights(pool, {name: 1.0}) for name in names}
        iterations = [0] * len(lists)
        found = measure_usefulness(
            model, optim_wrapper, weightings, lists, images, labels, 0, iterations
        )
        return {name: found[name].gains.nan_to_num() for name in names}

    expected = measure('ab', [[joined]], counts=1)
    assert not torch.allclose(expected['a'], expected['b'], rtol=1e-2)
    for names in ('ab', 'ba'):
        for left_over in (False, True):
            found = measure(names, [batches], counts=2, left_over=left_over)
            for name in names:
                torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match=r'once in 2 batches .* so 3 batches .* a multiple of 2 '):
        measure('ab', [batches, [*batches, joined]], counts=2)


def test_all_weightings_have_the_trainings_random_numbers(make_distiller, make_batch):
    """Blended images, and a weighting that drops teachers: equal weightings have equal gains."""
    augments = [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]
    preprocessor = dict(num_classes=5, batch_augments=dict(augments=augments), to_rgb=False)
    model = make_distiller(data_preprocessor=preprocessor)
    optim_wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=1e-3)))
    pairs = [make_batch(seed=seed) for seed in (1, 2, 3)]
    batches = [dict(inputs=inputs, data_samples=samples) for inputs, samples in pairs]
    originals = deepcopy(batches)
    images, samples = make_batch(images=12, seed=9)
    labels = torch.cat([sample.gt_label for sample in samples])
    pool = model.weighting.pool
    weightings = {name: TeacherDropping(pool, drop_rate=0.5) for name in ('one', 'two')}

    def measure(iterations):
        repeats = [batches] * len(iterations)
        return measure_usefulness(
            model, optim_wrapper, weightings, repeats, images, labels, 5, iterations
        )

    seen = []
    handle = model.register_step_hook(lambda terms, weights: seen.append(weights.logit.mean(dim=0)))
    found = measure([7, 7, 8])
    handle.remove()
    of_steps = torch.stack(seen).view(3, 2, 3, 2)  # repeats, weightings, batches, teachers
    torch.testing.assert_close(found['one'].weights, of_steps[:, 0].mean(dim=(0, 1)))
    assert (found['one'].weights - of_steps[0, 0, 0]).abs().max() > 0.01
    one, two = found['one'].gains, found['two'].gains
    assert torch.equal(one.nan_to_num(), two.nan_to_num())
    assert torch.equal(found['one'].weights, found['two'].weights)
    assert torch.equal(one[0].nan_to_num(), one[1].nan_to_num())
    assert abs(found['one'].totals[2] - found['one'].totals[0]) > 1e-4
    # The batches are as before, and so are the numbers of the training loop's seeds.
    for before, after in zip(originals, batches):
        assert torch.equal(before['inputs'], after['inputs'])
        assert not any('gt_score' in sample for sample in after['data_samples'])
    model.weighting = weightings['one']
    with torch.no_grad():
        logits = deepcopy(model).eval()(images, mode='tensor')
        before = functional.cross_entropy(logits, labels)
    model.train()
    for iteration, batch in enumerate(originals, start=8):
        seed_everything(derive_seed(5, 'step', 0, iteration))
        model.train_step(batch, optim_wrapper)
    with torch.no_grad():
        gain = before - functional.cross_entropy(model.eval()(images, mode='tensor'), labels)
    assert found['one'].totals[2].item() == pytest.approx(gain.item(), rel=1e-5)


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


def test_a_student_that_diverged_has_no_gain():
    """Its loss is NaN in classes with images, which a class without any does not hide."""
    gains = torch.tensor([[1.0, 5.0, torch.nan], [torch.nan, torch.nan, torch.nan]])
    found = Usefulness(gains, torch.tensor([3.0, 1.0, 0.0]), torch.ones(1))
    assert found.totals[0] == 2 and found.totals[1].isnan()
    assert all(math.isnan(number) for number in found.gain())
