# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The record in a work dir that a training has ended, with all that follows its last step."""

import logging
import os
import os.path as osp
from contextlib import suppress

from mmengine.dist import is_main_process, master_only
from mmengine.logging import print_log

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.distributed import broadcast_from_main
from mtkdrl_mm.utils.files import MEDIUM_ERRORS, describe_medium_error, write_json
from mtkdrl_mm.utils.json_files import read_json_object

# The last checkpoint is saved before the last validation and the hooks' `after_train`, and does not
# tell whether they have been run.
_NAME = 'completed.json'


def is_complete(work_dir: str, position: dict[str, int]) -> bool:
    """Whether a training has ended at a position. Must be called on all processes.

    Args:
        work_dir (str): The work dir.
        position (dict[str, int]): ``epochs`` or ``iterations`` that are done.

    Returns:
        bool: The main process's answer, on all processes.
    """
    complete = False
    if is_main_process():
        with suppress(InputError):
            complete = read_json_object(completion_path(work_dir)) == position
    return bool(broadcast_from_main(complete))


@master_only
def note_completion(work_dir: str, position: dict[str, int]) -> None:
    """Record that a training has ended; on a full disk only a warning is logged.

    Args:
        work_dir (str): The work dir.
        position (dict[str, int]): ``epochs`` or ``iterations`` that are done.
    """
    path = completion_path(work_dir)
    try:
        write_json(position, path)
    except OSError as error:
        if error.errno not in MEDIUM_ERRORS:
            raise
        print_log(
            f'{describe_medium_error(error, path)}. If this training is resumed, its last '
            'validation will be repeated.',
            'current',
            logging.WARNING,
        )


@master_only
def forget_completion(work_dir: str) -> None:
    """Remove the record of an earlier training, or of a shorter one that goes on.

    Args:
        work_dir (str): The work dir.
    """
    with suppress(FileNotFoundError):
        os.remove(completion_path(work_dir))


def completion_path(work_dir: str) -> str:
    """Path of the record in a work dir."""
    return osp.join(work_dir, _NAME)
