# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Validation of the network that is saved."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mtkdrl_mm.registry import HOOKS
from mtkdrl_mm.utils.distributed import broadcast_buffers
from mtkdrl_mm.utils.unwrap_model import unwrap_model


@HOOKS.register_module()
class BroadcastBuffersHook(Hook):
    """Lets all processes validate the network that the main process saves.

    Every process moves the statistics of BatchNorm by its own images, and would
    validate its share of the images with them: the result would be that of no
    checkpoint.

    When it acts: before every validation, all processes get the buffers of the main
    process. Of training it changes nothing. It saves nothing.
    """

    # After EMAHook has put the averaged weights in place.
    priority = 'LOWEST'

    def before_val_epoch(self, runner: Runner) -> None:
        """Take over the main process's buffers."""
        broadcast_buffers(unwrap_model(runner.model))
