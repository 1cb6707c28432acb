# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Training steps without data, for the checks."""

import gc
import os.path as osp

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub

from mtkdrl_mm.benchmark import StepSettings, distillation

from . import ROOT
from .findings import Reporter
from .small_training import small_training

IMAGENET = osp.join(ROOT, 'configs', 'mtkdrl', 'r18_imagenet.py')


def step_settings(report: Reporter, amp: bool = False) -> StepSettings:
    """Sizes of the steps: ImageNet's on a GPU, small ones on a CPU."""
    if report.full:
        return StepSettings('cuda', 224, 64, 1000, amp=amp)
    return StepSettings('cpu', 32, 4, 4, amp=amp)


def losses(
    report: Reporter,
    steps: int,
    amp: bool = False,
    amp_dtype: str = 'float16',
    channels_last: bool | None = None,
) -> np.ndarray:
    """The losses of some training steps from the same weights, on the same random batch."""
    cfg = Config.fromfile(IMAGENET if report.full else small_training(report, epochs=1))
    torch.manual_seed(0)
    cfg.pop('train_dataloader')
    cfg.model.channels_last = channels_last
    cfg.model.teacher_inference = 'eager'
    cfg.randomness = dict(seed=0)
    if amp:
        cfg.optim_wrapper.dtype = amp_dtype
    variant = distillation(cfg, step_settings(report, amp))[1]
    found = []
    for _ in range(steps):
        variant.run()
        found.append(MessageHub.get_current_instance().get_scalar('train/loss').current())
    del variant
    free_memory()
    return np.array(found)


def free_memory() -> None:
    """Free the device's memory of networks that nothing uses any more."""
    gc.collect()  # runners and models refer to each other
    torch.cuda.empty_cache()  # does nothing without CUDA
