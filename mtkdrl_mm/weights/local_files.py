# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Files of weights on this machine, and what to say of one that is not there."""

import os.path as osp

from mtkdrl_mm.utils.errors import capitalized


def missing_file(location: str, role: str) -> str | None:
    """Say that a file of weights does not exist.

    Args:
        location (str): Its path; of an address nothing is said.
        role (str): Name of the network, for the message.

    Returns:
        str | None: A sentence; None if the file exists.
    """
    path = osp.expanduser(location)
    if '://' in location or osp.isfile(path):
        return None
    what = 'is a folder' if osp.isdir(path) else 'does not exist'
    return f'{capitalized(role)}: the file "{location}" {what}.'
