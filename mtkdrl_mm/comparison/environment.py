# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Command, code and machine of a comparison."""

import os
import os.path as osp
import platform
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from mtkdrl_mm.utils.files import atomic_write

from .results import Runs


def current_commit(root: str) -> str:
    """Short hash of a repository's commit.

    Args:
        root (str): Its folder.

    Returns:
        str: The hash, with ``+`` if its code differs from the commit; 'unknown'
        without git or a repository.
    """

    def git(*arguments: str) -> str:
        process = subprocess.run(['git', *arguments], cwd=root, capture_output=True, text=True)
        return process.stdout.strip()

    try:
        changed = git('status', '--porcelain', '--', 'mtkdrl_mm', 'configs', 'tools')
        commit = git('rev-parse', '--short', 'HEAD')
    except OSError:  # git is not installed, as on many compute nodes
        commit = ''
    return commit + ('+' if changed else '') if commit else 'unknown'


def command_line(words: Sequence[str], variables: Mapping[str, str] | None = None) -> str:
    """The command that started a tool, as it can be given to a shell.

    Args:
        words (Sequence[str]): The words after ``python``. The first one, the tool's
            file, is named from the current folder if it is in there.
        variables (Mapping[str, str], optional): Environment variables on which it depends.
            Defaults to None.

    Example:
        >>> from mtkdrl_mm.comparison import command_line
        >>> command_line(['train.py', 'a b.py'], {'POOL': 'weak'})
        "POOL=weak python train.py 'a b.py'"
    """
    settings = [f'{name}={shlex.quote(value)}' for name, value in (variables or {}).items()]
    tool, *arguments = words
    near = osp.relpath(tool)  # compare_pools.py, for one, starts tools by their absolute path
    tool = tool if near.startswith(osp.pardir) else near
    return ' '.join([*settings, 'python', shlex.join([tool, *arguments])])


def describe_device() -> str:
    """The device of this process, and its cores: "CPU, 2 cores"."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'
    return f'{device}, {os.cpu_count()} cores'


def describe_versions() -> str:
    """The versions of this process: "Python 3.11.2, torch 2.1.2, numpy 1.26.4"."""
    return f'Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}'


def join_known(values: Iterable[str | None]) -> str:
    """What trainings have noted, each once: "CPU, 2 cores; unknown"."""
    return '; '.join(sorted({value or 'unknown' for value in values}))


def write_environment(runs: Runs, command: str, out: str) -> None:
    """Write the command, and commits, devices and versions of the trainings.

    The file is ``environment.txt``. What results of earlier versions do not hold is "unknown".

    Args:
        runs (Runs): The results.
        command (str): The command line.
        out (str): Folder of the file.
    """
    found = [run for results in runs.values() for run in results]
    commits = {run.commit or 'unknown' for run in found}
    with atomic_write(osp.join(out, 'environment.txt')) as file:
        file.write(
            f'command: {command}\ncommit: {", ".join(sorted(commits))}\n'
            f'device: {join_known(run.device for run in found)}\n'
            f'versions: {join_known(run.versions for run in found)}\n'
        )
