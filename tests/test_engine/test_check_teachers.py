# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Evaluation of a pool on validation images."""

import pytest
import torch
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample

from mtkdrl_mm.engine.check_teachers import check_teachers
from mtkdrl_mm.utils import InputError

RGB = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
INCEPTION = dict(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
BGR = dict(mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], to_rgb=False)
SWITCHED = dict(RGB, to_rgb=False)


@pytest.fixture
def images():
    """Raw BGR pixels whose hues differ."""
    generator = torch.Generator().manual_seed(0)
    hue = torch.randint(40, 216, (256, 3, 1, 1), generator=generator)
    noise = torch.randint(-40, 40, (256, 3, 32, 32), generator=generator)
    return (hue + noise).clamp(0, 255).byte()


@pytest.fixture
def check(make_distiller, make_resnet, images):
    """Function that checks teachers "a" and "b", which were trained with RGB."""

    def run(first=RGB, second=RGB, width=6, same=False, class_map=None, **kwargs):
        teachers = [
            dict(make_resnet(4), name='a', data_preprocessor=first, class_map=class_map),
            dict(make_resnet(width), name='b', data_preprocessor=second),
        ]
        distiller = make_distiller(teachers, data_preprocessor=INCEPTION).eval()
        a, b = [t.network for t in distiller.teachers]
        if same:
            b.load_state_dict(a.state_dict())
            b.head.fc.bias.add_(0.01)
        prepared = ClsDataPreprocessor(**RGB)(dict(inputs=images))['inputs']
        with torch.no_grad():
            # Logits with a spread of their own, and labels mostly as "a" predicts.
            for network in (a, b):
                z = network(prepared)
                network.head.fc.bias.sub_(z.mean(dim=0))
                network.head.fc.weight.mul_(3 / z.std(dim=0)[:, None])
                network.head.fc.bias.mul_(3 / z.std(dim=0))
            labels = a(prepared).argmax(dim=1)
        labels[::5] = (labels[::5] + 1) % 5
        samples = [DataSample().set_gt_label(int(label)) for label in labels]
        batches = [
            dict(inputs=images[i : i + 64], data_samples=samples[i : i + 64])
            for i in range(0, len(images), 64)
        ]
        return check_teachers(distiller, batches, cost_repeats=0, **kwargs)

    return run


def test_accuracy_is_the_teachers(check):
    report = check()
    first, second = report.teachers
    assert report.num_images == 256
    assert first.accuracy == pytest.approx(1 - 52 / 256)
    assert first.accuracy_error == pytest.approx((first.accuracy * 52 / 256 / 256) ** 0.5)
    assert second.accuracy < first.accuracy
    assert not [warning for warning in report.warnings() if '"a"' in warning]
    assert first.alternative is None or not first.alternative.clearly_better


@pytest.mark.parametrize(
    ('given', 'setting'),
    [(SWITCHED, '`to_rgb`'), (INCEPTION, '`mean`, `std`'), (BGR, '`to_rgb`, `mean`, `std`')],
)
def test_mis_preprocessed_teacher_is_found(check, given, setting):
    report = check(first=given)
    (warning,) = [warning for warning in report.warnings() if '"a"' in warning]
    if given is BGR:  # which is RGB: the same colours in another order of channels
        setting = warning.split('other ')[1].split(' its')[0]
    assert f'seems to get the wrong preprocessing: with other {setting}' in warning
    assert 'accuracy on the same images is 79.7 % instead of' in warning
    expected = 'mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True'
    assert f'Set model.teachers.0.data_preprocessor=dict({expected})' in warning
    assert report.teachers[0].alternative.accuracy == pytest.approx(1 - 52 / 256)


