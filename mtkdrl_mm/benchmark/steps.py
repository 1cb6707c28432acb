# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Training steps to be timed: of a distillation, of its networks alone, and of plain training."""

import atexit
import math
import os.path as osp
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch.utils.data import DataLoader, Dataset

from mtkdrl_mm.engine.hooks import AgentHook, MetaLearningHook
from mtkdrl_mm.engine.hooks.step_hook import StepHook
from mtkdrl_mm.engine.runner import ResumableRunner
from mtkdrl_mm.models import MultiTeacherDistiller, TeacherPool
from mtkdrl_mm.models.classifier_output import run_classifier
from mtkdrl_mm.registry import HOOKS, MODELS

from .batch_feed import BatchFeed
from .rounds import Batch, Variant

# Hooks of a config that do no work in a training step, or need a data set.
_UNUSED_HOOKS = ('teacher_check', 'visualization')
# The same of the runner's own hooks, which are switched off by None.
_UNUSED_RUNNER_HOOKS = ('checkpoint', 'param_scheduler', 'preemption', 'sampler_seed')
# Far beyond any warm-up of an agent.
_EPOCH, _STEPS_PER_EPOCH = 1000, 10**6
# Batches that are kept in memory, of a loader.
_BATCHES = 4


@dataclass(frozen=True)
class StepSettings:
    """What all variants of a benchmark have in common.

    Attributes:
        device (str): Where the steps run.
        input_size (int): Side of random images in pixels.
        batch_size (int): Images per step.
        num_classes (int): C.
        amp (bool): Whether to use automatic mixed precision. Defaults to False.
        epoch_images (int, optional): Images of an epoch on this process.
            Defaults to None: the rollout buffer holds all of them.
    """

    device: str
    input_size: int
    batch_size: int
    num_classes: int
    amp: bool = False
    epoch_images: int | None = None


class _NoData(Dataset):
    """A data set that the loop needs for its length only; its images are not read."""

    def __len__(self) -> int:
        return _STEPS_PER_EPOCH

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError


