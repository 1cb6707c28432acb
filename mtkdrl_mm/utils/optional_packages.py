# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Packages that only some features need. They are imported when such a feature is used."""

import importlib
from typing import Any

from mtkdrl_mm.openmmlab import Distribution

from .errors import InputError, first_line

#: The optional packages, by import name; the versions are those of requirements/optional.txt.
PACKAGES = {
    'huggingface_hub': Distribution('huggingface_hub', '>=0.26'),
    'pycocotools': Distribution('pycocotools', ''),
    'sklearn': Distribution('scikit-learn', ''),
    'submitit': Distribution('submitit', '>=1.5'),
    'timm': Distribution('timm', '>=1.0.9'),
}


def import_optional(module: str, purpose: str) -> Any:
    """Import an optional package, or a module of it.

    Args:
        module (str): The import name, for example ``timm`` or ``timm.data``.
        purpose (str): What needs it, the subject of the error message.

    Returns:
        module: The module.

    Raises:
        InputError: If the package is not installed or cannot be imported. The
            message has the command that installs it.

    Example:
        >>> from mtkdrl_mm.utils.optional_packages import import_optional
        >>> import_optional('sklearn.datasets', 'The example').load_digits().data.shape
        (1797, 64)
    """
    package = module.partition('.')[0]
    distribution = PACKAGES[package]
    try:
        importlib.import_module(package)
        return importlib.import_module(module)
    except ImportError as error:
        # Of an old or damaged package, only a module is missing, or one of its own imports.
        absent = isinstance(error, ModuleNotFoundError) and error.name == package
        reason = 'is not installed' if absent else f'cannot be imported ({first_line(error)})'
        raise InputError(
            f'{purpose} needs {distribution.name}, which {reason}: {distribution.command}'
        ) from error
