# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Command, code and machine of a comparison."""

import os
import os.path as osp
import platform
import shlex
import subprocess
from collections.abc import Sequence

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


def command_line(words: Sequence[str]) -> str:
    """The command that started a tool, as it can be given to a shell.

    Args:
        words (Sequence[str]): The words after ``python``.
    """
    return f'python {shlex.join(words)}'


def describe_device() -> str:
    """The device of this process, and its cores: "CPU, 2 cores"."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'
    return f'{device}, {os.cpu_count()} cores'


def write_environment(runs: Runs, command: Sequence[str], out: str) -> None:
    """Write command, commit, device and versions to ``environment.txt``.

    Args:
        runs (Runs): The results.
        command (Sequence[str]): The words of the command line.
        out (str): Folder of the file.
    """
    commits = {run.commit or 'unknown' for results in runs.values() for run in results}
    with atomic_write(osp.join(out, 'environment.txt')) as file:
        file.write(
            f'command: {command_line(command)}\ncommit: {", ".join(sorted(commits))}\n'
            f'device: {describe_device()}\nPython {platform.python_version()}, '
            f'torch {torch.__version__}, numpy {np.__version__}\n'
        )
