# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The shared part of the resumable training loops."""

from abc import abstractmethod
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mtkdrl_mm.datasets import SeededBatchSampler, sample_digest
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.seeding import seed_step

from ..build_dataloader import seeded_dataloader
from ..completion import forget_completion, is_complete, note_completion


@dataclass(frozen=True)
class Progress:
    """Position of a training, independent of batch size and number of processes.

    Attributes:
        epoch (int): Number of the epoch, or of the pass through the data.
        images_done (int): Images of it that all processes together have used.
        num_images (int): Images of a whole epoch.
        batch_size (int): Images per step and process.
        world_size (int): Number of processes.
        schedule_step (int): Iterations as the schedules count them.
        schedule_steps_per_epoch (int): Iterations of an epoch in this count,
            which is that of the training's first run.
        samples (str): Digest of some of the images' names and labels; '' if
            unknown.
    """

    epoch: int
    images_done: int
    num_images: int
    batch_size: int
    world_size: int
    schedule_step: int
    schedule_steps_per_epoch: int
    samples: str = ''


@dataclass(frozen=True)
class Start:
    """Position at which this run of a training began; zeros without resuming.

    Attributes:
        epoch (int): Number of the epoch, or of the pass through the data.
        images_done (int): Images of it that earlier runs have used.
        iteration (int): Number of the iteration.
    """

    epoch: int = 0
    images_done: int = 0
    iteration: int = 0