def random_batch(settings: StepSettings) -> Batch:
    """A batch of random pixels and labels.

    Args:
        settings (StepSettings): Sizes.

    Returns:
        dict: As a loader returns it.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (settings.batch_size, 3, settings.input_size, settings.input_size)
    labels = torch.randint(settings.num_classes, (settings.batch_size,), generator=generator)
    return dict(
        inputs=torch.randint(256, shape, dtype=torch.uint8, generator=generator),
        data_samples=[DataSample().set_gt_label(int(label)) for label in labels],
    )


def build_distiller(
    cfg: Config, settings: StepSettings, teachers: TeacherPool | None = None
) -> MultiTeacherDistiller:
    """Build a config's distiller with random weights.

    Args:
        cfg (Config): The distillation; not changed.
        settings (StepSettings): Number of classes.
        teachers (TeacherPool, optional): A pool that it shares with others.
            Defaults to None: its own.
    """
    model = deepcopy(cfg.model)
    model.num_classes = settings.num_classes
    model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    if teachers is not None:
        model.teachers = teachers
    return MODELS.build(model)


def distillation(
    cfg: Config, settings: StepSettings, teachers: TeacherPool | None = None
) -> tuple[MultiTeacherDistiller, Variant]:
    """The training step of a distillation, and the updates of its agent.

    It is in an epoch after the agent's warm-up.

    Args:
        cfg (Config): The distillation; not changed. With a ``train_dataloader``,
            the variant has a feed, and batches from it.
        settings (StepSettings): Sizes and device.
        teachers (TeacherPool, optional): A pool that it shares with others.
            Defaults to None: its own.

    Returns:
        tuple[MultiTeacherDistiller, Variant]: The model, and the measurement.
    """
    model = build_distiller(cfg, settings, teachers).to(settings.device)
    if model._use_channels_last(torch.device(settings.device)):
        for networks in (model.student, model.teachers):
            networks.to(memory_format=torch.channels_last)
    runner = _build_runner(cfg, settings, model, _used_hooks(cfg))
    variant = _variant(runner, settings)
    for hook in runner.hooks:
        if isinstance(hook, MetaLearningHook):
            variant.steps_per_round = math.lcm(variant.steps_per_round, hook.interval)
        if isinstance(hook, AgentHook):
            assert hook.trainer is not None
            variant.buffer = hook.trainer.buffer
            if hook.update_interval is None:
                variant.update = _updating(hook, runner)
                if settings.epoch_images is not None:
                    variant.kept = min(1.0, variant.buffer.capacity / settings.epoch_images)
    return model, variant


def _updating(hook: AgentHook, runner: Runner) -> Callable[[], None]:
    return lambda: hook.after_train_epoch(runner)


def plain_training(cfg: Config, settings: StepSettings) -> Variant:
    """The training step of a distillation's student without teachers, with the same optimiser.

    Args:
        cfg (Config): The distillation; not changed. With a ``train_dataloader``,
            the variant has a feed, and batches from it.
        settings (StepSettings): Sizes and device.

    Returns:
        Variant: The measurement.
    """
    cfg = deepcopy(cfg)
    # Without teachers a distiller is its student; nothing else of the config counts.
    kept = ('type', 'student', 'data_preprocessor', 'channels_last')
    cfg.model = ConfigDict({key: cfg.model[key] for key in kept if key in cfg.model})
    distiller = build_distiller(cfg, settings)
    student = distiller.student.to(settings.device)
    if distiller._use_channels_last(torch.device(settings.device)):
        # The memory format is that of the distillation.
        student.to(memory_format=torch.channels_last)
        student.data_preprocessor.register_forward_hook(
            lambda module, args, data: {**data, 'inputs': distiller.format_inputs(data['inputs'])}
        )
    hooks = {key: hook for key, hook in _used_hooks(cfg).items() if not _needs_teachers(hook)}
    return _variant(_build_runner(cfg, settings, student, hooks), settings)


def _needs_teachers(hook: Any) -> bool:
    kind = hook.get('type') if isinstance(hook, dict) else type(hook)
    cls = HOOKS.get(kind) if isinstance(kind, str) else kind
    return isinstance(cls, type) and issubclass(cls, StepHook)


def lower_bound(
    cfg: Config, settings: StepSettings, teachers: TeacherPool | None = None
) -> Variant:
    """The teachers' forward passes and the student's own step, and nothing else.

    Args:
        cfg (Config): The distillation; not changed. A ``train_dataloader`` is
            not read.
        settings (StepSettings): Sizes and device.
        teachers (TeacherPool, optional): A pool that it shares with others.
            Defaults to None: its own.

    Returns:
        Variant: The measurement, on a random batch.
    """
    model = build_distiller(cfg, settings, teachers).to(settings.device).train()
    if model._use_channels_last(torch.device(settings.device)):
        for networks in (model.student, model.teachers):
            networks.to(memory_format=torch.channels_last)
    # Only the student's parameters are optimised.
    optim_wrapper = build_optim_wrapper(
        torch.nn.ModuleDict(dict(student=model.student)), _optimizer_config(cfg, settings)
    )

    def step(batch: Batch) -> None:
        with optim_wrapper.optim_context(model):
            data = model.data_preprocessor(batch, True)
            inputs = model.format_inputs(data['inputs'])
            outputs = model.teachers(inputs)
            logits = run_classifier(model.student, inputs).logits
            labels = torch.cat([s.gt_label for s in data['data_samples']]).to(logits.device)
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        parsed, log_vars = model.parse_losses(dict(loss=loss))
        optim_wrapper.update_params(parsed)
        del outputs, log_vars

    return Variant(step, [random_batch(settings)])


def _used_hooks(cfg: Config) -> dict[str, Any]:
    return {k: v for k, v in cfg.get('default_hooks', {}).items() if k not in _UNUSED_HOOKS}


def _optimizer_config(cfg: Config, settings: StepSettings) -> dict[str, Any]:
    optim_cfg = cfg.optim_wrapper.to_dict()
    if settings.amp:
        optim_cfg.update(type='AmpOptimWrapper', loss_scale='dynamic')
    return optim_cfg


def _build_runner(
    cfg: Config, settings: StepSettings, model: BaseModel, hooks: dict[str, Any]
) -> Runner:
    """Build a runner with all hooks that work in a step, ready for its steps."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    runner = ResumableRunner(
        model=model,
        work_dir=folder.name,
        train_dataloader=cfg.get('train_dataloader') or DataLoader(_NoData()),
        train_cfg=dict(by_epoch=True, max_epochs=2 * _EPOCH),
        optim_wrapper=_optimizer_config(cfg, settings),
        default_hooks={**hooks, **dict.fromkeys(_UNUSED_RUNNER_HOOKS)},
        randomness=dict(seed=0),
        default_scope='mmpretrain',
        log_level='ERROR',
        experiment_name=osp.basename(folder.name),
    )
    # What Runner.train does before its loop runs; weights are neither initialised nor loaded.
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    loop = runner.train_loop
    loop._epoch, loop._iter = _EPOCH, _EPOCH * len(loop.dataloader)
    loop.schedule_step = loop._iter
    for hook_point in ('before_run', 'before_train', 'before_train_epoch'):
        runner.call_hook(hook_point)
    model.train()
    return runner


def _variant(runner: Runner, settings: StepSettings) -> Variant:
    """The measurement of a runner's steps, on its data or on a random batch."""
    loop = runner.train_loop

    def step(batch: Batch) -> None:
        loop.run_iter(runner.iter % len(loop.dataloader), batch)

    if isinstance(loop.dataloader.dataset, _NoData):
        return Variant(step, [random_batch(settings)])
    loop.batch_sampler.set_position(runner.seed, _EPOCH)
    annotator = loop.dataloader.dataset.annotator
    if annotator is not None:
        # Workers start anew in every turn; in a training they check their first images once.
        annotator.first_checks = 0
    feed = BatchFeed(loop.dataloader)
    with feed:
        batches = [next(feed) for _ in range(_BATCHES)]
    return Variant(step, batches, feed=feed)
