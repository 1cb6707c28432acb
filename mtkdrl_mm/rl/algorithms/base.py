# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Base class of the RL algorithms."""

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.clip_grad import clip_grad_norm_

from ..advantage import Advantage, MinMaxAdvantage
from ..distributed import average_gradients, check_equal_over_ranks
from ..rollout_buffer import RolloutBuffer

Policy = tuple[Tensor, Tensor]
"""Log probabilities of the logit and the feature head, each of shape (B, M)."""


class Algorithm(metaclass=ABCMeta):
    """Updates an agent from a history of states and rewards.

    The agent is any module that maps M states of shape (B, s_m) to the log
    probabilities (B, M) of its two heads and has a method
    ``update_state_stats(history)``. Its parameters require gradients only while
    :meth:`update` runs: outside, neither DDP nor the student's optimiser has
    to know of them.

    Args:
        optimizer (dict, optional): ``type`` of torch.optim and its arguments.
            Defaults to SGD with learning rate 0.05 and momentum 0.9.
        epochs (int): Passes over the history per update. Defaults to 1.
        entropy_weight (float): Coefficient of the entropy bonus that keeps the
            policy from collapsing onto one teacher. Defaults to 0.01.
        max_grad_norm (float, optional): Greatest norm of the agent's gradient.
            Defaults to None.
        advantage (Advantage, optional): Defaults to :class:`MinMaxAdvantage`.
        seed (int): Decides, with the number of updates so far, the order of
            the mini batches, and whatever else is random. Defaults to 0; a run
            passes its own to :meth:`setup`.

    Raises:
        ValueError: If a number is out of range or the optimiser is unknown.

    Attributes:
        updates (int): Number of updates done.
    """

    def __init__(
        self,
        optimizer: dict[str, Any] | None = None,
        epochs: int = 1,
        entropy_weight: float = 0.01,
        max_grad_norm: float | None = None,
        advantage: Advantage | None = None,
        seed: int = 0,
    ) -> None:
        if epochs < 1:
            raise ValueError(f'`epochs` must be at least 1, but is {epochs!r}.')
        if entropy_weight < 0:
            raise ValueError(f'`entropy_weight` must be at least 0, but is {entropy_weight!r}.')
        self.optimizer_cfg = dict(optimizer or dict(type='SGD', lr=0.05, momentum=0.9))
        # On a stand-in, so that a wrong argument is found here and not in the first update.
        self.build_optimizer(self.optimizer_cfg, [nn.Parameter(torch.zeros(1))])
        self.epochs = epochs
        self.entropy_weight = entropy_weight
        self.max_grad_norm = max_grad_norm
        self.advantage = advantage or MinMaxAdvantage()
        self.seed = seed
        self.updates = 0
        self.agent: nn.Module
        self.optimizer: torch.optim.Optimizer

    def setup(self, agent: nn.Module, seed: int | None = None) -> None:
        """Take charge of an agent.

        Args:
            agent (nn.Module): See the class.
            seed (int, optional): The run's seed. Defaults to None, which keeps
                the constructor's.
        """
        if seed is not None:
            self.seed = seed
        self.agent = agent
        self.optimizer = self.build_optimizer(self.optimizer_cfg, self.parameters())
        agent.requires_grad_(False)

    @staticmethod
    def build_optimizer(
        cfg: dict[str, Any], parameters: list[nn.Parameter]
    ) -> torch.optim.Optimizer:
        """Build an optimiser.

        Args:
            cfg (dict): ``type`` of torch.optim and its arguments.
            parameters (list[nn.Parameter]): What it optimises.

        Returns:
            Optimizer: From torch.optim.

        Raises:
            ValueError: If there is none of this type, or it refuses an argument.
        """
        arguments = dict(cfg)
        kind = arguments.pop('type', None)
        if not isinstance(getattr(torch.optim, str(kind), None), type):
            raise ValueError(f'The optimizer "{kind}" is not in torch.optim.')
        try:
            return getattr(torch.optim, kind)(parameters, **arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(f'The optimizer "{kind}": {error}') from error

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that this algorithm trains."""
        return list(self.agent.parameters())

    @abstractmethod
    def loss(self, states: Sequence[Tensor], rewards: Tensor, block: int = 0) -> Tensor:
        """The scalar that the agent minimises on one mini batch.

        Args:
            states (Sequence[Tensor]): M tensors of shape (B, s_m).
            rewards (Tensor): Shape (B, M).
            block (int): Number of the mini batch in the history. Defaults to 0.
        """

    def begin_update(  # noqa: B027, nothing to prepare by default
        self, history: RolloutBuffer, device: torch.device
    ) -> None:
        """Prepare for the mini batches of an update, with the agent as it is.

        Args:
            history (RolloutBuffer): What the update will learn from.
            device (torch.device): Where the agent lives.
        """

    def update(self, history: RolloutBuffer) -> dict[str, float]:
        """Learn from a history. The history is left as it is.

        Args:
            history (RolloutBuffer): With at least one image.

        Returns:
            dict[str, float]: ``agent_loss``, its mean over the mini batches.
        """
        device = next(self.agent.parameters()).device
        self.advantage.observe(history.rewards)
        self.agent.update_state_stats(history)
        # The order is the same on all processes, whose blocks belong together.
        generator = torch.Generator().manual_seed(self.seed + self.updates)
        self.begin_update(history, device)
        losses = []
        self.agent.requires_grad_(True)
        with torch.enable_grad():
            for _ in range(self.epochs):
                for block in torch.randperm(history.num_steps, generator=generator).tolist():
                    states, rewards = history.block(block, device)
                    losses.append(self._step(states, rewards, block))
        # The student's optimiser may own these parameters too: without a
        # gradient it leaves them alone.
        self.optimizer.zero_grad(set_to_none=True)
        self.agent.requires_grad_(False)
        self.updates += 1
        check_equal_over_ranks(self.agent, 'agent')
        return dict(agent_loss=float(torch.stack(losses).mean()))

    def _step(self, states: Sequence[Tensor], rewards: Tensor, block: int) -> Tensor:
        loss = self.loss(states, rewards, block)
        self._descend(loss, self.optimizer, self.parameters())
        return loss.detach()

    def _descend(
        self, loss: Tensor, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]
    ) -> None:
        """One step of an optimiser, with the gradient averaged over processes."""
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=parameters)
        average_gradients(parameters)
        if self.max_grad_norm is not None:
            clip_grad_norm_(parameters, self.max_grad_norm)
        optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """What must be saved to go on exactly; the agent is saved elsewhere."""
        return dict(
            updates=self.updates,
            optimizer=self.optimizer.state_dict(),
            advantage=self.advantage.state_dict(),
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.updates = state['updates']
        self.optimizer.load_state_dict(state['optimizer'])
        self.advantage.load_state_dict(state['advantage'])


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy in nats of distributions over the last dimension.

    Args:
        log_probs (Tensor): Shape (B, M).

    Returns:
        Tensor: Shape (B,).
    """
    return -(log_probs.exp() * log_probs).sum(dim=-1)
