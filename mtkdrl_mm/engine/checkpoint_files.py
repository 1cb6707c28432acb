# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Checkpoint files of a work dir: the last one, and the one to resume."""

import glob
import os
import os.path as osp
from contextlib import suppress
from typing import Any, NamedTuple

from mmengine.dist import all_gather_object
from mmengine.logging import print_log

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.files import atomic_write
from mtkdrl_mm.weights.checkpoint import read_checkpoint
from mtkdrl_mm.weights.local_files import last_checkpoint_named

# Beside the checkpoints of an earlier training, while the one that was begun last has saved none.
_BEGUN_ANEW = 'begun_anew'
_PATTERNS = ('epoch_*.pth', 'iter_*.pth', 'interrupted_iter_*.pth')


class SavedCheckpoint(NamedTuple):
    """A training checkpoint that has been read.

    Attributes:
        path (str): Path of the file.
        contents (dict[str, Any]): Its contents, with ``meta.epoch``,
            ``meta.iter`` and ``state_dict``.
    """

    path: str
    contents: dict[str, Any]

    @property
    def meta(self) -> dict[str, Any]:
        """Epoch, iteration, seed, and what else describes the training."""
        return self.contents['meta']


def name_last_checkpoint(work_dir: str, path: str) -> None:
    """Record the last checkpoint in the file ``last_checkpoint``, for ``--resume``.

    Args:
        work_dir (str): The work dir.
        path (str): The checkpoint.
    """
    with atomic_write(osp.join(work_dir, 'last_checkpoint')) as file:
        file.write(path)
    forget_earlier_training(work_dir)


def note_earlier_training(work_dir: str) -> bool:
    """Note at a start without ``--resume`` that the checkpoints there are of an earlier training.

    Args:
        work_dir (str): The work dir.

    Returns:
        bool: Whether there are any.
    """
    paths = _candidates(work_dir)
    if paths:
        with atomic_write(osp.join(work_dir, _BEGUN_ANEW)) as file:
            file.write(paths[0])
    return bool(paths)


def forget_earlier_training(work_dir: str) -> None:
    """Note that the checkpoints of a work dir are those of the training that was begun last."""
    with suppress(FileNotFoundError):
        os.remove(osp.join(work_dir, _BEGUN_ANEW))


def holds_earlier_training(work_dir: str) -> bool:
    """Whether all checkpoints of a work dir are of a training before the one begun last."""
    return osp.isfile(osp.join(work_dir, _BEGUN_ANEW))


def _candidates(work_dir: str) -> list[str]:
    """Checkpoints of a work dir: the last one by name, then the newest; they may be damaged."""
    named = last_checkpoint_named(work_dir)
    others = [
        path
        for pattern in _PATTERNS
        for path in glob.glob(osp.join(glob.escape(work_dir), pattern))
    ]
    others.sort(key=os.path.getmtime, reverse=True)
    return ([] if named is None else [named]) + [path for path in others if path != named]


def find_resumable(work_dir: str) -> SavedCheckpoint | None:
    """Find the newest checkpoint of a work dir that can be read.

    This is the one in ``last_checkpoint``. If it is missing or damaged, the
    newest of the others that can be read is taken, with a warning.

    Args:
        work_dir (str): The work dir.

    Returns:
        SavedCheckpoint | None: The checkpoint; None if there are none.

    Raises:
        InputError: If there are checkpoints, but none can be read, or none is of the
            training that was begun last.
    """
    candidates = _candidates(work_dir)
    if candidates and holds_earlier_training(work_dir):
        raise InputError(
            f'The checkpoints in "{work_dir}" are of an earlier training: the one that was begun '
            'there last, without --resume, has saved none. To continue the earlier one, name its '
            f'checkpoint (--resume {candidates[0]}, if it is the last); to begin anew, omit '
            '--resume.'
        )
    named = last_checkpoint_named(work_dir)
    problems = []
    for path in candidates:
        try:
            contents = read_checkpoint(path, 'checkpoint')
            position = contents.get('meta') or {}
            if not _is_training_checkpoint(contents):
                raise InputError(f'Checkpoint: "{path}" is no training checkpoint of mmengine.')
        except InputError as error:
            problems.append(str(error))
            continue
        if problems or named is None:
            reason = ' '.join(problems) or f'"{work_dir}" has no readable file "last_checkpoint".'
            print_log(
                f'{reason} Resuming from the newest checkpoint that can be read: {path} (epoch '
                f'{position["epoch"]}, iteration {position["iter"]}).',
                'current',
                level=30,
            )
        return SavedCheckpoint(path, contents)
    if problems:
        raise InputError(
            f'No checkpoint in "{work_dir}" can be resumed. {" ".join(problems)} To start a new '
            'training, omit --resume and set another --work-dir.'
        )
    return None


def find_checkpoint(load_from: str | None, work_dir: str) -> SavedCheckpoint | None:
    """Read the checkpoint to resume.

    Args:
        load_from (str, optional): Path or URL of the checkpoint; None for the
            newest one of the work dir.
        work_dir (str): The work dir.

    Returns:
        SavedCheckpoint | None: The checkpoint; None if the work dir has none.

    Raises:
        InputError: If the file cannot be read, or is no training checkpoint.
    """
    if load_from is None:
        return find_resumable(work_dir)
    contents = read_checkpoint(load_from, 'checkpoint')
    if not _is_training_checkpoint(contents):
        raise InputError(
            f'"{load_from}" cannot be resumed: it is no training checkpoint. To start a new '
            'training from its weights, set `load_from` without --resume.'
        )
    return SavedCheckpoint(load_from, contents)


def check_same_checkpoint(found: SavedCheckpoint | None) -> None:
    """Raise an error unless all processes resume the same checkpoint, or none.

    Args:
        found (SavedCheckpoint, optional): The checkpoint of this process.

    Raises:
        InputError: If the processes have found different checkpoints.
    """
    mine = None
    if found is not None:
        mine = (osp.basename(found.path), found.meta['epoch'], found.meta['iter'])
    gathered = all_gather_object(mine)
    if any(other != gathered[0] for other in gathered):
        listed = ', '.join(
            f'process {rank}: {other[0] if other else "none"}'
            for rank, other in enumerate(gathered)
        )
        raise InputError(
            f'The processes would resume different checkpoints ({listed}). The work dir must '
            'be on a file system that all machines share, or be copied to each of them.'
        )


def _is_training_checkpoint(contents: dict[str, Any]) -> bool:
    return 'state_dict' in contents and {'epoch', 'iter'} <= set(contents.get('meta') or ())
