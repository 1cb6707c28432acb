# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Training of MMKD's meta networks."""

from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.hooks.hook import DATA_BATCH
from mmengine.registry import OPTIMIZERS
from mmengine.runner import Runner
from torch import Tensor

from mtkdrl_mm.models.weightings.mmkd import MMKD, meta_loss
from mtkdrl_mm.registry import HOOKS
from mtkdrl_mm.rl.algorithms.base import build_optimizer, descend, load_optimizer
from mtkdrl_mm.structures import BufferShards, HardExampleBuffer, StepTerms, TeacherWeights
from mtkdrl_mm.structures.hard_example_buffer import redistribute
from mtkdrl_mm.utils import InputError, check_component, check_number
from mtkdrl_mm.utils.distributed import check_equal_over_ranks
from mtkdrl_mm.utils.seeding import derive_seed

from ..look_ahead import LookAhead
from .step_hook import StepHook, unwrap_distiller


@HOOKS.register_module()
class MetaLearningHook(StepHook):
    r"""Trains the meta networks of the MMKD weighting.

    When it acts: in every ``interval``-th training step, before the student's
    own update,

    1. it puts the images that the student gets wrong into a bounded buffer;
    2. it computes the student after one more step of gradient descent,
       :math:`\theta' = \theta - \eta \nabla_\theta L(w)`, without touching the
       student;
    3. it takes the gradient v of the cross entropy on images from the buffer
       at :math:`\theta'`;
    4. it gives the meta networks the gradient of that cross entropy with
       respect to their weights. :math:`\theta'` is linear in the weights, so
       this is :math:`-\eta/B` times the directional derivatives of the per-image
       losses along v, see :class:`LookAhead`.

    All of this runs in float32. BatchNorm statistics and the random numbers of
    the training are left as they were. The buffer is emptied at the end of
    every epoch: what was hard an epoch ago need not be hard now. In trainings by
    iterations it is only bounded.

    What it saves in a checkpoint under ``meta_learning_hook``: the optimiser
    of the meta networks, and the buffer where it is not empty (in checkpoints
    within an epoch). The networks are part of the model. In distributed runs
    all processes average their gradients. Source: Zhang et al.,
    arXiv:2306.06634.

    Args:
        optimizer (dict, optional): ``type`` of torch.optim and its arguments.
            Defaults to None: Adam with learning rate 1e-3.
        interval (int): Steps between two updates. Defaults to 5.
        lookahead_lr (float): eta > 0. Defaults to 0.01.
        hard_batch_size (int): Images from the buffer per update and process.
            Defaults to 32.
        buffer_budget (float): Greatest size of the buffer in MiB of host
            memory, per process. Defaults to 64.

    Raises:
        InputError: If a number is out of range, the optimiser is unknown, or
            the weighting is not MMKD.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        optimizer: dict[str, Any] | None = None,
        interval: int = 5,
        lookahead_lr: float = 0.01,
        hard_batch_size: int = 32,
        buffer_budget: float = 64.0,
    ) -> None:
        self.optimizer_cfg = dict(optimizer or dict(type='Adam', lr=1e-3))
        check_component(
            OPTIMIZERS, self.optimizer_cfg, torch.optim.Optimizer, 'optimizer', ('params',)
        )
        self.interval = int(check_number('interval', interval, minimum=1))
        self.lookahead_lr = check_number('lookahead_lr', lookahead_lr, exclusive=True)
        self.hard_batch_size = int(check_number('hard_batch_size', hard_batch_size, minimum=1))
        check_number('buffer_budget', buffer_budget, exclusive=True)
        self.buffer = HardExampleBuffer(buffer_budget)
        self.optimizer: torch.optim.Optimizer
        self._saved_state: dict[str, Any] | None = None
        self._shards = BufferShards(self.buffer, redistribute)
        self._log: Tensor | None = None

    def before_train(self, runner: Runner) -> None:
        """Build the optimiser; restore a resumed state."""
        distiller = unwrap_distiller(runner, 'MetaLearningHook')
        weighting = distiller.weighting
        if not isinstance(weighting, MMKD):
            raise InputError(
                'MetaLearningHook trains the networks of the MMKD weighting, but the weighting is '
                f'{type(weighting).__name__}. Remove the hook from `default_hooks`.'
            )
        weighting.attach_trainer()
        self.weighting = weighting
        self._runner = runner
        self._parameters = list(self.weighting.parameters())
        self.optimizer = build_optimizer(self.optimizer_cfg, self._parameters)
        self._look_ahead = LookAhead(distiller, self.lookahead_lr)
        if self._saved_state is not None:
            self._resume(runner, self._saved_state)
        super().before_train(runner)

    def observe(self, terms: StepTerms, weights: TeacherWeights) -> None:
        """One update, if it is time."""
        if self._runner.iter % self.interval != 0:
            return
        wrong = terms.student_logits.argmax(dim=1) != terms.soft_labels.argmax(dim=1)
        assert terms.inputs is not None
        try:
            self.buffer.add(terms.inputs[wrong], terms.soft_labels[wrong])
        except ValueError as error:
            raise InputError(f'`buffer_budget` of MetaLearningHook: {error}') from error
        # Functions of the step alone, so that a resumed run draws the same.
        seed = derive_seed(self._runner.seed, 'meta_learning', self._runner.iter, get_rank())
        devices = [terms.inputs.device] if terms.inputs.is_cuda else []
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            hard: tuple[Tensor, Tensor] | None = None
            if len(self.buffer) > 0:
                generator = torch.Generator().manual_seed(seed)
                hard = self.buffer.draw(self.hard_batch_size, generator, terms.inputs.device)
            derivatives = self._look_ahead.directional_derivatives(terms, weights, hard, seed)
            if derivatives is None:
                return
            self._update(terms, derivatives)
        hard_loss = self._look_ahead.hard_loss
        self._log = torch.stack([hard_loss, hard_loss.new_tensor(len(self.buffer))])

    def _update(self, terms: StepTerms, derivatives: tuple[Tensor, Tensor]) -> None:
        self.weighting.requires_grad_(True)
        loss = meta_loss(self.weighting.weigh(terms), derivatives, terms, self.lookahead_lr)
        descend(loss, self.optimizer, self._parameters)
        # The student's optimiser may own these parameters too: it leaves alone
        # what has no gradient.
        self.optimizer.zero_grad(set_to_none=True)
        self.weighting.requires_grad_(False)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict | None = None,
    ) -> None:
        """Log the update of this step, if there was one."""
        self.log(runner, ['hard_loss', 'hard_images'], self._log)
        self._log = None

    def after_train_epoch(self, runner: Runner) -> None:
        """Empty the buffer; make sure that all processes hold the same networks."""
        self.buffer.clear()
        check_equal_over_ranks(self.weighting, 'meta network')

    def gather_state(self) -> None:
        """Collect the buffers of all processes for the next checkpoint.

        Called on all processes before one is saved.
        """
        self._shards.gather()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Save the optimiser and the buffer."""
        if not hasattr(self, 'optimizer'):
            return
        checkpoint['meta_learning_hook'] = dict(
            optimizer=self.optimizer.state_dict(), buffers=self._shards.state_dict()
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the saved state until training starts."""
        if runner._resume and 'meta_learning_hook' in checkpoint:
            self._saved_state = checkpoint['meta_learning_hook']

    def _resume(self, runner: Runner, state: dict[str, Any]) -> None:
        load_optimizer(self.optimizer, state['optimizer'])
        self._shards.load_state_dict(state['buffers'])
