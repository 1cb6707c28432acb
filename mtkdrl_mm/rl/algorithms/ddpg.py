# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Deep deterministic policy gradient."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..critic import Critic
from ..distributed import gather_interleaved, local_shard
from ..rollout_buffer import RolloutBuffer
from .dpg import DPG


class DDPG(DPG):
    r"""DPG with replay and a target network.

    The critic also learns from a bounded replay of earlier histories, and the
    agent ascends a slowly following copy of the critic,
    theta' <- tau theta + (1 - tau) theta'. (Episodes have one step, so that the
    target network steadies the ascent and not a bootstrapped value.) Source:
    Lillicrap et al., "Continuous control with deep reinforcement learning",
    arXiv:1509.02971.

    All processes hold the same replay, of the images of all, and share the
    work on each mini batch from it: so several processes learn what one would,
    and a checkpoint has what each of them needs.

    Args:
        tau (float): Share of the critic in its copy, in (0, 1]. Defaults to
            0.05.
        replay_budget (float): Greatest size of the replay in MiB of host
            memory, on every process. Defaults to 128.
        critic_steps (int): Steps of the critic per step of the agent, half of
            them on the replay; at least 2. Defaults to 4.
        **kwargs: As :class:`DPG`.
    """

    def __init__(self, tau: float = 0.05, replay_budget: float = 128.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < tau <= 1 or not replay_budget > 0:
            raise ValueError(
                f'`tau` must be in (0, 1] and `replay_budget` greater than 0, but they are '
                f'{tau!r} and {replay_budget!r}.'
            )
        if self.critic_steps < 2:
            raise ValueError(
                '`critic_steps` must be at least 2, one on the history and one on the replay, but '
                f'is {self.critic_steps}.'
            )
        self.tau = tau
        self.replay_budget = replay_budget
        self.target: Critic
        self.replay: RolloutBuffer

    def setup(self, agent: nn.Module, seed: int | None = None) -> None:
        """Take charge of an agent; see :class:`DPG`."""
        super().setup(agent, seed)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.replay = RolloutBuffer(agent.state_sizes, self.replay_budget)
        # Apart from the noise, which does not depend on how full the replay is.
        self._replay_generator = torch.Generator()

    def target_critic(self) -> nn.Module:
        """The slow copy."""
        return self.target

    def begin_update(self, history: RolloutBuffer, device: torch.device) -> None:
        """Put the new history, that of all processes, into the replay."""
        super().begin_update(history, device)
        self._replay_generator.manual_seed(self.seed + 10_009 * (self.updates + 1))
        for states, rewards in history.blocks(torch.device('cpu'), range(history.num_steps)):
            # A history's states are in half precision already.
            everyones = gather_interleaved(torch.cat(states, dim=1).half())
            self.replay.add(
                everyones.split(self.replay.state_sizes, dim=1),
                gather_interleaved(rewards),
                self._replay_generator,
            )

    def prepare_critic(self, states: Sequence[Tensor], rewards: Tensor) -> None:
        """Half of the steps on the mini batch, half on one from the replay; the copy follows."""
        replay_steps = self.critic_steps // 2
        self.train_critic(states, rewards, self.critic_steps - replay_steps)
        chosen = int(torch.randint(self.replay.num_steps, (), generator=self._replay_generator))
        replayed, earned = self.replay.block(chosen, rewards.device)
        self.train_critic(
            [state[local_shard()] for state in replayed],
            earned[local_shard()],
            replay_steps,
            len(earned),
        )
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.critic.parameters()):
                slow.lerp_(fast, self.tau)

    def state_dict(self) -> dict[str, Any]:
        """What must be saved to go on exactly, the replay included."""
        return dict(
            super().state_dict(), target=self.target.state_dict(), replay=self.replay.state_dict()
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self.target.load_state_dict(state['target'])
        self.replay.load_state_dict(state['replay'])
