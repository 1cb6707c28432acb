# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Metrics collect the results of all processes, whether they share a folder or not."""

import os
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from mmengine.evaluator import BaseMetric, Evaluator
from torch.multiprocessing.spawn import start_processes

from mtkdrl_mm.engine.hooks import CollectResultsHook
from mtkdrl_mm.utils import distributed


class All(BaseMetric):
    default_prefix = 'all'

    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return dict(results=results)


def validate(rank, folder, kind):
    dist.init_process_group('gloo', init_method=f'file://{folder}/group', rank=rank, world_size=2)
    distributed._SECONDS_TO_APPEAR = 0.1
    # Each machine has a current folder of its own.
    here = f'{folder}/{rank if kind == "apart" else 0}'
    os.makedirs(here, exist_ok=True)
    os.chdir(here)
    if kind == 'read-only' and rank == 0:
        open('.dist_test', 'w').close()  # no folder can be made
    metric = All()
    evaluator = Evaluator(metric)
    hook, runner = CollectResultsHook(), SimpleNamespace(val_evaluator=evaluator)
    for _ in range(2):
        hook.before_val(runner)
        metric.process({}, [rank, 2 + rank])
        found = evaluator.evaluate(3)['all/results']
    torch.save((found, metric.collect_device), f'{folder}/{rank}.pth')


@pytest.mark.parametrize(
    ('kind', 'device'), [('together', 'cpu'), ('apart', 'gpu'), ('read-only', 'gpu')]
)
def test_results_of_all_processes(tmp_path, kind, device):
    start_processes(validate, (str(tmp_path), kind), nprocs=2, start_method='fork')
    for rank in range(2):
        assert torch.load(tmp_path / f'{rank}.pth') == ([0, 1, 2], device)
