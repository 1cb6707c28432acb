# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Images of which the agent learns, and the student does not."""

import re

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper

from mtkdrl_mm.engine.held_out import build_held_out
from mtkdrl_mm.engine.hooks import AgentHook
from mtkdrl_mm.models.teachers.inference_mode import InferenceMode, InferenceSettings
from mtkdrl_mm.rl import EmbeddingProbes, LabelProbabilityReward, best_static_weights
from mtkdrl_mm.utils import InputError

from .test_agent_hook import Training, equal


@pytest.fixture
def config(photos):
    """A config with 22 held-out images."""
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ]
    dataset = dict(type='CustomDataset', data_root=str(photos), pipeline=pipeline)
    loader = dict(
        dataset=dataset, batch_size=8, num_workers=0, collate_fn=dict(type='default_collate')
    )
    return Config(dict(held_out_dataloader=loader))


@pytest.fixture
def train(make_runner, make_distiller, make_batch, config):
    """Function that makes a training whose agent learns from held-out images."""

    def make(feature_weights='agent', **kwargs):
        torch.manual_seed(3)
        distiller = make_distiller(
            weighting=dict(type='MTKDRL', feature_weights=feature_weights),
            data_preprocessor=dict(mean=[127.0] * 3, std=[60.0] * 3, num_classes=5),
        )
        training = Training(make_runner, distiller, make_batch(4), **kwargs)
        training.runner.cfg = config
        optimizer = torch.optim.SGD(distiller.student.parameters(), lr=0.1)
        training.runner.optim_wrapper = OptimWrapper(optimizer)
        return training

    return make


def held_out(**kwargs):
    return dict(experience='held_out', reward='LabelProbabilityReward', **kwargs)


@pytest.mark.parametrize('sampler', [None, dict(type='DefaultSampler', shuffle=True)])
@pytest.mark.parametrize(('processes', 'sizes'), [(4, [6, 6, 5, 5]), (3, [8, 7, 7])])
def test_processes_share_the_images_without_copies(config, monkeypatch, sampler, processes, sizes):
    """A probe must not be judged on an image that it was fitted to."""
    if sampler is not None:
        config.held_out_dataloader.sampler = sampler
    seen = []
    for rank in range(processes):
        monkeypatch.setattr(
            'mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, processes)
        )
        batch_sampler = build_held_out(config, seed=0).batch_sampler
        seen.append([int(index) for batch in batch_sampler for index in batch])
        assert len(batch_sampler) == 1
    assert [len(images) for images in seen] == sizes
    assert sorted(image for images in seen for image in images) == list(range(22))


def test_a_sampler_without_an_end_is_refused(config):
    config.held_out_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    with pytest.raises(InputError, match=r'^held_out_dataloader\.sampler: InfiniteSampler never'):
        build_held_out(config, seed=0)


def seen(training, monkeypatch):
    """What the agent's trainer observes."""
    records = []
    trainer = training.hook.trainer
    original = trainer.observe

    def observe(terms, action, iteration):
        records.append((terms, action))
        return original(terms, action, iteration)

    monkeypatch.setattr(trainer, 'observe', observe)
    return records


def test_the_loader_gives_all_images_in_their_order(config):
    loader = build_held_out(config, seed=0)
    paths = [sample.img_path for batch in loader for sample in batch['data_samples']]
    assert len(paths) == 22 and paths == sorted(paths)
    # The config is left as it is.
    assert config.held_out_dataloader.dataset.type == 'CustomDataset'


def test_images_without_labels(config):
    """They were noticed after the whole first epoch."""
    config.held_out_dataloader.dataset.with_label = False
    with pytest.raises(InputError, match=r'^The images of `held_out_dataloader` have no labels'):
        build_held_out(config, seed=0)


def test_missing_images(config, photos):
    """They were noticed after the whole first epoch."""
    pipeline = config.held_out_dataloader.dataset.pipeline
    (photos / 'list.txt').write_text('class_0/00.png 0\nclass_0/x.png 0\nclass_1/y.png 1\n')
    config.held_out_dataloader.dataset.ann_file = 'list.txt'
    message = (
        f'Of the 3 images of `held_out_dataloader`, 2 do not exist: "{photos}/class_0/x.png", .... '
        'Check `data_root`, `data_prefix` and `ann_file` of its data set, or leave them out: '
        '--cfg-options skip_damaged_images=True'
    )
    with pytest.raises(InputError) as error:
        build_held_out(config, seed=0)
    assert str(error.value) == message
    # What is read from elsewhere than a file system is not looked for.
    pipeline[0].backend_args = dict(backend='petrel')
    assert len(build_held_out(config, seed=0).dataset) == 3


