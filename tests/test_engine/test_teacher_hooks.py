# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Checks before the training, and the log of the weights."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from mmpretrain.engine import SwitchRecipeHook
from mmpretrain.structures import DataSample
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

from mtkdrl_mm.engine.hooks import (
    FiniteLossHook,
    TeacherCheckHook,
    TeacherWeightHook,
    teacher_check_hook,
)
from mtkdrl_mm.engine.hooks.teacher_check_hook import spread_batches
from mtkdrl_mm.models import Weighting
from mtkdrl_mm.structures import TeacherWeights
from mtkdrl_mm.utils import InputError


class Images(Dataset):
    """The images of some batches."""

    def __init__(self, batches, classes):
        self.metainfo = {} if classes is None else dict(classes=tuple(range(classes)))
        self.samples = [
            dict(inputs=image, data_samples=sample)
            for batch in batches
            for image, sample in zip(batch['inputs'], batch['data_samples'])
        ]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def loop(batches=(), classes=5):
    size = len(batches[0]['data_samples']) if batches else 1
    loader = DataLoader(Images(batches, classes), size, collate_fn=default_collate)
    return SimpleNamespace(dataloader=loader)


@pytest.fixture
def check(make_runner, make_distiller):
    """Function that runs the hook; returns the lines of its log."""

    def run(train=5, val=5, batches=(), distiller=None, hooks=(), **kwargs):
        distiller = distiller or make_distiller()
        runner = make_runner(
            distiller,
            hooks=list(hooks),
            train_loop=loop(classes=train),
            val_loop=None if val == 'none' else loop(batches, classes=val),
        )
        lines = []
        runner.logger = SimpleNamespace(info=lines.append, warning=lines.append)
        TeacherCheckHook(**kwargs).before_train(runner)
        return lines

    return run


@pytest.mark.parametrize(('train', 'val', 'which'), [(7, 5, 'training'), (5, 7, 'validation')])
def test_data_with_other_classes(check, train, val, which):
    with pytest.raises(InputError) as error:
        check(train, val)
    message = str(error.value)
    assert f'The {which} data has 7 classes, but student and teachers have 5' in message
    assert '`model.num_classes=7`' in message


def test_data_that_does_not_tell_its_classes(check):
    check(None, None, num_batches=0)


def test_a_teacher_whose_file_has_the_classes_in_another_order(check, make_distiller):
    distiller = make_distiller()
    distiller.teachers[0].classes = list('01234')
    check(distiller=distiller, num_batches=0)
    distiller.teachers[1].classes = list('02134')
    with pytest.raises(InputError, match=r'of teacher "b" .* class 1 of the data is "1", which is'):
        check(distiller=distiller, num_batches=0)


def test_a_loss_that_is_to_be_switched(check):
    """mmpretrain's hook would find none, in the middle of the training."""
    switch = SwitchRecipeHook([dict(action_epoch=2, loss=torch.nn.Identity())])
    with pytest.raises(InputError, match=r'^SwitchRecipeHook switches the loss in epoch 2, '):
        check(hooks=[switch], num_batches=0)


def test_weighting_without_its_hook(check, make_distiller):
    distiller = make_distiller(weighting='MTKDRL')
    distiller.weighting.has_trainer = False
    with pytest.raises(InputError) as error:
        check(distiller=distiller)
    assert 'Nothing trains the weighting MTKDRL' in str(error.value)
    assert "agent=dict(type='mtkdrl_mm.AgentHook')" in str(error.value)
    distiller.weighting.attach_trainer()
    check(distiller=distiller, num_batches=0)
    distiller = make_distiller(weighting='MMKD')
    distiller.weighting.has_trainer = False
    with pytest.raises(InputError, match=r"meta_learning=dict\(type='mtkdrl_mm.MetaLearningHook'"):
        check(distiller=distiller, num_batches=0)


