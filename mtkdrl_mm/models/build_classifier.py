# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Students and teachers from config files or inline dicts."""

import inspect
import os.path as osp
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmpretrain.models import BaseClassifier
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from torch import nn

from mtkdrl_mm.utils import InputError, near_matches
from mtkdrl_mm.utils.package_configs import find_package_config


def read_network_config(cfg: dict[str, Any], role: str) -> tuple[ConfigDict, ConfigDict | None]:
    """Read a network given by ``cfg_path`` or inline.

    Args:
        cfg (dict): Either ``cfg_path`` (a file, or ``mmpretrain::...`` for a
            config of an installed package) with optional ``cfg_options``
            merged over it, or the model's own dict with a ``type``.
        role (str): "student" or the teacher's name, for messages.

    Returns:
        tuple[ConfigDict, ConfigDict | None]: The model's config and the
        config file's ``data_preprocessor``, None for inline dicts.

    Raises:
        InputError: If the file is missing or holds no ``model``, or if neither
            form was used.
    """
    if ('cfg_path' in cfg) == ('type' in cfg):
        raise InputError(
            f'The {role} needs either `cfg_path` (for example '
            "'mmpretrain::resnet/resnet50_8xb32_in1k.py') or an inline model with a `type`; "
            f'got the keys {sorted(cfg)}.'
        )
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
    try:
        config = Config.fromfile(find_package_config(path, role) if '::' in path else path)
    except InputError:
        raise
    except (OSError, ImportError, ValueError, AssertionError) as error:
        raise InputError(f'The {role}\'s `cfg_path` "{path}" cannot be read: {error}') from error
    if cfg.get('cfg_options'):
        config.merge_from_dict(dict(cfg['cfg_options']))
    if 'model' not in config:
        raise InputError(f'The {role}\'s `cfg_path` "{osp.basename(path)}" defines no `model`.')
    return config.model, config.get('data_preprocessor')


def build_classifier(
    model: ConfigDict,
    data_preprocessor: nn.Module | None,
    num_classes: int | None,
    role: str,
) -> BaseClassifier:
    """Build a classifier from its config.

    Args:
        model (ConfigDict): The model's config.
        data_preprocessor (nn.Module, optional): Used instead of the model's
            own.
        num_classes (int, optional): Number of classes to set in the head; None
            keeps the config's.
        role (str): "student" or the teacher's name, for messages.

    Returns:
        BaseClassifier: With its parameters as initialised by torch; weights
        are neither loaded nor initialised by ``init_cfg`` yet.

    Raises:
        InputError: If it is no classifier.
    """
    model = ConfigDict(model)
    kind = MMPRETRAIN_MODELS.get(model.type) if isinstance(model.type, str) else model.type
    if not _is_classifier(kind):
        known = [n for n, cls in MMPRETRAIN_MODELS.module_dict.items() if _is_classifier(cls)]
        raise InputError(
            f'The {role} must be an mmpretrain classifier, but "{model.type}" is none. '
            f'{near_matches(str(model.type), known)}'
        )
    if num_classes is not None and isinstance(model.get('head'), dict):
        model.head.num_classes = num_classes
    if data_preprocessor is not None:
        model.data_preprocessor = data_preprocessor
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MMPRETRAIN_MODELS.build(model)


def _is_classifier(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, BaseClassifier)
