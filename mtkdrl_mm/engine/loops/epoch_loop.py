# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The training loop by epochs."""

from typing import Any

from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from mtkdrl_mm.registry import LOOPS
from mtkdrl_mm.utils import InputError

from ..build_dataloader import check_passes_end
from .base import Progress, ResumableLoop, Start


@LOOPS.register_module()
class ResumableEpochLoop(ResumableLoop, EpochBasedTrainLoop):
    """mmengine's epoch loop, with exact resuming at any iteration.

    - Before every iteration all generators are seeded from (seed, rank,
      iteration), and the augmentations of every image from (seed, sample,
      epoch). Augmentations differ between epochs and images, do not depend on
      batch size, processes and workers, and are the same in a resumed run.
    - A checkpoint from the middle of an epoch is resumed at the next image,
      also with another batch size or number of processes. Iterations are then
      counted anew: epoch number n ends at iteration n times the steps per epoch.
      Schedules by iteration and the agent's ``update_interval`` continue in the
      count of the training's first run. Learning rates therefore do not jump,
      and are those of a training after as many images.
    - A training that is resumed with more epochs follows the longer schedule, see
      :func:`follow_schedules`. mmengine would continue at the end of the shorter
      one.
    - A validation that was due at the checkpoint's epoch is run on resuming,
      because its result may have been lost, unless the checkpoint was saved
      after it. So is that of the last epoch, unless the work dir records that
      the training has ended.

    mmengine seeds every data worker with the same number whenever it starts.
    Without persistent workers all epochs then have the same augmentations; with
    persistent workers a resumed run has other augmentations than an
    uninterrupted one.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): The training data.
        **kwargs: Arguments of mmengine's ``EpochBasedTrainLoop``: ``max_epochs``,
            ``val_begin``, ``val_interval``, ``dynamic_intervals``.
    """

    unit = 'epochs'
    limit = 'max_epochs'

    def __init__(
        self, runner: Runner, dataloader: DataLoader | dict[str, Any], **kwargs: Any
    ) -> None:
        super().__init__(runner, dataloader, **kwargs)
        self._steps = len(self.dataloader)

    @property
    def schedule_end(self) -> int:
        """Iterations of the whole training, as the schedules count them."""
        return self._max_epochs * self.schedule_steps_per_epoch

    def progress(self, epoch: int, iteration: int) -> dict[str, Any]:
        """Position of the training, for a checkpoint.

        Args:
            epoch (int): Number of complete epochs.
            iteration (int): Number of complete iterations.

        Returns:
            dict[str, Any]: The fields of :class:`Progress`; empty for a loader
            that was not built from a config.
        """
        if self.batch_sampler is None:
            return {}
        first = max(epoch * self._steps, self.start.iteration)
        images = self.start.images_done if epoch == self.start.epoch else 0
        images += (iteration - first) * self.batch_sampler.images_per_step
        # Within an iteration, `schedule_step` is still the count before it.
        step = max(self.schedule_step, self._to_schedule(iteration))
        return self._make_progress(epoch, images, step)

    def resume(self, saved: dict[str, Any] | None, validated: bool = False) -> str:
        """Continue at a checkpoint's position; the runner has set epoch and iteration.

        Args:
            saved (dict, optional): The result of :meth:`progress`; None for
                checkpoints of other programs.
            validated (bool): Whether a validation that was due there has been
                done. Defaults to False: its result may have been lost.

        Returns:
            str: What has changed, for the log; empty if nothing has.

        Raises:
            InputError: If the data is another, or if the sampler cannot continue
                at this position.
        """
        self.validation_open = not validated
        before = Progress(**saved) if saved else self._progress_of_others()
        self.schedule_steps_per_epoch = before.schedule_steps_per_epoch
        self.schedule_step = before.schedule_step
        if self.batch_sampler is None:
            return ''
        if saved:
            self._check_data(before)
        layout = self._describe_layout(before)
        # Raises an error if the sampler cannot start here.
        self.batch_sampler.set_position(self.runner.seed, self._epoch, before.images_done)
        left = self.batch_sampler.steps_left(before.images_done)
        self._iter = (self._epoch + 1) * self._steps - left
        self.start = Start(self._epoch, before.images_done, self._iter)
        if not layout:
            return ''
        position = f'epoch {self._epoch + 1}'
        if before.images_done:
            position += f' at image {before.images_done + 1} of {before.num_images}'
        return (
            f'Resumed with {layout}: continuing with {position}, {self._steps} iterations per '
            f'epoch. Iterations are counted as if it had always been so ({self._iter} are done). '
            'Schedules by iteration and `update_interval` keep the previous count '
            f'({self.schedule_steps_per_epoch} per epoch).'
        )

    def _progress_of_others(self) -> Progress:
        """The position in a checkpoint that holds only epoch and iteration."""
        per_step = self.batch_sampler.images_per_step if self.batch_sampler else 1
        done = self._iter - self._epoch * self._steps
        steps = self._steps
        if not 0 <= done < self._steps:
            if self._epoch == 0 or self._iter % self._epoch:
                raise InputError(
                    f'The checkpoint is of iteration {self._iter} in epoch {self._epoch + 1}, '
                    f'which does not fit {self._steps} iterations per epoch, and it does not '
                    'hold its batch size. Resume with the same batch size and number of '
                    'processes, or from the checkpoint at the end of an epoch.'
                )
            done, steps = 0, self._iter // self._epoch
        return Progress(
            epoch=self._epoch,
            images_done=done * per_step,
            num_images=self.num_images,
            batch_size=self.batch_sampler.batch_size if self.batch_sampler else 1,
            world_size=self.batch_sampler.world_size if self.batch_sampler else 1,
            schedule_step=self._epoch * steps + done,
            schedule_steps_per_epoch=steps,
        )

    def _to_schedule(self, iteration: int) -> int:
        """Convert iterations to the schedules' count; both agree at the end of every epoch."""
        epoch, step = divmod(iteration, self._steps)
        per_epoch = self.schedule_steps_per_epoch
        return epoch * per_epoch + step * per_epoch // self._steps

    def run(self) -> nn.Module:
        """Launch training.

        Raises:
            InputError: If an epoch would have no end.
        """
        if self._is_complete(self._epoch, self._max_epochs):
            return self.runner.model
        check_passes_end(self.dataloader, 'train_dataloader', shuffle=True)
        self._begin()
        at_end_of_epoch = self._iter == self._epoch * self._steps > 0
        if self.validation_open and at_end_of_epoch:
            self._validate_if_due(self._epoch, self._max_epochs)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            self._validate_if_due(self._epoch, self._max_epochs)
        self._end(self._epoch)
        return self.runner.model

    def run_epoch(self) -> None:
        """Run one epoch, or the rest of it."""
        if self.batch_sampler is not None:
            images = self.start.images_done if self._epoch == self.start.epoch else 0
            self.batch_sampler.set_position(self.runner.seed, self._epoch, images)
        done = self._iter - self._epoch * self._steps
        if done >= self._steps:
            self.runner.logger.info(f'Continuing at the end of epoch {self._epoch + 1}.')
        elif done > 0:
            self.runner.logger.info(
                f'Continuing with batch {done + 1} of {self._steps} in epoch {self._epoch + 1}.'
            )
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, batch in enumerate(self.dataloader, start=done):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Run one iteration, with random numbers that depend on its number alone."""
        self._seed_step()
        self.schedule_increment = max(0, self._to_schedule(self._iter + 1) - self.schedule_step)
        super().run_iter(idx, data_batch)
        self.schedule_step += self.schedule_increment
