# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What is trained in a folder: noted when it is started, and compared at the next start."""

import glob
import os
import os.path as osp
import time
from contextlib import suppress
from typing import Any

from mtkdrl_mm.engine.work_dir_lock import WorkDirLock
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.files import write_json
from mtkdrl_mm.utils.json_files import read_json_object

from .named_files import changed_file
from .results import JOB_NOTE_NAME, OUTPUT_NAME
from .rows import Combination

_NAME = 'started.json'
# Folders, numbered from 1, for what other trainings have left in a training's folder.
_ASIDE = 'earlier_'


def check_unfinished(combination: Combination, work_dir: str) -> None:
    """Refuse to continue what was another training.

    Args:
        combination (Combination): The training.
        work_dir (str): The comparison's work dir.

    Raises:
        InputError: If the folder has checkpoints of another config or file.
    """
    folder = combination.folder(work_dir)
    if not glob.glob(osp.join(glob.escape(folder), '*.pth')):
        return
    before = _read(folder)
    if before['config'] != combination.description:
        raise InputError(
            f'{folder} holds an unfinished training of another config than '
            f'{combination.row.config} with these options is now. Give another --work-dir, or '
            'remove that folder.'
        )
    changed = changed_file(before['files'], combination.files)
    if changed is not None:
        raise InputError(
            f'{folder} holds an unfinished training with another "{changed}" than is there '
            'now. Give another --work-dir, or remove that folder.'
        )


def start_or_continue(combination: Combination, work_dir: str) -> str:
    """Note what is trained in a folder, and since when.

    What another training has left there without a checkpoint, such as its logs, is moved to a
    folder ``earlier_N``: nothing of it is part of this one.

    Args:
        combination (Combination): The training.
        work_dir (str): The comparison's work dir.

    Returns:
        str: The training's folder, which is made.

    Raises:
        InputError: If it holds checkpoints of another training, or another training runs there.
    """
    check_unfinished(combination, work_dir)
    folder = combination.folder(work_dir)
    os.makedirs(folder, exist_ok=True)
    before = _read(folder)
    changed = changed_file(before['files'], combination.files)
    if before['config'] != combination.description or changed is not None:
        _set_aside(folder)
        seconds = 0.0
    else:
        seconds = _seconds(before, folder)
    note = dict(config=combination.description, files=dict(combination.files))
    write_json({**note, 'seconds': seconds, 'since': time.time()}, osp.join(folder, _NAME))
    return folder


def note_end(folder: str) -> float:
    """Note that a start has ended, with or without a result.

    Args:
        folder (str): The training's folder.

    Returns:
        float: Seconds of all starts of the training, together.
    """
    before = _read(folder)
    seconds = before['seconds'] + time.time() - before['since']
    with suppress(OSError):  # a full disk: the next start looks when the output ends
        write_json({**before, 'seconds': seconds, 'since': None}, osp.join(folder, _NAME))
    return seconds


def _seconds(before: dict[str, Any], folder: str) -> float:
    """Duration of the starts up to now."""
    since, output = before['since'], osp.join(folder, OUTPUT_NAME)
    if since is None or not osp.isfile(output):
        return before['seconds']
    # Nobody has noted its end: the tool was killed, or a job was put into the queue again.
    return before['seconds'] + max(0.0, osp.getmtime(output) - since)


def _read(folder: str) -> dict[str, Any]:
    """The note of the start before; its config is None if there is none."""
    path = osp.join(folder, _NAME)
    # Earlier versions noted no times.
    note: dict[str, Any] = dict(config=None, files={}, seconds=0.0, since=None)
    return note | read_json_object(path, dict(config=str)) if osp.isfile(path) else note


def _set_aside(folder: str) -> None:
    """Move all files of a training to a folder among them."""
    names = [name for name in os.listdir(folder) if not name.startswith(('.', _ASIDE))]
    names = [name for name in names if name != JOB_NOTE_NAME]  # of the job that trains now
    if not names:
        return
    with WorkDirLock(folder):
        number = 1
        while osp.exists(target := osp.join(folder, f'{_ASIDE}{number}')):
            number += 1
        os.mkdir(target)
        for name in names:
            os.rename(osp.join(folder, name), osp.join(target, name))
