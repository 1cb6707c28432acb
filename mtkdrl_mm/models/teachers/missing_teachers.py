# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What to do about teachers whose files do not exist."""

import os.path as osp
import re
from collections.abc import Iterable

from mtkdrl_mm.utils.errors import capitalized
from mtkdrl_mm.weights.local_files import missing_file


def missing_teachers(teachers: Iterable[tuple[str, str | None]], name_keys: bool = True) -> str:
    """Name all teachers whose files do not exist, and say what to do.

    Args:
        teachers (Iterable[tuple[str, str | None]]): Name and ``checkpoint`` of
            every teacher, in the order of ``model.teachers``.
        name_keys (bool): Whether to name the keys of the checkpoints, which are
            others where the teachers are those of several pools. Defaults to True.

    Returns:
        str: A line per teacher; empty if there are none.

    Example:
        >>> from mtkdrl_mm.models.teachers.missing_teachers import missing_teachers
        >>> print(missing_teachers([('resnet', 'no.pth'), ('swin', 'https://a.org/swin.pth')]))
        Teacher "resnet": the file "no.pth" does not exist. Set model.teachers.0.checkpoint.
    """
    lines = []
    for index, (name, checkpoint) in enumerate(teachers):
        missing = None if checkpoint is None else missing_file(checkpoint, f'teacher "{name}"')
        if checkpoint is None or missing is None:
            continue
        remedies = [f'set model.teachers.{index}.checkpoint'] if name_keys else []
        config = training_config(checkpoint)
        remedies += [f'train it: python tools/train.py {config}'] if config else []
        advice = f' {capitalized(", or ".join(remedies))}' if remedies else ''
        # A command is copied, and has no full stop behind it.
        lines.append(f'{missing}{advice}{"." if advice and not config else ""}')
    return '\n'.join(lines)


def training_config(checkpoint: str) -> str | None:
    """The config whose training writes a checkpoint, by the name of its work dir.

    Args:
        checkpoint (str): Path of the checkpoint, which need not exist.

    Returns:
        str | None: Path of the config, relative to the current folder like the
        checkpoint; None if there is none.
    """
    match = re.fullmatch(
        r'work_dirs/([^/]+/[^/]+)/(?:epoch|iter)_\d+\.pth', osp.normpath(checkpoint)
    )
    config = f'configs/{match[1]}.py' if match else None
    return config if config and osp.isfile(config) else None
