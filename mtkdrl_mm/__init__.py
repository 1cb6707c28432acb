"""Multi-teacher knowledge distillation with reinforcement learning, for OpenMMLab."""

import importlib
from typing import TYPE_CHECKING, Any

from .openmmlab import check_packages, find_configs_of_forks
from .version import __version__, version_info

check_packages()
find_configs_of_forks()

# After the check of the versions. From here on mmengine reads checkpoints as plain data.
from .utils.checkpoint import register_reader  # noqa: E402

register_reader()

# mmengine finds configs of OpenMMLab's packages only; with this also `_base_ = 'mtkdrl_mm::...'`.
from mmengine.config.utils import MODULE2PACKAGE  # noqa: E402

MODULE2PACKAGE.setdefault(__name__, __name__)

if TYPE_CHECKING:
    from .models import DistilledBackbone, MultiTeacherDistiller

__all__ = ['DistilledBackbone', 'MultiTeacherDistiller', '__version__', 'version_info']


def __getattr__(name: str) -> Any:
    """Import the models when they are first used: mmpretrain's take seconds."""
    if name in ('DistilledBackbone', 'MultiTeacherDistiller'):
        return getattr(importlib.import_module('.models', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
