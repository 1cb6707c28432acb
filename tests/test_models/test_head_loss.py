# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The cross-entropy term is the loss of the student's own head."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models.losses import __all__ as ALL_LOSSES
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mtkdrl_mm.models.classifier_output import run_classifier
from mtkdrl_mm.utils import InputError

WEIGHTS = [1.0, 0.2, 3.0, 0.5, 2.0]

# Loss, and whether its labels are 'hard', or need scores of all classes.
LOSSES = {
    'weights': (dict(type='CrossEntropyLoss', class_weight=WEIGHTS, loss_weight=0.3), 'hard'),
    'weights, mixed': (dict(type='CrossEntropyLoss', class_weight=WEIGHTS), 'mixed'),
    'unreduced': (dict(type='CrossEntropyLoss', reduction='none'), 'hard'),
    'soft': (dict(type='CrossEntropyLoss', use_soft=True, class_weight=WEIGHTS), 'mixed'),
    'binary': (
        dict(type='CrossEntropyLoss', use_sigmoid=True, pos_weight=WEIGHTS, class_weight=WEIGHTS),
        'one-hot',
    ),
    'binary, mixed': (dict(type='CrossEntropyLoss', use_sigmoid=True), 'mixed'),
    'binary, unreduced': (
        dict(type='CrossEntropyLoss', use_sigmoid=True, reduction='none'),
        'one-hot',
    ),
    'original': (dict(type='LabelSmoothLoss', label_smooth_val=0.2, loss_weight=2.0), 'hard'),
    'classy vision': (
        dict(
            type='LabelSmoothLoss',
            label_smooth_val=0.2,
            mode='classy_vision',
            class_weight=WEIGHTS,
        ),
        'mixed',
    ),
    'smoothed binary': (
        dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='multi_label', use_sigmoid=True),
        'one-hot',
    ),
    'focal': (dict(type='FocalLoss', gamma=3.0, alpha=0.4, loss_weight=5.0), 'hard'),
    'focal, mixed': (dict(type='FocalLoss'), 'mixed'),
    'asymmetric': (dict(type='AsymmetricLoss', gamma_neg=2.0), 'hard'),
    'asymmetric softmax': (dict(type='AsymmetricLoss', use_sigmoid=False), 'one-hot'),
    'seesaw': (dict(type='SeesawLoss', num_classes=5, q=1.0), 'hard'),
}
PER_IMAGE = {'CrossEntropyLoss', 'LabelSmoothLoss', 'FocalLoss', 'AsymmetricLoss', 'SeesawLoss'}


def student_with(make_resnet, loss):
    student = make_resnet(4)
    student['head']['loss'] = dict(loss)
    return student


def labelled(make_batch, kind):
    inputs, samples = make_batch(6)
    if kind == 'hard':
        return inputs, samples
    hard = F.one_hot(torch.cat([sample.gt_label for sample in samples]), 5).float()
    return make_batch(6, scores=hard if kind == 'one-hot' else 0.7 * hard + 0.3 * hard.roll(1, 0))


def plain_loss(student, inputs, samples):
    """What mmpretrain and mmengine train the student with, without a distiller."""
    student = deepcopy(student)
    loss, _ = student.parse_losses(student.loss(inputs, samples))
    loss.backward()
    return loss, [parameter.grad for parameter in student.parameters()]


@pytest.mark.parametrize('name', LOSSES)
def test_without_teachers_in_the_loss_training_is_mmpretrains(
    make_distiller, make_resnet, make_batch, record_steps, name
):
    loss, kind = LOSSES[name]
    student = student_with(make_resnet, loss)
    distiller = make_distiller(student=student, logit_loss_weight=0, feature_loss_weight=0)
    distiller.eval()
    inputs, samples = labelled(make_batch, kind)
    expected, gradients = plain_loss(distiller.student, inputs, samples)
    steps = record_steps(distiller)
    losses = distiller(inputs, samples, mode='loss')
    torch.testing.assert_close(losses['loss_ce'], expected)
    sum(losses.values()).backward()
    for parameter, gradient in zip(distiller.student.parameters(), gradients):
        torch.testing.assert_close(parameter.grad, gradient)
    plain = F.cross_entropy(distiller.student(inputs), torch.cat([s.gt_label for s in samples]))
    assert name == 'unreduced' or not torch.allclose(expected, plain, rtol=1e-3)
    # The record has the loss of every image.
    terms, _ = steps[0]
    assert terms.student_ce.shape == (6,)
    if name != 'seesaw':  # whose weights depend on the labels seen so far
        for index in range(6):
            alone, _ = plain_loss(
                distiller.student, inputs[index : index + 1], samples[index : index + 1]
            )
            torch.testing.assert_close(terms.student_ce[index], alone)


