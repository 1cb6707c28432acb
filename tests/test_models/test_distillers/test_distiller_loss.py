# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What the distiller computes."""

from collections import Counter
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmpretrain.structures import DataSample

from mtkdrl_mm.models import AVER, Weighting
from mtkdrl_mm.models.losses import DIST
from mtkdrl_mm.rl import LabelProbabilityReward
from mtkdrl_mm.rl.memorised_share import MemorisedShare
from mtkdrl_mm.structures import TeacherWeights
from mtkdrl_mm.utils import InputError


class FixedWeights(Weighting):
    """Other weights for every image, teacher and term; they sum to 1."""

    def forward(self, terms):
        ramp = torch.linspace(0.1, 0.9, terms.student_logits.shape[0])
        return TeacherWeights(
            logit=torch.stack([ramp, 1 - ramp], dim=1),
            feature=torch.stack([1 - ramp**2, ramp**2], dim=1),
        )


def run(network, inputs):
    """Map, embedding and logits of a tiny ResNet, without the package's help."""
    feature_map = network.backbone(inputs)[-1]
    embedding = feature_map.mean(dim=(2, 3))
    return feature_map, embedding, F.linear(embedding, network.head.fc.weight, network.head.fc.bias)


def by_hand(distiller, inputs, labels, wl, wf, alpha=1.0, beta=5.0, temperature=4.0):
    """The student's loss as section "Student loss" of the paper writes it."""
    student = deepcopy(distiller.student)
    feature_map, _, logits = run(student, inputs)
    total = F.cross_entropy(logits, labels, reduction='none')
    for m, teacher in enumerate([t.network for t in distiller.teachers]):
        with torch.no_grad():
            teacher_map, _, teacher_logits = run(teacher, inputs)
        kl = F.kl_div(
            F.log_softmax(logits / temperature, 1),
            F.softmax(teacher_logits / temperature, 1),
            reduction='none',
        ).sum(1)
        total = total + alpha * wl[:, m] * temperature**2 * kl
        if beta > 0:
            projected = deepcopy(list(distiller.connectors.values())[m]).projection(feature_map)
            distance = ((projected - teacher_map) ** 2).mean(dim=(1, 2, 3))
            total = total + beta * wf[:, m] * distance
    return total.mean(), student


def labels_of(samples):
    return torch.cat([sample.gt_label for sample in samples])


@pytest.mark.parametrize(('alpha', 'beta'), [(1.0, 5.0), (0.3, 2.0), (0.0, 1.0), (2.0, 0.0)])
@pytest.mark.parametrize('temperature', [4.0, 2.0])
def test_loss_is_the_formula(make_distiller, make_batch, record_steps, alpha, beta, temperature):
    distiller = make_distiller(
        weighting=dict(type=FixedWeights),
        logit_loss_weight=alpha,
        feature_loss_weight=beta,
        logit_loss=dict(type='KLDivergence', temperature=temperature),
    ).train()
    inputs, samples = make_batch(6)
    weights = distiller.weighting(_StudentLogits(inputs))
    expected, student = by_hand(
        distiller,
        inputs,
        labels_of(samples),
        weights.logit,
        weights.feature,
        alpha,
        beta,
        temperature,
    )
    steps = record_steps(distiller)
    losses = distiller(inputs, samples, mode='loss')
    # the reward and the state read these from the record
    terms, _ = steps[0]
    assert (terms.logit_loss_weight, terms.feature_loss_weight, terms.temperature) == (
        alpha,
        beta,
        temperature,
    )
    assert set(losses) == {'loss_ce', 'loss_logit'} | ({'loss_feature'} if beta > 0 else set())
    total, _ = distiller.parse_losses(losses)
    torch.testing.assert_close(total, expected)
    expected.backward()
    total.backward()
    for ours, other in zip(distiller.student.parameters(), student.parameters()):
        torch.testing.assert_close(ours.grad, other.grad, rtol=1e-3, atol=1e-4)


class _StudentLogits:
    def __init__(self, inputs):
        self.student_logits = inputs


