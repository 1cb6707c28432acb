"""Multi-teacher knowledge distillation with reinforcement learning, for OpenMMLab."""

import importlib
from typing import TYPE_CHECKING, Any

from .openmmlab import check_packages, register_configs
from .version import __version__, version_info

check_packages()
register_configs()

# After the check of the versions. From here on mmengine reads checkpoints as plain data.
from .weights.checkpoint import register_reader  # noqa: E402

register_reader()

if TYPE_CHECKING:
    from .models import DistilledBackbone, MultiTeacherDistiller

__all__ = ['DistilledBackbone', 'MultiTeacherDistiller', '__version__', 'version_info']


def __getattr__(name: str) -> Any:
    """Import the models when they are first used: mmpretrain's take seconds."""
    if name in ('DistilledBackbone', 'MultiTeacherDistiller'):
        return getattr(importlib.import_module('.models', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
