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
from ..history import History

Policy = tuple[Tensor, Tensor]
"""Log probabilities of the logit and the feature head, each of shape (B, M)."""


class Algorithm(metaclass=ABCMeta):
    """Updates an agent from a history of states and rewards.

    The agent is any module that maps M states of shape (B, s_m) to the log
    probabilities (B, M) of its two heads and has a method
    ``observe_states(history)``. Its parameters require gradients only while
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
            the mini batches. Defaults to 0.

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
        kind = self.optimizer_cfg.get('type')
        if not isinstance(getattr(torch.optim, str(kind), None), type):
            raise ValueError(f'The agent\'s optimizer "{kind}" is not in torch.optim.')
        try:
            # On a stand-in, so that a wrong argument is found here and not in the first update.
            self._build_optimizer([nn.Parameter(torch.zeros(1))])
        except (TypeError, ValueError) as error:
            raise ValueError(f'The agent\'s optimizer "{kind}": {error}') from error
        self.epochs = epochs
        self.entropy_weight = entropy_weight
        self.max_grad_norm = max_grad_norm
        self.advantage = advantage or MinMaxAdvantage()
        self.seed = seed
        self.updates = 0
        self.agent: nn.Module
        self.optimizer: torch.optim.Optimizer

    def setup(self, agent: nn.Module) -> None:
        """Take charge of an agent.

        Args:
            agent (nn.Module): See the class.
        """
        self.agent = agent
        self.optimizer = self._build_optimizer(self.parameters())
        agent.requires_grad_(False)

    def _build_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        arguments = dict(self.optimizer_cfg)
        return getattr(torch.optim, arguments.pop('type'))(parameters, **arguments)

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that this algorithm trains."""
        return list(self.agent.parameters())

    @abstractmethod
    def loss(self, states: Sequence[Tensor], rewards: Tensor) -> Tensor:
        """The scalar to minimise on one mini batch.

        Args:
            states (Sequence[Tensor]): M tensors of shape (B, s_m).
            rewards (Tensor): Shape (B, M).
        """

    def update(self, history: History) -> dict[str, float]:
        """Learn from a history. The history is left as it is.

        Args:
            history (History): With at least one image.

        Returns:
            dict[str, float]: ``agent_loss``, its mean over the mini batches.
        """
        device = next(self.agent.parameters()).device
        self.advantage.observe(history.rewards)
        self.agent.observe_states(history)
        # The order is the same on all processes, whose blocks belong together.
        generator = torch.Generator().manual_seed(self.seed + self.updates)
        losses = []
        self.agent.requires_grad_(True)
        with torch.enable_grad():
            for _ in range(self.epochs):
                order = torch.randperm(history.num_blocks, generator=generator).tolist()
                for states, rewards in history.blocks(device, order):
                    losses.append(self._step(states, rewards))
        # The student's optimiser may own these parameters too: without a
        # gradient it leaves them alone.
        self.optimizer.zero_grad(set_to_none=True)
        self.agent.requires_grad_(False)
        self.updates += 1
        check_equal_over_ranks(self.agent, 'agent')
        return dict(agent_loss=float(torch.stack(losses).mean()))

    def _step(self, states: Sequence[Tensor], rewards: Tensor) -> Tensor:
        loss = self.loss(states, rewards)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.parameters())
        if self.max_grad_norm is not None:
            clip_grad_norm_(self.parameters(), self.max_grad_norm)
        self.optimizer.step()
        return loss.detach()

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