@pytest.mark.parametrize(
    ('label', 'message'),
    [
        (
            5,
            r'labels in ".*/list\.txt" are 0 to 5, but with 5 classes .* is ".*s_1/01\.png"\. Corr',
        ),
        (
            -1,
            r'labels in ".*/list\.txt" are -1 to 0, but with 5 classes .* is ".*/class_1/01\.png"',
        ),
    ],
)
def test_labels_without_a_class(train, config, photos, label, message):
    """The loss of the first update refused them, without the name of the list."""
    (photos / 'list.txt').write_text(f'class_0/00.png 0\nclass_1/01.png {label}\n')
    config.held_out_dataloader.dataset.ann_file = 'list.txt'
    with pytest.raises(InputError, match=message):
        train(**held_out()).start()


def test_classes_that_are_not_those_of_the_student(train, config, photos):
    (photos / 'class_5').mkdir()
    (photos / 'class_5' / '00.png').write_bytes((photos / 'class_0' / '00.png').read_bytes())
    with pytest.raises(InputError, match='The held-out data has 6 classes, but student and teach'):
        train(**held_out()).start()


def test_classes_in_another_order_than_in_training(train):
    training = train(**held_out())
    names = tuple(f'class_{number}' for number in (0, 1, 2, 4, 3))
    training.runner.train_dataloader.dataset.metainfo = dict(classes=names)
    with pytest.raises(InputError, match='class_4, class_3, the held-out set class_0, class_1,'):
        training.start()


def test_a_config_without_held_out_images():
    with pytest.raises(InputError, match=re.escape("AgentHook has `experience='held_out'`, but")):
        build_held_out(Config(dict(train_dataloader=dict())), seed=0)


def test_the_agent_learns_from_held_out_images_alone(train, monkeypatch):
    training = train(**held_out()).start()
    records = seen(training, monkeypatch)
    training.step(3)
    assert records == [] and len(training.hook.trainer.buffer) == 0
    before = training.agent()
    training.step(1)
    assert [len(terms.labels) for terms, _ in records] == [8, 8, 6]
    labels = torch.cat([terms.labels for terms, _ in records])
    # Images are sorted by class: "class_0/00.png", "class_0/05.png", ...
    assert labels.tolist() == sorted(number % 5 for number in range(22))
    assert not equal(before, training.agent())
    rewards = torch.cat([LabelProbabilityReward()(*record) for record in records]).mean(dim=0)
    assert training.scalar('reward/b') == pytest.approx(float(rewards[1]), rel=1e-5)
    assert training.scalar('reward') == pytest.approx(float(rewards.mean()), rel=1e-5)


def test_the_student_is_as_if_they_did_not_exist(train):
    """Nothing of it is trained on them, its running statistics included."""
    alone, other = train(warmup_epochs=9).start(), train(warmup_epochs=9, **held_out()).start()
    for training in (alone, other):
        training.step(8)
        assert training.distiller.training and training.distiller.student.training
    assert not equal(alone.agent(), other.agent())
    first, second = (one.distiller.student.state_dict() for one in (alone, other))
    assert equal(first, second)
    for (terms, _), (others, _) in zip(alone.records, other.records):
        assert torch.equal(terms.student.logits, others.student.logits)


def test_every_update_sees_another_view(train, monkeypatch):
    training = train(**held_out()).start()
    records = seen(training, monkeypatch)
    training.step(8)
    first, second = records[0][0].inputs, records[3][0].inputs
    flipped = [torch.equal(one.flip(-1), other) for one, other in zip(first, second)]
    equal_ = [torch.equal(one, other) for one, other in zip(first, second)]
    assert any(flipped) and any(equal_) and all(a or b for a, b in zip(flipped, equal_))


STACKING = dict(algorithm='MixtureLikelihood', discount_memorised=True)
PROBES = dict(STACKING, feature_weights='probes')


def test_what_teachers_repeat_of_the_students_images_is_discounted(train, monkeypatch):
    """Once the epoch is over, by the images of the epoch."""
    training = train(**held_out(**STACKING)).start()
    records = seen(training, monkeypatch)
    scaled = []
    update = training.hook.trainer.algorithm.update
    monkeypatch.setattr(
        training.hook.trainer.algorithm,
        'update',
        lambda buffer: scaled.append(buffer.rewards.clone()) or update(buffer),
    )
    training.step(8)
    for epoch in range(2):
        own = torch.cat(
            [terms.teacher_ce.neg().exp() for terms, _ in training.records[4 * epoch :][:4]]
        )
        held = torch.cat([LabelProbabilityReward()(*record) for record in records[3 * epoch :][:3]])
        share = ((own.mean(dim=0) - held.mean(dim=0)) / (1 - held.mean(dim=0))).clamp(0, 1)
        torch.testing.assert_close(scaled[epoch], held * (1 - share))
        assert share[0] == 0 and share[1] > 0.02  # as the networks happen to be
    assert training.scalar('memorised/b') == pytest.approx(float(share[1]), abs=1e-6)


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(discount_memorised=True),
        dict(held_out(), discount_memorised=True),
        dict(
            discount_memorised=True, algorithm='MixtureLikelihood', reward='LabelProbabilityReward'
        ),
    ],
)
def test_what_is_memorised_takes_two_kinds_of_images_and_probabilities(kwargs):
    message = "`discount_memorised=True` of AgentHook .* set `experience` to 'held_out' and `algo"
    with pytest.raises(InputError, match=message):
        AgentHook(**kwargs)