class ResumableLoop:
    """Seeded data, exact positions and the schedules' count, for both loops.

    A mixin in front of one of mmengine's loops. The subclass defines
    ``progress``, which the runner calls before it saves a checkpoint, and
    ``resume``, which the runner calls after it has loaded one.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): The training data. The data set of a
            config is wrapped by ``SeededDataset``, and its batch sampler by
            ``SeededBatchSampler``.
        **kwargs: Arguments of mmengine's loop.

    Attributes:
        unit (str): What the loop counts: 'epochs' or 'iterations'.
        limit (str): The key of ``train_cfg`` with the greatest number of them.
        batch_sampler (SeededBatchSampler, optional): None for a loader that was
            not built from a config. Its position is then not saved.
        start (Start): Set by ``resume``; read by ``progress`` and ``run``.
        validation_open (bool): Whether a validation that was due where this run
            began may not have been done. Set by ``resume``; ``run`` then runs it.
        schedule_step (int): Iterations before the current one, as the schedules
            count them. Set by ``resume`` and after every iteration; hooks read
            it by :func:`schedule_steps`.
        schedule_steps_per_epoch (int): Iterations of an epoch in this count: those
            of the training's first run. Set by ``resume``.
        schedule_increment (int): Iterations that the current one counts for in
            the schedules. Set before every iteration; read as above.
    """

    unit: str
    limit: str
    runner: Runner
    dataloader: DataLoader
    val_begin: int
    val_interval: int
    _epoch: int
    _iter: int
    max_epochs: int

    def __init__(
        self, runner: Runner, dataloader: DataLoader | dict[str, Any], **kwargs: Any
    ) -> None:
        if isinstance(dataloader, dict):
            dataloader = seeded_dataloader(dataloader)
        super().__init__(runner, dataloader, **kwargs)  # type: ignore[call-arg]
        sampler = self.dataloader.batch_sampler
        self.batch_sampler = sampler if isinstance(sampler, SeededBatchSampler) else None
        self.start = Start()
        self.validation_open = False
        self.schedule_step = 0
        self.schedule_steps_per_epoch = len(self.dataloader)
        self.schedule_increment = 1

    @property
    def num_images(self) -> int:
        """Number of images of the training data."""
        return len(self.dataloader.dataset)  # type: ignore[arg-type]

    @property
    @abstractmethod
    def schedule_end(self) -> int:
        """Iterations of the whole training, as the schedules count them."""

    @cached_property
    def samples(self) -> str:
        """Digest of some of the images' names and labels."""
        return sample_digest(self.dataloader.dataset)

    def passes(self, epoch: int, iteration: int) -> int:
        """Number of complete passes of all processes through the data.

        Args:
            epoch (int): Number of complete epochs.
            iteration (int): Number of complete iterations.
        """
        position = self.progress(epoch, iteration)
        if not position:
            return 0
        return int(position['epoch'] + position['images_done'] // position['num_images'])

    @abstractmethod
    def progress(self, epoch: int, iteration: int) -> dict[str, Any]:
        """Position of the training, for a checkpoint; see the subclasses."""

    def _make_progress(self, epoch: int, images_done: int, schedule_step: int) -> dict[str, Any]:
        """The fields of :class:`Progress`, as a checkpoint holds them."""
        assert self.batch_sampler is not None
        return asdict(
            Progress(
                epoch=epoch,
                images_done=images_done,
                num_images=self.num_images,
                batch_size=self.batch_sampler.batch_size,
                world_size=self.batch_sampler.world_size,
                schedule_step=schedule_step,
                schedule_steps_per_epoch=self.schedule_steps_per_epoch,
                samples=self.samples,
            )
        )

    def _check_data(self, saved: Progress) -> None:
        if saved.num_images != self.num_images:
            raise InputError(
                f'The training data has {self.num_images} images, but had {saved.num_images} when '
                'the checkpoint was saved: this is another data set. Resume with the same data, '
                'or start a new training from the weights with `load_from`.'
            )
        if saved.samples and self.samples and saved.samples != self.samples:
            raise InputError(
                f'The training data has {self.num_images} images, as many as when the checkpoint '
                'was saved, but other names or labels, or another order: this is another data set. '
                'Resume with the same data, or start a new training from the weights with '
                '`load_from`.'
            )

    def _describe_layout(self, saved: Progress) -> str:
        """Phrase how many images a step has now and had before; '' if nothing changed.

        Raises:
            InputError: If it changed in the middle of an epoch and the order of
                the images depends on it.
        """
        sampler = self.batch_sampler
        assert sampler is not None
        if (sampler.batch_size, sampler.world_size) == (saved.batch_size, saved.world_size):
            return ''
        if saved.images_done and not sampler.is_round_robin:
            name = type(sampler.base_sampler or sampler.sampler).__name__
            raise InputError(
                f'The checkpoint is from the middle of an epoch, and the order of {name} depends '
                f'on the batch size and the number of processes: resume with a batch size of '
                f'{saved.batch_size} and {saved.world_size} processes, as before, or from the '
                'checkpoint at the end of an epoch.'
            )
        return (
            f'{sampler.world_size} x {sampler.batch_size} images per step (processes x batch '
            f'size) instead of {saved.world_size} x {saved.batch_size}'
        )

    def _seed_step(self) -> None:
        """Seed all generators from (seed, rank, iteration)."""
        seed_step(self.runner.seed, self._iter)

    def _is_complete(self, done: int, total: int) -> bool:
        """Whether ``done`` of ``total`` epochs or iterations, and all that follows, are done."""
        if done < total:
            return False
        if is_complete(self.runner.work_dir, {self.unit: done}):
            self.runner.logger.info(
                f'This training is complete: {done} of {total} {self.unit} are done. Increase '
                f'train_cfg.{self.limit} to continue.'
            )
            return True
        repeated = 'repeating its validation' if self.validation_open else 'ending the training'
        self.runner.logger.info(
            f'{done} of {total} {self.unit} are done, but what follows the last one may not be: '
            f'{repeated}.'
        )
        return False

    def _begin(self) -> None:
        """Let the hooks begin the training, which is then not complete until its end."""
        self.runner.call_hook('before_train')
        forget_completion(self.runner.work_dir)

    def _end(self, done: int) -> None:
        """Let the hooks end the training after ``done`` epochs or iterations."""
        self.runner.call_hook('after_train')
        note_completion(self.runner.work_dir, {self.unit: done})

    def _validate_if_due(self, done: int, total: int) -> None:
        """Run the validation if it is due after ``done`` of ``total`` epochs or iterations."""
        due = done % self.val_interval == 0 or done >= total
        if self.runner.val_loop is not None and done >= self.val_begin and due:
            self.runner.val_loop.run()


def schedule_steps(runner: Runner) -> tuple[int, int]:
    """Iterations before and after the current one, as the schedules count them.

    The two differ by 1 unless the training was resumed with another batch size
    or number of processes, see :class:`ResumableEpochLoop`.

    Args:
        runner (Runner): The runner, in a training iteration.

    Returns:
        tuple[int, int]: Iterations before and after the current one.
    """
    loop = runner.train_loop
    if isinstance(loop, ResumableLoop):
        return loop.schedule_step, loop.schedule_step + loop.schedule_increment
    return runner.iter, runner.iter + 1