def test_every_loss_of_mmpretrain_is_per_image_or_refused(make_distiller, make_resnet):
    assert {loss['type'] for loss, _ in LOSSES.values()} == PER_IMAGE
    arguments = dict(
        CAELoss=dict(lambd=1.0),
        PixelReconstructionLoss=dict(criterion='L1'),
        SwAVLoss=dict(feat_dim=5),
    )
    others = {name for name in ALL_LOSSES if name.endswith('Loss')} - PER_IMAGE
    # Of the maintained fork; per image for labels that are scores.
    others.discard('RegressionLoss')
    assert others >= {'CosineSimilarityLoss', 'CAELoss', 'SwAVLoss'}
    for name in others:
        loss = dict(type=name, **arguments.get(name, {}))
        with pytest.raises(InputError, match=f"student's loss {name} cannot be computed per image"):
            make_distiller(student=make_resnet(4, **loss))


def test_loss_is_float32_under_mixed_precision(
    make_distiller, make_resnet, make_batch, record_steps
):
    student = make_resnet(4, type='FocalLoss')
    distiller = make_distiller(student=student).eval()
    steps = record_steps(distiller)
    inputs, samples = make_batch(6)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        distiller(inputs, samples, mode='loss')
    terms, _ = steps[0]
    assert terms.student_ce.dtype == torch.float32
    labels = torch.cat([sample.gt_label for sample in samples])
    expected = distiller.student.head.loss_module(
        terms.student.logits.float(), labels, reduction_override='none'
    )
    torch.testing.assert_close(terms.student_ce, expected.sum(dim=1))


def test_labels_are_counted_once_a_step(make_distiller, make_resnet, make_batch):
    student = student_with(make_resnet, LOSSES['seesaw'][0])
    distiller = make_distiller(student=student).train()
    inputs, samples = make_batch(6)
    counts = distiller.student.head.loss_module.cum_samples.zero_()
    distiller(inputs, samples, mode='loss')
    assert counts.sum() == 6


def test_teachers_have_the_plain_cross_entropy_whatever_the_loss(
    make_distiller, make_resnet, make_batch, record_steps
):
    student = make_resnet(4, type='CrossEntropyLoss', class_weight=WEIGHTS)
    distiller = make_distiller(student=student).eval()
    steps = record_steps(distiller)
    inputs, samples = make_batch(6)
    distiller(inputs, samples, mode='loss')
    terms, _ = steps[0]
    labels = torch.cat([sample.gt_label for sample in samples])
    logits = distiller.teachers(inputs)[1].logits
    torch.testing.assert_close(
        terms.teacher_ce[:, 1], F.cross_entropy(logits, labels, reduction='none')
    )


def test_accuracy_of_the_head_is_logged(make_distiller, make_resnet, make_batch):
    student = make_resnet(4)
    student['head'].update(cal_acc=True, topk=(1, 3))
    distiller = make_distiller(student=student).eval()
    inputs, samples = make_batch(6)
    losses = distiller(inputs, samples, mode='loss')
    right = [
        int(p.pred_label) == int(p.gt_label) for p in distiller.student.predict(inputs, samples)
    ]
    torch.testing.assert_close(losses['accuracy_top-1'][0], torch.tensor([100 * sum(right) / 6]))
    total, logged = distiller.parse_losses(losses)
    parts = [losses[f'loss_{name}'] for name in ('ce', 'logit', 'feature')]
    torch.testing.assert_close(total, sum(parts))
    assert {'accuracy_top-1', 'accuracy_top-3'} <= set(logged)


HEADS = {
    'hidden layers': dict(
        type='StackedLinearClsHead', in_channels=32, mid_channels=[7], num_classes=5
    ),
    'ArcFace': dict(type='ArcFaceClsHead', in_channels=32, num_classes=5, scale=8.0),
    'sub-centres': dict(type='ArcFaceClsHead', in_channels=32, num_classes=5, num_subcenters=2),
    'several labels, soft': dict(
        type='MultiLabelLinearClsHead',
        in_channels=32,
        num_classes=5,
        loss=dict(type='CrossEntropyLoss', use_soft=True),
    ),
    'several labels': dict(type='MultiLabelLinearClsHead', in_channels=32, num_classes=5),
    'attention': dict(type='CSRAClsHead', in_channels=32, num_classes=5, num_heads=2, lam=0.1),
    'ViG': dict(type='VigClsHead', in_channels=32, num_classes=5, hidden_dim=9),
    'undistilled': dict(
        type='EfficientFormerClsHead', in_channels=32, num_classes=5, distillation=False
    ),
    'LeViT': dict(type='LeViTClsHead', in_channels=32, num_classes=5, distillation=False),
}


