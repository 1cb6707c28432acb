# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Training loops that can be interrupted anywhere and go on exactly."""

from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch import nn
from torch.utils.data import DataLoader

from mtkdrl_mm.datasets import SeededBatchSampler
from mtkdrl_mm.registry import LOOPS
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.seeding import derive_seed, seed_everything


@dataclass(frozen=True)
class Progress:
    """Where a training is, in terms that do not depend on batch size and processes.

    Attributes:
        epoch (int): Number of the epoch, or of the pass through the data.
        images_done (int): Images of it that all processes have gone through.
        num_images (int): Images of a whole epoch.
        batch_size (int): Images per step and process.
        world_size (int): Number of processes.
        schedule_step (int): Iterations as the schedules count them.
        schedule_steps_per_epoch (int): Iterations of an epoch in this count:
            those of the training's first part.
    """

    epoch: int
    images_done: int
    num_images: int
    batch_size: int
    world_size: int
    schedule_step: int
    schedule_steps_per_epoch: int

    @property
    def images_per_step(self) -> int:
        """Images that all processes together go through in a step."""
        return self.batch_size * self.world_size


class _ResumableLoop:
    """What both loops share: seeded samples, and a position that is saved and found again."""

    runner: Runner
    dataloader: DataLoader
    _iter: int

    def __init__(
        self, runner: Runner, dataloader: DataLoader | dict[str, Any], **kwargs: Any
    ) -> None:
        if isinstance(dataloader, dict):
            dataloader = deepcopy(dataloader)
            dataloader['dataset'] = dict(
                type='mtkdrl_mm.SeededDataset', dataset=dataloader['dataset']
            )
            dataloader['batch_sampler'] = dict(
                type='mtkdrl_mm.SeededBatchSampler',
                drop_last=dataloader.pop('drop_last', False),
                base_sampler=dataloader.pop('batch_sampler', None),
            )
        super().__init__(runner, dataloader, **kwargs)  # type: ignore[call-arg]
        sampler = self.dataloader.batch_sampler
        self.batch_sampler = sampler if isinstance(sampler, SeededBatchSampler) else None
        #: Iterations as the schedules count them: before this one, and in it.
        self.schedule_step = 0
        self.schedule_increment = 1

    def _saved(self, epoch: int, images_done: int, per_epoch: int) -> dict[str, Any]:
        assert self.batch_sampler is not None
        progress = Progress(
            epoch=epoch,
            images_done=images_done,
            num_images=len(self.dataloader.dataset),  # type: ignore[arg-type]
            batch_size=self.batch_sampler.batch_size,
            world_size=self.batch_sampler.world_size,
            schedule_step=self.schedule_step,
            schedule_steps_per_epoch=per_epoch,
        )
        return asdict(progress)

    def _check_data(self, saved: Progress) -> None:
        num_images = len(self.dataloader.dataset)  # type: ignore[arg-type]
        if saved.num_images != num_images:
            raise InputError(
                f'The training data has {num_images} images, but had {saved.num_images} when the '
                'checkpoint was saved: this is another data set. Resume with the data of before, '
                'or start a new training from the weights with `load_from`.'
            )

    def _layout(self, saved: Progress) -> str:
        """Phrase how many images a step has now and had before; '' if nothing changed.

        Raises:
            InputError: If it changed in the middle of an epoch of a sampler whose order depends
                on it.
        """
        sampler = self.batch_sampler
        assert sampler is not None
        if (sampler.batch_size, sampler.world_size) == (saved.batch_size, saved.world_size):
            return ''
        if saved.images_done and not sampler.deals_in_turn:
            name = type(sampler.base_sampler or sampler.sampler).__name__
            raise InputError(
                f'The checkpoint is from the middle of an epoch, and the order of {name} depends '
                f'on the batch size and the number of processes: resume with a batch size of '
                f'{saved.batch_size} and {saved.world_size} processes, as before, or from the '
                "checkpoint of an epoch's end."
            )
        return (
            f'{sampler.world_size} x {sampler.batch_size} images per step (processes x batch '
            f'size) instead of {saved.world_size} x {saved.batch_size}'
        )


