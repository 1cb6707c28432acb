# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The training of MMKD's meta networks."""

from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mtkdrl_mm.models.weightings.mmkd import MMKD, meta_loss
from mtkdrl_mm.registry import HOOKS
from mtkdrl_mm.rl import Algorithm
from mtkdrl_mm.rl.distributed import average_gradients, check_equal_over_ranks
from mtkdrl_mm.structures import HardExampleBuffer, StepTerms, TeacherWeights
from mtkdrl_mm.structures.hard_example_buffer import redistribute
from mtkdrl_mm.utils import InputError, check_number

from ..look_ahead import LookAhead
from ..scalar_meter import ScalarMeter, log_is_due
from ..unwrap_distiller import unwrap_distiller


@HOOKS.register_module()
class MetaLearningHook(Hook):
    r"""Trains the meta networks of the MMKD weighting.

    When it acts: in every ``interval``-th training step, before the student's
    own update,

    1. it puts the images that the student gets wrong into a bounded buffer;
    2. it looks one step of gradient descent ahead,
       :math:`\theta' = \theta - \eta \nabla_\theta L(w)`, without touching the
       student;
    3. it takes the gradient v of the cross entropy on images from the buffer
       at :math:`\theta'`;
    4. it gives the meta networks the gradient of that cross entropy with
       respect to their weights. :math:`\theta'` is linear in the weights, so
       this is :math:`-\eta/B` times the directional_derivatives of the per-image losses along
       v, see :class:`LookAhead`.

    All of this runs in float32. BatchNorm statistics and the random numbers of
    the training are left as they were. The buffer is emptied at the start of
    every epoch: what was hard an epoch ago need not be hard now.

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
        try:
            Algorithm.build_optimizer(self.optimizer_cfg, [nn.Parameter(torch.zeros(1))])
        except ValueError as error:
            raise InputError(f'MetaLearningHook: {error}') from error
        self.interval = int(check_number('interval', interval, minimum=1))
        self.lookahead_lr = check_number('lookahead_lr', lookahead_lr, exclusive=True)
        self.hard_batch_size = int(check_number('hard_batch_size', hard_batch_size, minimum=1))
        check_number('buffer_budget', buffer_budget, exclusive=True)
        self.buffer = HardExampleBuffer(buffer_budget)
        self.optimizer: torch.optim.Optimizer
        self._saved_state: dict[str, Any] | None = None
        # Buffers of all processes, gathered when a save is announced.
        self._gathered: list[dict[str, Any]] | None = None

    _handle: RemovableHandle | None = None

    def before_train(self, runner: Runner) -> None:
        """Find the meta networks; take over a resumed state."""
        distiller = unwrap_distiller(runner, 'MetaLearningHook')
        if not isinstance(distiller.weighting, MMKD):
            raise InputError(
                'MetaLearningHook trains the networks of the MMKD weighting, but the weighting is '
                f'{type(distiller.weighting).__name__}. Remove the hook from `default_hooks`.'
            )
        self._runner = runner
        self.weighting = distiller.weighting
        self.weighting.attach_trainer()
        self._parameters = list(self.weighting.parameters())
        self.optimizer = Algorithm.build_optimizer(self.optimizer_cfg, self._parameters)
        self._look_ahead = LookAhead(distiller, self.lookahead_lr)
        self._meter = ScalarMeter(['hard_loss', 'hard_images'])
        if self._saved_state is not None:
            self._resume(runner, self._saved_state)
        self._handle = distiller.register_step_hook(self._observe)

    def release(self) -> None:
        """Stop watching, however the training ended."""
        if self._handle is not None:
            self._handle.remove()

    def before_train_epoch(self, runner: Runner) -> None:
        """Empty the buffer, unless the epoch was begun before an interruption."""
        if runner.iter % max(1, len(runner.train_dataloader)) == 0:
            self.buffer.clear()

    def _observe(self, terms: StepTerms, weights: TeacherWeights) -> None:
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
        seed = self._runner.seed + 1_000_003 * self._runner.iter + 7919 * get_rank()
        devices = [terms.inputs.device] if terms.inputs.is_cuda else []
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            hard: tuple[Tensor, Tensor] | None = None
            if len(self.buffer) > 0:
                generator = torch.Generator().manual_seed(seed)
                hard = self.buffer.draw(self.hard_batch_size, generator, terms.inputs.device)
            directional_derivatives = self._look_ahead.directional_derivatives(
                terms, weights, hard, seed
            )
            if directional_derivatives is None:
                return
            self._update(terms, directional_derivatives)
        self._meter.add(
            torch.stack(
                [
                    self._look_ahead.hard_loss,
                    self._look_ahead.hard_loss.new_tensor(len(self.buffer)),
                ]
            )
        )

    def _update(self, terms: StepTerms, directional_derivatives: tuple[Tensor, Tensor]) -> None:
        self.weighting.requires_grad_(True)
        loss = meta_loss(
            self.weighting.weigh(terms), directional_derivatives, terms, self.lookahead_lr
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=self._parameters)
        average_gradients(self._parameters)
        self.optimizer.step()
        # The student's optimiser may own these parameters too: without a
        # gradient it leaves them alone.
        self.optimizer.zero_grad(set_to_none=True)
        self.weighting.requires_grad_(False)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict | None = None,
    ) -> None:
        """Hand the averages to the log."""
        if log_is_due(runner, batch_idx):
            for name, value in self._meter.flush().items():
                runner.message_hub.update_scalar(f'train/{name}', value)

    def after_train_epoch(self, runner: Runner) -> None:
        """Empty the buffer; make sure that all processes hold the same networks."""
        self.buffer.clear()
        check_equal_over_ranks(self.weighting, 'meta network')

    def gather_state(self) -> None:
        """Bring all processes' buffers together for the next checkpoint.

        Called on all processes before one is saved.
        """
        if get_world_size() > 1:
            self._gathered = all_gather_object(self.buffer.state_dict())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Save the optimiser and the buffer."""
        if not hasattr(self, 'optimizer'):
            return
        buffers: list[dict[str, Any]] = []
        if len(self.buffer) > 0 or any(b['inputs'] is not None for b in self._gathered or ()):
            buffers = self._gathered or [self.buffer.state_dict()]
        checkpoint['meta_learning_hook'] = dict(
            optimizer=self.optimizer.state_dict(), buffers=buffers
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the saved state until training starts."""
        if runner._resume and 'meta_learning_hook' in checkpoint:
            self._saved_state = checkpoint['meta_learning_hook']

    def _resume(self, runner: Runner, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state['optimizer'])
        buffers = state['buffers']
        if not buffers:
            return
        if len(buffers) != get_world_size():
            buffers = redistribute(buffers, get_world_size())
        self.buffer.load_state_dict(buffers[get_rank()])
