# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The checkpoints of a work dir: which is the last, and which can be resumed."""

import glob
import os
import os.path as osp
from typing import Any

from mmengine.logging import print_log

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.checkpoint import read_checkpoint
from mtkdrl_mm.utils.files import atomic_write

_PATTERNS = ('epoch_*.pth', 'iter_*.pth', 'interrupted_iter_*.pth')


def name_last_checkpoint(work_dir: str, path: str) -> None:
    """Write down which checkpoint ``--resume`` is to find.

    Args:
        work_dir (str): The work dir.
        path (str): The checkpoint.
    """
    with atomic_write(osp.join(work_dir, 'last_checkpoint')) as file:
        file.write(path)


def last_checkpoint_named(work_dir: str) -> str | None:
    """The checkpoint that ``last_checkpoint`` names, looked for in the work dir first.

    A moved or copied work dir still names the old place.

    Args:
        work_dir (str): The work dir.

    Returns:
        str | None: A path, which need not exist; None without that file.
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


def find_resumable(work_dir: str) -> tuple[str, dict[str, Any]] | None:
    """Find the newest checkpoint of a work dir that can be read.

    That is the one which ``last_checkpoint`` names. Where it is missing or
    damaged, the newest readable one of the others is taken, and a warning says so.

    Args:
        work_dir (str): The work dir.

    Returns:
        tuple[str, dict] | None: Its path and contents; None where there are no
        checkpoints.

    Raises:
        InputError: If there are checkpoints, but none can be read.
    """
    named = last_checkpoint_named(work_dir)
    others = [
        path
        for pattern in _PATTERNS
        for path in glob.glob(osp.join(glob.escape(work_dir), pattern))
    ]
    others.sort(key=os.path.getmtime, reverse=True)
    candidates = [named] if named is not None else []
    candidates += [path for path in others if path != named]
    problems = []
    for path in candidates:
        try:
            contents = read_checkpoint(path, 'checkpoint')
            position = contents.get('meta') or {}
            if not {'epoch', 'iter'} <= set(position) or 'state_dict' not in contents:
                raise InputError(f'Checkpoint: "{path}" is no training checkpoint of mmengine.')
        except InputError as error:
            problems.append(str(error))
            continue
        if problems or (named is None and others):
            reason = ' '.join(problems) or f'"{work_dir}" has no readable file "last_checkpoint".'
            print_log(
                f'{reason} Going on from the newest checkpoint that can be read: {path} (epoch '
                f'{position["epoch"]}, iteration {position["iter"]}).',
                'current',
                level=30,
            )
        return path, contents
    if problems:
        raise InputError(
            f'No checkpoint in "{work_dir}" can be resumed. {" ".join(problems)} Without --resume, '
            'and with another --work-dir, training starts anew.'
        )
    return None