def test_single_teacher_is_plain_distillation(make_distiller, make_resnet, make_batch):
    teacher = [dict(make_resnet(6), name='only')]
    distiller = make_distiller(teacher, weighting='MTKDRL').eval()
    distiller.weighting.warming_up = False
    inputs, samples = make_batch(6)
    one = torch.ones(6, 1)
    expected, _ = by_hand(distiller, inputs, labels_of(samples), one, one)
    total = sum(distiller(inputs, samples, mode='loss').values())
    torch.testing.assert_close(total, expected)


def test_aver_is_the_mean_over_the_teachers(make_distiller, make_batch):
    distiller = make_distiller(weighting='AVER').train()
    inputs, samples = make_batch(6)
    half = torch.full((6, 2), 0.5)
    expected, _ = by_hand(distiller, inputs, labels_of(samples), half, half)
    total = sum(distiller(inputs, samples, mode='loss').values())
    torch.testing.assert_close(total, expected)


def test_warm_up_of_the_agent_is_aver(make_distiller, make_batch):
    aver, agent = make_distiller(weighting='AVER'), make_distiller(weighting='MTKDRL')
    agent.load_state_dict(aver.state_dict(), strict=False)
    batch = make_batch(6)
    agent.weighting.warming_up = True
    expected = aver(*batch, mode='loss')
    actual = agent(*batch, mode='loss')
    for name in expected:
        assert torch.equal(actual[name], expected[name])
    agent.weighting.warming_up = False
    assert not torch.allclose(agent(*batch, mode='loss')['loss_logit'], expected['loss_logit'])


@pytest.mark.parametrize(
    'parts', [('agent',), ('confidence',), ('divergence',), ('agent', 'confidence', 'divergence')]
)
def test_equal_teachers_make_every_strategy_aver(make_distiller, make_resnet, make_batch, parts):
    teachers = [dict(make_resnet(6), name=name) for name in 'abc']
    aver = make_distiller(teachers, weighting='AVER')
    agent = dict(type='PerTeacherAgent')
    fused = make_distiller(teachers, weighting=dict(type='MTKDRL', agent=agent, parts=parts))
    fused.weighting.warming_up = False
    for distiller in (aver, fused):
        for m in (1, 2):
            first = distiller.teachers[0].network.state_dict()
            distiller.teachers[m].network.load_state_dict(first)
            list(distiller.connectors.values())[m].load_state_dict(
                next(iter(distiller.connectors.values())).state_dict()
            )
    first, *others = fused.weighting.agent.networks.values()
    for network in others:
        network.load_state_dict(first.state_dict())
    batch = make_batch(6)
    expected = aver(*batch, mode='loss')
    for name, value in fused(*batch, mode='loss').items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda w: w * torch.tensor([1.0, 1.0, 2.0, 1.0])[:, None],
            r'sum to 1 over the teachers, but those of image 2 of the batch sum to 2\.$',
        ),
        (lambda w: w * 0, r'sum to 1 .* image 0 of the batch sum to 0\.'),
        (
            lambda w: w + torch.tensor([[1.0, -1.0]]),
            r'not be negative, but the least of a batch is -0\.5\.$',
        ),
        (
            lambda w: w.clone().requires_grad_(),
            r'have no gradient, or the student would be trained',
        ),
        (lambda w: w[:, :1], r'of shape \(4, 2\), but has shape \(4, 1\)\.'),
        (lambda w: w[0], r'of shape \(4, 2\), but has shape \(2,\)\.'),
    ],
)
def test_what_an_own_weighting_returns_is_checked(make_distiller, make_batch, change, message):
    class Own(AVER):
        def forward(self, terms):
            weights = super().forward(terms)
            return TeacherWeights(logit=weights.logit, feature=change(weights.feature))

    distiller = make_distiller(weighting=dict(type=Own))
    with pytest.raises(InputError, match=f'`feature` of the weights of Own must (be .*)?{message}'):
        distiller.loss(*make_batch(images=4))


def test_weights_are_looked_at_again(make_distiller, make_batch):
    """What fails later than in the first step is found within 50 steps."""

    class Later(AVER):
        steps = 0

        def forward(self, terms):
            self.steps += 1
            weights = super().forward(terms)
            factor = 1 if self.steps < 3 else 0
            return TeacherWeights(logit=weights.logit * factor, feature=weights.feature)

    distiller = make_distiller(weighting=dict(type=Later))
    batch = make_batch(images=2)
    with pytest.raises(InputError, match='`logit` of the weights of Later must sum to 1'):
        for _ in range(51):
            distiller.loss(*batch)
    assert distiller.weighting.steps == 51


