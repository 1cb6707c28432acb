# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""From the location of weights to files on this machine.

A location is a local path, an ``http(s)://`` URL, a file of the Hugging Face hub
(``hf://ORG/REPO[/FILE][@REVISION]``), a name of timm's weights
(``timm://resnet50.a1_in1k``), or a name of mmengine's model zoos
(``torchvision://``, ``open-mmlab://``, ``mmcls://``).
"""

import hashlib
import os
import os.path as osp
import re
import uuid
from urllib.parse import urlparse

import torch

from mtkdrl_mm.utils import InputError, near_matches
from mtkdrl_mm.utils.errors import capitalized
from mtkdrl_mm.utils.files import PARTIAL_SUFFIX, create_file

from .download import download_file, download_once
from .hub import SCHEME as HUB
from .hub import HubAddress, fetch_hub_file, find_hub_file
from .local_files import missing_file
from .shards import find_shards
from .timm_networks import resolve_timm_weights

TIMM = 'timm://'
# Beside a downloaded file: the sha256 of its URL, which itself may hold a token.
_URL_SUFFIX = '.url_sha256'
# The end of a file's name in model zoos, as torch.hub checks it: a hash of the contents.
_HASH = re.compile(r'-[0-9a-f]{8,}$')


def fetch(location: str, role: str) -> str:
    """Convert a location to a local path, after a download if necessary.

    Files of URLs are kept in ``$TORCH_HOME/hub/checkpoints``, as by torch, and
    those of the Hugging Face hub in its cache. One of the processes that need a
    file downloads it; the others wait (:func:`~.download.download_once`). A file
    that is there is not downloaded again. If another URL with the same last part
    was downloaded before, a hash of the URL is put before the name.

    Args:
        location (str): A path, URL or address, see :mod:`.locations`.
        role (str): Name of the network, for messages.

    Returns:
        str: Path of an existing file; that of the index, if the weights are in
        several files.

    Raises:
        InputError: If the file does not exist or cannot be downloaded, by this
            process or by the one that it has waited for.
    """
    url = _resolve_name(location, role)
    if url.startswith(HUB):
        return fetch_hub_file(HubAddress.parse(url, role), role)
    path = _local_path(url, role)
    if osp.isfile(path):
        return path
    if urlparse(url).scheme not in ('http', 'https'):
        # A name of mmengine's zoo may stand for a path.
        raise InputError(missing_file(location, role) or missing_file(url, role))
    return download_once(
        url,
        osp.dirname(path),
        lambda: find_file(url, role),
        lambda: _download(url, role),
        lambda reason: (
            f'{capitalized(role)}: "{url}" cannot be downloaded ({reason}). Where there is no '
            f'internet, fetch it elsewhere and put it at "{_local_path(url, role)}", or set '
            '`checkpoint` to a local path.'
        ),
    )


def find_file(location: str, role: str) -> str | None:
    """Convert a location to the path of a file that is there, without a download.

    Args:
        location (str): As for :func:`fetch`.
        role (str): Name of the network, for messages.

    Returns:
        str | None: Its path; None if it is not on this machine.
    """
    url = _resolve_name(location, role)
    if url.startswith(HUB):
        return find_hub_file(HubAddress.parse(url, role))
    path = _local_path(url, role)
    return path if osp.isfile(path) else None


def find_digest(location: str, role: str) -> str:
    """Compute the sha256 of weights, without a download.

    Args:
        location (str): As for :func:`fetch`.
        role (str): Name of the network, for messages.

    Returns:
        str: The digest, of weights in several files that of the index followed
        by the files; '' if a file is not on this machine.
    """
    path = find_file(location, role)
    files = None if path is None else find_shards(path)
    if files is None:
        return ''
    digest = hashlib.sha256()
    for name in files:
        with open(name, 'rb') as file:
            while chunk := file.read(2**22):
                digest.update(chunk)
    return digest.hexdigest()


def location_name(location: str) -> str:
    """The name of weights that are not on this machine, by which they are compared.

    Args:
        location (str): As for :func:`fetch`.

    Returns:
        str: Folder and name of the file, since many trainings end in an
        ``epoch_100.pth``; the name alone if it ends in a hash of the contents,
        as in model zoos. On the hub many files have the same name, so that
        repository and revision belong to it: ``ORG/REPO[/FILE][@REVISION]``.

    Example:
        >>> from mtkdrl_mm.weights.locations import location_name
        >>> location_name('/data/r50/epoch_100.pth'), location_name('torchvision://resnet50')
        ('r50/epoch_100.pth', 'resnet50')
        >>> location_name('https://a.org/v0/resnet50_8xb32_in1k_20210831-ea4938fc.pth')
        'resnet50_8xb32_in1k_20210831-ea4938fc.pth'
        >>> location_name('hf://timm/resnet50.a1_in1k'), location_name('timm://resnet50.a1_in1k')
        ('timm/resnet50.a1_in1k', 'timm/resnet50.a1_in1k')
    """
    if location.startswith(TIMM):
        return f'timm/{location.removeprefix(TIMM)}'
    if location.startswith(HUB):
        return str(HubAddress.parse(location, 'network')).removeprefix(HUB)
    parts = urlparse(location)
    # `resnet50` of torchvision://resnet50 is where the host of a URL is.
    folder, name = osp.split(parts.path.rstrip('/') if parts.scheme else location)
    if not name:
        return parts.netloc or location
    if _HASH.search(osp.splitext(name)[0]):
        return name
    return osp.join(osp.basename(folder), name)


def is_same_location(name: str, recorded: str) -> bool:
    """Whether two names of weights, which are not on this machine, are the same.

    Args:
        name (str): What :func:`location_name` returns.
        recorded (str): What it returned when the weights were there, in this version
            or in an earlier one, which recorded no folder.

    Returns:
        bool: Whether they agree in what both tell.
    """
    folders = osp.dirname(name), osp.dirname(recorded)
    return osp.basename(name) == osp.basename(recorded) and (
        folders[0] == folders[1] or not all(folders)
    )


def _download(url: str, role: str) -> str:
    path = _local_path(url, role)
    # Of several URLs with the same last part, one gets the name.
    record, partial = path + _URL_SUFFIX, f'{path}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}'
    mine = create_file(record, _url_digest(url).encode(), partial)
    if not mine:
        path = _local_path(url, role)
    try:
        download_file(url, path)
    except BaseException:
        if mine:
            os.remove(record)
        raise
    return path


def _url_digest(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()


def _local_path(url: str, role: str) -> str:
    """Where the file of a URL or path is, or belongs."""
    if urlparse(url).scheme not in ('http', 'https'):
        return osp.expanduser(url)
    name = osp.basename(urlparse(url).path)
    if name in ('', '.', '..'):
        raise InputError(f'{capitalized(role)}: the address "{url}" names no file.')
    folder, digest = osp.join(torch.hub.get_dir(), 'checkpoints'), _url_digest(url)
    path = osp.join(folder, name)
    # A file without a record was put there by hand, or by another program that uses torch's cache.
    if osp.isfile(path + _URL_SUFFIX):
        with open(path + _URL_SUFFIX, encoding='utf-8') as file:
            if file.read() != digest:
                return osp.join(folder, f'{digest[:16]}-{name}')
    return path


def _resolve_name(location: str, role: str) -> str:
    """Look up the URL, hub address or path of a name such as ``torchvision://resnet50``."""
    from mmengine.runner import checkpoint as mm

    scheme, separator, name = location.partition('://')
    if not separator or scheme in ('http', 'https', 'hf'):
        return location
    if scheme == 'timm':
        return resolve_timm_weights(name, role)
    if scheme in ('torchvision', 'modelzoo'):
        owner, known = 'torchvision', mm.get_torchvision_models()
    elif scheme in ('open-mmlab', 'openmmlab'):
        owner, known = 'mmengine', mm.get_external_models()
        name = mm.get_deprecated_model_names().get(name, name)
    elif scheme == 'mmcls':
        owner, known = 'mmengine', mm.get_mmcls_models()
    else:
        raise InputError(
            f'{capitalized(role)}: addresses with "{scheme}://" cannot be read ("{location}"). '
            'Download the file and set its path.'
        )
    if name not in known:
        raise InputError(
            f'{capitalized(role)}: {owner} has no weights "{name}". {near_matches(name, known)}'
        )
    url = known[name]
    return url if '://' in url else osp.join(mm._get_mmengine_home(), url)
