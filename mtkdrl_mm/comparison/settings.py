# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""How the trainings of a comparison are started."""

import os.path as osp
import shlex
import sys
from dataclasses import dataclass

from mtkdrl_mm.jobs import JobSettings


@dataclass(frozen=True)
class ComparisonSettings:
    """What all trainings of a comparison have in common.

    Attributes:
        work_dir (str): Folder for logs and checkpoints.
        root (str): Folder with ``tools/train.py``.
        metric (str): Name of the metric in the logs. Defaults to
            'accuracy/top1'.
        cfg_options (tuple[str, ...]): Options of all rows, as
            ``--cfg-options``. Defaults to ().
        jobs (int): Number of parallel trainings. Defaults to 1.
        launch (str): Launcher of a training with several processes, for example
            "torchrun --nproc_per_node=8". Defaults to '': one process.
        store (str, optional): Folder for the outputs of the teachers. Defaults
            to None: the teachers run in every training.
        views (int, optional): Number of stored views of every image. Defaults
            to None: as the store's tool chooses.
        store_flags (str): Flags of the store's tool. Defaults to ''.
        job (JobSettings, optional): What the jobs get of which every training is
            one. Defaults to None: trainings are started by this process.
        warm (bool): Whether trainings are forks of a process that has imported
            the large packages, which saves seconds; only for trainings of one
            process that are started by this one. Defaults to False.
    """

    work_dir: str
    root: str
    metric: str = 'accuracy/top1'
    cfg_options: tuple[str, ...] = ()
    jobs: int = 1
    launch: str = ''
    store: str | None = None
    views: int | None = None
    store_flags: str = ''
    job: JobSettings | None = None
    warm: bool = False

    def command(self, tool: str, *arguments: str) -> list[str]:
        """The command that starts a tool, in as many processes as are set.

        Args:
            tool (str): Name of a file in ``tools``.
            *arguments (str): Its arguments.

        Returns:
            list[str]: The words of the command.
        """
        launcher = shlex.split(self.launch) or [sys.executable]
        command = [*launcher, osp.join(self.root, 'tools', tool), *arguments]
        return command + (['--launcher', 'pytorch'] if self.launch else [])
