# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The alternation between student and agent."""

from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.hooks import RemovableHandle

from mtkdrl_mm.models.classifier_output import run_classifier
from mtkdrl_mm.models.weightings import MTKDRL
from mtkdrl_mm.registry import HOOKS, TASK_UTILS
from mtkdrl_mm.rl import Advantage, Algorithm, Reward, RolloutBuffer
from mtkdrl_mm.rl.rollout_buffer import redistribute
from mtkdrl_mm.structures import NetworkOutput, StepTerms, TeacherWeights
from mtkdrl_mm.utils import InputError, build_component, check_number

from ..loops import schedule_steps
from ..scalar_meter import ScalarMeter, log_is_due
from ..unwrap_distiller import unwrap_distiller


@HOOKS.register_module()
class AgentHook(Hook):
    """Trains the agent of the MTKDRL weighting between the student's steps.

    When it acts:

    - In every training step it records the states that the agent saw and the
      rewards that the teachers earned (phase 1). The agent is frozen.
    - At the end of every epoch, or every ``update_interval`` iterations, it
      updates the agent from that history and clears it (phase 2).
    - During the warm-up the weights are 1/M. The agent is pre-trained from the
      history of the warm-up all the same.

    What it saves in a checkpoint under ``agent_hook``: the state of algorithm
    (optimiser, number of updates, advantage) and reward, and the history, where it is not
    empty. The agent itself is part of the model. In distributed runs all
    processes average their gradients, and make sure after each update that
    they hold the same agent.

    Args:
        algorithm (dict): The RL algorithm and its arguments. Defaults to
            ``dict(type='PolicyGradient')``.
        reward (dict): The reward. Defaults to
            ``dict(type='ImprovementReward')``.
        advantage (dict): How rewards become advantages. Defaults to
            ``dict(type='MinMaxAdvantage')``.
        warmup_epochs (int): Epochs with equal weights. Defaults to 1.
        warmup_iters (int, optional): Iterations with equal weights, instead of
            ``warmup_epochs``. Defaults to None.
        update_interval (int, optional): Iterations between updates. Defaults
            to None: once per epoch.
        buffer_budget (float): Greatest size of the history in MiB of host
            memory, per process. Defaults to 512.
        held_out_dataloader (dict, optional): Data loader of images that the
            student is not trained on, for rewards that ask for them
            (``HeldOutImprovementReward``); a few hundred do. Defaults to None.
        held_out_interval (int): Iterations between two looks at them. Defaults
            to 50.

    Raises:
        InputError: If a component is unknown, a number is out of range, or the
            weighting has no agent.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        algorithm: dict[str, Any] | str = 'PolicyGradient',
        reward: dict[str, Any] | str = 'ImprovementReward',
        advantage: dict[str, Any] | str = 'MinMaxAdvantage',
        warmup_epochs: int = 1,
        warmup_iters: int | None = None,
        update_interval: int | None = None,
        buffer_budget: float = 512.0,
        held_out_dataloader: dict[str, Any] | None = None,
        held_out_interval: int = 50,
    ) -> None:
        self.reward = build_component(TASK_UTILS, reward, Reward, 'reward')
        self.algorithm = build_component(
            TASK_UTILS,
            algorithm,
            Algorithm,
            'RL algorithm',
            advantage=build_component(TASK_UTILS, advantage, Advantage, 'advantage'),
        )
        self.warmup_epochs = check_number('warmup_epochs', warmup_epochs)
        self.warmup_iters = warmup_iters
        if warmup_iters is not None:
            check_number('warmup_iters', warmup_iters)
        self.update_interval = update_interval
        if update_interval is not None:
            check_number('update_interval', update_interval, minimum=1)
        self.buffer_budget = check_number('buffer_budget', buffer_budget, exclusive=True)
        if self.reward.needs_held_out != (held_out_dataloader is not None):
            verb = 'needs' if self.reward.needs_held_out else 'makes no use of'
            raise InputError(
                f'{type(self.reward).__name__} {verb} `held_out_dataloader` of AgentHook.'
            )
        self.held_out_dataloader = held_out_dataloader
        self.held_out_interval = int(
            check_number('held_out_interval', held_out_interval, minimum=1)
        )
        self.history: RolloutBuffer
        self._generator = torch.Generator()
        self._saved_state: dict[str, Any] | None = None
        # Histories of all processes, gathered when a save is announced.
        self._gathered: list[dict[str, Any]] | None = None

    _handle: RemovableHandle | None = None

    def before_train(self, runner: Runner) -> None:
        """Find the agent and prepare the history; take over a resumed state."""
        distiller = unwrap_distiller(runner, 'AgentHook')
        if not isinstance(distiller.weighting, MTKDRL):
            raise InputError(
                'AgentHook trains the agent of the MTKDRL weighting, but the weighting is '
                f'{type(distiller.weighting).__name__}. Remove the hook from `default_hooks`.'
            )
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if not by_epoch and (self.warmup_iters is None or self.update_interval is None):
            raise InputError(
                'With an iteration-based training loop, AgentHook needs `warmup_iters` and '
                '`update_interval`.'
            )
        self.weighting = distiller.weighting
        try:
            self.history = RolloutBuffer(self.weighting.state_sizes, self.buffer_budget)
        except ValueError as error:
            raise InputError(f'`buffer_budget` of AgentHook: {error}') from error
        names = distiller.teachers.names
        self._meter = ScalarMeter(
            ['reward', *(f'reward/{name}' for name in names), 'policy_entropy']
        )
        self.weighting.attach_trainer()
        self.algorithm.setup(self.weighting.agent, runner.seed)
        if self._saved_state is not None:
            self._resume(runner, self._saved_state)
        self._runner = runner
        self._distiller = distiller
        if self.held_out_dataloader is not None:
            self._held_out = runner.build_dataloader(self.held_out_dataloader, seed=runner.seed)
        self._handle = distiller.register_step_hook(self._record)

    def release(self) -> None:
        """Stop watching, however the training ended."""
        if self._handle is not None:
            self._handle.remove()

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None
    ) -> None:
        """Switch the warm-up off when it is over; show the reward the held-out images."""
        if self.held_out_dataloader is not None and runner.iter % self.held_out_interval == 0:
            self._show_held_out()
        if self.warmup_iters is not None:
            self.weighting.warming_up = schedule_steps(runner)[0] < self.warmup_iters
        else:
            self.weighting.warming_up = runner.epoch < self.warmup_epochs

    @torch.no_grad()
    def _show_held_out(self) -> None:
        distiller = self._distiller
        was_training = distiller.training
        distiller.eval()
        outputs, labels = [], []
        for batch in self._held_out:
            data = distiller.data_preprocessor(batch, False)
            outputs.append(run_classifier(distiller.student, data['inputs']))
            labels += [sample.gt_label for sample in data['data_samples']]
        distiller.train(was_training)
        self.reward.observe_held_out(
            NetworkOutput(
                torch.cat([output.logits for output in outputs]),
                torch.cat([output.embedding for output in outputs]),
            ),
            torch.cat(labels).to(outputs[0].logits.device),
        )

    def _record(self, terms: StepTerms, weights: TeacherWeights) -> None:
        """Phase 1: put the step into the history."""
        assert weights.states is not None and weights.policy_entropy is not None
        rewards = self.reward(terms)
        # A function of the step alone, so that a resumed run draws the same.
        self._generator.manual_seed(
            self._runner.seed + 1_000_003 * self._runner.iter + 7919 * get_rank()
        )
        self.history.add(weights.states, rewards, self._generator)
        means = rewards.mean(dim=0)
        self._meter.add(torch.cat([means.mean()[None], means, weights.policy_entropy.mean()[None]]))

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict | None = None,
    ) -> None:
        """Hand the averages to the log; update the agent if it is time."""
        if log_is_due(runner, batch_idx):
            for name, value in self._meter.flush().items():
                runner.message_hub.update_scalar(f'train/{name}', value)
        if self.update_interval:
            before, after = (step // self.update_interval for step in schedule_steps(runner))
            if after > before:
                self._update(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Update the agent, unless that is done by iterations."""
        if self.update_interval is None:
            self._update(runner)

    def _update(self, runner: Runner) -> None:
        """Phase 2."""
        if len(self.history) == 0:
            return
        results = self.algorithm.update(self.history)
        for name, value in results.items():
            runner.message_hub.update_scalar(f'train/{name}', value)
        details = ', '.join(f'{name} {value:.4f}' for name, value in results.items())
        runner.logger.info(
            f'Agent update {self.algorithm.updates} from {len(self.history)} of '
            f'{self.history.seen} images: {details}'
        )
        self.history.clear()

    def gather_state(self) -> None:
        """Bring all processes' histories together for the next checkpoint.

        Called on all processes before one is saved.
        """
        self._gathered = None
        if get_world_size() > 1:
            states = all_gather_object(self.history.state_dict())
            if any(state['seen'] for state in states):
                self._gathered = states

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Save the algorithm and the history."""
        if not hasattr(self, 'history'):
            return
        histories: list[dict[str, Any]] = []
        if len(self.history) > 0:
            histories = self._gathered or [self.history.state_dict()]
        checkpoint['agent_hook'] = dict(
            algorithm=self.algorithm.state_dict(),
            reward=self.reward.state_dict(),
            histories=histories,
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the saved state until training starts."""
        if runner._resume and 'agent_hook' in checkpoint:
            self._saved_state = checkpoint['agent_hook']

    def _resume(self, runner: Runner, state: dict[str, Any]) -> None:
        self.algorithm.load_state_dict(state['algorithm'])
        if 'reward' in state:  # not in checkpoints of earlier versions
            self.reward.load_state_dict(state['reward'])
        histories = state['histories']
        if not histories:
            return
        try:
            if len(histories) != get_world_size():
                histories = redistribute(histories, get_world_size())
            self.history.load_state_dict(histories[get_rank()])
        except ValueError as error:
            raise InputError(f'Resuming AgentHook: {error}') from error
