# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Distillation configs with random teachers, equal weights, or a store."""

from copy import deepcopy
from typing import Any

from mmengine.config import Config

from mtkdrl_mm.engine.build_dataloader import build_dataloader, seeded_dataloader
from mtkdrl_mm.engine.output_writer import writing_session
from mtkdrl_mm.teacher_outputs import TeacherOutputsSettings
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.hook_configs import kind_of

from .steps import StepSettings, build_distiller

# In place of a path: stores of a benchmark can never be taken for those of trained teachers.
RANDOM_WEIGHTS = 'random weights of a benchmark'


def use_random_teachers(cfg: Config) -> None:
    """Name the teachers' weights for what they are.

    Args:
        cfg (Config): The distillation; changed in place.

    Raises:
        InputError: If the config has no teachers.
    """
    teachers = cfg.model.get('teachers')
    if not teachers:
        raise InputError("The config's model has no `teachers`: give that of a distillation.")
    for teacher in teachers:
        teacher.checkpoint = RANDOM_WEIGHTS


def with_equal_weights(cfg: Config) -> Config:
    """The same distillation by AVER, without what trains its weighting.

    Args:
        cfg (Config): The distillation; not changed.
    """
    cfg = deepcopy(cfg)
    cfg.model.weighting = dict(type='AVER')
    for key, hook in list(cfg.get('default_hooks', {}).items()):
        if _trains_weighting(hook):
            del cfg.default_hooks[key]
    if cfg.get('custom_hooks'):
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if not _trains_weighting(hook)]
    return cfg


def _trains_weighting(hook: Any) -> bool:
    return isinstance(hook, dict) and kind_of(hook) in ('AgentHook', 'MetaLearningHook')


def with_store(cfg: Config, root: str) -> Config:
    """The same distillation from a store.

    Args:
        cfg (Config): The distillation; not changed.
        root (str): The store.
    """
    cfg = deepcopy(cfg)
    cfg.model.teacher_outputs = root
    return cfg


def fill_store(cfg: Config, settings: StepSettings, root: str, **contents: Any) -> int:
    """Store the outputs of a distillation's teachers, with random weights, on its training data.

    Args:
        cfg (Config): The distillation, with ``train_dataloader``; not changed.
        settings (StepSettings): Device and number of classes.
        root (str): Folder of the store.
        **contents: ``views``, ``logits``, ``maps`` and ``map_channels`` of
            :class:`TeacherOutputsSettings`.

    Returns:
        int: Bytes per image and view of all teachers together.
    """
    model = build_distiller(cfg, settings).to(settings.device).eval()
    loader = build_dataloader(seeded_dataloader(cfg.train_dataloader), seed=0)
    writer = writing_session(model, loader, TeacherOutputsSettings(root=root, **contents))
    writer.write_missing()
    return sum(one.manifest.row_bytes for one in writer.writers.values())
