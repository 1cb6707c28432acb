# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The optimisers of a training, of which there may be several."""

from mmengine.optim import OptimWrapper, OptimWrapperDict


def optim_wrappers(optim_wrapper: OptimWrapper) -> list[OptimWrapper]:
    """The single optimisers of a runner.

    Args:
        optim_wrapper (OptimWrapper): The runner's, which may be an
            ``OptimWrapperDict``.

    Returns:
        list[OptimWrapper]: One or several.
    """
    several = isinstance(optim_wrapper, OptimWrapperDict)
    return list(optim_wrapper.values()) if several else [optim_wrapper]
