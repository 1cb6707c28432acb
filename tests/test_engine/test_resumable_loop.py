# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""An epoch loop that goes on exactly; the runner around it is a stand-in."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mtkdrl_mm.datasets import SeededBatchSampler
from mtkdrl_mm.engine.loops import ResumableEpochLoop


class Noise(Dataset):
    metainfo = {}

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.stack([torch.tensor(float(index)), torch.rand(())])


class ByEpoch:
    """Shuffles by seed and epoch, as mmengine's default sampler."""

    def __init__(self, seed):
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 10

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(torch.randperm(10, generator=generator).tolist())


class Model:
    """Remembers the batches, and a random number that a training step would draw."""

    def __init__(self):
        self.seen = []

    def train(self):
        pass

    def train_step(self, batch, optim_wrapper):
        self.seen.append((batch.clone(), torch.rand(())))
        return {}


@pytest.fixture
def train(monkeypatch):
    """Function that runs some epochs, or what is left of them after `done` batches."""

    def run(done=0, epochs=3, seed=5, sampler_seed=5, calls=None):
        runner = SimpleNamespace(
            model=Model(),
            seed=seed,
            optim_wrapper=None,
            visualizer=SimpleNamespace(dataset_meta=None),
            logger=SimpleNamespace(info=lambda message: None),
            call_hook=lambda name, **kwargs: (
                calls is not None and calls.append((name, kwargs.get('batch_idx')))
            ),
        )
        dataset = Noise()
        sampler = ByEpoch(sampler_seed)
        dataloader = DataLoader(dataset, batch_sampler=SeededBatchSampler(sampler, 4))
        loop = ResumableEpochLoop(runner, dataloader, max_epochs=epochs)
        loop._iter, loop._epoch = done, done // 3
        while loop.epoch < epochs:
            sampler.set_epoch(loop.epoch)
            loop.run_epoch()
        assert loop.iter == 3 * epochs
        return runner.model.seen

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


def test_resumed_run_takes_over_the_seed_of_its_first_part(train):
    # The sampler was built before the seed was known.
    assert_same(train(done=4, sampler_seed=99), train()[4:])


def test_batches_of_a_resumed_epoch_keep_their_numbers(train):
    calls = []
    train(done=4, epochs=2, calls=calls)
    expected = []
    for index in (1, 2):
        expected += [('before_train_iter', index), ('after_train_iter', index)]
    assert calls == [('before_train_epoch', None), *expected, ('after_train_epoch', None)]


def test_config_of_a_loader_gets_the_batch_sampler():
    built = []

    def build(dataloader, **kwargs):
        built.append(dataloader)
        return DataLoader(Noise(), batch_sampler=SeededBatchSampler(ByEpoch(0), 4))

    runner = SimpleNamespace(
        seed=1,
        _randomness_cfg={},
        build_dataloader=build,
        visualizer=SimpleNamespace(dataset_meta=None),
    )
    cfg = dict(batch_size=4, drop_last=True, batch_sampler=dict(type='AspectRatioBatchSampler'))
    loop = ResumableEpochLoop(runner, cfg, max_epochs=1)
    assert built == [
        dict(
            batch_size=4,
            batch_sampler=dict(
                type='mtkdrl_mm.SeededBatchSampler',
                drop_last=True,
                inner=dict(type='AspectRatioBatchSampler'),
            ),
        )
    ]
    assert 'drop_last' in cfg  # the given config is not changed
    assert hasattr(loop.dataloader.dataset, '__getitems__')
