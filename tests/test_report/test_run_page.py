# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The page of a training: its values, what is left out, and its HTML."""

import json
import re

import numpy as np
import pytest
import torch

from mtkdrl_mm.evaluation import agreement
from mtkdrl_mm.report import make_run_page, read_run, render
from mtkdrl_mm.report.image_outputs import ImageOutputs

from .html_checks import HOSTILE, check
from .work_dirs import step, validation, write_session

DISTILLER = """
model = dict(type='mtkdrl_mm.MultiTeacherDistiller', student=dict(cfg_path='student.py'),
    teachers=[dict(name='a'), dict(name='b')], weighting=dict(type='MTKDRL'){more})
train_cfg = dict(max_epochs=2)
train_dataloader = dict(batch_size=8, dataset=dict(type='CustomDataset'{classes}))
"""


def weights(a, b):
    names = dict(a=a, b=b)
    return {f'teacher_weight/{k}/{n}': w for k in ('logit', 'feature') for n, w in names.items()}


def distillation(tmp_path, more='', classes=''):
    terms = dict(loss_ce=0.25, loss_logit=0.125, loss_feature=2.5, reward=1.5, memory=321)
    records = [
        step(1, 4, **terms, **weights(0.5, 0.5)),
        validation(1, 51.25),
        step(2, 8, **terms, **weights(0.9371, 0.0629)),
        validation(2, 50.5),
    ]
    write_session(
        tmp_path, '20260101_000000', records, DISTILLER.format(more=more, classes=classes)
    )
    contents = dict(teachers=['a', 'b'], logit=[[0.875, 0.125]] * 3, feature=[[0.25, 0.75]] * 3)
    (tmp_path / 'class_weights.json').write_text(json.dumps(contents))
    return read_run(str(tmp_path))


def outputs(images=40, classes=3, blended=False, equal=False, training=False):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (images,), generator=generator)
    first = torch.linspace(0, 1, images) * (0 if equal else 1)
    return ImageOutputs(
        names=('a', 'b'),
        source='validation images',
        labels=torch.nn.functional.one_hot(labels, classes).float(),
        blended=blended,
        training=training,
        student_logits=torch.randn(images, classes, generator=generator),
        teacher_logits=torch.randn(images, 2, classes, generator=generator) * 2,
        logit_weights=torch.stack([first, 1 - first], dim=1),
        images=[np.full((4, 4, 3), i, np.uint8) for i in range(images)],
    )


def test_values_are_those_of_the_logs(tmp_path):
    page = check(render(make_run_page(distillation(tmp_path))))
    assert 'accuracy/top1 50.5 51.25 1 50.5' in page.words  # last, highest, its epoch, lowest
    for text in ('loss_ce 0.25', 'loss_logit 0.125', 'loss_feature 2.5', 'reward 1.5', 'lr 0.1'):
        assert text in page.words
    assert page.words.count('a 0.937 b 0.063') == 2  # logit and feature weights
    assert 'class 2 0.88 0.12' in page.words and 'class 2 0.25 0.75' in page.words
    assert '2 of 2 epochs, finished; 8 iterations' in page.words
    assert '0.5 (median); 16 images per second and process' in page.words
    assert '4 s, without validation' in page.words and '321 MiB at most' in page.words


def test_what_teachers_have_memorised_is_drawn_beside_their_weights(tmp_path):
    record = distillation(tmp_path)
    assert 'Memorised' not in check(render(make_run_page(record))).words
    record.train[-1].update({'memorised/a': 0.375, 'memorised/b': 0.0})
    page = make_run_page(record)
    weights = next(section for section in page.sections if section.anchor == 'weights')
    assert [chart.title for chart in weights.blocks[0].charts][-1] == 'Memorised'
    words = check(render(page)).words
    assert words.count('Memorised') == 1 and 'a 0.375 b 0.000' in words
    # Without `TeacherWeightHook` there are no weights that it could stand beside.
    record.train[:] = [
        {key: value for key, value in entry.items() if not key.startswith('teacher_weight')}
        for entry in record.train
    ]
    assert 'memorised/a 0.375' in check(render(make_run_page(record))).words