def batches_for(distiller, right, images=8, count=3):
    """Images of which the share `right` is labelled as teacher a predicts."""
    batches = []
    for index in range(count):
        generator = torch.Generator().manual_seed(index)
        inputs = torch.randn(images, 3, 32, 32, generator=generator)
        inputs += 2 * torch.randn(images, 3, 1, 1, generator=generator)
        labels = distiller.teachers(inputs)[0].logits.argmax(dim=1)
        wrong = labels[int(right * images) :]
        wrong += 1 + torch.arange(len(wrong)) % 4  # in no other order of the classes
        labels %= 5
        samples = [DataSample().set_gt_label(label) for label in labels]
        batches.append(dict(inputs=inputs, data_samples=samples))
    return batches


@pytest.mark.parametrize('right', [1.0, 0.5, 0.0])
def test_accuracy_of_each_teacher(check, make_distiller, right):
    distiller = make_distiller()
    batches = batches_for(distiller, right)
    labels = torch.cat([sample.gt_label for b in batches for sample in b['data_samples']])
    inputs = torch.cat([batch['inputs'] for batch in batches])
    other = (distiller.teachers(inputs)[1].logits.argmax(1) == labels).float().mean()
    lines = check(batches=batches, distiller=distiller, min_accuracy=40)
    assert "Teachers' accuracy on 24 validation images" in lines[0]
    assert f'  a  {100 * right:5.1f} %' in lines[0]
    assert f'  b  {100 * other:5.1f} %' in lines[0]
    warned = [line for line in lines[1:] if 'Teacher "a"' in line]
    assert len(warned) == (1 if right == 0 else 0)
    if warned:
        assert 'accuracy of only 0.0 %, below the minimum of 40.0 %' in warned[0]


def test_images_are_spread_over_the_data_set(check, make_distiller):
    """Its first batches may be of one class."""
    distiller = make_distiller()
    batches = batches_for(distiller, 1.0)[:2] + batches_for(distiller, 0.0)[2:]
    # Images 0, 3, 6, 9, 13, 16, 19 and 23, of which a is right on those before 16.
    lines = check(batches=batches, distiller=distiller, num_batches=1, min_accuracy=0)
    assert 'on 8 validation images' in lines[0] and '  a   62.5 %' in lines[0]
    assert check(batches=batches, num_batches=0) == []


@pytest.mark.parametrize('size', [7, None])
def test_every_process_has_images_of_its_own(monkeypatch, size):
    data = list(range(100))
    sampler = BatchSampler(SequentialSampler(data), 7, drop_last=False)
    loader = DataLoader(data, **(dict(batch_size=7) if size else dict(batch_sampler=sampler)))
    drawn = []
    for rank in range(3):
        monkeypatch.setattr(teacher_check_hook, 'get_dist_info', lambda rank=rank: (rank, 3))
        drawn.append([batch.tolist() for batch in spread_batches(loader, 2)])
        assert [len(batch) for batch in drawn[-1]] == [7, 7]
    images = sorted(image for batches in drawn for batch in batches for image in batch)
    assert len(set(images)) == 42 and (images[0], images[-1]) == (0, 99)
    assert {b - a for a, b in itertools.pairwise(images)} == {2, 3}
    assert sum(len(batch) for batch in spread_batches(loader, 99)) == 33  # each once


def test_a_teacher_with_its_classes_in_another_order(check, make_distiller):
    """Right on nine images of ten, if its classes 1 and 2 are exchanged."""
    distiller = make_distiller()
    batches = batches_for(distiller, 0.9, images=20, count=10)
    for batch in batches:
        for sample in batch['data_samples']:
            label = int(sample.gt_label)
            sample.set_gt_label({1: 2, 2: 1}.get(label, label))
    lines = check(batches=batches, distiller=distiller, num_batches=10)
    warned = [line for line in lines[1:] if line.startswith('Teacher "a"')]
    assert len(warned) == 1 and 'seems to have the classes in another order: with' in warned[0]
    assert 'accuracy on the other half is 90.0 % instead of' in warned[0]
    assert warned[0].endswith('check_teachers.py prints its `class_map`.')