def test_feature_weights_are_found_with_every_update(train, monkeypatch):
    """By probes on the held-out images alone; the student is taught with them."""
    training = train(**held_out(algorithm='MixtureLikelihood'), feature_weights='probes').start()
    weighting = training.distiller.weighting
    weighting.parts = ('agent',)
    records = seen(training, monkeypatch)
    training.step(4)
    pool = weighting.pool
    probes = EmbeddingProbes(pool.embedding_sizes, pool.num_classes)
    for terms, _ in records:
        probes.observe(terms)
    first = best_static_weights(probes.label_probabilities())
    assert torch.equal(weighting.probed_weights, first)
    training.step(4)
    second = weighting.probed_weights.clone()
    assert not torch.equal(first, second)  # of another view
    training.step(1)
    taught = [weights.feature for _, weights in training.records]
    half = torch.full((2,), 0.5)
    for step, expected in ((0, half), (3, half), (4, first), (7, first), (8, second)):
        torch.testing.assert_close(taught[step], expected.expand(4, 2), atol=1e-6, rtol=0)


def test_feature_weights_need_held_out_images(train):
    with pytest.raises(InputError, match="embeddings on held-out images: set `experience='held_o"):
        train(feature_weights='probes').start()


def test_probes_are_not_fitted_to_a_copy_of_an_image(train, config):
    loader = config.held_out_dataloader
    loader.sampler = dict(type='RepeatAugSampler', num_repeats=3)
    with pytest.raises(InputError, match='`held_out_dataloader` has a RepeatAugSampler, which rep'):
        train(**held_out(**PROBES)).start()
    del loader.sampler
    loader.dataset = dict(type='RepeatDataset', times=2, dataset=loader.dataset)
    with pytest.raises(
        InputError, match=r'has a RepeatDataset, .* each of them once: leave it out'
    ):
        train(**held_out(**PROBES)).start()
    train(**held_out(**STACKING)).start()


def test_few_images_per_class_are_warned_of(train, monkeypatch):
    """22 of 5 classes are fewer than 5 of each."""
    seen = []
    training = train(**held_out(**PROBES))
    monkeypatch.setattr(training.runner.logger, 'warning', seen.append)
    training.start()
    assert len(seen) == 1 and 'have 22 held-out images of 5 classes. With fewer than 5' in seen[0]


def test_without_a_feature_loss_nothing_is_probed(train):
    training = train(**held_out(**PROBES))
    training.distiller.feature_loss_weight = 0
    training.start()
    assert training.hook.trainer.probes is None


@pytest.mark.parametrize('kwargs', [{}, STACKING, PROBES])
def test_a_resumed_training_goes_on_exactly(train, kwargs):
    whole = train(**held_out(**kwargs)).start().step(12)
    first = train(**held_out(**kwargs)).start().step(6)
    second = train(**held_out(**kwargs))
    second.distiller.load_state_dict(first.distiller.state_dict())
    second.runner.iter, second.runner.epoch = first.runner.iter, first.runner.epoch
    second.start(first.save()).step(6)
    assert equal(whole.agent(), second.agent())
    assert equal(*(one.distiller.weighting.state_dict() for one in (whole, second)))


def test_an_update_before_the_first_step_runs_the_teachers_as_all_others_do(train):
    """A training that was interrupted at the end of an epoch is resumed by an update."""
    training = train(**held_out()).start()
    teachers = training.distiller.teachers
    teachers.inference = InferenceSettings()
    folded = InferenceMode(folded=True)
    teachers.restore_inference(dict(a=folded.to_dict(), b=folded.to_dict()))
    training.hook.after_train_epoch(training.runner)
    assert training.hook.trainer.algorithm.updates == 1
    assert [teacher.mode for teacher in teachers] == [folded, folded]


def test_terms_of_images_that_are_not_trained_on_have_no_gradient(train):
    distiller = train().distiller.eval()
    calls = []
    distiller.register_step_hook(lambda *record: calls.append(record))
    inputs, samples = train().batch
    distiller.weighting.warming_up = True
    terms, weights = distiller.weigh(inputs, samples)
    assert not terms.student_logits.requires_grad and calls == []
    assert torch.equal(weights.logit, torch.full((4, 2), 0.5))