def test_sections(tmp_path):
    images = outputs()
    page = make_run_page(distillation(tmp_path), images, images)
    assert check(render(page)).headings == [
        'Overview',
        'Curves',
        'Weights of the teachers',
        'Weights per class',
        'Accuracy, calibration and agreement',
        'Images by weight',
        'Cost',
        'Config and versions',
        'Not on this page',
    ]
    assert page.left_out == [('Versions', 'The log of the latest start is not in the work dir.')]


def test_accuracy_calibration_and_agreement(tmp_path):
    images = outputs()
    page = check(render(make_run_page(distillation(tmp_path), 'No.', images)))
    labels = images.labels.argmax(dim=1)
    for name, logits in (
        ('a', images.teacher_logits[:, 0]),
        ('b', images.teacher_logits[:, 1]),
        ('student', images.student_logits),
    ):
        accuracy = float((logits.argmax(dim=1) == labels).double().mean())
        error = (accuracy * (1 - accuracy) / 40) ** 0.5
        assert f'{name} {100 * accuracy:.1f} ± {100 * error:.1f}' in page.words
    pair = agreement(*images.teacher_logits.unbind(dim=1), labels)
    cell = f'{100 * pair.observed:.1f} ({pair.kappa:.2f})'
    assert f'a {cell}' in page.words and f'b {cell}' in page.words
    assert 'Images by weight No.' in page.words


def test_accuracy_of_a_student_whose_average_is_validated(tmp_path):
    """With EMAHook, the overview and this section are about other weights."""
    record = distillation(tmp_path)
    told = 'here the student has those that the training goes on with.'
    assert told not in check(render(make_run_page(record, 'No.', outputs()))).words
    record.config['custom_hooks'] = [dict(type='EMAHook', momentum=0.1)]
    assert told in check(render(make_run_page(record, 'No.', outputs()))).words


def test_calibration_is_accuracy_by_confidence(tmp_path):
    """A teacher that is sure with 0.85, and right about half of the images."""
    images = outputs()
    answers = images.labels.argmax(dim=1)
    answers[::2] = (answers[::2] + 1) % 3
    sure = torch.nn.functional.one_hot(answers, 3) * 0.775 + 0.075
    images.teacher_logits[:, 0] = sure.log()
    page = make_run_page(distillation(tmp_path), 'No.', images)
    (section,) = [one for one in page.sections if one.anchor == 'teachers']
    (chart,) = [one.charts[0] for one in section.blocks if one.kind == 'charts']
    assert chart.title == 'Accuracy by confidence'
    (points,) = [one.points for one in chart.series if one.name == 'a']
    assert points == [pytest.approx((0.85, 0.5))]


def test_labels_of_training_images_may_be_wrong(tmp_path):
    """A teacher that is right about none of them is suspicious on validation images alone."""
    record = distillation(tmp_path)
    warning = 'Teacher "a" seems to have the classes in another order'
    for training in (False, True):
        images = outputs(training=training)
        images.teacher_logits[:, 0] = 9 * images.labels.roll(1, dims=1)
        page = check(render(make_run_page(record, 'No.', images)))
        assert (warning in page.words) == (not training)
        assert ('Measured on training images, by the labels that' in page.words) == training


def test_gallery_shows_the_images_with_known_weights(tmp_path):
    page = make_run_page(distillation(tmp_path), outputs(), 'No.')
    (section,) = [one for one in page.sections if one.anchor == 'gallery']
    first, second = section.blocks
    (_, high), (_, low) = first.groups
    assert [round(39 * picture.weight) for picture in high] == [39, 38, 37, 36, 35, 34]
    assert [round(39 * picture.weight) for picture in low] == [0, 1, 2, 3, 4, 5]
    # Where the first teacher's weight is highest, the second's is lowest.
    assert [one.source for one in second.groups[1][1]] == [one.source for one in high]
    assert check(render(page)).tags.count('img') == 24


def test_equal_weights_and_blended_images_are_left_out(tmp_path):
    record = distillation(tmp_path)
    page = make_run_page(record, outputs(equal=True), outputs(blended=True))
    reasons = dict(page.left_out)
    assert reasons['Images by weight'] == 'Each teacher has the same weight on all images.'
    assert 'blended' in reasons['Accuracy, calibration and agreement']
    assert not {'gallery', 'teachers'} & {section.anchor for section in page.sections}


