# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Building of the data preprocessor of a student."""

from typing import Any

from mmpretrain.registry import BATCH_AUGMENTS
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from torch import nn

from mtkdrl_mm.utils import InputError, near_matches


def take_preprocessor(
    given: dict[str, Any] | None, model: dict[str, Any], of_file: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Take the preprocessing out of the student's config, and decide which one applies.

    Args:
        given (dict, optional): The distiller's; mmengine's runner gives it the
            config's top-level one if the distiller's config has none.
        model (dict): The student's config. Its ``data_preprocessor`` is taken
            out.
        of_file (dict, optional): That of the config file that defines the
            student.

    Returns:
        dict | None: The first of the three that is set: ``given``, the model's,
        the file's.
    """
    own = model.pop('data_preprocessor', None)
    return given or own or of_file


def build_preprocessor(
    cfg: dict[str, Any], model: dict[str, Any], num_classes: int | None
) -> nn.Module:
    """Build the student's preprocessing with its batch augmentations.

    Args:
        cfg (dict): Its config; the default type is mmpretrain's
            ``ClsDataPreprocessor``.
        model (dict): The student's config. Its ``train_cfg`` is taken out: it
            holds the batch augmentations (mixup, cutmix), unless ``cfg`` does.
        num_classes (int, optional): Number of classes of one-hot labels; None
            keeps the config's.

    Returns:
        nn.Module: The data preprocessor.

    Raises:
        InputError: If a batch augmentation is unknown.
    """
    cfg = dict(cfg)
    cfg.setdefault('type', 'mmpretrain.ClsDataPreprocessor')
    if num_classes is not None:
        cfg['num_classes'] = num_classes
    augments = model.pop('train_cfg', None)
    if augments is not None:
        cfg.setdefault('batch_augments', augments)
    try:
        return MMPRETRAIN_MODELS.build(cfg)
    except KeyError as error:
        kind = _unknown_augment(cfg.get('batch_augments'))
        if kind is None:
            raise
        raise InputError(
            f'The batch augmentation "{kind}" of the student is unknown. '
            f'{near_matches(kind, BATCH_AUGMENTS.module_dict)}'
        ) from error


def _unknown_augment(cfg: Any) -> str | None:
    """The first type in ``batch_augments`` that is not registered."""
    augments = (cfg or {}).get('augments') or []
    parts = [augments] if isinstance(augments, dict) else augments
    kinds = [part['type'] for part in parts if isinstance(part, dict) and 'type' in part]
    unknown = [kind for kind in kinds if isinstance(kind, str) and not BATCH_AUGMENTS.get(kind)]
    return unknown[0] if unknown else None
