# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The basis on which a teacher's maps were projected, beside its manifest."""

import hashlib
import os
import os.path as osp
from collections.abc import Mapping

import numpy as np
import safetensors
import safetensors.numpy

from mtkdrl_mm.utils.errors import InputError
from mtkdrl_mm.utils.files import create_file, describe_medium_error

from .paths import BASIS, partial_path


def create_basis(
    folder: str, arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], str]:
    """Store a teacher's basis, unless there is one.

    Several processes may fit a basis at once, with different roundings. All of
    them get the one that was stored first. A manifest with its digest is
    written afterwards.

    Args:
        folder (str): Folder of the teacher; it is created.
        arrays (Mapping[str, np.ndarray]): The basis, for example ``components``
            (k, c) and ``mean`` (c,).

    Returns:
        tuple[dict[str, np.ndarray], str]: The stored basis, and the sha256 of
        its file for :attr:`Manifest.basis_sha256`.

    Raises:
        InputError: If it cannot be written, or an existing one is damaged.
    """
    path = osp.join(folder, BASIS)
    content = safetensors.numpy.save({k: np.asarray(v, order='C') for k, v in arrays.items()})
    try:
        os.makedirs(folder, exist_ok=True)
        create_file(path, content, partial_path(path))
    except OSError as error:
        raise InputError(describe_medium_error(error, path) + '.') from error
    return load_basis(folder)


def has_basis(folder: str) -> bool:
    """Whether the folder of a teacher has a basis."""
    return osp.isfile(osp.join(folder, BASIS))


def read_basis(folder: str, sha256: str) -> dict[str, np.ndarray]:
    """Read a teacher's basis.

    Args:
        folder (str): Folder of the teacher.
        sha256 (str): Digest of the file, from the manifest.

    Returns:
        dict[str, np.ndarray]: The basis.

    Raises:
        InputError: If the file is missing, damaged or another one.
    """
    path = osp.join(folder, BASIS)
    arrays, digest = load_basis(folder)
    if digest != sha256:
        raise InputError(
            f'"{path}" is not the basis with which the maps of this folder were projected (sha256 '
            f'{digest[:12]}, in the manifest {sha256[:12]}). Restore it, or remove the folder and '
            'store this teacher again.'
        )
    return arrays


def load_basis(folder: str) -> tuple[dict[str, np.ndarray], str]:
    """Read a teacher's basis, and the sha256 of its file.

    Raises:
        InputError: If the file is missing or damaged.
    """
    path = osp.join(folder, BASIS)
    try:
        with open(path, 'rb') as file:
            content = file.read()
        return safetensors.numpy.load(content), hashlib.sha256(content).hexdigest()
    except FileNotFoundError as error:
        raise InputError(
            f'"{path}" does not exist, but the maps of this folder were projected with it. Restore '
            'it, or remove the folder and store this teacher again.'
        ) from error
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise InputError(
            f'"{path}" cannot be read ({str(error)[:80]}). Restore it, or remove the folder and '
            'store this teacher again.'
        ) from error
