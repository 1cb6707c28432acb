# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Building of the data preprocessor of a student."""

from typing import Any

from mmpretrain.registry import BATCH_AUGMENTS
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from torch import nn

from mtkdrl_mm.utils import InputError, near_matches


def check_preprocessor(cfg: Any, role: str) -> None:
    """Check that the preprocessing of a network is given as a dict, or left out.

    Args:
        cfg (dict, optional): The value of ``data_preprocessor``.
        role (str): "the student" or the teacher's name, for the message.

    Raises:
        InputError: If it is something else.
    """
    if cfg is not None and not isinstance(cfg, dict):
        raise InputError(
            f'`data_preprocessor` of {role} must be a dict with `mean`, `std` and `to_rgb`, but '
            f'is {cfg!r}.'
        )


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

    Raises:
        InputError: If one of them is no dict.
    """
    own = model.pop('data_preprocessor', None)
    for cfg in (given, own, of_file):
        check_preprocessor(cfg, 'the student')
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
        InputError: If a batch augmentation is unknown, or none.
    """
    cfg = dict(cfg)
    cfg.setdefault('type', 'mmpretrain.ClsDataPreprocessor')
    if num_classes is not None:
        cfg['num_classes'] = num_classes
    augments = model.pop('train_cfg', None)
    if augments is not None:
        cfg.setdefault('batch_augments', augments)
    for part in _augments(cfg.get('batch_augments')):
        if not isinstance(part, dict) and not callable(part):  # mmpretrain would call it in a step
            raise InputError(
                f'`augments` of the student must be a dict with a `type`, or a list of them, but '
                f'has {part!r}.'
            )
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


def _augments(cfg: Any) -> list[Any]:
    """The parts of ``batch_augments``."""
    augments = cfg.get('augments') if isinstance(cfg, dict) else None
    return [*augments] if isinstance(augments, (list, tuple)) else [augments] if augments else []


def _unknown_augment(cfg: Any) -> str | None:
    """The first type in ``batch_augments`` that is not registered."""
    kinds = [part['type'] for part in _augments(cfg) if isinstance(part, dict) and 'type' in part]
    unknown = [kind for kind in kinds if isinstance(kind, str) and not BATCH_AUGMENTS.get(kind)]
    return unknown[0] if unknown else None
