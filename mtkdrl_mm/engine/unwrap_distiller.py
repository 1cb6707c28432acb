# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The distiller behind a runner."""

from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.utils import InputError


def unwrap_distiller(runner: Runner, hook: str) -> MultiTeacherDistiller:
    """Unwrap the runner's model.

    Args:
        runner (Runner): The runner.
        hook (str): Name of the hook that asks, for the message.

    Returns:
        MultiTeacherDistiller: The model, without a DDP wrapper.

    Raises:
        InputError: If the model is no distiller.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if not isinstance(model, MultiTeacherDistiller):
        raise InputError(
            f'{hook} works with a MultiTeacherDistiller, but the model is a '
            f'{type(model).__name__}. Remove the hook from `default_hooks`.'
        )
    return model
