"""Multi-teacher knowledge distillation with reinforcement learning, for OpenMMLab."""

import importlib
from typing import TYPE_CHECKING, Any

from packaging.specifiers import SpecifierSet

from .version import __version__, version_info


def _require(package: str, allowed: str) -> None:
    """Raise an error if a package has an unsupported version.

    Otherwise a mismatch appears much later, as an unclear error inside that package.

    Args:
        package: Name of the package, for pip and for import.
        allowed: Version specifiers, for example '>=1.0,<2.0'.

    Raises:
        ImportError: The package is missing, or its version is out of range.
    """
    advice = f"mtkdrl_mm {__version__} needs {package}{allowed}: pip install '{package}{allowed}'"
    if package == 'mmcv':
        advice += f" (or 'mmcv-lite{allowed}', without compiled operators)"
    try:
        installed = importlib.import_module(package).__version__
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(f'{package} is not installed. {advice}') from None
    # Specifiers, unlike a comparison of versions, keep 2.2.0rc1 out of '<2.2.0', as pip does.
    if not SpecifierSet(allowed).contains(installed, prereleases=True):
        raise ImportError(f'{package} {installed} is installed, which does not fit. {advice}')


# mmpretrain comes last: it imports the other two.
_require('mmengine', '>=0.10.0,<1.0.0')
_require('mmcv', '>=2.0.0,<2.2.0')
_require('mmpretrain', '>=1.2.0,<1.3')

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