@pytest.mark.parametrize('name', HEADS)
def test_heads_train_as_in_mmpretrain(make_distiller, make_resnet, make_batch, name):
    student = dict(make_resnet(4), head=HEADS[name])
    if name == 'attention':
        student['neck'] = None
    distiller = make_distiller(student=student).eval()
    inputs, samples = make_batch(6)
    expected, _ = plain_loss(distiller.student, inputs, samples)
    losses = distiller(inputs, samples, mode='loss')
    torch.testing.assert_close(losses['loss_ce'], expected)
    # What is distilled are the logits that the student predicts with.
    output = run_classifier(distiller.student, inputs, data_samples=samples)
    torch.testing.assert_close(output.logits, distiller.student(inputs))
    assert output.embedding.ndim == 2


def test_two_classifiers_add_up(make_distiller, make_batch):
    student = dict(
        type='ImageClassifier',
        backbone=dict(
            type='Conformer',
            arch=dict(embed_dims=24, channel_ratio=1, num_heads=2, depths=12),
            patch_size=16,
            base_channels=8,
        ),
        head=dict(
            type='ConformerHead',
            num_classes=5,
            in_channels=[32, 24],
            loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1),
        ),
    )
    distiller = make_distiller(student=student, feature_loss_weight=0).eval()
    inputs, samples = make_batch(4, size=64)
    expected, _ = plain_loss(distiller.student, inputs, samples)
    losses = distiller(inputs, samples, mode='loss')
    torch.testing.assert_close(losses['loss_ce'], expected)
    output = run_classifier(distiller.student, inputs)
    first, second = distiller.student(inputs)
    torch.testing.assert_close(output.logits, first + second)
    head = distiller.student.head
    weight = torch.cat([head.conv_cls_head.weight, head.trans_cls_head.weight], dim=1)
    bias = head.conv_cls_head.bias + head.trans_cls_head.bias
    torch.testing.assert_close(output.logits, F.linear(output.embedding, weight, bias))


def refused(make_distiller, student, **kwargs):
    with pytest.raises(InputError) as error:
        make_distiller(student=student, **kwargs)
    return str(error.value)


def test_losses_that_do_not_fit_the_student(make_distiller, make_resnet):
    message = refused(
        make_distiller, make_resnet(4, type='CrossEntropyLoss', class_weight=[1.0, 2.0])
    )
    assert 'CrossEntropyLoss does not accept the labels of the data: weight tensor' in message
    # The zoo's number, in a config that is given inline.
    loss = dict(LOSSES['seesaw'][0], num_classes=1000)
    message = refused(make_distiller, student_with(make_resnet, loss))
    assert 'output (5) does not match the `num_classes` of seesaw loss (1000)' in message
    assert 'onehot' not in message
    message = refused(make_distiller, make_resnet(4, type='CrossEntropyLoss', reduction='sum'))
    assert "CrossEntropyLoss has reduction='sum'" in message and "use 'mean'" in message
    mixup = dict(mean=[0.0], std=[1.0], batch_augments=dict(augments=dict(type='Mixup', alpha=1.0)))
    message = refused(
        make_distiller,
        student_with(make_resnet, LOSSES['seesaw'][0]),
        data_preprocessor=mixup,
        num_classes=None,
    )
    assert 'SeesawLoss does not accept the scores of all classes' in message
    make_distiller(
        student=make_resnet(4, type='FocalLoss'), data_preprocessor=dict(mixup, num_classes=5)
    )


@pytest.mark.parametrize('head', ['LeViTClsHead', 'EfficientFormerClsHead'])
def test_heads_that_mmpretrain_cannot_train(make_distiller, make_resnet, head):
    student = dict(make_resnet(4), head=dict(type=head, num_classes=5, in_channels=32))
    message = refused(make_distiller, student)
    assert f'head {head} cannot be trained' in message
    assert "cfg_options={'model.head.distillation': False}" in message
    # As a teacher it only has to predict.
    make_distiller([dict(student, name='teacher')])


