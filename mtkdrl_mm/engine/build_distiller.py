# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Building of a config's distiller for tools."""

from mmengine.config import Config

from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.teacher_outputs import TeacherOutputsSettings
from mtkdrl_mm.utils import InputError


def build_distiller(
    cfg: Config, read_stored_outputs: bool = False, extra_losses: bool = False
) -> MultiTeacherDistiller:
    """Build the distiller of a config with its teachers.

    By default extra losses are left out, which may need files and have no effect
    without a training, and so are stored outputs, which would replace the
    networks.

    Args:
        cfg (Config): The config; changed in place.
        read_stored_outputs (bool): Whether a config that reads stored outputs
            keeps them, and its teachers have no networks. Defaults to False.
        extra_losses (bool): Whether it has its extra losses, as a tool needs that
            trains it. Defaults to False.

    Returns:
        MultiTeacherDistiller: The distiller, with random weights.

    Raises:
        InputError: If the model is no distiller.
    """
    kind = cfg.get('model', {}).get('type')
    if not str(kind).endswith('MultiTeacherDistiller'):
        raise InputError(
            f"The config's model is a {kind}, which has no teachers: give a config whose model is "
            'a MultiTeacherDistiller.'
        )
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    if not extra_losses:
        cfg.model.pop('extra_losses', None)
    stored = TeacherOutputsSettings.from_config(cfg.model.get('teacher_outputs'))
    if not (read_stored_outputs and stored is not None and stored.reads):
        cfg.model.pop('teacher_outputs', None)
    return MODELS.build(cfg.model)