def test_parameters_of_a_weighting_need_a_trainer(make_distiller, make_batch):
    class Learned(AVER):
        def __init__(self, pool):
            super().__init__(pool)
            self.preference = torch.nn.Parameter(torch.zeros(len(pool.names)))

    distiller = make_distiller(weighting=dict(type=Learned)).train()
    distiller.weighting.has_trainer = False  # which the fixture sets
    with pytest.raises(InputError, match='Nothing trains the parameters of the weighting Learned'):
        distiller.loss(*make_batch())
    distiller.weighting.attach_trainer()
    distiller.loss(*make_batch())


@pytest.mark.parametrize('name', ['CE', 'Logit', 'FEATURE'])
def test_an_extra_loss_cannot_take_the_place_of_a_term(make_distiller, name):
    kind = type(name, (DIST,), {})
    with pytest.raises(InputError, match=f'An extra loss cannot be called {name}: "loss_'):
        make_distiller(extra_losses=[dict(type=kind)])


def test_no_gradient_through_the_weights(make_distiller, make_batch, record_steps):
    distiller = make_distiller(weighting='MTKDRL').eval()
    distiller.weighting.warming_up = False
    distiller.weighting.agent.requires_grad_(True)  # even then
    steps = record_steps(distiller)
    inputs, samples = make_batch(6)
    sum(distiller(inputs, samples, mode='loss').values()).backward()
    _, weights = steps[0]
    assert not weights.logit.requires_grad and not weights.feature.requires_grad
    assert (weights.logit - 0.5).abs().max() > 1e-3
    assert all(p.grad is None for p in distiller.weighting.parameters())
    # The student's gradient is that of a loss with these weights as constants.
    expected, student = by_hand(
        distiller, inputs, labels_of(samples), weights.logit, weights.feature
    )
    expected.backward()
    for ours, other in zip(distiller.student.parameters(), student.parameters()):
        torch.testing.assert_close(ours.grad, other.grad, rtol=1e-3, atol=1e-4)


def test_hard_labels_equal_one_hot_scores(make_distiller, make_batch):
    distiller = make_distiller(weighting='MTKDRL').eval()
    distiller.weighting.warming_up = False
    inputs, samples = make_batch(6)
    scores = F.one_hot(labels_of(samples), 5).float()
    expected = distiller(inputs, samples, mode='loss')
    actual = distiller(*make_batch(6, scores=scores), mode='loss')
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name])


@pytest.mark.parametrize('mode', ['original', 'classy_vision'])
def test_label_smoothing_of_the_students_head(
    make_distiller, make_resnet, make_batch, record_steps, mode
):
    student = make_resnet(4, type='LabelSmoothLoss', label_smooth_val=0.2, mode=mode)
    distiller = make_distiller(student=student).eval()
    steps = record_steps(distiller)
    inputs, samples = make_batch(6)
    loss = distiller(inputs, samples, mode='loss')['loss_ce']
    torch.testing.assert_close(loss, distiller.student(inputs, samples, mode='loss')['loss'])
    logits = distiller.student(inputs)
    if mode == 'original':
        expected = F.cross_entropy(logits, labels_of(samples), label_smoothing=0.2)
        torch.testing.assert_close(loss, expected)
    assert not torch.allclose(loss, F.cross_entropy(logits, labels_of(samples)), rtol=1e-3)
    terms, weights = steps[0]
    assert terms.labels.shape == (6, 5)
    # Smoothing is for the student's loss. Whether a teacher is right is a question of the data.
    assert torch.equal(terms.data_labels, labels_of(samples))
    rewards = LabelProbabilityReward()(terms, weights)
    torch.testing.assert_close(rewards, torch.exp(-cross_entropy_of(terms, labels_of(samples))))
    memorised = MemorisedShare(2)
    memorised.observe(terms)
    assert memorised.estimate(rewards).tolist() == [0, 0]  # the same images in both roles


