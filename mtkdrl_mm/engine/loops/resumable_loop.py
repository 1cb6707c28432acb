# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""An epoch loop that can be interrupted anywhere and goes on exactly."""

from copy import deepcopy
from typing import Any

from mmengine.dist import get_rank
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from mtkdrl_mm.datasets import SeededBatchSampler, seed_batches
from mtkdrl_mm.registry import LOOPS
from mtkdrl_mm.utils.seeding import seed_everything


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """mmengine's epoch loop with randomness that depends on the place alone.

    - Before every iteration all generators are seeded from (seed, rank,
      iteration), and the augmentations of every batch from (seed, rank, epoch,
      number of the batch). So augmentations differ between epochs, ranks and
      batches, do not depend on the number of workers, and a resumed run draws
      what an uninterrupted one would have drawn.
    - A checkpoint from the middle of an epoch is resumed at the next batch.
    - A training that is resumed with more epochs follows the longer schedule;
      mmengine would go on with the shorter one's end.

    mmengine seeds every data worker with the same number whenever it starts:
    without persistent workers every epoch sees the same augmentations, with
    them a resumed run sees others than an uninterrupted one.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): The training data.
        **kwargs: As mmengine's ``EpochBasedTrainLoop``: ``max_epochs``,
            ``val_begin``, ``val_interval``, ``dynamic_intervals``.
    """

    def __init__(
        self, runner: Runner, dataloader: DataLoader | dict[str, Any], **kwargs: Any
    ) -> None:
        if isinstance(dataloader, dict):
            dataloader = deepcopy(dataloader)
            dataloader['batch_sampler'] = dict(
                type='mtkdrl_mm.SeededBatchSampler',
                drop_last=dataloader.pop('drop_last', False),
                inner=dataloader.pop('batch_sampler', None),
            )
        super().__init__(runner, dataloader, **kwargs)
        self.batch_sampler = self.dataloader.batch_sampler
        if isinstance(self.batch_sampler, SeededBatchSampler):
            seed_batches(self.dataloader)

    def run(self) -> nn.Module:
        """Launch training."""
        self._follow_schedule()
        return super().run()

    def _follow_schedule(self) -> None:
        """Let schedulers without an `end` end with this training, resumed or not."""
        schedulers = self.runner.param_schedulers
        configs = self.runner.cfg.get('param_scheduler') or []
        configs = [configs] if isinstance(configs, dict) else configs
        if not isinstance(schedulers, list) or len(schedulers) != len(configs):
            return
        for scheduler, config in zip(schedulers, configs):
            if 'end' in config or config.get('convert_to_iter_based'):
                continue
            before = scheduler.end
            scheduler.end = self.max_epochs if config.get('by_epoch', True) else self.max_iters
            if scheduler._global_step == before < scheduler.end:
                # The step at its old end was left out; the new schedule has it.
                scheduler._global_step -= 1
                scheduler.step()

    def run_epoch(self) -> None:
        """Run one epoch, or what is left of it."""
        done = self._iter - self._epoch * len(self.dataloader)
        if isinstance(self.batch_sampler, SeededBatchSampler):
            self.batch_sampler.set_position(self.runner.seed, self._epoch, done)
            # A run without a fixed seed takes over its first part's on resuming,
            # after the sampler was built.
            if hasattr(self.batch_sampler.sampler, 'seed'):
                self.batch_sampler.sampler.seed = self.runner.seed
        if done > 0:
            self.runner.logger.info(
                f'Going on with batch {done + 1} of {len(self.dataloader)} in epoch '
                f'{self._epoch + 1}.'
            )
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, batch in enumerate(self.dataloader, start=done):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Run one iteration with its own random numbers."""
        seed_everything(self.runner.seed, get_rank(), self._iter)
        super().run_iter(idx, data_batch)
