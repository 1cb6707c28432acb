# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Files of weights on this machine, and what to say of one that is not there."""

import glob
import os
import os.path as osp

from mtkdrl_mm.utils.errors import capitalized, similar_files, summarise


def missing_file(location: str, role: str) -> str | None:
    """Say that a file of weights does not exist, and which others do.

    Args:
        location (str): Its path; of an address nothing is said.
        role (str): Name of the network, for the message.

    Returns:
        str | None: A sentence or two; None if the file exists.
    """
    path = osp.expanduser(location)
    if '://' in location or osp.isfile(path):
        return None
    start = f'{capitalized(role)}:'
    if osp.isdir(path):
        last = last_checkpoint(path)
        what = '; it has no checkpoint' if last is None else f'; its last checkpoint is "{last}"'
        return f'{start} "{location}" is a folder{what}.'
    return f'{start} the file "{location}" does not exist.{similar_files(path) or _beside(path)}'


def _beside(path: str) -> str:
    """The files of the same kind in the folder of a missing one, the newest first."""
    folder, suffix = osp.dirname(path), osp.splitext(path)[1]
    found = glob.glob(osp.join(glob.escape(folder), f'*{glob.escape(suffix)}')) if suffix else []
    found = sorted(filter(osp.isfile, found), key=osp.getmtime, reverse=True)
    names = [osp.basename(one) for one in found]
    return f' "{folder or "."}" has {summarise(names)}.' if names else ''


def last_checkpoint(work_dir: str) -> str | None:
    """Find the last checkpoint of a work dir, or the newest of the others (such as the best one).

    Args:
        work_dir (str): The work dir.

    Returns:
        str | None: Its path; None without any.
    """
    named = last_checkpoint_named(work_dir)
    if named is not None and osp.isfile(named):
        return named
    found = glob.glob(osp.join(glob.escape(work_dir), '*.pth'))
    return max(found, key=os.path.getmtime, default=None)


def last_checkpoint_named(work_dir: str) -> str | None:
    """Read the path of the last checkpoint from the file ``last_checkpoint``.

    After a work dir was moved or copied, the file still holds the old path.
    The checkpoint is therefore looked up in the work dir first.

    Args:
        work_dir (str): The work dir.

    Returns:
        str | None: The path, which need not exist; None without that file.
    """
    try:
        with open(osp.join(work_dir, 'last_checkpoint'), encoding='utf-8') as file:
            named = file.read().strip()
    except (OSError, UnicodeDecodeError):
        return None
    if not named:
        return None
    local = osp.join(work_dir, osp.basename(named.rstrip('/')))
    return local if osp.isfile(local) or not osp.isfile(named) else named
