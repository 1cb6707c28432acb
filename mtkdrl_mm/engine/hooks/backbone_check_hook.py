# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Check of how a backbone was initialised, and of what images it was trained on."""

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mtkdrl_mm.models.distilled_backbone import DistilledBackbone
from mtkdrl_mm.models.teachers.preprocessing import Preprocessing
from mtkdrl_mm.registry import HOOKS
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.config_components import component_class
from mtkdrl_mm.utils.literal_config import parse_literal_config
from mtkdrl_mm.utils.unwrap_model import unwrap_model
from mtkdrl_mm.weights.checkpoint import read_checkpoint

ROLE = 'backbone'
# Attributes of data preprocessors of mmpretrain, mmseg and mmengine.
_CHANNEL_ORDER = ('to_rgb', 'channel_conversion', '_channel_conversion')


@HOOKS.register_module()
class BackboneCheckHook(Hook):
    """Warns of a pretrained backbone that was trained on images of another normalisation.

    When it acts: once, before a training that is not resumed. It makes sure that
    :class:`DistilledBackbone` has initialised what names it: some backbones, such as
    ``SwinTransformer`` of mmdet and mmseg, read their ``init_cfg`` themselves, and take
    no notice of names that do not fit. It compares mean, std
    and channel order of the model's ``data_preprocessor`` with those in the
    checkpoints from which backbones were initialised (``init_cfg``). Students and
    baselines of this package and of mmpretrain tell theirs; files of weights alone
    do not, and are not compared. No shape tells such a difference, and a detector
    with frozen stages never adapts to it. It saves nothing.
    """

    priority = 'NORMAL'

    def before_train(self, runner: Runner) -> None:
        """Compare the preprocessing of all backbones."""
        # `--resume` starts from the beginning where there is no checkpoint yet.
        if runner.iter > 0:
            return
        model = unwrap_model(runner.model)
        _check_initialised(model)
        if not is_main_process():
            return
        here = _of_module(getattr(model, 'data_preprocessor', None))
        if here is None:
            return
        # Teachers have their own.
        for location in dict.fromkeys(_checkpoints(getattr(model, 'student', model))):
            try:
                there = trained_preprocessing(read_checkpoint(location, ROLE))
            except InputError:  # mmengine reads from more places, such as clusters' storage
                continue
            if there is not None and not _same(there, here):
                runner.logger.warning(
                    f'The backbone in "{location}" was trained on images normalised by '
                    f'{_describe(there)}, and this model normalises them by {_describe(here)}. Set '
                    'its `data_preprocessor` to that of the backbone, unless this is meant.'
                )


def _check_initialised(model: nn.Module) -> None:
    """Raise an error if a module never called its ``DistilledBackbone``, which then replaces it."""
    for module in model.modules():
        # Some backbones hand theirs on to their layers, as RepVGG does.
        if getattr(module, 'is_init', False):
            continue
        for entry in _init_cfgs(module):
            if component_class(entry.get('type')) is DistilledBackbone:
                raise InputError(
                    f'The backbone {type(module).__name__} of {type(module).__module__} '
                    'initialises its weights itself, without DistilledBackbone, and may have '
                    f'loaded nothing of "{entry.get("checkpoint")}". Use the class of mmpretrain '
                    "that the student has, for example type='mmpretrain.SwinTransformer'."
                )


def trained_preprocessing(contents: dict[str, Any]) -> Preprocessing | None:
    """Find out how the images were normalised that a checkpoint was trained on.

    Args:
        contents (dict): A checkpoint.

    Returns:
        Preprocessing | None: That of a student or classifier; None where the file does
        not tell.
    """
    meta = contents.get('meta')
    if not isinstance(meta, dict):
        return None
    cfg = meta.get('student_cfg')
    try:
        if not isinstance(cfg, dict):
            cfg = parse_literal_config(meta['cfg'], ROLE)
        model = cfg.get('model') or {}
        given = model.get('data_preprocessor') or cfg.get('data_preprocessor')
        return Preprocessing.from_config(_with_to_rgb(given), ROLE) if given else None
    except (InputError, KeyError, TypeError, AttributeError):  # of another program
        return None


def _with_to_rgb(given: dict[str, Any]) -> dict[str, Any]:
    """The channel order under mmpretrain's key, whichever package's it is."""
    return {**given, 'to_rgb': given.get('to_rgb', given.get('bgr_to_rgb', False))}


def _of_module(preprocessor: nn.Module | None) -> Preprocessing | None:
    """What a data preprocessor of OpenMMLab does; None if it does not normalise."""
    mean, std = (getattr(preprocessor, name, None) for name in ('mean', 'std'))
    if not isinstance(mean, torch.Tensor) or not isinstance(std, torch.Tensor):
        return None
    given = dict(mean=mean.flatten().tolist(), std=std.flatten().tolist())
    given['to_rgb'] = any(getattr(preprocessor, name, False) for name in _CHANNEL_ORDER)
    return Preprocessing.from_config(given, ROLE, channels=max(3, mean.numel()))


def _checkpoints(model: nn.Module) -> Iterator[str]:
    """Locations of the files from which parts of a model were initialised."""
    for module in model.modules():
        for entry in _init_cfgs(module):
            if isinstance(entry.get('checkpoint'), str):
                yield entry['checkpoint']


def _init_cfgs(module: nn.Module) -> list[dict[str, Any]]:
    """The entries of a module's ``init_cfg``."""
    init = getattr(module, 'init_cfg', None)
    entries = init if isinstance(init, list) else [init]
    return [entry for entry in entries if isinstance(entry, dict)]


def _same(first: Preprocessing, second: Preprocessing) -> bool:
    if first.channels != second.channels:
        return False
    ours, theirs = (torch.tensor([one.mean, one.std]) for one in (first, second))
    return first.to_rgb == second.to_rgb and torch.allclose(ours, theirs, rtol=1e-3, atol=1e-2)


def _describe(one: Preprocessing) -> str:
    mean, std = (', '.join(f'{value:g}' for value in values) for values in (one.mean, one.std))
    return f'mean {mean} and std {std} in {"RGB" if one.to_rgb else "BGR"} order'