def test_default_minimum_is_a_tenth_of_the_way_from_chance(check, make_distiller):
    distiller = make_distiller()
    lines = check(batches=batches_for(distiller, 0.25, count=1), distiller=distiller)
    assert any('Teacher "a"' in line and 'minimum of 28.0 %' in line for line in lines)


def test_teachers_are_not_changed_by_the_measurement(check, make_distiller):
    distiller = make_distiller().train()
    before = {k: v.clone() for k, v in distiller.teachers.state_dict().items()}
    check(batches=batches_for(distiller, 1.0), distiller=distiller)
    assert distiller.student.training
    for key, value in distiller.teachers.state_dict().items():
        assert torch.equal(value, before[key])


def test_without_validation_data(check):
    assert 'not measured' in check(val='none')[0]


@pytest.mark.parametrize(
    ('kwargs', 'name'),
    [
        (dict(num_batches=-1), 'num_batches'),
        (dict(min_accuracy=101), 'min_accuracy'),
        (dict(min_accuracy=-1), 'min_accuracy'),
    ],
)
def test_bad_arguments(kwargs, name):
    with pytest.raises(InputError, match=f'`{name}` must be'):
        TeacherCheckHook(**kwargs)


class Counting(Weighting):
    """Weights that change from step to step."""

    steps = 0

    def forward(self, terms):
        self.steps += 1
        first = torch.full((4, 1), self.steps / 10)
        return TeacherWeights(
            logit=torch.cat([first, 1 - first], 1), feature=torch.cat([1 - first, first], 1)
        )


def test_batch_means_of_the_weights_are_logged(make_runner, make_distiller, make_batch):
    """mmengine's LoggerHook averages over its window."""
    distiller = make_distiller(weighting=dict(type=Counting))
    runner = make_runner(distiller, train_loop=SimpleNamespace(dataloader=range(100)))
    hook = TeacherWeightHook()
    hook.before_train(runner)
    for index in range(6):
        distiller(*make_batch(4), mode='loss')
        hook.after_train_iter(runner, index)
        runner.iter += 1
        expected = (index + 1) / 10
        assert {k: v.current() for k, v in runner.message_hub.log_scalars.items()} == pytest.approx(
            {
                'train/teacher_weight/logit/a': expected,
                'train/teacher_weight/logit/b': 1 - expected,
                'train/teacher_weight/feature/a': 1 - expected,
                'train/teacher_weight/feature/b': expected,
            }
        )


def test_weights_without_effect_are_not_logged(make_runner, make_distiller, make_batch):
    distiller = make_distiller(weighting=dict(type=Counting), feature_loss_weight=0)
    runner = make_runner(distiller, train_loop=SimpleNamespace(dataloader=range(1)))
    hook = TeacherWeightHook()
    hook.before_train(runner)
    distiller(*make_batch(4), mode='loss')
    hook.after_train_iter(runner, 0)
    assert {k: v.current() for k, v in runner.message_hub.log_scalars.items()} == pytest.approx(
        {'train/teacher_weight/logit/a': 0.1, 'train/teacher_weight/logit/b': 0.9}
    )


