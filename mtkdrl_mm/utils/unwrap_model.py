# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Access to the model inside of wrappers."""

from mmengine.model import is_model_wrapper
from torch import nn


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside of wrappers such as DDP and test-time augmentation.

    Args:
        model (nn.Module): A model, wrapped any number of times.

    Returns:
        nn.Module: The model itself.
    """
    while is_model_wrapper(model):
        model = model.module
    return model
