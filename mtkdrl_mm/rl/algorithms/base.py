# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Base class of the RL algorithms."""

from abc import ABCMeta, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from mmengine.dist import get_world_size
from mmengine.registry import OPTIMIZERS
from torch import Tensor, nn
from torch.nn.utils.clip_grad import clip_grad_norm_

from mtkdrl_mm.structures.step_terms import check_shape
from mtkdrl_mm.structures.teacher_weights import entropy
from mtkdrl_mm.utils import InputError, build_component, check_number
from mtkdrl_mm.utils.distributed import (
    all_reduce_mean,
    average_gradients,
    check_equal_over_ranks,
)
from mtkdrl_mm.utils.seeding import derive_seed

from ..advantage import Advantage, MinMaxAdvantage
from ..reward import Reward
from ..rollout_buffer import RolloutBuffer

LogProbs = tuple[Tensor, Tensor]
"""Log probabilities of the logit and of the feature head, each of shape (B, M)."""


class Algorithm(metaclass=ABCMeta):
    """Updates an agent from a rollout buffer.

    Subclasses implement :meth:`update`, top to bottom, from the building blocks
    of this class. The agent's parameters require gradients only within
    :meth:`updating`: outside, neither DDP nor the student's optimiser sees
    them.

    Args:
        agent (nn.Module): Maps M states of shape (B, s_m) to the log
            probabilities (B, M) of its two heads, and has a method
            ``update_state_stats(buffer)``.
        optimizer (dict, optional): Config of the agent's optimiser. Defaults
            to SGD with learning rate 0.05 and momentum 0.9.
        epochs (int): Passes over the buffer per update. Defaults to 1.
        entropy_weight (float): Coefficient lambda of the entropy bonus, which
            keeps the policy from collapsing onto one teacher. Defaults to 0, as
            published.
        max_grad_norm (float, optional): Greatest norm of the agent's gradient,
            and of that of the critic of :class:`DPG` and :class:`DDPG`. Defaults
            to None.
        advantage (Advantage, optional): Defaults to :class:`MinMaxAdvantage`.
        seed (int): The run's seed. Decides, with the number of updates so far,
            the order of the mini batches and all that is drawn. Defaults to 0.

    Raises:
        InputError: If a number is out of range or the optimiser is unknown.

    Attributes:
        updates (int): Number of updates done.
        images (list[int]): Images of every rollout step on all processes. Set by
            :meth:`updating`, which aligns the rollout steps of the processes.
        needs_probabilities (bool): Whether the rewards must be probabilities,
            see :class:`Reward`. Defaults to False.
        needs_comparisons (bool): Whether nothing is learned from rewards that are
            the same for all teachers of an image: their weights sum to 1, so such
            a reward is earned whatever they are. Defaults to True.
        needs_non_negative (bool): Whether advantages must not be negative.
            Defaults to False.
    """

    needs_probabilities: ClassVar[bool] = False
    needs_comparisons: ClassVar[bool] = True
    needs_non_negative: ClassVar[bool] = False

    def __init__(
        self,
        agent: nn.Module,
        optimizer: dict[str, Any] | None = None,
        epochs: int = 1,
        entropy_weight: float = 0.0,
        max_grad_norm: float | None = None,
        advantage: Advantage | None = None,
        seed: int = 0,
    ) -> None:
        self.agent = agent
        self.epochs = int(check_number('epochs', epochs, minimum=1))
        self.entropy_weight = check_number('entropy_weight', entropy_weight)
        if max_grad_norm is not None:
            check_number('max_grad_norm', max_grad_norm, exclusive=True)
        self.max_grad_norm = max_grad_norm
        self.advantage = advantage or MinMaxAdvantage()
        self.seed = seed
        self.updates = 0
        self.images: list[int] = []
        self.parameters: list[nn.Parameter] = list(agent.parameters())
        self.optimizer = build_optimizer(
            optimizer or dict(type='SGD', lr=0.05, momentum=0.9), self.parameters
        )
        agent.requires_grad_(False)

    @classmethod
    def check_signal(cls, reward: Reward, advantage: Advantage) -> None:
        """Check that the algorithm can learn from a reward, normalised by an advantage.

        Args:
            reward (Reward): The reward.
            advantage (Advantage): The advantage.

        Raises:
            InputError: If the reward or the advantage is not of the kind that the
                algorithm needs.
        """
        if cls.needs_probabilities and not reward.is_probability:
            raise InputError(
                f'The RL algorithm "{cls.__name__}" needs a reward that is a probability, but the '
                f'reward is "{type(reward).__name__}": set the reward to "LabelProbabilityReward", '
                'or choose another algorithm.'
            )
        if cls.needs_comparisons and not reward.compares_teachers:
            raise InputError(
                f'The RL algorithm "{cls.__name__}" learns nothing from the reward '
                f'"{type(reward).__name__}", which is the same for all teachers of an image: set '
                '`reward` to "ClosenessReward" or "LabelProbabilityReward", or `algorithm` to '
                '"WeightedBCE" and `advantage` to "BatchZScoreAdvantage".'
            )
        if cls.needs_non_negative and not advantage.is_non_negative:
            raise InputError(
                f'The RL algorithm "{cls.__name__}" diverges where an advantage is negative, as '
                f'those of "{type(advantage).__name__}" may be: set `advantage` to '
                '"BatchZScoreAdvantage", or choose another `algorithm`.'
            )

    def normalize_step(self, rewards: Tensor) -> Tensor:
        """What the buffer keeps of the rewards of a training step.

        Args:
            rewards (Tensor): Those of this process, shape (B, M); B may be 0.

        Returns:
            Tensor: Of the same shape; see :meth:`Advantage.normalize_step`.
        """
        kept = self.advantage.normalize_step(rewards)
        name = type(self.advantage).__name__
        check_shape(kept, tuple(rewards.shape), f'What `normalize_step` of {name} returns')
        return kept

    def advantages(self, rewards: Tensor) -> Tensor:
        """The advantages of a mini batch.

        Args:
            rewards (Tensor): What the buffer has kept, shape (N, M).

        Returns:
            Tensor: Of the same shape; see :meth:`Advantage.__call__`.

        Raises:
            InputError: If an own advantage returns another shape.
        """
        advantages = self.advantage(rewards)
        name = type(self.advantage).__name__
        check_shape(advantages, tuple(rewards.shape), f'The advantages of {name}')
        return advantages

    @abstractmethod
    def update(self, buffer: RolloutBuffer) -> dict[str, float]:
        """Update the agent. The buffer keeps its images.

        Args:
            buffer (RolloutBuffer): With at least one image on some process.

        Returns:
            dict[str, float]: For the log: ``agent_loss``, the mean over the
            mini batches.
        """

    @contextmanager
    def updating(self, buffer: RolloutBuffer) -> Iterator[None]:
        """Context of an update: statistics move first, then the agent is trainable.

        Args:
            buffer (RolloutBuffer): What the update learns from.

        Raises:
            InputError: If the agent is not finite afterwards.
            RuntimeError: If the processes hold different agents.
        """
        self.images = buffer.align_steps()
        self.advantage.observe(buffer.rewards)
        self.agent.update_state_stats(buffer)
        self.agent.requires_grad_(True)
        try:
            with torch.enable_grad():
                yield
        finally:
            # The student's optimiser may own these parameters too: it leaves
            # alone what has no gradient.
            self.optimizer.zero_grad(set_to_none=True)
            self.agent.requires_grad_(False)
        self.updates += 1
        self._check_finite()
        check_equal_over_ranks(self.agent, 'agent')

    def _check_finite(self) -> None:
        # Gradients are averaged, so that all processes see the same.
        for name, tensor in self.agent.state_dict().items():
            if not tensor.isfinite().all():
                raise InputError(
                    f'Update {self.updates} of the agent has made its "{name}" NaN or infinite, '
                    'from states and rewards that are finite. Lower the learning rate of its '
                    '`optimizer`, or set `max_grad_norm`, both of the RL algorithm '
                    f'"{type(self).__name__}".'
                )

    def minibatch_order(self, buffer: RolloutBuffer) -> list[int]:
        """Numbers of the rollout steps in the order of an update, ``epochs`` times all.

        The order is the same on all processes, whose rollout steps belong
        together. Steps without an image on any process are left out. It is called
        within :meth:`updating`.
        """
        generator = torch.Generator()
        generator.manual_seed(derive_seed(self.seed, 'agent_minibatches', self.updates))
        order: list[int] = []
        for _ in range(self.epochs):
            order += torch.randperm(buffer.num_steps, generator=generator).tolist()
        return [step for step in order if self.images[step] > 0]

    def entropy_bonus(self, log_probs: LogProbs) -> Tensor | float:
        """Lambda (H(pi_l) + H(pi_f)), averaged over a mini batch.

        Args:
            log_probs (tuple[Tensor, Tensor]): Of the two heads, shape (B, M).

        Returns:
            Tensor | float: A scalar; 0, and nothing is computed, if lambda is 0.
        """
        if self.entropy_weight == 0:
            return 0.0
        logit, feature = (mean_over_images(entropy(head)) for head in log_probs)
        return self.entropy_weight * (logit + feature)

    def descend(self, loss: Tensor, images: int, step: int) -> Tensor:
        """One step of the agent's optimiser, on a mini batch of all processes.

        Args:
            loss (Tensor): The mean over this process's images, a scalar.
            images (int): Number of these images.
            step (int): Number of the rollout step that they are.

        Returns:
            Tensor: This process's part of the loss, detached: the average over
            the processes is the mean over all images, see :meth:`mean_loss`.
        """
        share = images * get_world_size() / self.images[step]
        return descend(loss * share, self.optimizer, self.parameters, self.max_grad_norm)

    @staticmethod
    def mean_loss(losses: Sequence[Tensor]) -> float:
        """Mean of what :meth:`descend` returned, over mini batches and processes."""
        return float(all_reduce_mean(torch.stack(list(losses))).mean())

    @property
    def device(self) -> torch.device:
        """Where the agent is."""
        return self.parameters[0].device

    def state_dict(self) -> dict[str, Any]:
        """State to be saved for exact resuming; the agent is saved with the model."""
        return dict(
            updates=self.updates,
            optimizer=self.optimizer.state_dict(),
            advantage=self.advantage.state_dict(),
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.updates = state['updates']
        load_optimizer(self.optimizer, state['optimizer'])
        self.advantage.load_state_dict(state['advantage'])


def mean_over_images(values: Tensor) -> Tensor:
    """Mean over this process's images of a mini batch, of shape (B,); 0 if it has none."""
    return values.mean() if len(values) > 0 else values.sum()


def build_optimizer(cfg: dict[str, Any], parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Build an optimiser from mmengine's registry.

    Args:
        cfg (dict): ``type`` and arguments, as in ``optim_wrapper.optimizer``.
        parameters (list[nn.Parameter]): What it optimises.

    Raises:
        InputError: If there is none of this type, or it refuses an argument.
    """
    return build_component(OPTIMIZERS, cfg, torch.optim.Optimizer, 'optimizer', params=parameters)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore an optimiser's state, with the hyperparameters that it has.

    torch takes learning rate, weight decay and all else from the state, so that a lower
    learning rate in the config of a resumed training would be ignored.

    Args:
        optimizer (Optimizer): Built from the config, without schedules; changed in place.
        state (dict): Of its ``state_dict``.
    """
    settings = [
        {key: value for key, value in group.items() if key != 'params'}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, values in zip(optimizer.param_groups, settings):
        group.update(values)


def descend(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    max_grad_norm: float | None = None,
) -> Tensor:
    """One step of an optimiser, with the gradient averaged over processes.

    Args:
        loss (Tensor): A scalar.
        optimizer (Optimizer): Of the parameters.
        parameters (list[nn.Parameter]): What it optimises.
        max_grad_norm (float, optional): Greatest norm of the gradient. Defaults
            to None.

    Returns:
        Tensor: The loss, detached.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward(inputs=parameters)
    average_gradients(parameters)
    if max_grad_norm is not None:
        clip_grad_norm_(parameters, max_grad_norm)
    optimizer.step()
    return loss.detach()
