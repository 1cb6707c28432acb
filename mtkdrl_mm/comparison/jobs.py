# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The trainings of a comparison as jobs."""

import glob
import os.path as osp
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace

from mtkdrl_mm.jobs import CommandJob, JobSettings, run_jobs
from mtkdrl_mm.utils.json_files import read_json_object
from mtkdrl_mm.utils.tool_output import find_error, last_lines

from .results import JOB_NOTE_NAME, OUTPUT_NAME, failure_path, result_path
from .rows import Combination
from .settings import ComparisonSettings
from .training import finished, report_result, try_to_train


class TrainingJob(CommandJob):
    """A training as a job; the job also writes its result.

    Args:
        combination (Combination): The training.
        settings (ComparisonSettings): How it is started; ``jobs`` is 1.
        save_seconds (float): Seconds that the training has to save.
    """

    def __init__(
        self, combination: Combination, settings: ComparisonSettings, save_seconds: float
    ) -> None:
        folder = combination.folder(settings.work_dir)
        super().__init__(
            command=[],
            outcome=failure_path(folder),
            progress=osp.join(glob.escape(folder), '*.pth'),
            save_seconds=save_seconds,
        )
        self.combination = combination
        self.settings = settings
        self.folder = folder

    def __call__(self) -> None:
        """Train, and write the result or how the training failed."""
        run = try_to_train(self.combination, self.settings, run=self.run)
        if run is None and self.terminated:
            self.write_outcome(
                exit_code=128 + signal.SIGTERM,
                reason='The job was cancelled; the same command goes on.',
            )

    def is_over(self) -> bool:
        """Whether there is a result, or a failure."""
        return osp.isfile(result_path(self.folder)) or super().is_over()

    @property
    def note(self) -> str:
        """File for the number of the job: a folder has one training at a time."""
        return osp.join(self.folder, JOB_NOTE_NAME)


def train_in_jobs(
    waiting: Sequence[Combination],
    settings: ComparisonSettings,
    job_settings: JobSettings,
    on_end: Callable[[], None] | None = None,
) -> None:
    """Train combinations, each as a job.

    Args:
        waiting (Sequence[Combination]): The trainings that have not finished.
        settings (ComparisonSettings): How they are started.
        job_settings (JobSettings): What a job gets.
        on_end (Callable[[], None], optional): Is called whenever a training has
            ended. Defaults to None.

    Raises:
        InputError: If Slurm refuses the jobs.
    """
    alone = replace(settings, jobs=1, job=None)
    jobs = [TrainingJob(one, alone, job_settings.save_seconds) for one in waiting]

    def end(index: int, log: str) -> None:
        run = finished(waiting[index], settings)
        if run is not None:
            report_result(waiting[index], run)
        else:
            path = osp.join(jobs[index].folder, OUTPUT_NAME)
            failure = read_json_object(failure_path(jobs[index].folder), dict(exit_code=int))
            # What the training printed is in its own file, what the job printed in the job's.
            reason = failure.get('reason') or find_error(last_lines(path))
            log = path if osp.isfile(path) else log
            print(f'  {waiting[index].label}: FAILED, see {log}: {reason}', flush=True)
        if on_end is not None:
            on_end()

    if jobs:
        run_jobs(jobs, job_settings, end)
