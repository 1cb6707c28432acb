# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Files of the Hugging Face hub: ``hf://ORG/REPO[/FILE][@REVISION]``.

They are downloaded by huggingface_hub into its cache, which it shares with timm and
transformers. Its environment variables apply: ``HF_HOME``, ``HF_TOKEN``,
``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` and others.
"""

import logging
import os
import os.path as osp
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

from mmengine.logging import print_log

from mtkdrl_mm.utils import InputError, near_matches
from mtkdrl_mm.utils.errors import capitalized, first_line, summarise
from mtkdrl_mm.utils.optional_packages import import_optional

from .download import SECONDS_OF_SILENCE, download_once
from .shards import INDEX_SUFFIX, find_shards, read_index

SCHEME = 'hf://'

_ADDRESS = re.compile(
    r'(?P<repo>[^/@]+/[^/@]+)(?:@(?P<early>refs/(?:pr|convert)/[^/@]+|(?!refs/)[^/@]+)(?=/))?'
    r'(?:/(?P<file>[^@]+))?(?:@(?P<revision>[^@]+))?'
)
_REPO = re.compile(r'[A-Za-z0-9][\w.-]*/[\w.-]+', re.ASCII)
# What transformers, timm and diffusers call the file of weights, the safest first.
_USUAL_FILES = (
    'model.safetensors',
    'model' + INDEX_SUFFIX['safetensors'],
    'pytorch_model.bin',
    'pytorch_model' + INDEX_SUFFIX['bin'],
)
_SHARD = re.compile(r'-\d{5}-of-\d{5}\.\w+$')
_PICKLES = ('.pth', '.pt', '.bin')


class HubConnectionError(InputError):
    """The hub cannot be reached, or HF_HUB_OFFLINE is set."""


@dataclass(frozen=True)
class HubAddress:
    """A file of weights on the hub.

    Attributes:
        repo (str): The repository, ``ORG/REPO``.
        file (str, optional): Path of the file in it; None for the only one, or
            the one with the usual name.
        revision (str, optional): Branch, tag or commit; None for the main branch.
    """

    repo: str
    file: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, location: str, role: str) -> 'HubAddress':
        """Split an address.

        ``hf://ORG/REPO@REVISION/FILE``, huggingface_hub's own form, is accepted
        as well.

        Args:
            location (str): ``hf://ORG/REPO[/FILE][@REVISION]``.
            role (str): Name of the network, for messages.

        Raises:
            InputError: If it is no such address.
        """
        match = _ADDRESS.fullmatch(location.removeprefix(SCHEME))
        file = match['file'] if match else None
        revision = (match['early'] or match['revision']) if match else None
        if (
            match is None
            or not _REPO.fullmatch(match['repo'])
            or (match['early'] and match['revision'])
            or (file is not None and {'', '.', '..'} & set(file.split('/')))
        ):
            raise InputError(
                f'{capitalized(role)}: "{location}" is no address of the Hugging Face hub, which '
                'look like hf://ORG/REPO, hf://ORG/REPO/FILE or hf://ORG/REPO/FILE@REVISION.'
            )
        return cls(match['repo'], file, None if revision is None else unquote(revision))

    def __str__(self) -> str:
        file = '' if self.file is None else f'/{self.file}'
        revision = '' if self.revision is None else f'@{self.revision}'
        return f'{SCHEME}{self.repo}{file}{revision}'


def find_hub_file(address: HubAddress) -> str | None:
    """Find a file in huggingface_hub's cache, without any connection.

    Args:
        address (HubAddress): The file.

    Returns:
        str | None: Its path, that of the index for weights in several files;
        None if it is not in the cache, or not completely.
    """
    folder = _snapshot(address)
    if folder is None:
        return None
    name = address.file
    if name is None:
        try:
            name = choose_file(_files_in(folder), address, 'checkpoint')
        except InputError:
            return None
    path = osp.join(folder, *name.split('/'))
    if not osp.isfile(path) or find_shards(path) is None:
        return None
    return path


def fetch_hub_file(address: HubAddress, role: str) -> str:
    """Get a file of the hub, from the cache if it is there.

    A file in the cache is used as it is, also if the branch has got another one
    since: all processes of a training, and the same training when it is
    resumed, read the same weights. Without a file in the address, one of another
    name than ``model.safetensors`` is only taken from the cache if the hub's list
    of files leads to it, or cannot be had.

    Args:
        address (HubAddress): The file.
        role (str): Name of the network, for messages.

    Returns:
        str: Its path, that of the index for weights in several files.

    Raises:
        InputError: If huggingface_hub is not installed, or the file does not
            exist or cannot be downloaded.
    """
    # The module that old versions lack.
    import_optional('huggingface_hub.errors', f'{capitalized(role)}: "{address}"')
    from huggingface_hub import constants

    cached = find_hub_file(address)
    if cached is not None and (address.file is not None or _is_first_choice(cached, address)):
        return cached
    # A file may be there because it was once asked for by name, or by another program. Only the
    # repository's own list shows whether it is the one to choose.

    def download() -> str:
        try:
            return _download(address, role)
        except HubConnectionError:
            if cached is None:
                raise
            print_log(
                f'{address}: the hub cannot be asked for its files, "{cached}" is used',
                'current',
                logging.WARNING,
            )
            return cached

    def find() -> str | None:
        found = find_hub_file(address)
        return None if found == cached else found

    return download_once(
        str(address),
        osp.join(constants.HF_HUB_CACHE, '.locks'),
        find,
        download,
        lambda reason: _not_downloaded(address, role, reason),
    )


def _snapshot(address: HubAddress) -> str | None:
    """Folder of a revision in the cache."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        return None
    try:
        return str(
            snapshot_download(address.repo, revision=address.revision, local_files_only=True)
        )
    except (OSError, ValueError):  # not there
        return None


def _is_first_choice(path: str, address: HubAddress) -> bool:
    """Whether a file in the cache would be chosen whatever else its repository has."""
    folder = _snapshot(address)
    return folder is not None and path == osp.join(folder, _USUAL_FILES[0])


def _files_in(folder: str) -> list[str]:
    return [
        osp.relpath(osp.join(root, name), folder).replace(os.sep, '/')
        for root, _, names in os.walk(folder)
        for name in names
    ]


def choose_file(names: Sequence[str], address: HubAddress, role: str) -> str:
    """Choose the file of weights of a repository.

    Args:
        names (Sequence[str]): All its files.
        address (HubAddress): The repository, for messages.
        role (str): Name of the network, for messages.

    Returns:
        str: The one with the usual name, safetensors first; else the only
        ``.safetensors``, else the only ``.pth``, ``.pt`` or ``.bin``.

    Raises:
        InputError: If there is none, or more than one.
    """
    for name in _USUAL_FILES:
        if name in names:
            return name
    whole = [name for name in sorted(names) if not _SHARD.search(name)]
    found: list[str] = []
    for suffixes in (('.safetensors', INDEX_SUFFIX['safetensors']), _PICKLES):
        found = [name for name in whole if name.endswith(suffixes)]
        if len(found) == 1:
            return found[0]
        if found:
            break
    example = str(replace(address, file=(found or ['FILE'])[0]))
    if found:
        raise InputError(
            f'{capitalized(role)}: "{address}" has several files of weights '
            f'({summarise(found, 6)}): name one of them, such as {example}.'
        )
    raise InputError(
        f'{capitalized(role)}: "{address}" has no file of weights (.safetensors, .pth, .pt or '
        '.bin).'
    )


def _download(address: HubAddress, role: str) -> str:
    """Download a file, with all its shards, into the cache; return its path."""
    from huggingface_hub import constants, hf_hub_download

    def get(name: str) -> str:
        one = replace(address, file=name)
        print_log(f'Downloading {one} to {constants.HF_HUB_CACHE}', 'current')
        return str(
            call_hub(
                lambda: hf_hub_download(address.repo, name, revision=address.revision), one, role
            )
        )

    name = address.file
    if name is None:
        name = choose_file(_listed_files(address, role), address, role)
        cached = find_hub_file(replace(address, file=name))
        if cached is not None:
            return cached
    path = get(name)
    for shard in read_index(path) if path.endswith('.index.json') else ():
        get(osp.join(osp.dirname(name), shard))
    return path


def _listed_files(address: HubAddress, role: str) -> list[str]:
    """The repository's files, at the commit in the cache: later ones do not change the choice."""
    folder = _snapshot(address)
    if folder is not None:
        try:
            return _list_files(replace(address, revision=osp.basename(folder)), role)
        except HubConnectionError:
            raise
        except InputError:
            pass  # the commit is gone
    return _list_files(address, role)


def _list_files(address: HubAddress, role: str) -> list[str]:
    from huggingface_hub import HfApi

    # By itself, huggingface_hub would wait for ever here. It limits the time of downloads.
    info = call_hub(
        lambda: HfApi().model_info(
            address.repo, revision=address.revision, timeout=SECONDS_OF_SILENCE
        ),
        address,
        role,
    )
    return [entry.rfilename for entry in info.siblings or ()]


def call_hub(function: Callable[[], Any], address: HubAddress, role: str) -> Any:
    """Call a function of huggingface_hub; turn its errors into one sentence.

    Args:
        function (Callable): The call.
        address (HubAddress): What it is about.
        role (str): Name of the network, for messages.

    Returns:
        Any: What it returns.

    Raises:
        InputError: If the repository, revision or file does not exist, or may
            not be read.
    """
    from huggingface_hub import constants, errors

    start = f'{capitalized(role)}: "{address}"'
    place = f'{constants.ENDPOINT}/{address.repo}'
    if constants.HF_HUB_OFFLINE:
        raise HubConnectionError(
            f'{start} is not in the cache ("{constants.HF_HUB_CACHE}"), and HF_HUB_OFFLINE forbids '
            f'to download it: {_by_hand(address)}, or unset HF_HUB_OFFLINE.'
        )
    try:
        return function()
    except errors.GatedRepoError as error:
        raise InputError(
            f'{start} is gated: accept its terms at {place}, and log in by `{login_command()}` or '
            'set HF_TOKEN.'
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f'{start}: there is no repository {place}, or it is private. Check its name; for a '
            f'private one, log in by `{login_command()}` or set HF_TOKEN.'
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f'{start}: {place} has no branch, tag or commit "{address.revision}".'
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise HubConnectionError(
            _not_downloaded(address, role, first_line(error.__cause__ or error))
        ) from error
    except errors.EntryNotFoundError as error:
        names = _list_files(address, role)
        close = near_matches(address.file or '', names) if len(names) <= 30 else ''
        raise InputError(
            f'{start}: {place} has no file "{address.file}". {close}'.rstrip()
        ) from error
    except (
        Exception
    ) as error:  # of requests in some versions of huggingface_hub, of httpx in others
        raise HubConnectionError(_not_downloaded(address, role, first_line(error))) from error


def _not_downloaded(address: HubAddress, role: str, reason: str) -> str:
    return (
        f'{capitalized(role)}: "{address}" cannot be downloaded ({reason}). Start again to '
        f'continue the download; or, where there is no internet, {_by_hand(address)}.'
    )


def _by_hand(address: HubAddress) -> str:
    file = '' if address.file is None else f' {address.file}'
    revision = '' if address.revision is None else f' --revision {address.revision}'
    return (
        f'run `{_tool()} download {address.repo}{file}{revision}` elsewhere and copy the cache, or '
        'set `checkpoint` to a local path'
    )


def _tool() -> str:
    """huggingface_hub's command, which has another name since version 1."""
    import huggingface_hub

    return 'huggingface-cli' if huggingface_hub.__version__.startswith('0.') else 'hf'


def login_command() -> str:
    """The command by which huggingface_hub saves a token."""
    return f'{_tool()} login' if _tool() == 'huggingface-cli' else f'{_tool()} auth login'
