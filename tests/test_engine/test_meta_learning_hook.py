# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The training of MMKD's meta networks."""

import pytest
import torch
import torch.nn.functional as F

from mtkdrl_mm.engine import look_ahead
from mtkdrl_mm.engine.hooks import MetaLearningHook
from mtkdrl_mm.engine.look_ahead import LookAhead
from mtkdrl_mm.models.classifier_output import run_classifier
from mtkdrl_mm.models.weightings.mmkd import meta_loss
from mtkdrl_mm.utils import InputError


class Training:
    """Runs the hook as the runner does; one batch a step, 4 steps an epoch.

    A training by iterations has one epoch, in which a resumed one starts anew.
    """

    def __init__(self, make_runner, distiller, batch, by_epoch=True, **kwargs):
        self.by_epoch = by_epoch
        self.hook = MetaLearningHook(**kwargs)
        self.runner = make_runner(distiller, hooks=[self.hook])
        self.runner.train_loop.dataloader = range(4)
        self.distiller, self.batch = distiller, batch

    def start(self, checkpoint=None):
        if checkpoint is not None:
            self.runner._resume = True
            self.hook.after_load_checkpoint(self.runner, checkpoint)
        self.hook.before_train(self.runner)
        if self.runner.iter % 4 != 0 or not self.by_epoch:
            self.hook.before_train_epoch(self.runner)
        return self

    def step(self, count=1):
        runner = self.runner
        for _ in range(count):
            if self.by_epoch and runner.iter % 4 == 0:
                self.hook.before_train_epoch(runner)
            inputs, samples = self.batch
            shift = torch.randn(1, 3, 1, 1, generator=torch.Generator().manual_seed(runner.iter))
            self.distiller.train()(inputs + shift, samples, mode='loss')
            self.hook.after_train_iter(runner, runner.iter % 4)
            runner.iter += 1
            if self.by_epoch and runner.iter % 4 == 0:
                self.hook.after_train_epoch(runner)
        return self

    def save(self):
        checkpoint = {}
        self.hook.before_save_checkpoint(self.runner, checkpoint)
        return checkpoint


@pytest.fixture
def train(make_runner, make_distiller, make_batch):
    """Function that makes a training of a distiller with MMKD's weights."""

    def make(**kwargs):
        distiller = make_distiller(weighting='MMKD')
        return Training(make_runner, distiller, make_batch(6), **kwargs)

    return make


def changed(before, module):
    return {k for k, v in module.state_dict().items() if not torch.equal(before[k], v)}