def cross_entropy_of(terms, labels):
    """That of every teacher, shape (B, M)."""
    logits = terms.teacher_logits
    losses = [F.cross_entropy(logits[:, m], labels, reduction='none') for m in (0, 1)]
    return torch.stack(losses, dim=1)


def test_label_smoothing_of_mixed_labels(make_distiller, make_resnet, make_batch):
    student = make_resnet(4, type='LabelSmoothLoss', label_smooth_val=0.2, mode='original')
    distiller = make_distiller(student=student).eval()
    inputs, samples = make_batch(6, scores=torch.rand(6, 5).softmax(dim=1))
    loss = distiller(inputs, samples, mode='loss')['loss_ce']
    torch.testing.assert_close(loss, distiller.student(inputs, samples, mode='loss')['loss'])


@pytest.mark.parametrize('place', ['data_preprocessor', 'train_cfg'])
def test_mixup_blends_images_and_labels_alike(
    make_distiller, make_resnet, make_batch, record_steps, place
):
    augments = dict(augments=dict(type='Mixup', alpha=1.0))
    preprocessor = dict(mean=[10.0] * 3, std=[50.0] * 3, num_classes=5)
    student = make_resnet(4)
    if place == 'train_cfg':
        student['train_cfg'] = augments
    else:
        preprocessor['batch_augments'] = augments
    distiller = make_distiller(student=student, data_preprocessor=preprocessor).eval()
    steps = record_steps(distiller)
    raw = torch.rand(4, 3, 32, 32) * 255
    labels = torch.tensor([0, 1, 2, 3])
    batch = dict(inputs=raw, data_samples=[DataSample().set_gt_label(k) for k in labels])
    np.random.seed(3)
    data = distiller.data_preprocessor(batch, training=True)
    losses = distiller(**data, mode='loss')
    terms, _ = steps[0]
    assert terms.labels.shape == (4, 5)
    torch.testing.assert_close(terms.labels.sum(dim=1), torch.ones(4))
    assert 0.6 < terms.labels.max() < 0.95
    # Every blended image is the same mixture of the images as its labels say.
    torch.testing.assert_close(
        data['inputs'], torch.einsum('ik,kchw->ichw', terms.labels[:, :4], (raw - 10) / 50)
    )
    expected = F.cross_entropy(distiller.student(data['inputs']), terms.labels)
    torch.testing.assert_close(losses['loss_ce'], expected)
    # The teachers see the blended images and are judged by the blended labels.
    for m, teacher in enumerate([t.network for t in distiller.teachers]):
        expected = F.cross_entropy(teacher(data['inputs']), terms.labels, reduction='none')
        torch.testing.assert_close(terms.teacher_ce[:, m], expected)


def test_no_features_without_their_weight(make_distiller, make_batch, record_steps):
    distiller = make_distiller(feature_loss_weight=0, weighting='MTKDRL').train()
    distiller.weighting.warming_up = False
    steps = record_steps(distiller)
    losses = distiller(*make_batch(6), mode='loss')
    assert set(losses) == {'loss_ce', 'loss_logit'}
    assert distiller.connectors is None
    assert not [key for key in distiller.state_dict() if key.startswith('connectors')]
    terms, weights = steps[0]
    assert torch.equal(terms.feature_cosine, torch.zeros(6, 2))
    torch.testing.assert_close(weights.logit.sum(dim=1), torch.ones(6))
    sum(losses.values()).backward()


