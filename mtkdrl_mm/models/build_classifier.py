# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Building of students and teachers from config files or inline dicts."""

import copy
import inspect
import os.path as osp
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmpretrain.models import BaseClassifier, HuggingFaceClassifier, TimmClassifier
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from torch import nn

from mtkdrl_mm.utils import InputError, near_matches
from mtkdrl_mm.utils.errors import first_line
from mtkdrl_mm.utils.package_configs import read_network_file

from .backbones import TimmFeatures
from .num_classes import set_num_classes


def read_network_config(cfg: dict[str, Any], role: str) -> tuple[ConfigDict, ConfigDict | None]:
    """Read a network given by ``cfg_path`` or inline.

    Args:
        cfg (dict): Either ``cfg_path`` (a file, or ``mmpretrain::...`` for a
            config of an installed package) with optional ``cfg_options``
            merged over it, or the model's own dict with a ``type``. An
            ``input_size`` beside them is ignored.
        role (str): "student" or the teacher's name, for messages.

    Returns:
        tuple[ConfigDict, ConfigDict | None]: The model's config and the
        config file's ``data_preprocessor``, None for inline dicts.

    Raises:
        InputError: If the file is missing or holds no ``model``, if its
            ``cfg_options`` do not fit it, or if neither form was used.
    """
    if not isinstance(cfg, dict):
        raise InputError(
            f'The {role} must be a dict with `cfg_path`, or with a `type`, but is {cfg!r}.'
        )
    if ('cfg_path' in cfg) == ('type' in cfg):
        raise InputError(
            f'The {role} needs either `cfg_path` (for example '
            "'mmpretrain::resnet/resnet50_8xb32_in1k.py') or an inline model with a `type`; "
            f'got the keys {sorted(cfg)}.'
        )
    cfg = {key: value for key, value in cfg.items() if key != 'input_size'}
    if 'type' in cfg:
        return ConfigDict(cfg), None
    unknown = set(cfg) - {'cfg_path', 'cfg_options'}
    if unknown:
        raise InputError(
            f'The {role} has `cfg_path` and the unknown keys {sorted(unknown)}. Changes to the '
            'config go into `cfg_options`, for example '
            "cfg_options={'model.head.num_classes': 100}."
        )
    path = cfg['cfg_path']
    config = read_network_file(path, role)
    _merge_options(config, cfg.get('cfg_options'), role)
    if 'model' not in config:
        raise InputError(f'The {role}\'s `cfg_path` "{osp.basename(path)}" defines no `model`.')
    return config.model, config.get('data_preprocessor')


def _merge_options(config: Config, options: Any, role: str) -> None:
    """Merge the ``cfg_options`` of a network into its config."""
    if options is None:
        return
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise InputError(
            f'`cfg_options` of the {role} must be a dict with dotted keys, for example '
            f"{{'model.head.num_classes': 100}}, but is {options!r}."
        )
    for key in options:
        if key.partition('.')[0] not in ('model', 'data_preprocessor'):
            raise InputError(
                f'`cfg_options` of the {role} has "{key}", which would change nothing: of its '
                'config only `model` and `data_preprocessor` are read.'
            )
    try:
        config.merge_from_dict(dict(options))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(
            f'`cfg_options` of the {role} do not fit its config: {first_line(error)}.'
        ) from error


def build_classifier(
    model: ConfigDict,
    data_preprocessor: nn.Module | None,
    num_classes: int | None,
    role: str,
) -> BaseClassifier:
    """Build a classifier from its config.

    Args:
        model (ConfigDict): The model's config.
        data_preprocessor (nn.Module, optional): Replaces the model's.
        num_classes (int, optional): Number of classes to set, see
            :func:`set_num_classes`; None keeps the config's.
        role (str): "student" or the teacher's name, for messages.

    Returns:
        BaseClassifier: The classifier with random weights; neither
        ``init_cfg`` nor a checkpoint has been applied.

    Raises:
        InputError: If it is no classifier, or has no separate backbone, or a
            file that it needs is missing.
    """
    model = copy.deepcopy(ConfigDict(model))
    kind = MMPRETRAIN_MODELS.get(model.type) if isinstance(model.type, str) else model.type
    if not _is_classifier(kind):
        known = [n for n, cls in MMPRETRAIN_MODELS.module_dict.items() if _is_classifier(cls)]
        raise InputError(
            f'The {role} must be an mmpretrain classifier, but "{model.type}" is none. '
            f'{near_matches(str(model.type), known)}'
        )
    if issubclass(kind, (TimmClassifier, HuggingFaceClassifier)):
        raise InputError(_use_timm_features(kind, model, role))
    if num_classes is not None:
        set_num_classes(model, num_classes)
    if data_preprocessor is not None:
        model.data_preprocessor = data_preprocessor
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        try:
            return MMPRETRAIN_MODELS.build(model)
        except (OSError, InputError) as error:  # LoRAModel, for example, reads a file
            raise InputError(f'The {role} cannot be built: {error}') from error


def _is_classifier(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, BaseClassifier)


def _use_timm_features(kind: type, model: ConfigDict, role: str) -> str:
    """Message for classifiers without embedding and map, which names the replacement."""
    # timm does not have HuggingFace's names.
    name = 'NAME' if issubclass(kind, HuggingFaceClassifier) else model.get('model_name', 'NAME')
    size = _embedding_size(name)
    hint = '' if size else ', with D the size of its embedding (`num_features` in timm)'
    return (
        f'The {role} is a {kind.__name__}, which returns logits only. Use the network of timm as '
        "type='ImageClassifier', "
        f"backbone=dict(type='mtkdrl_mm.TimmFeatures', model_name='{name}'), "
        f"head=dict(type='VisionTransformerClsHead', num_classes={model.get('num_classes', 1000)}, "
        f'in_channels={size or "D"}){hint}.'
    )


def _embedding_size(name: str) -> int | None:
    """Embedding size of a network of timm; None if it cannot be built."""
    try:
        with torch.random.fork_rng(devices=[]):
            return TimmFeatures(name).embedding_size
    except InputError:
        return None
