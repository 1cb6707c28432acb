# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Trainings that are cut between two steps of the optimiser."""

import signal
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn

from mtkdrl_mm.engine.hooks import AccumulatedGradientsHook, accumulated_gradients_hook
from mtkdrl_mm.weights.checkpoint import read_checkpoint

from .test_runner import _quick, build  # noqa: F401


class Stop(Hook):
    """Sends a signal in an iteration."""

    def __init__(self, at):
        self.at = at

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.at:
            signal.raise_signal(signal.SIGTERM)


# 3 iterations per epoch and 9 in all: also epochs end between two steps.
@pytest.mark.parametrize('kind', ['Epoch', 'Iter'])
@pytest.mark.parametrize('count', [2, 4])
def test_a_cut_between_two_steps_changes_nothing(build, tmp_path, kind, count):  # noqa: F811
    settings = {'optim_wrapper.accumulative_counts': count}
    whole = build(kind, work_dir=str(tmp_path / 'whole'), **settings)
    whole.train()
    for stop in range(1, 9):
        folder = tmp_path / f'cut_{stop}'
        first = build(kind, work_dir=str(folder), **settings)
        first.register_hook(Stop(stop))
        with pytest.raises(SystemExit):
            first.train()
        saved = read_checkpoint(str(folder / f'interrupted_iter_{stop}.pth'), 'test')
        assert ('accumulated_gradients' in saved) == (stop % count != 0)
        second = build(kind, work_dir=str(folder), resume=True, **settings)
        second.train()
        for a, b in zip(whole.model.parameters(), second.model.parameters()):
            assert torch.equal(a, b)


def test_checkpoints_at_the_end_of_epochs_hold_them_too(build, tmp_path):  # noqa: F811
    settings = {'optim_wrapper.accumulative_counts': 2}
    runner = build(**settings)
    runner.train()
    for epoch, expected in ((1, True), (2, False), (3, False)):
        saved = read_checkpoint(str(tmp_path / 'run' / f'epoch_{epoch}.pth'), 'test')
        assert ('accumulated_gradients' in saved) == expected
    path = tmp_path / 'run' / 'epoch_1.pth'
    resumed = build(resume=True, load_from=str(path), work_dir=str(tmp_path / 'other'), **settings)
    resumed.train()
    for a, b in zip(runner.model.parameters(), resumed.model.parameters()):
        assert torch.equal(a, b)


def test_without_the_hook(build):  # noqa: F811
    kinds = [type(h) for h in build(**{'default_hooks.accumulated_gradients': None}).hooks]
    assert AccumulatedGradientsHook not in kinds


def test_processes_save_the_mean_of_their_gradients(monkeypatch):
    """Also of a parameter that only the other process has used; what no one used stays unset."""
    model = nn.ParameterDict({name: nn.Parameter(torch.ones(2)) for name in 'abc'})
    model['a'].grad = torch.tensor([2.0, 4.0])
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1), accumulative_counts=2)
    wrapper._inner_count = 1
    other = dict(a=torch.tensor([4.0, 0.0]), b=torch.tensor([1.0, 1.0]))
    order = iter('ab')
    monkeypatch.setattr(
        accumulated_gradients_hook, 'all_gather_object', lambda names: [names, list(other)]
    )
    monkeypatch.setattr(
        accumulated_gradients_hook, 'all_reduce_mean', lambda g: (g + other[next(order)]) / 2
    )
    runner = SimpleNamespace(
        model=model,
        _resume=True,
        optim_wrapper=OptimWrapperDict(one=wrapper),
        logger=SimpleNamespace(info=lambda text: None),
    )
    hook = AccumulatedGradientsHook()
    hook.before_train(runner)
    checkpoint = {}
    hook.gather_state()
    hook.before_save_checkpoint(runner, checkpoint)
    expected = dict(a=[3.0, 2.0], b=[0.5, 0.5])
    assert {k: v.tolist() for k, v in checkpoint['accumulated_gradients'].items()} == expected
    resumed = AccumulatedGradientsHook()
    resumed.after_load_checkpoint(runner, checkpoint)
    resumed.before_train(runner)
    assert {k: p.grad.tolist() for k, p in model.items() if p.grad is not None} == expected