@LOOPS.register_module()
class ResumableEpochLoop(_ResumableLoop, EpochBasedTrainLoop):
    """mmengine's epoch loop with randomness that depends on the place alone.

    - Before every iteration all generators are seeded from (seed, rank,
      iteration), and the augmentations of every image from (seed, sample,
      epoch). So augmentations differ between epochs and images, do not depend
      on batch size, processes and workers, and a resumed run draws what an
      uninterrupted one would have drawn.
    - A checkpoint from the middle of an epoch is resumed at the next image,
      also with another batch size or number of processes. Iterations are then
      counted anew: an epoch ends with its number times the steps of an epoch.
      Schedules by iteration and the agent's ``update_interval`` go on in the
      iterations of the training's first part, so that learning rates do not
      jump and are what they would have been after as many images.
    - A training that is resumed with more epochs follows the longer schedule;
      mmengine would go on with the shorter one's end.
    - A validation that was due at the checkpoint's epoch is run on resuming:
      its result may have been lost.

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
        super().__init__(runner, dataloader, **kwargs)
        self._steps = len(self.dataloader)
        self._schedule_steps_per_epoch = self._steps
        # Where this run began: the epoch, images of it that an earlier run went through, and the
        # iteration.
        self._first_epoch = 0
        self._images_before = 0
        self._first_iter = 0
        self._resumed = False

    def progress(self, epoch: int, iteration: int) -> dict[str, Any]:
        """Where the training is, for a checkpoint.

        Args:
            epoch (int): Epochs that are complete.
            iteration (int): Iterations that are complete.

        Returns:
            dict[str, Any]: The fields of :class:`Progress`; empty for a loader
            that was not built from a config.
        """
        if self.batch_sampler is None:
            return {}
        start = max(epoch * self._steps, self._first_iter)
        images = self._images_before if epoch == self._first_epoch else 0
        images += (iteration - start) * self.batch_sampler.images_per_step
        progress = self._saved(epoch, images, self._schedule_steps_per_epoch)
        # Within an iteration the count is still that before it.
        step = max(self.schedule_step, self._to_schedule(iteration))
        return {**progress, 'schedule_step': step}

    def resume(self, saved: dict[str, Any] | None) -> str:
        """Go on from a checkpoint's position; the runner has set epoch and iteration.

        Args:
            saved (dict, optional): What :meth:`progress` returned, None for
                checkpoints of other programs.

        Returns:
            str: What is different from before, for the log; empty if nothing is.

        Raises:
            InputError: If the data is another, or if the sampler cannot go on
                from this position.
        """
        self._resumed = True
        before = self._progress_of_others() if not saved else Progress(**saved)
        if self.batch_sampler is None:
            return ''
        if saved:
            self._check_data(before)
        layout = self._layout(before)
        self._schedule_steps_per_epoch = before.schedule_steps_per_epoch
        self.schedule_step = before.schedule_step
        self._first_epoch, self._images_before = self._epoch, before.images_done
        # Raises where the sampler cannot start here.
        self.batch_sampler.set_position(self.runner.seed, self._epoch, before.images_done)
        left = self.batch_sampler.steps_left(before.images_done)
        self._first_iter = self._iter = (self._epoch + 1) * self._steps - left
        if not layout:
            return ''
        place = f'epoch {self._epoch + 1}'
        if before.images_done:
            place += f' at image {before.images_done + 1} of {before.num_images}'
        return (
            f'Resumed with {layout}: going on with {place}, {self._steps} iterations per epoch. '
            f'Iterations are counted as if it had always been so ({self._iter} are done); '
            'schedules by iteration and `update_interval` go on in those of before '
            f'({self._schedule_steps_per_epoch} per epoch).'
        )

    def _progress_of_others(self) -> Progress:
        """The position in a checkpoint that says only epoch and iteration."""
        per_step = self.batch_sampler.images_per_step if self.batch_sampler else 1
        done = self._iter - self._epoch * self._steps
        steps = self._steps
        if not 0 <= done < self._steps:
            if self._epoch == 0 or self._iter % self._epoch:
                raise InputError(
                    f'The checkpoint is of iteration {self._iter} in epoch {self._epoch + 1}, '
                    f'which does not fit {self._steps} iterations per epoch, and it does not say '
                    'what its batch size was. Resume with the batch size and number of processes '
                    "of before, or from the checkpoint of an epoch's end."
                )
            done, steps = 0, self._iter // self._epoch
        return Progress(
            epoch=self._epoch,
            images_done=done * per_step,
            num_images=len(self.dataloader.dataset),  # type: ignore[arg-type]
            batch_size=self.batch_sampler.batch_size if self.batch_sampler else 1,
            world_size=self.batch_sampler.world_size if self.batch_sampler else 1,
            schedule_step=self._epoch * steps + done,
            schedule_steps_per_epoch=steps,
        )

    def _to_schedule(self, iteration: int) -> int:
        """Iterations in the schedules' count; the same at the end of every epoch."""
        epoch, step = divmod(iteration, self._steps)
        unit = self._schedule_steps_per_epoch
        return epoch * unit + step * unit // self._steps

    def run(self) -> nn.Module:
        """Launch training."""
        if self._epoch >= self._max_epochs:
            self.runner.logger.info(
                f'This training is complete: {self._epoch} of {self._max_epochs} epochs are done. '
                'Set train_cfg.max_epochs to more to go on.'
            )
            return self.runner.model
        self._follow_schedule()
        self.runner.call_hook('before_train')
        if self._resumed and self._iter == self._epoch * self._steps and self._epoch > 0:
            self._validate()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            self._validate()
        self.runner.call_hook('after_train')
        return self.runner.model

    def _validate(self) -> None:
        due = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        if self.runner.val_loop is not None and self._epoch >= self.val_begin and due:
            self.runner.val_loop.run()

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
            by_epoch = config.get('by_epoch', True)
            scheduler.end = self._max_epochs * (1 if by_epoch else self._schedule_steps_per_epoch)
            if scheduler._global_step == before < scheduler.end:
                # The step at its old end was left out; the new schedule has it.
                scheduler._global_step -= 1
                scheduler.step()

    def run_epoch(self) -> None:
        """Run one epoch, or what is left of it."""
        if self.batch_sampler is not None:
            images = self._images_before if self._epoch == self._first_epoch else 0
            self.batch_sampler.set_position(self.runner.seed, self._epoch, images)
        done = self._iter - self._epoch * self._steps
        if done > 0:
            self.runner.logger.info(
                f'Going on with batch {done + 1} of {self._steps} in epoch {self._epoch + 1}.'
            )
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, batch in enumerate(self.dataloader, start=done):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Run one iteration with its own random numbers."""
        seed_everything(derive_seed(self.runner.seed, 'step', get_rank(), self._iter))
        self.schedule_increment = max(0, self._to_schedule(self._iter + 1) - self.schedule_step)
        super().run_iter(idx, data_batch)
        self.schedule_step += self.schedule_increment


@LOOPS.register_module()
class ResumableIterLoop(_ResumableLoop, IterBasedTrainLoop):
    """mmengine's iteration loop with randomness that depends on the place alone.

    - Random numbers as in :class:`ResumableEpochLoop`; the view of an image is
      the number of passes through the data before it.
    - A checkpoint is resumed at the next image at once (mmengine loads all
      images of before again and throws them away), also with another batch
      size or number of processes. The schedule is one of iterations and counts
      them as before.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): The training data.
        **kwargs: As mmengine's ``IterBasedTrainLoop``: ``max_iters``,
            ``val_begin``, ``val_interval``, ``dynamic_intervals``.
    """

    def __init__(
        self, runner: Runner, dataloader: DataLoader | dict[str, Any], **kwargs: Any
    ) -> None:
        super().__init__(runner, dataloader, **kwargs)
        self._images_before = 0
        self._first_pass = 0
        self._first_iter = 0
        self._resumed = False

    @property
    def _endless(self) -> bool:
        sampler = self.batch_sampler
        return sampler is not None and isinstance(sampler.sampler, InfiniteSampler)

    def progress(self, epoch: int, iteration: int) -> dict[str, Any]:
        """Where the training is; see :meth:`ResumableEpochLoop.progress`."""
        if self.batch_sampler is None:
            return {}
        steps = iteration - self._first_iter
        images = self._images_before + steps * self.batch_sampler.images_per_step
        passes = 0
        if not self._endless:
            # What is left of the pass in which this run began, then whole ones.
            left = self.batch_sampler.steps_left(self._images_before)
            passes = self._first_pass
            if steps >= left:
                more, steps = divmod(steps - left, len(self.dataloader))
                passes += 1 + more
                images = steps * self.batch_sampler.images_per_step
        return {**self._saved(passes, images, 0), 'schedule_step': iteration}

    def resume(self, saved: dict[str, Any] | None) -> str:
        """Go on from a checkpoint's position; see :meth:`ResumableEpochLoop.resume`."""
        self._resumed = True
        self._first_iter = self.schedule_step = self._iter
        sampler = self.batch_sampler
        if sampler is None:
            return ''
        layout = ''
        if saved:
            before = Progress(**saved)
            self._check_data(before)
            self._images_before, self._first_pass = before.images_done, before.epoch
            layout = self._layout(before)
        elif self._endless:
            self._images_before = self._iter * sampler.images_per_step
        else:
            self._first_pass, steps = divmod(self._iter, len(self.dataloader))
            self._images_before = steps * sampler.images_per_step
        sampler.set_position(self.runner.seed, self._first_pass, self._images_before)
        if not layout:
            return ''
        return (
            f'Resumed with {layout}: going on at the next image. The schedule counts iterations, '
            f'{self._iter} are done; adapt `max_iters` and `param_scheduler` if as many images '
            'are to be seen as before.'
        )

    def run(self) -> nn.Module:
        """Launch training."""
        if self._iter >= self._max_iters:
            self.runner.logger.info(
                f'This training is complete: {self._iter} of {self._max_iters} iterations are '
                'done. Set train_cfg.max_iters to more to go on.'
            )
            return self.runner.model
        self.runner.call_hook('before_train')
        # The whole training counts as one epoch.
        self.runner.call_hook('before_train_epoch')
        if self.batch_sampler is not None:
            self.batch_sampler.set_position(self.runner.seed, self._first_pass, self._images_before)
            # The one that mmengine made when the loop was built began elsewhere.
            self.dataloader_iterator = _InfiniteDataloaderIterator(self.dataloader)
            self.dataloader_iterator._epoch = self._first_pass
        if self._resumed and self._iter > 0:
            self._validate()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            self._validate()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _validate(self) -> None:
        due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
        if self.runner.val_loop is not None and self._iter >= self.val_begin and due:
            self.runner.val_loop.run()

    def run_iter(self, data_batch: Any) -> None:
        """Run one iteration with its own random numbers."""
        seed_everything(derive_seed(self.runner.seed, 'step', get_rank(), self._iter))
        super().run_iter(data_batch)
        self.schedule_step = self._iter


def schedule_steps(runner: Runner) -> tuple[int, int]:
    """Iterations before and after the current one, as schedules count them.

    The two differ by 1 unless the training was resumed with another batch size
    or number of processes, see :class:`ResumableEpochLoop`.

    Args:
        runner (Runner): In a training iteration.

    Returns:
        tuple[int, int]: Before and after.
    """
    loop = runner.train_loop
    if isinstance(loop, _ResumableLoop):
        return loop.schedule_step, loop.schedule_step + loop.schedule_increment
    return runner.iter, runner.iter + 1