def test_normalisation_of_the_images_themselves_is_tried(check, images, monkeypatch):
    # In no list, and not the student's: what a teacher trained from nothing has.
    pixels = images.float().flip(1)
    truth = dict(
        mean=[round(float(v), 1) for v in pixels.mean(dim=(0, 2, 3))],
        std=[round(float(v), 1) for v in pixels.std(dim=(0, 2, 3))],
        to_rgb=True,
    )
    monkeypatch.setattr(f'{__name__}.RGB', truth)
    wrong = dict(truth, mean=[20.0, 20.0, 20.0])
    (warning,) = [w for w in check(first=wrong, second=wrong).warnings() if '"a"' in w]
    assert (
        f'data_preprocessor=dict(mean={truth["mean"]}, std={truth["std"]}, to_rgb=True' in warning
    )


def test_duplicates_are_found(check):
    report = check(width=4, same=True)
    assert any('"a" and "b" are near-duplicates' in warning for warning in report.warnings())
    assert report.agreements[0, 1].correlation > 0.999
    assert not any('near-duplicates' in warning for warning in check().warnings())


def test_other_order_of_classes_is_found(check):
    # The labels are made by the network itself: a map puts them in disorder.
    (warning,) = [w for w in check(class_map=[2, 0, 1, 4, 3]).warnings() if '"a"' in w]
    assert 'seems to have the classes in another order' in warning
    assert 'Set model.teachers.0.class_map' in warning


def test_number_of_images_for_other_preprocessings(check):
    assert check(preprocessing_images=0).preprocessing_images == 0
    assert check(preprocessing_images=65).preprocessing_images == 128
    assert check(preprocessing_images=64).preprocessing_images == 64
    assert check(preprocessing_images=9999).preprocessing_images == 256


def test_further_images_are_read_where_there_is_doubt(check, monkeypatch):
    read = []

    def further():
        read.append(True)
        yield from ()

    check(further_batches=further())
    assert not read
    monkeypatch.setattr('mtkdrl_mm.evaluation.preprocessing_check.SIGNIFICANCE', 1e-99)
    report = check(first=SWITCHED, further_batches=further())
    assert read and report.teachers[0].alternative.in_doubt


def test_further_images_decide(check, monkeypatch):
    found = check(first=SWITCHED).teachers[0].alternative
    monkeypatch.setattr('mtkdrl_mm.evaluation.preprocessing_check.SIGNIFICANCE', 1e-99)
    doubtful = check(first=SWITCHED)
    assert not any('wrong preprocessing' in warning for warning in doubtful.warnings())
    monkeypatch.setattr('mtkdrl_mm.engine.check_teachers.confirm_alternative', lambda *args: found)
    batch = dict(inputs=torch.zeros(1, 3, 32, 32).byte(), data_samples=[])
    batch['data_samples'].append(DataSample().set_gt_label(0))
    decided = check(first=SWITCHED, further_batches=[batch])
    assert decided.teachers[0].alternative is found


def test_doubt_is_resolved_against_the_same_teachers_preprocessing(check, monkeypatch):
    monkeypatch.setattr('mtkdrl_mm.evaluation.preprocessing_check.SIGNIFICANCE', 1e-99)
    compared = []
    monkeypatch.setattr(
        'mtkdrl_mm.engine.check_teachers.confirm_alternative',
        lambda predict, current, other, labels: compared.append(current),
    )
    batch = dict(
        inputs=torch.zeros(1, 3, 32, 32).byte(), data_samples=[DataSample().set_gt_label(0)]
    )
    check(first=SWITCHED, second=RGB, further_batches=[batch])
    assert [current.to_rgb for current in compared] == [False]


def test_labels_beyond_the_classes(make_distiller):
    batch = dict(
        inputs=torch.zeros(1, 3, 32, 32).byte(), data_samples=[DataSample().set_gt_label(5)]
    )
    with pytest.raises(InputError, match='has the label 5, but the teachers have 5 classes'):
        check_teachers(make_distiller(), [batch])
    with pytest.raises(InputError, match='no validation images'):
        check_teachers(make_distiller(), [])