@pytest.mark.parametrize('student_kind', ['vit', 'resnet'])
def test_embeddings_are_compared_where_one_side_has_no_map(
    make_distiller, make_resnet, make_vit, make_batch, record_steps, student_kind
):
    student = make_vit(16) if student_kind == 'vit' else make_resnet(4)
    teachers = [dict(make_vit(24), name='vit'), dict(make_resnet(6), name='resnet')]
    distiller = make_distiller(teachers, student=student).eval()
    kinds = [type(connector).__name__ for connector in distiller.connectors.values()]
    mixed = 'MapConnector' if student_kind == 'resnet' else 'EmbeddingConnector'
    assert kinds == ['EmbeddingConnector', mixed]
    assert distiller.teachers.spec.map_channels == (None, 48)
    assert distiller.teachers.spec.embedding_sizes == (24, 48)
    steps = record_steps(distiller)
    inputs, samples = make_batch(4)
    losses = distiller(inputs, samples, mode='loss')
    terms, _ = steps[0]
    # The embedding is what the last linear layer sees.
    last = distiller.teachers[0].network.head.layers.head
    torch.testing.assert_close(last(terms.teachers[0].embedding), terms.teachers[0].logits)
    projected = next(iter(distiller.connectors.values())).projection(terms.student.embedding)
    expected = (projected - terms.teachers[0].embedding).square().mean(dim=1)
    torch.testing.assert_close(terms.feature_loss[:, 0], expected)
    cosine = F.cosine_similarity(projected, terms.teachers[0].embedding)
    torch.testing.assert_close(terms.feature_cosine[:, 0], cosine.detach())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in distiller.connectors.parameters())


def test_terms_are_float32_under_mixed_precision(make_distiller, make_batch, record_steps):
    distiller = make_distiller(weighting=dict(type='MTKDRL', parts=['agent'])).eval()
    distiller.weighting.warming_up = False
    steps = record_steps(distiller)
    batch = make_batch(6)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = distiller(*batch, mode='loss')
    terms, weights = steps[0]
    assert terms.student.logits.dtype == torch.bfloat16  # the networks did run in it
    assert terms.teachers[0].feature_map.dtype == torch.bfloat16
    for name in ('student_ce', 'teacher_ce', 'logit_loss', 'feature_loss', 'feature_cosine'):
        assert getattr(terms, name).dtype == torch.float32, name
    assert {state.dtype for state in weights.states} == {torch.float32}
    assert weights.logit.dtype == weights.feature.dtype == torch.float32
    policies = distiller.weighting.agent(weights.states)
    for ours, expected in zip((weights.logit, weights.feature), policies):
        torch.testing.assert_close(ours, expected.exp(), rtol=0, atol=1e-6)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    # What bfloat16 logits give when everything after them is float32.
    own, other = terms.student.logits.float(), terms.teachers[1].logits.float()
    expected = 16 * F.kl_div(
        (own / 4).log_softmax(1), (other / 4).softmax(1), reduction='none'
    ).sum(1)
    torch.testing.assert_close(terms.logit_loss[:, 1], expected)
    for name, value in distiller(*batch, mode='loss').items():
        torch.testing.assert_close(losses[name], value, rtol=0.05, atol=0.02)


def test_every_teacher_gets_the_students_own_map(
    make_distiller, make_resnet, make_batch, record_steps
):
    # The student's map is 2 x 2; the teachers' are 1 x 1, 2 x 2 and 3 x 3.
    sizes = dict(small=32, same=64, large=96)
    teachers = [dict(make_resnet(6), name=n, input_size=s) for n, s in sizes.items()]
    batch = make_batch(6, size=64)
    order = [2, 0, 1]
    first = make_distiller(teachers).eval()
    second = make_distiller([teachers[m] for m in order], seed=1).eval()
    second.student.load_state_dict(first.student.state_dict())
    for here, there in enumerate(order):
        list(second.connectors.values())[here].load_state_dict(
            list(first.connectors.values())[there].state_dict()
        )
        second.teachers[here].network.load_state_dict(first.teachers[there].network.state_dict())
    records = []
    for distiller in (first, second):
        steps = record_steps(distiller)
        distiller(*batch, mode='loss')
        records.append(steps[0][0])
    assert [tuple(p.features.shape[-2:]) for p in records[0].projections] == [
        (1, 1),
        (2, 2),
        (3, 3),
    ]
    for here, there in enumerate(order):
        ours, theirs = records[1].projections[here], records[0].projections[there]
        assert torch.equal(ours.features, theirs.features)
        assert torch.equal(ours.target, theirs.target)
    own_map = records[0].student.feature_map
    for m, resized in enumerate(
        [
            own_map.mean(dim=(2, 3), keepdim=True),
            own_map,
            F.interpolate(own_map, size=(3, 3), mode='bilinear', align_corners=False),
        ]
    ):
        expected = list(first.connectors.values())[m].projection(resized)
        torch.testing.assert_close(records[0].projections[m].features, expected)