class HeadWithMore(MODELS.get('LinearClsHead')):
    """Adds a term of its own to the loss."""

    def loss(self, feats, data_samples, **kwargs):
        return dict(super().loss(feats, data_samples), loss_norm=feats[-1].square().mean())


def test_head_that_adds_to_its_loss(make_distiller, make_resnet):
    student = make_resnet(4)
    student['head']['type'] = HeadWithMore
    message = refused(make_distiller, student)
    assert 'HeadWithMore (loss, loss_norm) is not the mean' in message


class HeadWithoutALoss(MODELS.get('LinearClsHead')):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        del self.loss_module


def test_head_without_a_loss_module(make_distiller, make_resnet):
    student = make_resnet(4)
    student['head']['type'] = HeadWithoutALoss
    assert 'HeadWithoutALoss has no `loss_module`' in refused(make_distiller, student)


def test_head_of_several_tasks(make_distiller, make_resnet):
    tasks = dict(a=dict(type='LinearClsHead', num_classes=5))
    head = dict(type='MultiTaskHead', task_heads=tasks, in_channels=32)
    message = refused(make_distiller, dict(make_resnet(4), head=head))
    assert 'student has no classification head with `pre_logits` (its head is a Multi' in message


def test_labels_that_a_loss_does_not_take(make_distiller, make_resnet, make_batch):
    student = make_resnet(4, type='CrossEntropyLoss', use_sigmoid=True)
    distiller = make_distiller(student=student).train()
    with pytest.raises(InputError, match=r'CrossEntropyLoss does not accept the labels.*to_onehot'):
        distiller(*make_batch(4), mode='loss')
    inputs, _ = make_batch(4)
    samples = [DataSample().set_gt_label(7) for _ in range(4)]
    with pytest.raises(
        InputError, match=r'does not accept the labels.*Labels must be below the nu'
    ):
        make_distiller().train()(inputs, samples, mode='loss')


@pytest.mark.parametrize('loss', ['CrossEntropyLoss', 'LabelSmoothLoss'])
def test_one_hot_labels_are_those_classes(make_distiller, make_resnet, make_batch, loss):
    """mmpretrain makes whole numbers of them where a preprocessor that blends does not blend."""
    settings = dict(type=loss, **(dict(label_smooth_val=0.1) if loss[0] == 'L' else {}))
    distiller = make_distiller(student=make_resnet(4, **settings)).eval()
    inputs, samples = make_batch()
    hard = distiller.loss(inputs, samples)
    for sample in samples:
        sample.set_gt_score(F.one_hot(sample.gt_label, 5)[0])
        assert not sample.gt_score.is_floating_point()
    soft = distiller.loss(inputs, samples)
    torch.testing.assert_close(soft['loss_ce'], hard['loss_ce'])


@pytest.mark.parametrize('scores', [None, [[1.0, 1, 0, 0, 0]] * 2])
def test_images_with_several_labels(make_distiller, make_batch, scores):
    inputs, samples = make_batch(2, scores=scores and torch.tensor(scores))
    samples[1].set_gt_label([0, 1]).set_field('cat.png', 'img_path', field_type='metainfo')
    with pytest.raises(InputError, match=r'image cat.png has 2 labels.*multi-label data is not'):
        make_distiller().train()(inputs, samples, mode='loss')
    samples[1].set_gt_label([])
    with pytest.raises(InputError, match=r'image cat\.png has 0 labels'):
        make_distiller().train()(inputs, samples, mode='loss')


def test_hidden_layers_run_once(make_classifier, make_resnet, make_batch):
    head = dict(
        type='StackedLinearClsHead',
        in_channels=32,
        mid_channels=[16],
        num_classes=5,
        dropout_rate=0.5,
        norm_cfg=dict(type='BN1d'),
    )
    network = make_classifier(dict(make_resnet(4), head=head), seed=1).train()
    inputs, samples = make_batch(6)
    for count, labels in enumerate((None, samples), start=1):
        output = run_classifier(network, inputs, data_samples=labels)
        # The same dropout mask in the embedding as in the logits.
        assert 0 < (output.embedding == 0).sum() < 6 * 16
        assert torch.equal(network.head.fc(output.embedding), output.logits)
        assert int(network.head.layers[0].norm.num_batches_tracked) == count
    expected = F.cross_entropy(
        output.logits, torch.cat([s.gt_label for s in samples]), reduction='none'
    )
    torch.testing.assert_close(output.loss, expected)
    assert 'pre_logits' not in vars(network.head)
