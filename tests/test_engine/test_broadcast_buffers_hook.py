# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""All processes validate the network that is saved, BatchNorm's statistics included."""

import pytest
import torch
import torch.distributed as dist
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch.multiprocessing.spawn import start_processes
from torch.utils.data import DataLoader

from mtkdrl_mm.engine.runner import ResumableRunner
from mtkdrl_mm.utils.distributed import broadcast_buffers


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(1)

    def forward(self, inputs, mode):
        if mode == 'loss':
            return dict(loss=self.norm(inputs).square().mean())
        return [self.norm.running_mean.item()] * len(inputs)


class Validated(BaseMetric):
    """The means by which the processes have normalised."""

    default_prefix = 'mean'

    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return dict(lowest=min(results), highest=max(results))


def collate(batch):
    return dict(inputs=torch.stack(batch))


def train(rank, folder, averaged):
    dist.init_process_group('gloo', init_method=f'file://{folder}/group', rank=rank, world_size=2)
    # The images of the two processes differ.
    images = torch.randn(8, 1) + 10 * rank
    hooks = [dict(type='EMAHook', update_buffers=True)] if averaged else []
    runner = ResumableRunner(
        Model(),
        f'{folder}/run',
        train_dataloader=DataLoader(images, 4, collate_fn=collate),
        val_dataloader=DataLoader(torch.ones(2, 1), 1, collate_fn=collate),
        val_evaluator=[Validated()],
        val_cfg=dict(),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        cfg=dict(
            model_wrapper_cfg=dict(
                type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
            )
        ),
        custom_hooks=hooks,
        log_level='ERROR',
    )
    metrics = {}
    runner.val_loop.evaluator.evaluate, evaluate = (
        lambda size: metrics.update(evaluate(size)) or metrics,
        runner.val_loop.evaluator.evaluate,
    )
    runner.train()
    torch.save(metrics, f'{folder}/{rank}.pth')


@pytest.mark.parametrize('averaged', [False, True])
def test_what_is_validated_is_what_is_saved(tmp_path, averaged):
    start_processes(train, (str(tmp_path), averaged), nprocs=2, start_method='fork')
    saved = torch.load(tmp_path / 'run' / 'epoch_1.pth')
    mean = saved['state_dict']['norm.running_mean'].item()
    assert 0 < abs(mean) < 1  # of images around 0, those of the main process
    for rank in range(2):
        metrics = torch.load(tmp_path / f'{rank}.pth')
        assert metrics == {'mean/lowest': mean, 'mean/highest': mean}


def differ(rank, folder):
    dist.init_process_group('gloo', init_method=f'file://{folder}/group', rank=rank, world_size=2)
    model = Model()
    model.register_buffer('table', torch.full((2,), rank), persistent=False)
    model.norm.running_mean.fill_(rank + 1)
    model.norm.num_batches_tracked.fill_(rank + 1)
    broadcast_buffers(model)
    torch.save(dict(model.named_buffers()), f'{folder}/{rank}.pth')


def test_buffers_of_no_checkpoint_are_left_alone(tmp_path):
    start_processes(differ, (str(tmp_path),), nprocs=2, start_method='fork')
    for rank in range(2):
        buffers = torch.load(tmp_path / f'{rank}.pth')
        assert buffers['norm.running_mean'] == 1 and buffers['norm.num_batches_tracked'] == 1
        assert buffers['table'].tolist() == [rank, rank]