def test_weights_per_class_are_those_of_the_epoch_wherever_it_was_cut(
    make_runner, make_distiller, make_batch, tmp_path
):
    """Two epochs of two steps; also cut after the last, before the file is written."""

    def run(stops):
        saved, written = None, tmp_path / 'class_weights.json'
        written.unlink(missing_ok=True)
        distiller = make_distiller(weighting=dict(type=Counting))
        for start, stop in zip([0, *stops], [*stops, 4]):
            runner = make_runner(distiller, _resume=True, work_dir=str(tmp_path))
            hook = TeacherWeightHook()
            if saved is not None:
                hook.after_load_checkpoint(runner, saved)
            hook.before_train(runner)
            for step in range(start, stop):
                if step % 2 == 0 or step == start:
                    hook.before_train_epoch(runner)
                distiller(*make_batch(4), mode='loss')
                if step % 2 == 1:
                    hook.after_train_epoch(runner)
            hook.gather_state()
            saved = dict(meta={})
            hook.before_save_checkpoint(runner, saved)
            hook.release()
        hook.after_train(runner)
        return json.loads(written.read_text())

    whole = run([])
    # Steps 3 and 4 have the weights 0.3 and 0.4. Of a class without an image nothing is known.
    logit = np.array(whole['logit'], dtype=float)
    known = ~np.isnan(logit).any(axis=1)
    assert known.any() and np.isnan(logit[~known]).all()
    np.testing.assert_allclose(logit[known, 0], 0.35, rtol=1e-6)
    for stops in ([1], [2], [3], [4], [1, 3, 4]):
        assert run(stops) == whole

    # A checkpoint of an earlier version has no sums: the file stays as it is.
    runner = make_runner(make_distiller(), _resume=True, work_dir=str(tmp_path))
    hook = TeacherWeightHook()
    hook.after_load_checkpoint(runner, {})
    hook.before_train(runner)
    hook.after_train(runner)
    assert json.loads((tmp_path / 'class_weights.json').read_text()) == whole


class ByImage(Weighting):
    """Weights that differ from image to image."""

    def forward(self, terms):
        first = torch.linspace(0, 1, len(terms.labels))[:, None]
        both = torch.cat([first, 1 - first], 1)
        return TeacherWeights(logit=both, feature=both)


@pytest.mark.parametrize('blended', [False, True])
def test_label_smoothing_has_no_part_in_the_weights_per_class(
    make_runner, make_distiller, make_resnet, make_batch, tmp_path, blended
):
    """Blended images count for their classes, and no image for all of them."""
    smoothing = dict(type='LabelSmoothLoss', label_smooth_val=0.3, mode='original')
    student = make_resnet(4, **smoothing)
    distiller = make_distiller(student=student, weighting=dict(type=ByImage))
    runner = make_runner(distiller, work_dir=str(tmp_path))
    hook = TeacherWeightHook()
    hook.before_train(runner)
    labels = torch.tensor([0, 1, 2, 2])
    shares = torch.nn.functional.one_hot(labels, 5).float()
    if blended:
        shares = 0.75 * shares + 0.25 * shares.roll(1, dims=0)
    inputs, samples = make_batch(4, scores=shares if blended else None)
    for sample, label in zip(samples, labels):
        sample.set_gt_label(label)
    distiller(inputs, samples, mode='loss')
    hook.after_train(runner)
    written = json.loads((tmp_path / 'class_weights.json').read_text())
    first = torch.linspace(0, 1, 4)
    expected = (shares.T @ first) / shares.sum(dim=0)
    torch.testing.assert_close(torch.tensor(written['logit'][:3])[:, 0], expected[:3])
    # Nothing is known of classes without an image.
    assert written['logit'][3:] == written['feature'][3:] == [[None, None]] * 2


@pytest.mark.parametrize('kind', [FiniteLossHook, TeacherWeightHook])
def test_a_second_training_of_a_model_is_recorded_once(
    kind, make_runner, make_distiller, make_batch, monkeypatch
):
    distiller = make_distiller()
    calls = []
    monkeypatch.setattr(kind, 'observe', lambda self, *record: calls.append(self))
    for _ in range(2):
        hook = kind()
        hook.before_train(make_runner(distiller))
        inputs, samples = make_batch(2)
        distiller(inputs, samples, mode='loss')
        hook.release()
        hook.release()
    distiller(inputs, samples, mode='loss')
    assert len(calls) == 2 and calls[0] is not calls[1]
