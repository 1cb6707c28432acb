# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Exact resuming of the loops, with a stub in place of the runner."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from mtkdrl_mm.datasets import SeededBatchSampler, SeededDataset
from mtkdrl_mm.engine.loops import ResumableEpochLoop, ResumableIterLoop, schedule_steps
from mtkdrl_mm.utils import InputError


class Noise(Dataset):
    metainfo = {}

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.stack([torch.tensor(float(index)), torch.rand(())])


class Model:
    """Remembers the batches, and a random number that a training step would draw."""

    def __init__(self):
        self.seen = []

    def train(self):
        pass

    def train_step(self, batch, optim_wrapper):
        self.seen.append((batch.clone(), torch.rand(())))
        return {}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Where loops record that a training is complete."""
    monkeypatch.chdir(tmp_path)


def make_runner(seed=5, calls=None, **kwargs):
    return SimpleNamespace(
        model=Model(),
        work_dir='.',
        seed=seed,
        optim_wrapper=None,
        param_schedulers=None,
        cfg={},
        val_loop=None,
        visualizer=SimpleNamespace(dataset_meta=None),
        logger=SimpleNamespace(info=lambda message: None),
        call_hook=lambda name, **kwargs: (
            calls is not None and calls.append((name, kwargs.get('batch_idx')))
        ),
        **kwargs,
    )


def make_loop(kind=ResumableEpochLoop, sampler=DefaultSampler, batch=4, world=1, runner=None, **kw):
    """A loop as the main process of `world` processes sees it."""
    dataset = SeededDataset(Noise())
    inner = sampler(dataset, shuffle=True, seed=99)  # before the run's seed is known
    inner.world_size = world
    if sampler is DefaultSampler:
        inner.num_samples = -(-10 // world)
        inner.total_size = inner.num_samples * world
    dataloader = DataLoader(dataset, batch_sampler=SeededBatchSampler(inner, batch))
    loop = kind(runner or make_runner(), dataloader, **kw)
    loop.runner.train_loop = loop
    return loop


def resume(loop, progress, epoch=0, iteration=0, validated=False):
    """What the runner does."""
    loop._epoch, loop._iter = epoch, iteration
    return loop.resume(progress, validated)


@pytest.fixture
def train():
    """Function that runs some epochs, or what is left of them after `done` batches."""

    def run(done=0, epochs=3, seed=5, calls=None):
        loop = make_loop(runner=make_runner(seed, calls), max_epochs=epochs)
        if done:
            resume(loop, make_loop(max_epochs=epochs).progress(done // 3, done), done // 3, done)
        while loop.epoch < epochs:
            loop.run_epoch()
        assert loop.iter == 3 * epochs
        return loop.runner.model.seen

    return run


def assert_same(first, second):
    assert len(first) == len(second)
    for (batch, number), (other_batch, other_number) in zip(first, second):
        assert torch.equal(batch, other_batch) and number == other_number


@pytest.mark.parametrize('done', range(9))
def test_goes_on_as_if_it_had_not_stopped(train, done):
    torch.manual_seed(done)  # what the process drew before does not matter
    assert_same(train(done), train()[done:])


def test_every_step_and_every_augmentation_has_its_own_numbers(train):
    steps = train()
    numbers = torch.cat([torch.stack([n for _, n in steps]), *[b[:, 1] for b, _ in steps]])
    assert len(numbers.unique()) == len(numbers) == 9 + 30
    other = train(seed=6)
    assert not {float(n) for _, n in steps} & {float(n) for _, n in other}
    for k in range(3):  # every image once per epoch
        batches = torch.cat([b[:, 0] for b, _ in steps[3 * k : 3 * k + 3]])
        assert sorted(batches.tolist()) == list(range(10))


def test_batches_of_a_resumed_epoch_keep_their_numbers(train):
    calls = []
    train(done=4, epochs=2, calls=calls)
    expected = []
    for index in (1, 2):
        expected += [('before_train_iter', index), ('after_train_iter', index)]
    assert calls == [('before_train_epoch', None), *expected, ('after_train_epoch', None)]


def test_config_of_a_loader_gets_the_seeds():
    built = []

    def build(dataloader, **kwargs):
        built.append(dataloader)
        sampler = SeededBatchSampler(DefaultSampler(Noise()), 4)
        return DataLoader(Noise(), batch_sampler=sampler)

    runner = make_runner(_randomness_cfg={}, build_dataloader=build)
    cfg = dict(
        dataset=dict(type='Noise'),
        batch_size=4,
        drop_last=True,
        batch_sampler=dict(type='AspectRatioBatchSampler'),
    )
    ResumableEpochLoop(runner, cfg, max_epochs=1)
    assert built == [
        dict(
            dataset=dict(type='mtkdrl_mm.SeededDataset', dataset=dict(type='Noise')),
            batch_size=4,
            batch_sampler=dict(
                type='mtkdrl_mm.SeededBatchSampler',
                drop_last=True,
                base_sampler=dict(type='AspectRatioBatchSampler'),
            ),
        )
    ]
    assert 'drop_last' in cfg  # the given config is not changed


def images(loop):
    return [int(i) for batch, _ in loop.runner.model.seen for i in batch[:, 0]]


@pytest.mark.parametrize('after', [1, 3, 5, 10])
@pytest.mark.parametrize('done', [1, 2, 3, 4])
def test_another_batch_size_sees_what_is_left(after, done):
    """10 images: 3 steps of 4 before, then steps of `after` images."""
    first = make_loop(max_epochs=3)
    saved = first.progress(done // 3, done)
    second = make_loop(batch=after, max_epochs=3)
    message = resume(second, saved, done // 3, done)
    assert f'1 x {after} images per step' in message and 'instead of 1 x 4' in message
    second.run_epoch()
    seen = 4 * (done % 3)
    whole = make_loop(batch=10, max_epochs=3)
    whole._epoch = done // 3
    whole.run_epoch()
    assert images(second) == images(whole)[seen:]
    # every view is that of one process and any batch size
    views = torch.cat([batch for batch, _ in second.runner.model.seen])
    assert torch.equal(views, whole.runner.model.seen[0][0][seen:])
    # at the end of an epoch, iterations are its number times the steps of an epoch
    assert second.iter == (done // 3 + 1) * len(second.dataloader)
    second.run_epoch()
    assert len(images(second)) == 20 - seen


def test_two_changes_of_the_batch_size_in_an_epoch():
    first = make_loop(batch=2, max_epochs=2)  # 5 steps
    second = make_loop(batch=1, max_epochs=2)
    resume(second, first.progress(0, 2), 0, 2)  # 4 images seen
    assert second.iter == 4
    saved = second.progress(0, 6)  # two steps more
    assert saved['images_done'] == 6
    third = make_loop(batch=4, max_epochs=2)
    resume(third, saved, 0, 6)
    assert (third.iter, third.schedule_steps_per_epoch) == (2, 5)
    third.run_epoch()
    assert len(images(third)) == 4


def test_complete_passes_of_an_epoch_loop():
    loop = make_loop(max_epochs=3)
    assert [loop.passes(epoch, 3 * epoch) for epoch in range(4)] == [0, 1, 2, 3]
    assert [loop.passes(1, 3 + step) for step in range(3)] == [1, 1, 1]
    # Resumed in the middle of epoch 1 with another batch size.
    other = make_loop(batch=5, max_epochs=3)
    resume(other, loop.progress(1, 4), 1, 4)
    assert [other.passes(1, other.iter), other.passes(2, 4)] == [1, 2]


@pytest.mark.parametrize(
    ('sampler', 'expected'),
    [
        # Two processes with 5 of 10 images each, in batches of 4 and 1.
        (DefaultSampler, [0, 0, 1, 1, 2, 2, 3]),
        # A stream: 8 images per step.
        (InfiniteSampler, [0, 0, 1, 2, 3, 4, 4]),
    ],
)
def test_complete_passes_of_an_iteration_loop(sampler, expected):
    loop = make_loop(ResumableIterLoop, sampler, world=2, max_iters=9)
    assert [loop.passes(0, step) for step in range(7)] == expected
    for done in range(4):
        resumed = make_loop(ResumableIterLoop, sampler, world=2, max_iters=9)
        resume(resumed, loop.progress(0, done), 0, done)
        assert [resumed.passes(0, step) for step in range(done, 7)] == expected[done:]


class Stream(Sampler):
    """A stream that is not known to have no end."""

    def __init__(self, dataset, shuffle, seed):
        self.dataset = dataset

    def __iter__(self):
        while True:
            yield from torch.randperm(len(self)).tolist()

    def __len__(self):
        return len(self.dataset)


@pytest.mark.parametrize('done', [1, 2, 3, 5, 7])
def test_a_stream_of_another_sampler_goes_on_after_whole_passes(done):
    def start(steps):
        return make_loop(ResumableIterLoop, Stream, max_iters=steps)

    whole, first, second = start(9), start(done), start(9)
    whole.run()
    first.run()
    saved = first.progress(0, done)
    assert (saved['epoch'], saved['images_done']) == (0, 4 * done)
    resume(second, saved, 0, done)
    second.run()
    assert all(
        torch.equal(a, b)
        for (a, _), (b, _) in zip(second.runner.model.seen, whole.runner.model.seen[done:])
    )
    assert second.progress(0, 9) == whole.progress(0, 9)


def test_without_positions_no_pass_is_known_to_be_complete():
    loop = ResumableEpochLoop(make_runner(), DataLoader(Noise(), batch_size=4), max_epochs=3)
    assert loop.passes(2, 6) == 0


def test_schedules_go_on_also_without_positions():
    loop = ResumableEpochLoop(make_runner(), DataLoader(Noise(), batch_size=4), max_epochs=3)
    loop.runner.train_loop = loop
    resume(loop, {}, 1, 3)
    loop.run_iter(0, torch.zeros(1))
    assert schedule_steps(loop.runner) == (4, 5)


def test_processes_share_what_is_left():
    saved = make_loop(max_epochs=2).progress(0, 1)  # 4 of 10 images
    loop = make_loop(batch=2, world=3, max_epochs=2)
    assert 'continuing with epoch 1 at image 5 of 10' in resume(loop, saved, 0, 1)
    # 6 images, 3 processes with 2 each: one step, the last of the epoch's two
    assert (len(loop.dataloader), loop.iter) == (2, 1)


def test_schedules_go_on_in_the_iterations_of_before():
    """Steps of 4 of 10 images before (3 per epoch), then of 2 (5 per epoch) or 10 (1)."""
    saved = make_loop(max_epochs=4).progress(1, 3)
    for batch, steps in ((2, [0, 1, 0, 1, 1]), (10, [3]), (4, [1, 1, 1])):
        loop = make_loop(batch=batch, max_epochs=4)
        resume(loop, saved, 1, 3)
        counts = []
        hook = loop.runner.call_hook
        loop.runner.call_hook = lambda name, hook=hook, loop=loop, counts=counts, **kwargs: (
            counts.append(schedule_steps(loop.runner)) if name == 'after_train_iter' else None
        )
        for _ in range(2):
            loop.run_epoch()
        assert [after - before for before, after in counts] == 2 * steps
        assert counts[0][0] == 3 and counts[-1][1] == 9
        # and a later part, with the first batch size again, counts on
        later = make_loop(max_epochs=4)
        resume(later, loop.progress(3, loop.iter), 3, loop.iter)
        assert (later.iter, later.schedule_step) == (9, 9)


def test_positions_of_other_programs():
    loop = make_loop(max_epochs=4)
    assert resume(loop, None, 2, 6) == '' and loop.iter == 6
    loop = make_loop(max_epochs=4)  # the middle of an epoch, with the same steps
    resume(loop, None, 1, 4)
    assert loop.progress(1, 4)['images_done'] == 4
    loop = make_loop(max_epochs=4)  # an epoch's end, with 5 steps per epoch before
    resume(loop, None, 2, 10)
    assert (loop.iter, loop.schedule_step) == (6, 10)
    with pytest.raises(InputError, match='iteration 11 in epoch 3, which does not fit 3'):
        resume(make_loop(max_epochs=4), None, 2, 11)


def test_the_middle_of_an_epoch_in_an_order_of_its_own_needs_the_batch_size_of_before():
    class Grouping(BatchSampler):
        pass

    def loop(batch):
        dataset = SeededDataset(Noise())
        inner = DefaultSampler(dataset, shuffle=True)
        base = dict(type=Grouping, drop_last=False)
        sampler = SeededBatchSampler(inner, batch, base_sampler=base)
        loader = DataLoader(dataset, batch_sampler=sampler)
        return ResumableEpochLoop(make_runner(), loader, max_epochs=2)

    middle, end = loop(4).progress(0, 1), loop(4).progress(1, 3)
    assert resume(loop(4), middle, 0, 1) == ''
    assert '1 x 2 images per step' in resume(loop(2), end, 1, 3)
    with pytest.raises(
        InputError, match=r'order of Grouping depends .* batch size of 4 and 1 proc'
    ):
        resume(loop(2), middle, 0, 1)


def test_other_data_is_refused():
    saved = {**make_loop(max_epochs=2).progress(1, 3), 'num_images': 12}
    for kind, limit in (
        (ResumableEpochLoop, dict(max_epochs=2)),
        (ResumableIterLoop, dict(max_iters=9)),
    ):
        with pytest.raises(InputError, match='has 10 images, but had 12 when'):
            resume(make_loop(kind, **limit), saved, 1, 3)


KINDS = [
    (ResumableEpochLoop, dict(max_epochs=2), dict(max_epochs=3), 2, 'epochs'),
    (ResumableIterLoop, dict(max_iters=6), dict(max_iters=9), 0, 'iterations'),
]


@pytest.mark.parametrize(('kind', 'limit', 'longer', 'epoch', 'unit'), KINDS)
def test_a_complete_training_does_nothing(kind, limit, longer, epoch, unit):
    make_loop(kind, **limit).run()
    calls, logged = [], []
    runner = make_runner(calls=calls)
    runner.logger.info = logged.append
    loop = make_loop(kind, runner=runner, **limit)
    resume(loop, None, epoch, 6)
    loop.run()
    done = limit.get('max_epochs', 6)
    assert calls == [] and f'complete: {done} of {done} {unit} are done. Incr' in logged[0]


@pytest.mark.parametrize(('kind', 'limit', 'longer', 'epoch', 'unit'), KINDS)
def test_what_follows_the_last_step_is_repeated_until_all_of_it_is_done(
    kind, limit, longer, epoch, unit
):
    make_loop(kind, **limit).run()  # an earlier training in this work dir

    def run(limit, resumed=True):
        calls = []
        loop = make_loop(kind, runner=make_runner(calls=calls), val_interval=99, **limit)
        loop.runner.val_loop = Validation(loop)
        if resumed:
            resume(loop, None, epoch, 6)
        if fail:
            loop.runner.val_loop.run = lambda: pytest.fail('kill -9')
            with pytest.raises(pytest.fail.Exception):
                loop.run()
        else:
            loop.run()
        steps = sum(name == 'after_train_iter' for name, _ in calls)
        return steps, loop.runner.val_loop.at, ('after_train', None) in calls

    fail = True
    assert run(limit, resumed=False) == (6, [], False)
    assert run(limit) == (0, [], False)
    fail = False
    assert run(limit) == (0, [(epoch, 6)], True)
    assert run(limit) == (0, [], False)
    end = longer.get('max_epochs', 0)
    assert run(longer) == (3, [(end, 9)], True)
    fail = True
    # What is complete is the longer training, not this one.
    assert run(limit) == (0, [], False)


class Validation:
    def __init__(self, loop):
        self.loop, self.at = loop, []

    def run(self):
        self.at.append((self.loop.epoch, self.loop.iter))


@pytest.mark.parametrize(
    ('epoch', 'iteration', 'expected'),
    [(2, 6, [(2, 6), (4, 12)]), (1, 3, [(2, 6), (4, 12)]), (2, 7, [(4, 12)])],
)
def test_a_validation_that_may_be_lost_is_run_on_resuming(epoch, iteration, expected):
    loop = make_loop(max_epochs=4, val_interval=2)
    loop.runner.val_loop = Validation(loop)
    resume(loop, make_loop(max_epochs=4).progress(epoch, iteration), epoch, iteration)
    loop.run()
    assert loop.runner.val_loop.at == expected


@pytest.mark.parametrize(('kind', 'limit', 'longer', 'epoch', 'unit'), KINDS)
def test_a_validation_that_has_been_done_is_not_repeated(kind, limit, longer, epoch, unit):
    (interval,) = limit.values()
    for settings in (limit, longer):
        logged = []
        loop = make_loop(kind, runner=make_runner(), val_interval=interval, **settings)
        loop.runner.logger.info = logged.append
        loop.runner.val_loop = Validation(loop)
        resume(loop, None, epoch, 6, validated=True)
        loop.run()
        if settings == limit:
            assert loop.runner.val_loop.at == []
            assert logged[0].endswith('may not be: ending the training.')
        else:
            assert loop.runner.val_loop.at == [(settings.get('max_epochs', 0), 9)]


@pytest.mark.parametrize('sampler', [InfiniteSampler, DefaultSampler])
@pytest.mark.parametrize('done', [1, 3, 4, 8])
def test_iterations_go_on_as_if_they_had_not_stopped(sampler, done, monkeypatch):
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    whole = make_loop(ResumableIterLoop, sampler, max_iters=9)
    whole.run()
    loop = make_loop(ResumableIterLoop, sampler, max_iters=9)
    resume(loop, make_loop(ResumableIterLoop, sampler, max_iters=9).progress(0, done), 0, done)
    loop.run()
    assert_same(loop.runner.model.seen, whole.runner.model.seen[done:])
    # once more, from what the second part saved
    third = make_loop(ResumableIterLoop, sampler, max_iters=9)
    resume(third, loop.progress(0, done + 1), 0, done + 1)
    third.run()
    assert_same(third.runner.model.seen, whole.runner.model.seen[done + 1 :])


def test_iterations_with_another_batch_size_go_on_at_the_next_image():
    whole = make_loop(ResumableIterLoop, InfiniteSampler, batch=40, max_iters=1)
    whole.run()
    saved = make_loop(ResumableIterLoop, InfiniteSampler, max_iters=9).progress(0, 4)
    loop = make_loop(ResumableIterLoop, InfiniteSampler, batch=3, max_iters=9)
    message = resume(loop, saved, 0, 4)
    assert 'The schedules count iterations, of which 4 are done' in message
    loop.run()
    assert len(loop.runner.model.seen) == 5
    assert images(loop) == images(whole)[16:31]
