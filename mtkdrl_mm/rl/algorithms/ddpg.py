# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Deep deterministic policy gradient."""

import copy
from typing import Any

import torch
from torch import nn

from mtkdrl_mm.registry import TASK_UTILS
from mtkdrl_mm.utils import check_number
from mtkdrl_mm.utils.distributed import check_equal_over_ranks, gather_interleaved, local_shard
from mtkdrl_mm.utils.seeding import derive_seed

from ..rollout_buffer import RolloutBuffer
from .dpg import DPG


@TASK_UTILS.register_module()
class DDPG(DPG):
    r"""DPG with a replay buffer and a target critic.

    The critic also learns from a bounded replay of earlier buffers, and the
    agent ascends a slowly following copy of the critic,
    theta' <- tau theta + (1 - tau) theta'. Episodes have one step: the target
    steadies the ascent, not a bootstrapped value. Source: Lillicrap et al.,
    "Continuous control with deep reinforcement learning", arXiv:1509.02971.

    All processes hold the same replay, of the images of all, and share the
    work on each mini batch from it. Several processes therefore learn what one
    would, and a checkpoint has what each of them needs.

    Args:
        agent (nn.Module): As in :class:`DPG`.
        tau (float): Share of the critic in its copy, in (0, 1]. Defaults to
            0.05.
        replay_budget (float): Greatest size of the replay in MiB of host
            memory, on every process. A resumed replay that has been full keeps
            its size where this is raised, and evenly spaced images where it is
            lowered. Defaults to 128.
        critic_steps (int): Steps of the critic per step of the agent, half of
            them on the replay; at least 2. Defaults to 4.
        **kwargs: Further arguments of :class:`DPG`.

    Raises:
        InputError: If a number is out of range.
    """

    def __init__(
        self,
        agent: nn.Module,
        tau: float = 0.05,
        replay_budget: float = 128.0,
        critic_steps: int = 4,
        **kwargs: Any,
    ) -> None:
        check_number('critic_steps', critic_steps, minimum=2)
        super().__init__(agent, critic_steps=critic_steps, **kwargs)
        self.tau = check_number('tau', tau, exclusive=True, maximum=1)
        check_number('replay_budget', replay_budget, exclusive=True)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.replay = RolloutBuffer(agent.state_sizes, replay_budget)

    def update(self, buffer: RolloutBuffer) -> dict[str, float]:
        """Per rollout step: the critic on it and on the replay, its copy, then the agent."""
        losses, critic_losses = [], []
        noise, draws = self.noise_generator(), self.replay_generator()
        replay_steps = self.critic_steps // 2
        with self.updating(buffer):
            self.extend_replay(buffer, draws)
            for step in self.minibatch_order(buffer):
                states, rewards = buffer.get(step, self.device)
                critic_losses.append(
                    self.train_critic(
                        states,
                        rewards,
                        self.critic_steps - replay_steps,
                        noise,
                        self.images[step],
                    )
                )
                # The same rollout step of the replay on all processes, each with its images.
                chosen = int(torch.randint(self.replay.num_steps, (), generator=draws))
                old_states, old_rewards = self.replay.get(chosen, self.device)
                shard = local_shard()
                self.train_critic(
                    [state[shard] for state in old_states],
                    old_rewards[shard],
                    replay_steps,
                    noise,
                    len(old_rewards),
                )
                with torch.no_grad():
                    for slow, fast in zip(
                        self.target_critic.parameters(), self.critic.parameters()
                    ):
                        slow.lerp_(fast, self.tau)
                loss = self.loss(states, self.target_critic)
                losses.append(self.descend(loss, len(rewards), step))
        check_equal_over_ranks(self.critic, 'critic')
        return dict(
            agent_loss=self.mean_loss(losses),
            critic_loss=self.mean_loss(critic_losses),
        )

    def extend_replay(self, buffer: RolloutBuffer, draws: torch.Generator) -> None:
        """Add the buffers of all processes to the replay.

        Args:
            buffer (RolloutBuffer): This process's buffer.
            draws (torch.Generator): See :meth:`replay_generator`.
        """
        for states, rewards in buffer.iterate(torch.device('cpu')):
            # The states of a buffer are in half precision already.
            all_states = gather_interleaved(torch.cat(states, dim=1).half())
            all_rewards = gather_interleaved(rewards)
            if len(all_rewards) > 0:
                self.replay.add(
                    all_states.split(self.replay.state_sizes, dim=1), all_rewards, draws
                )

    def replay_generator(self) -> torch.Generator:
        """Generator of what this update draws from the replay, the same on all processes.

        It is not that of the noise, which must not depend on how full the
        replay is.
        """
        return torch.Generator().manual_seed(derive_seed(self.seed, 'replay', self.updates))

    def state_dict(self) -> dict[str, Any]:
        """State to be saved for exact resuming, the replay included."""
        return dict(
            super().state_dict(),
            target_critic=self.target_critic.state_dict(),
            replay=self.replay.state_dict(),
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self.target_critic.load_state_dict(state['target_critic'])
        self.replay.load_state_dict(state['replay'])
        # A step of the replay is drawn by its number alone, and has to have rows.
        self.replay.drop_empty_steps()