def test_predict_and_tensor_modes_are_the_students(make_distiller, make_batch, monkeypatch):
    distiller = make_distiller().eval()
    monkeypatch.setattr(distiller.teachers, 'forward', None)  # no teacher runs
    inputs, samples = make_batch(4)
    logits = run(distiller.student, inputs)[2]
    torch.testing.assert_close(distiller(inputs), logits)
    predictions = distiller(inputs, samples, mode='predict')
    scores = torch.stack([sample.pred_score for sample in predictions])
    torch.testing.assert_close(scores, logits.softmax(dim=1))


def test_each_network_runs_once_a_step(make_distiller, make_batch):
    distiller = make_distiller(weighting='MTKDRL').train()
    counts = Counter()
    networks = dict(zip('ab', [t.network for t in distiller.teachers]), student=distiller.student)
    for name, network in networks.items():
        for part in ('backbone', 'head'):
            key = f'{name}.{part}'
            getattr(network, part).register_forward_hook(lambda *_, key=key: counts.update([key]))
    distiller(*make_batch(4), mode='loss')
    assert set(counts.values()) == {1} and len(counts) == 6


def test_scales_over_the_data_set_move_once_per_training_step(
    make_distiller, make_batch, record_steps
):
    """Before the step's losses are read, and only in training; they are saved."""
    distiller = make_distiller(feature_loss=dict(type='FeatureMSE', normalize='dataset'))
    plain = make_distiller()
    steps = record_steps(distiller)
    batches = [make_batch(6, seed=seed) for seed in range(2)]
    for batch in batches:
        distiller.train()(*batch, mode='loss')
    scale = distiller.feature_loss.scale
    assert int(scale.steps_seen) == 2
    targets = [torch.cat([t.projections[m].target for t, _ in steps]) for m in range(2)]
    rows = [target.transpose(0, 1).flatten(1) for target in targets]
    expected = torch.stack([row.var(dim=1, correction=0).mean() for row in rows])
    torch.testing.assert_close(scale.variance, expected)
    other = record_steps(plain)
    plain.train()
    for batch in batches:
        plain(*batch, mode='loss')
    torch.testing.assert_close(
        steps[1][0].feature_loss * expected, other[1][0].feature_loss, rtol=1e-4, atol=0
    )
    distiller.eval()(*batches[0], mode='loss')
    distiller.train().weigh(*batches[0])
    assert int(scale.steps_seen) == 2
    saved = distiller.state_dict()
    assert {key.split('.')[0] for key in saved} == {'student', 'connectors', 'feature_loss'}
    resumed = make_distiller(feature_loss=dict(type='FeatureMSE', normalize='dataset'))
    resumed.load_state_dict(saved)
    assert torch.equal(resumed.feature_loss.scale.variance, scale.variance)
    make_distiller(None).load_state_dict(saved)  # for testing: the student alone


def test_scales_of_maps_and_embeddings(make_distiller, make_resnet, make_vit, make_batch):
    teachers = [dict(make_vit(24), name='vit'), dict(make_resnet(6), name='resnet')]
    loss = dict(type='FeatureMSE', normalize='dataset')
    distiller = make_distiller(teachers, feature_loss=loss).train()
    assert distiller.feature_loss.scale.channels == [24, 48]
    assert torch.isfinite(sum(distiller(*make_batch(4), mode='loss').values()))


def test_temperatures_of_teachers_are_given_by_name(make_distiller, make_batch, record_steps):
    loss = dict(type='KLDivergence', teacher_temperatures=dict(b=2.0))
    distiller, plain = make_distiller(logit_loss=loss).eval(), make_distiller().eval()
    steps, other = record_steps(distiller), record_steps(plain)
    for one in (distiller, plain):
        one(*make_batch(4), mode='loss')
    (terms, _), (reference, _) = steps[0], other[0]
    assert torch.equal(terms.logit_loss[:, 0], reference.logit_loss[:, 0])
    p = (reference.teacher_logits[:, 1] / 8).log_softmax(dim=1)
    student = (reference.student_logits / 4).log_softmax(dim=1)
    expected = 16 * (p.exp() * (p - student)).sum(dim=1)
    torch.testing.assert_close(terms.logit_loss[:, 1], expected)