def snapshot(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def test_meta_gradient_is_that_of_the_cross_entropy_after_the_step(
    make_distiller, make_batch, record_steps
):
    """Against autograd through the look-ahead step."""
    distiller = make_distiller(weighting='MMKD').double()
    inputs, samples = make_batch(5)
    hard_inputs, hard_samples = make_batch(4, seed=8)
    hard_labels = F.one_hot(torch.cat([s.gt_label for s in hard_samples]), 5).double()
    rate, steps = 0.001, record_steps(distiller)
    distiller.train()(inputs.double(), samples, mode='loss')
    terms, weights = steps[0]
    look_ahead = LookAhead(distiller, rate)
    hard = (hard_inputs.double(), hard_labels)
    directional_derivatives = look_ahead.directional_derivatives(terms, weights, hard, seed=0)

    free = [w.clone().requires_grad_() for w in (weights.logit, weights.feature)]
    ours = torch.autograd.grad(meta_loss(free, directional_derivatives, terms, rate), free)

    names, start = zip(*distiller.student.named_parameters())
    leaves = [p.detach().clone().requires_grad_() for p in start]
    there = look_ahead._run(list(names), leaves, 0, inputs.double(), terms)
    loss = (
        there.student_ce
        + there.logit_loss_weight * (free[0] * there.logit_loss).sum(dim=1)
        + there.feature_loss_weight * (free[1] * there.feature_loss).sum(dim=1)
    ).mean()
    gradients = torch.autograd.grad(loss, leaves, create_graph=True)
    ahead = [p - rate * g for p, g in zip(leaves, gradients)]
    logits = look_ahead._run(list(names), ahead, 0, hard[0], None)
    hard_loss = F.cross_entropy(logits, hard_labels)
    expected = torch.autograd.grad(hard_loss, free)
    torch.testing.assert_close(look_ahead.hard_loss, hard_loss.detach())
    for own, exact in zip(ours, expected):
        assert exact.abs().max() > 1e-6
        torch.testing.assert_close(own, exact, rtol=1e-9, atol=1e-9)


def test_frozen_parameters_stay_where_they_are_in_the_look_ahead(
    make_distiller, make_batch, record_steps
):
    """Each parameter's share of the derivatives is its own: frozen ones have none."""
    distiller = make_distiller(weighting='MMKD').double().eval()
    steps = record_steps(distiller)
    inputs, samples = make_batch(5)
    distiller(inputs.double(), samples, mode='loss')
    hard = (make_batch(4, seed=8)[0].double(), torch.eye(5).double()[:4])
    parameters = distiller.student.named_parameters()
    backbone = [p for name, p in parameters if name.startswith('backbone')]
    look_ahead = LookAhead(distiller, 1e-9)  # so small that the steps do not change v

    def derivatives():
        return torch.stack(look_ahead.directional_derivatives(*steps[0], hard, seed=0))

    whole = derivatives()
    for parameter in backbone:
        parameter.requires_grad_(False)
    head = derivatives()
    for parameter in distiller.student.parameters():
        parameter.requires_grad_(not parameter.requires_grad)
    rest = derivatives()
    torch.testing.assert_close(head + rest, whole, rtol=1e-5, atol=1e-9)
    assert head[0].abs().max() > 1e-4 and rest[0].abs().max() > 1e-4
    # Features come from the backbone alone.
    assert head[1].abs().max() == 0 < rest[1].abs().max()


def test_look_ahead_follows_the_loss_of_the_students_head(
    make_distiller, make_resnet, make_batch, record_steps
):
    head = dict(type='SeesawLoss', num_classes=5, loss_weight=0.3)
    student = make_resnet(4)
    student['head']['loss'] = head
    distiller = make_distiller(student=student, weighting='MMKD').eval()
    counts = distiller.student.head.loss_module.cum_samples.fill_(9)
    steps = record_steps(distiller)
    distiller(*make_batch(6), mode='loss')
    terms, _ = steps[0]
    after_the_step = counts.clone()
    names, start = zip(*distiller.student.named_parameters())
    look_ahead = LookAhead(distiller, 0.01)
    there = look_ahead._run(list(names), list(start), 0, terms.inputs, terms)
    assert torch.equal(counts, after_the_step)  # no label is counted twice
    with torch.no_grad():
        counts.copy_(after_the_step)
        expected = distiller.student.loss(terms.inputs, terms.data_samples)['loss']
    torch.testing.assert_close(there.student_ce.mean(), expected)


def test_look_ahead_has_the_labels_of_the_data(
    make_distiller, make_resnet, make_batch, record_steps
):
    """And, apart from them, those that the student's loss smooths."""
    student = make_resnet(4, type='LabelSmoothLoss', label_smooth_val=0.3, mode='original')
    distiller = make_distiller(student=student, weighting='MMKD').eval()
    steps = record_steps(distiller)
    distiller(*make_batch(6), mode='loss')
    terms, _ = steps[0]
    names, start = zip(*distiller.student.named_parameters())
    there = LookAhead(distiller, 0.01)._run(list(names), list(start), 0, terms.inputs, terms)
    assert torch.equal(there.soft_labels, terms.soft_labels)
    assert torch.equal(there.soft_data_labels, terms.soft_data_labels)
    assert not torch.equal(there.soft_labels, there.soft_data_labels)


def test_the_student_is_looked_at_and_not_touched(train, make_distiller, make_batch):
    """The step's losses, statistics and random numbers are those of a step without the hook."""
    training = train(interval=1).start()
    plain = make_distiller(weighting='MMKD')
    inputs, samples = make_batch(6)
    results = []
    for distiller in (training.distiller, plain):
        torch.manual_seed(5)
        results.append((distiller.train()(inputs, samples, mode='loss'), torch.rand(3)))
    assert len(training.hook.buffer) > 0
    assert torch.equal(results[0][1], results[1][1])
    for key, value in results[0][0].items():
        assert torch.equal(value, results[1][0][key])
    for key in ('student', 'connectors'):
        assert not changed(snapshot(getattr(plain, key)), getattr(training.distiller, key))
    assert changed(snapshot(plain.weighting), training.distiller.weighting)
    assert all(p.grad is None for p in training.distiller.parameters())
    assert not any(p.requires_grad for p in training.distiller.weighting.parameters())


def test_updates_come_every_few_steps_from_the_latest_hard_images(train, make_batch):
    training = train(interval=3).start()
    expected = [True, False, False, True]
    for moves in expected:
        before = snapshot(training.distiller.weighting)
        training.step()
        assert bool(changed(before, training.distiller.weighting)) == moves
    assert len(training.hook.buffer) == 0  # a new epoch

    training = train(interval=1).start().step()
    with torch.no_grad():
        shift = torch.randn(1, 3, 1, 1, generator=torch.Generator().manual_seed(0))
        inputs = training.batch[0] + shift
        logits = run_classifier(training.distiller.train().student, inputs).logits
    labels = torch.cat([s.gt_label for s in training.batch[1]])
    wrong = logits.argmax(1) != labels
    assert 0 < wrong.sum() < 6
    assert torch.equal(training.hook.buffer.inputs, inputs[wrong].half())
    assert torch.equal(training.hook.buffer.labels.argmax(1), labels[wrong])


def test_logged_numbers(train):
    training = train(interval=1).start().step(2)
    scalars = training.runner.message_hub
    assert len(training.hook.buffer) > 1
    assert scalars.get_scalar('train/hard_images').current() == len(training.hook.buffer)
    hard_loss = scalars.get_scalar('train/hard_loss').current()
    assert hard_loss == pytest.approx(training.hook._look_ahead.hard_loss.item()) != 0


def test_process_without_hard_images_takes_part(train, monkeypatch):
    """Where another process has some, the derivatives here come from its gradient."""
    training = train(interval=1).start().step()
    assert training.hook._look_ahead.hard_loss != 0
    counts = []

    def mean(tensor):
        counts.append(tensor)
        return tensor if len(counts) > 1 else torch.tensor(2.0)

    monkeypatch.setattr(look_ahead, 'all_reduce_mean', mean)
    steps = []
    training.hook.release()
    training.distiller.register_step_hook(lambda *record: steps.append(record))
    training.distiller(*training.batch, mode='loss')
    directional_derivatives = training.hook._look_ahead.directional_derivatives(
        *steps[0], None, seed=0
    )
    assert all(torch.equal(values, torch.zeros(6, 2)) for values in directional_derivatives)
    assert training.hook._look_ahead.hard_loss == 0


def test_without_hard_images_nothing_happens(train):
    training = train(interval=1).start()
    training.batch = (
        training.batch[0][:2],
        [
            s.set_gt_label(int(training.distiller.eval()(training.batch[0][:2]).argmax(1)[i]))
            for i, s in enumerate(training.batch[1][:2])
        ],
    )
    before = snapshot(training.distiller.weighting)
    training.hook._look_ahead.directional_derivatives = lambda terms, weights, hard, seed: (
        None if hard is None else pytest.fail('there are hard images')
    )
    training.distiller.train = lambda mode=True: training.distiller.eval()
    inputs, samples = training.batch
    training.distiller(inputs, samples, mode='loss')
    assert not changed(before, training.distiller.weighting)


def test_meta_networks_turn_away_from_a_teacher_who_is_wrong(
    make_runner, make_distiller, make_batch
):
    """Teacher "a" knows the labels, "b" says the opposite."""
    distiller = make_distiller(weighting='MMKD', feature_loss_weight=0)
    inputs, samples = make_batch(16)
    labels = torch.cat([s.gt_label for s in samples])
    ask = distiller.teachers.forward

    def query(inputs, samples):
        outputs = ask(inputs, samples)
        outputs[0].logits = F.one_hot(labels, 5) * 8.0
        outputs[1].logits = F.one_hot((labels + 1) % 5, 5) * 8.0
        return outputs

    distiller.teachers.forward = query
    training = Training(
        make_runner,
        distiller,
        (inputs, samples),
        interval=1,
        lookahead_lr=1e-5,  # this untrained student is steep
        optimizer=dict(type='Adam', lr=0.01),
    )
    weights = []
    distiller.register_step_hook(lambda _, w: weights.append(w.logit.mean(0)))
    training.start().step(30)
    assert weights[0][1] > 0.3
    assert weights[-1][1] < 0.1


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('stop', [4, 6])
def test_resumed_training_goes_on_exactly(train, stop, by_epoch):
    whole = train(interval=2, by_epoch=by_epoch).start().step(10)
    first = train(interval=2, by_epoch=by_epoch).start().step(stop)
    checkpoint = first.save()
    assert len(checkpoint['meta_learning_hook']['buffers']) == (0 if stop == 4 and by_epoch else 1)
    second = train(interval=2, by_epoch=by_epoch)
    second.distiller.load_state_dict(first.distiller.state_dict())
    second.runner.iter = stop
    second.start(checkpoint).step(10 - stop)
    assert not changed(snapshot(whole.distiller.weighting), second.distiller.weighting)


def test_a_resumed_training_has_the_learning_rate_of_its_config(train):
    first = train(interval=2).start().step(4)
    second = train(interval=2, optimizer=dict(type='Adam', lr=1e-5)).start(first.save())
    assert second.hook.optimizer.param_groups[0]['lr'] == 1e-5
    assert second.hook.optimizer.state_dict()['state'].keys()


def test_hard_images_are_dealt_out_to_another_number_of_processes(train):
    first = train(interval=1).start().step(2)
    checkpoint = first.save()
    (state,) = checkpoint['meta_learning_hook']['buffers']
    empty = dict(inputs=None, labels=None)
    checkpoint['meta_learning_hook']['buffers'] = [state, empty, state]
    second = train().start(checkpoint)
    assert torch.equal(second.hook.buffer.inputs, torch.cat([state['inputs']] * 2))
    assert torch.equal(second.hook.buffer.labels, torch.cat([state['labels']] * 2))


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(interval=0), '`interval` must be at least 1'),
        (dict(lookahead_lr=0), '`lookahead_lr` must be greater than 0'),
        (dict(hard_batch_size=0), '`hard_batch_size` must be at least 1'),
        (dict(buffer_budget=0), '`buffer_budget` must be greater than 0'),
        (dict(optimizer=dict(type='Adamm')), 'Unknown optimizer "Adamm". Did you mean "Adam"'),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(InputError, match=message):
        MetaLearningHook(**kwargs)


def test_budget_that_holds_no_image(train):
    with pytest.raises(InputError, match=r'`buffer_budget` of MetaLearningHook: .*holds no image'):
        train(interval=1, buffer_budget=1e-5).start().step()


def test_model_without_meta_networks(make_runner, make_distiller):
    with pytest.raises(InputError, match='MMKD weighting, but the weighting is AVER'):
        MetaLearningHook().before_train(make_runner(make_distiller(weighting='AVER')))
