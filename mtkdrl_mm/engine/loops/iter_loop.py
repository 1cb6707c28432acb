# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The training loop by iterations."""

from typing import Any

from mmengine.runner import IterBasedTrainLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch import nn

from mtkdrl_mm.registry import LOOPS

from .base import Progress, ResumableLoop, Start


@LOOPS.register_module()
class ResumableIterLoop(ResumableLoop, IterBasedTrainLoop):
    """mmengine's iteration loop, with exact resuming at any iteration.

    - Random numbers are seeded as in :class:`ResumableEpochLoop`. The view of an
      image is the number of passes through the data before it.
    - A checkpoint is resumed at the next image without loading the images
      before it (mmengine loads them again and discards them), also with another
      batch size or number of processes. The schedules count iterations, and
      keep their count.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): The training data.
        **kwargs: Arguments of mmengine's ``IterBasedTrainLoop``: ``max_iters``,
            ``val_begin``, ``val_interval``, ``dynamic_intervals``.
    """

    unit = 'iterations'
    limit = 'max_iters'

    @property
    def schedule_end(self) -> int:
        """Iterations of the whole training, as the schedules count them."""
        return self._max_iters

    @property
    def _endless(self) -> bool:
        return self.batch_sampler is not None and self.batch_sampler.is_endless

    def progress(self, epoch: int, iteration: int) -> dict[str, Any]:
        """Position of the training; see :meth:`ResumableEpochLoop.progress`."""
        if self.batch_sampler is None:
            return {}
        steps = iteration - self.start.iteration
        images = self.start.images_done + steps * self.batch_sampler.images_per_step
        passes = self.start.epoch
        if not self._endless:
            # First the rest of the pass in which this run began, then whole passes.
            left = self.batch_sampler.steps_left(self.start.images_done)
            if steps >= left:
                more, steps = divmod(steps - left, len(self.dataloader))
                passes += 1 + more
                images = steps * self.batch_sampler.images_per_step
        return self._make_progress(passes, images, iteration)

    def resume(self, saved: dict[str, Any] | None, validated: bool = False) -> str:
        """Continue at a checkpoint's position; see :meth:`ResumableEpochLoop.resume`."""
        self.validation_open = not validated
        self.schedule_step = self._iter
        self.start = Start(iteration=self._iter)
        sampler = self.batch_sampler
        if sampler is None:
            return ''
        layout = ''
        if saved:
            before = Progress(**saved)
            self._check_data(before)
            # 0 in checkpoints of earlier versions.
            self.schedule_steps_per_epoch = (
                before.schedule_steps_per_epoch or self.schedule_steps_per_epoch
            )
            self.start = Start(before.epoch, before.images_done, self._iter)
            layout = self._describe_layout(before)
        else:
            passes, steps = 0, self._iter
            if not self._endless:
                passes, steps = divmod(steps, len(self.dataloader))
            self.start = Start(passes, steps * sampler.images_per_step, self._iter)
        sampler.set_position(self.runner.seed, self.start.epoch, self.start.images_done)
        if not layout:
            return ''
        return (
            f'Resumed with {layout}: continuing at the next image. The schedules count iterations, '
            f'of which {self._iter} are done: adapt `max_iters` and `param_scheduler` to train on '
            'the same number of images.'
        )

    def run(self) -> nn.Module:
        """Launch training."""
        if self._is_complete(self._iter, self._max_iters):
            return self.runner.model
        self._begin()
        # The whole training counts as one epoch.
        self.runner.call_hook('before_train_epoch')
        if self.batch_sampler is not None:
            self.batch_sampler.set_position(
                self.runner.seed, self.start.epoch, self.start.images_done
            )
            # mmengine built its iterator with the loop, before the position was known.
            self.dataloader_iterator = _InfiniteDataloaderIterator(self.dataloader)
            self.dataloader_iterator._epoch = self.start.epoch
        if self.validation_open and self._iter > 0:
            self._validate_if_due(self._iter, self._max_iters)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            self._validate_if_due(self._iter, self._max_iters)
        self.runner.call_hook('after_train_epoch')
        self._end(self._iter)
        return self.runner.model

    def run_iter(self, data_batch: Any) -> None:
        """Run one iteration, with random numbers that depend on its number alone."""
        self._seed_step()
        super().run_iter(data_batch)
        self.schedule_step = self._iter
