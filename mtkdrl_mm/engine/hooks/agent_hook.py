# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Alternation between the student's and the agent's training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor
from torch.utils.data import DataLoader

from mtkdrl_mm.datasets.class_checks import compare_classes
from mtkdrl_mm.datasets.image_labels import check_image_labels
from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.models.weightings import MTKDRL
from mtkdrl_mm.registry import HOOKS, TASK_UTILS
from mtkdrl_mm.rl import (
    Advantage,
    AgentTrainer,
    Algorithm,
    EmbeddingProbes,
    Reward,
    RolloutBuffer,
)
from mtkdrl_mm.structures import AgentAction, StepTerms, TeacherWeights
from mtkdrl_mm.utils import InputError, build_component, check_component, check_flag, check_number
from mtkdrl_mm.utils.class_names import dataset_classes
from mtkdrl_mm.utils.distributed import broadcast_buffers

from ..held_out import build_held_out, check_each_once
from ..loops import schedule_steps
from ..seeded_views import seeded_parts
from ..teacher_outputs import connect_held_out
from .label_check_hook import heads_with_classes
from .step_hook import StepHook, last_good_state, unwrap_distiller
from .teacher_check_hook import check_data_classes


@HOOKS.register_module()
class AgentHook(StepHook):
    """Schedules the training of the MTKDRL weighting's agent.

    When it acts:

    - In every training step it adds the states that the agent observed and the
      rewards of the teachers to the rollout buffer (phase 1). The agent is
      frozen. With ``experience='held_out'`` it runs student and teachers on the
      held-out images just before an update, and adds those instead; of the
      training steps it keeps what ``discount_memorised`` needs.
    - At the end of every epoch, or every ``update_interval`` iterations, it
      updates the agent from the buffer and clears it (phase 2).
    - Where the weighting has ``feature_weights='probes'``, it gives it these weights
      with every update.
    - During the warm-up the weights are 1/M. The agent is pre-trained from the
      buffer of the warm-up all the same.

    What it saves in a checkpoint under ``agent_hook``: the state of the
    algorithm (optimiser, number of updates, advantage), the buffers of all
    processes where they are not empty, and the sums of ``discount_memorised``.
    The agent itself is part of the model.
    In distributed runs all processes average their gradients, and make sure
    after each update that they hold the same agent. A state, a reward or an agent
    that is NaN or infinite ends the training before anything is saved.

    The defaults are those of the published method. The training itself is in
    :class:`mtkdrl_mm.rl.AgentTrainer`.

    Args:
        algorithm (dict): The RL algorithm and its arguments. Defaults to
            ``dict(type='PolicyGradient')``.
        reward (dict): The reward. Defaults to ``dict(type='ClosenessReward')``.
        advantage (dict): The normalisation of the rewards. Defaults to
            ``dict(type='MinMaxAdvantage')``.
        warmup_epochs (int): Epochs with equal weights. Defaults to 1.
        warmup_iters (int, optional): Iterations with equal weights, instead of
            ``warmup_epochs``. Defaults to None.
        update_interval (int, optional): Iterations between updates. Defaults
            to None: once per epoch.
        buffer_budget (float): Greatest size of the rollout buffer in MiB of
            host memory, per process. Defaults to 512.
        experience (str): What the agent learns from: the 'training' images, or
            the 'held_out' ones of the config's ``held_out_dataloader``, on
            which no teacher should have been trained, nor the student if reward
            or state depend on it. Defaults to 'training', as published.
        discount_memorised (bool): Whether a teacher's rewards count only as far as
            it has not learned the labels of the student's images by heart, see
            :class:`mtkdrl_mm.rl.MemorisedShare`. For ``experience='held_out'``
            and the algorithm ``MixtureLikelihood``. Defaults to False.

    Raises:
        InputError: If a component is unknown, a number is out of range, the
            algorithm cannot learn from reward and advantage, what is to be
            discounted cannot be told, the weighting has no agent, or held-out
            images are missing or have other classes or labels than the student.

    Example:
        >>> from mmengine.registry import HOOKS
        >>> hook = HOOKS.build(
        ...     dict(
        ...         type='mtkdrl_mm.AgentHook',
        ...         algorithm=dict(type='PPO'),
        ...         reward=dict(type='ClosenessReward'),
        ...         warmup_epochs=2,
        ...     )
        ... )
        >>> hook.warmup_epochs
        2
    """

    priority = 'NORMAL'

    def __init__(
        self,
        algorithm: dict[str, Any] | str = 'PolicyGradient',
        reward: dict[str, Any] | str = 'ClosenessReward',
        advantage: dict[str, Any] | str = 'MinMaxAdvantage',
        warmup_epochs: int = 1,
        warmup_iters: int | None = None,
        update_interval: int | None = None,
        buffer_budget: float = 512.0,
        experience: str = 'training',
        discount_memorised: bool = False,
    ) -> None:
        if experience not in ('training', 'held_out'):
            raise InputError(
                "`experience` of AgentHook must be 'training' or 'held_out', but is "
                f'{experience!r}.'
            )
        self.experience = experience
        self.held_out: DataLoader | None = None
        self.reward = build_component(TASK_UTILS, reward, Reward, 'reward')
        self.advantage = build_component(TASK_UTILS, advantage, Advantage, 'advantage')
        # Built in `before_train`, when agent and seed are known.
        kind, _ = check_component(TASK_UTILS, algorithm, Algorithm, 'RL algorithm', _SUPPLIED)
        kind.check_signal(self.reward, self.advantage)
        check_flag('discount_memorised', discount_memorised)
        if discount_memorised and not (experience == 'held_out' and kind.needs_probabilities):
            raise InputError(
                '`discount_memorised=True` of AgentHook compares how likely the labels are on the '
                "student's images and on held-out images: set `experience` to 'held_out' and "
                '`algorithm` to "MixtureLikelihood", or leave it out.'
            )
        self.discount_memorised = discount_memorised
        self.algorithm_cfg = algorithm
        self.warmup_epochs = check_number('warmup_epochs', warmup_epochs)
        self.warmup_iters = warmup_iters
        if warmup_iters is not None:
            check_number('warmup_iters', warmup_iters)
        self.update_interval = update_interval
        if update_interval is not None:
            check_number('update_interval', update_interval, minimum=1)
        self.buffer_budget = check_number('buffer_budget', buffer_budget, exclusive=True)
        self.trainer: AgentTrainer | None = None
        self._saved_state: dict[str, Any] | None = None
        # Of the latest step, for the log.
        self._log: Tensor | None = None

    def before_train(self, runner: Runner) -> None:
        """Build the agent's trainer; restore a resumed state."""
        distiller = unwrap_distiller(runner, 'AgentHook')
        weighting = distiller.weighting
        if not isinstance(weighting, MTKDRL):
            raise InputError(
                'AgentHook trains the agent of the MTKDRL weighting, but the weighting is '
                f'{type(weighting).__name__}. Remove the hook from `default_hooks`.'
            )
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if not by_epoch and (self.warmup_iters is None or self.update_interval is None):
            raise InputError(
                'With an iteration-based training loop, AgentHook needs `warmup_iters` and '
                '`update_interval`.'
            )
        try:
            buffer = RolloutBuffer(weighting.agent.state_sizes, self.buffer_budget)
        except ValueError as error:
            raise InputError(f'`buffer_budget` of AgentHook: {error}') from error
        algorithm = build_component(
            TASK_UTILS,
            self.algorithm_cfg,
            Algorithm,
            'RL algorithm',
            agent=weighting.agent,
            advantage=self.advantage,
            seed=runner.seed,
        )
        names = distiller.teachers.names
        probes = None
        if weighting.probed_weights is not None:
            if self.experience != 'held_out':
                raise InputError(
                    "`feature_weights='probes'` of the weighting compares the teachers' embeddings "
                    "on held-out images: set `experience='held_out'` of AgentHook, or "
                    "`feature_weights='agent'`."
                )
            if distiller.feature_loss_weight > 0:  # without, feature weights have no effect
                spec = distiller.teachers.spec
                probes = EmbeddingProbes(spec.embedding_sizes, spec.num_classes)
        self.trainer = AgentTrainer(
            algorithm, self.reward, buffer, runner.seed, names, self.discount_memorised, probes
        )
        if self._saved_state is not None:
            try:
                self.trainer.load_state_dict(self._saved_state)
            except ValueError as error:
                raise InputError(f'Resuming AgentHook: {error}') from error
            self._saved_state = None
        if self.experience == 'held_out':
            self.held_out = build_held_out(runner.cfg, runner.seed)
            self._check_held_out(runner, distiller, self.held_out.dataset)
            connect_held_out(distiller, self.held_out)
            count = len(self.held_out.dataset)  # type: ignore[arg-type]
            runner.logger.info(f'The agent learns from {count} held-out images.')
            if probes is not None:
                check_each_once(self.held_out)
                self._warn_of_few_images(runner, count, probes.num_classes)
        elif runner.cfg.get('held_out_dataloader') is not None:
            runner.logger.info(
                'The agent learns from the training images, and not from those of '
                "`held_out_dataloader`, for which AgentHook needs `experience='held_out'`."
            )
        elif self.reward.is_probability:
            runner.logger.warning(
                'The agent learns from the training images which teachers to believe, and a '
                'teacher that knows their labels by heart looks best. With images that no teacher '
                "has learned from, set `held_out_dataloader` and AgentHook's "
                "`experience='held_out'`."
            )
        weighting.attach_trainer()
        self._weighting = weighting
        self._runner = runner
        self._reward_names = ['reward', *(f'reward/{name}' for name in names)]
        super().before_train(runner)

    @staticmethod
    def _check_held_out(runner: Runner, distiller: MultiTeacherDistiller, dataset: Any) -> None:
        """Check the held-out images as other hooks check those of training and validation."""
        check_data_classes(dataset, distiller, 'held-out')
        classes = dataset_classes(runner.train_dataloader.dataset)
        if classes is not None:
            compare_classes(classes, dataset, 'held-out')
        check_image_labels(dataset, heads_with_classes(runner))

    @staticmethod
    def _warn_of_few_images(runner: Runner, count: int, num_classes: int) -> None:
        if count < _IMAGES_PER_CLASS * num_classes:
            runner.logger.warning(
                f'The linear probes on the embeddings have {count} held-out images of '
                f'{num_classes} classes. With fewer than {_IMAGES_PER_CLASS} per class, feature '
                'weights rest on few images, and with one on nothing: add held-out images, or set '
                "`feature_weights='agent'` of the weighting."
            )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None
    ) -> None:
        """End the warm-up when it is over."""
        if self.warmup_iters is not None:
            self._weighting.warming_up = schedule_steps(runner)[0] < self.warmup_iters
        else:
            self._weighting.warming_up = runner.epoch < self.warmup_epochs

    def observe(self, terms: StepTerms, weights: TeacherWeights) -> None:
        """Phase 1: add the step to the buffer."""
        assert self.trainer is not None and isinstance(weights, AgentAction)
        self._log = weights.policy_entropy.mean()[None]
        if self.held_out is None:
            rewards = self.trainer.observe(terms, weights, self._runner.iter).mean(dim=0)
            self._log = torch.cat([rewards.mean()[None], rewards, self._log])
        else:
            self.trainer.observe_student(terms)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict | None = None,
    ) -> None:
        """Log rewards and entropy; update the agent if it is time."""
        names = self._reward_names if self.held_out is None else []
        self.log(runner, [*names, 'policy_entropy'], self._log)
        if self.update_interval:
            before, after = (step // self.update_interval for step in schedule_steps(runner))
            if after > before:
                self._update(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Update the agent, unless that is done by iterations."""
        if self.update_interval is None:
            self._update(runner)

    def _update(self, runner: Runner) -> None:
        """Phase 2: update the agent from the buffer."""
        assert self.trainer is not None
        if self.held_out is not None:
            self._observe_held_out(runner)
        counts = torch.tensor([len(self.trainer.buffer), self.trainer.buffer.seen])
        all_reduce(counts)
        with self._keeping_checkpoints(runner):
            update = self.trainer.update()
        if update is None:
            return
        if update.feature_weights is not None:
            self._weighting.set_probed_weights(update.feature_weights)
        for name, value in update.log.items():
            runner.message_hub.update_scalar(f'train/{name}', value)
        details = ', '.join(f'{name} {value:.4f}' for name, value in update.log.items())
        held, seen = counts.tolist()
        runner.logger.info(
            f'Agent update {self.trainer.algorithm.updates} from {held} of {seen} images: {details}'
        )

    def _observe_held_out(self, runner: Runner) -> None:
        """Phase 1 on the held-out images, another view of them at every update."""
        assert self.trainer is not None and self.held_out is not None
        distiller = unwrap_distiller(runner, 'AgentHook')
        _, sampler = seeded_parts(self.held_out)
        sampler.set_position(runner.seed, self.trainer.algorithm.updates)
        # The rewards of every teacher, and the number of images.
        device = next(distiller.student.parameters()).device
        sums = torch.zeros(len(distiller.teachers.names) + 1, device=device)
        broadcast_buffers(distiller)
        distiller.eval()
        try:
            for number, (batch, everyone) in enumerate(_of_all_processes(self.held_out)):
                if batch is None:
                    self.trainer.observe_none(runner.iter + number)
                    continue
                with torch.no_grad(), runner.optim_wrapper.optim_context(runner.model):
                    data = distiller.data_preprocessor(batch, False)
                    if everyone:
                        # A training that is resumed just before an update has made no step yet.
                        distiller.teachers.prepare(distiller.format_inputs(data['inputs']))
                    terms, weights = distiller.weigh(data['inputs'], data['data_samples'])
                    assert isinstance(weights, AgentAction)
                    rewards = self.trainer.observe(terms, weights, runner.iter + number)
                sums[:-1] += rewards.sum(dim=0)
                sums[-1] += len(rewards)
        finally:
            distiller.train()
        all_reduce(sums)
        mean = sums[:-1] / sums[-1]
        self.log(runner, self._reward_names, torch.cat([mean.mean()[None], mean]))

    def gather_state(self) -> None:
        """Collect the buffers of all processes for the next checkpoint.

        Called on all processes before one is saved.
        """
        if self.trainer is not None:
            with self._keeping_checkpoints(self._runner):
                self.trainer.gather()

    @staticmethod
    @contextmanager
    def _keeping_checkpoints(runner: Runner) -> Iterator[None]:
        """Say where the last good state is, if numbers that are not finite end the training."""
        try:
            yield
        except InputError as error:
            raise InputError(f'{error} {last_good_state(runner)}') from error

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Save the trainer's state."""
        if self.trainer is not None:
            checkpoint['agent_hook'] = self.trainer.state_dict()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the saved state until training starts."""
        if runner._resume and 'agent_hook' in checkpoint:
            self._saved_state = checkpoint['agent_hook']


def _of_all_processes(loader: DataLoader) -> Iterator[tuple[Any, bool]]:
    """The batches of a loader, and whether all processes have one.

    A batch is None for as long as only other processes have one.
    """
    batches = iter(loader)
    while True:
        batch = next(batches, None)
        count = torch.tensor(int(batch is not None))
        all_reduce(count)
        if not count:
            return
        yield batch, int(count) == get_world_size()


_SUPPLIED = ('agent', 'advantage', 'seed')
# A probe of one image per class has learned nothing of the class that it is judged on.
_IMAGES_PER_CLASS = 5