def test_feature_weights_without_effect_are_left_out(tmp_path):
    record = distillation(tmp_path, more=', feature_loss_weight=0')
    words = check(render(make_run_page(record))).words
    assert 'Logit weights per class' in words and 'Feature weights' not in words


@pytest.mark.parametrize('kind', ['mmpretrain.ImageClassifier', 'RetinaNet'])
def test_training_without_teachers(tmp_path, kind):
    records = [step(1, 5), validation(1, 40.0)]
    write_session(tmp_path, '20260101_000000', records, f'model = dict(type={kind!r})\n')
    page = make_run_page(read_run(str(tmp_path)))
    content = check(render(page))
    assert content.headings == [
        'Overview', 'Curves', 'Cost', 'Config and versions', 'Not on this page',
    ]  # fmt: skip
    reason = f'This training has no teachers: its model is {kind.split(".")[-1]}.'
    assert dict(page.left_out)['Weights, gallery, calibration'] == reason


def test_training_that_has_just_started(tmp_path):
    write_session(tmp_path, '20260101_000000', [], DISTILLER.format(more='', classes=''))
    page = make_run_page(read_run(str(tmp_path)), 'No checkpoint.', 'No checkpoint.')
    assert check(render(page)).headings[0] == 'Overview'
    assert [name for name, _ in page.left_out] == [
        'Curves',
        'Weights of the teachers',
        'Weights per class',
        'Accuracy, calibration and agreement',
        'Images by weight',
        'Versions',
    ]


def test_hostile_names_are_escaped(tmp_path):
    names = [HOSTILE, '"><img src=x onerror=alert(1)>', "'&amp;"]
    record = distillation(tmp_path, classes=f', metainfo=dict(classes={names!r})')
    record.train[-1][f'teacher_weight/logit/{HOSTILE}'] = 0.5
    record.train[-1][f'grad/{HOSTILE}'] = 1.0
    record.environment[HOSTILE] = HOSTILE
    images = outputs()
    html = render(make_run_page(record, images, images))
    content = check(html)  # no element and no attribute came from them
    assert content.tags.count('img') == 24
    for name in names:
        assert name in content.words and (name not in html or name == "'&amp;")


def test_of_many_classes_those_that_differ_most_are_shown(tmp_path):
    record = distillation(tmp_path)
    table = np.full((1000, 2), 0.5)
    table[[17, 900]] = [[1.0, 0.0], [0.2, 0.8]]
    contents = dict(teachers=['a', 'b'], logit=table.tolist(), feature=table.tolist())
    (tmp_path / 'class_weights.json').write_text(json.dumps(contents))
    page = make_run_page(record)
    (section,) = [one for one in page.sections if one.anchor == 'classes']
    rows = section.blocks[0].rows
    assert len(rows) == 30 and rows[0] == ['class 17', '1.00', '0.00']
    assert rows[1] == ['class 900', '0.20', '0.80'] and 'Of 1000 classes' in section.intro
    html = render(page)
    check(html)
    # The colours are the numbers.
    cells = re.findall(r'--share:(\d+)%">([\d.]+)</td>', html)
    assert len(cells) == 2 * 30 * 2 and {(shade, text) for shade, text in cells} == {
        ('100', '1.00'), ('0', '0.00'), ('20', '0.20'), ('80', '0.80'), ('50', '0.50'),
    }  # fmt: skip


def test_classes_may_differ_in_their_feature_weights_alone(tmp_path):
    record = distillation(tmp_path)
    logit, feature = np.full((2, 100, 2), 0.5)
    logit[17], feature[90] = [1.0, 0.0], [0.8, 0.2]
    contents = dict(teachers=['a', 'b'], logit=logit.tolist(), feature=feature.tolist())
    (tmp_path / 'class_weights.json').write_text(json.dumps(contents))
    (section,) = [one for one in make_run_page(record).sections if one.anchor == 'classes']
    assert [[row[0] for row in table.rows[:2]] for table in section.blocks] == [
        ['class 17', 'class 90']
    ] * 2
