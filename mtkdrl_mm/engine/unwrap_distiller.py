# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Access to the distiller of a runner."""

from mmengine.runner import Runner

from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.unwrap_model import unwrap_model


def unwrap_distiller(runner: Runner, hook: str) -> MultiTeacherDistiller:
    """Return the runner's model, which must be a distiller.

    Args:
        runner (Runner): The runner.
        hook (str): Name of the calling hook, for the message.

    Returns:
        MultiTeacherDistiller: The model, without wrappers such as DDP.

    Raises:
        InputError: If the model is no distiller.
    """
    model = unwrap_model(runner.model)
    if not isinstance(model, MultiTeacherDistiller):
        raise InputError(
            f'{hook} works with a MultiTeacherDistiller, but the model is a '
            f'{type(model).__name__}. Remove the hook from `default_hooks`.'
        )
    return model
