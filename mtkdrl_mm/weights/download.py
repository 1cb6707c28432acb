# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Downloads from the web, and those that several processes need: one downloads, the others wait."""

import hashlib
import os
import os.path as osp
import shutil
import time
import uuid
from collections.abc import Callable
from http.client import HTTPException
from urllib.request import Request, urlopen

from filelock import FileLock
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from tqdm import tqdm

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.files import PARTIAL_SUFFIX, atomic_write

# After so long without an answer, or without more of a file, a server is given up.
SECONDS_OF_SILENCE = 60.0


def download_file(url: str, path: str) -> None:
    """Download a file of the web, wholly or not at all.

    Unlike ``torch.hub.download_url_to_file``, which keeps what has arrived when
    a connection breaks off, this compares the size with the server's, and gives up
    a server that says nothing for a minute.

    Args:
        url (str): The ``http(s)://`` URL.
        path (str): Where to write it; an existing file is replaced.

    Raises:
        OSError: If it cannot be downloaded, or not wholly.
    """
    print_log(f'Downloading {url} to {path}', 'current')
    # Some servers refuse Python's own name.
    request = Request(url, headers={'User-Agent': 'torch.hub'})
    partial = f'{path}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}'
    try:
        with (
            urlopen(request, timeout=SECONDS_OF_SILENCE) as response,
            atomic_write(path, 'wb', partial) as file,
        ):
            length = response.headers.get('Content-Length')
            size = None if length is None else int(length)
            hidden = not is_main_process()
            with tqdm.wrapattr(file, 'write', total=size, disable=hidden) as target:
                shutil.copyfileobj(response, target)
            if size is not None and file.tell() != size:
                raise OSError(f'the connection ended after {file.tell()} of {size} bytes')
    except HTTPException as error:
        raise OSError(f'the connection ended too early: {error!r}') from error


def download_once(
    what: str,
    lock_folder: str,
    find: Callable[[], str | None],
    download: Callable[[], str],
    describe: Callable[[str], str],
) -> str:
    """Download a file, unless it is there or another process is downloading it.

    The processes wait for a lock and not in a collective operation, because a
    slow download would exceed its time limit. The lock ends with its process,
    so that the next one continues if a process is killed. If the download
    fails, the processes that have waited for it fail with the same reason.

    Args:
        what (str): The address, which identifies the file.
        lock_folder (str): Folder for the lock, which all processes share.
        find (Callable): Returns the path of the file, or None if it is not
            there.
        download (Callable): Downloads the file and returns its path.
        describe (Callable): Makes the error message of the reason.

    Returns:
        str: Path of the file.

    Raises:
        InputError: If it cannot be downloaded, by this process or by the one
            that it has waited for.
    """
    start = time.time()
    mark = osp.join(lock_folder, '.' + hashlib.sha256(what.encode()).hexdigest()[:16])
    lock = FileLock(mark + '.lock')
    try:
        os.makedirs(lock_folder, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except TimeoutError:
            print_log(f'Another process is downloading {what}: waiting for it', 'current')
            lock.acquire(poll_interval=0.5)
    except NotImplementedError:
        pass  # a file system without locks: every process downloads and renames a file
    except OSError as error:
        raise InputError(describe(str(error))) from error
    failure = mark + '.failed'
    try:
        path = find()
        if path is not None:
            return path
        if osp.isfile(failure) and osp.getmtime(failure) >= start:
            with open(failure, encoding='utf-8') as file:
                raise InputError(file.read())
        try:
            path = download()
        except (OSError, RuntimeError, InputError) as error:
            message = str(error) if isinstance(error, InputError) else describe(str(error))
            with open(failure, 'w', encoding='utf-8') as file:
                file.write(message)
            raise InputError(message) from error
        if osp.isfile(failure):
            os.remove(failure)
        return path
    finally:
        lock.release()
