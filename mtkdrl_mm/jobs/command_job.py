# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A command in a job, which saves and exits when the job has to end."""

import glob
import os
import os.path as osp
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

from mtkdrl_mm.utils.child_processes import end_with_parent
from mtkdrl_mm.utils.files import write_json

from .import_submitit import import_submitit

# submitit's name of the signal that tells a job to save and to queue again.
_SIGNAL = os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')
# A job that has saved nothing so many times in a row would never end.
_FRUITLESS = 3


class CommandJob:
    """What runs in a job: a command.

    Slurm ends a job at its time limit and for more urgent ones. The command then gets SIGTERM,
    on which it saves, and the job queues again and starts the same command, which goes on.

    The job is pickled, and called on another machine.

    Args:
        command (Sequence[str]): The words of the command.
        outcome (str): File that the job writes when it has ended, with the
            ``exit_code`` of the command.
        progress (str): Pattern of the files that the command goes on from, in
            which ``**`` stands for any number of folders. A
            job that was ended three times without a new one is not queued
            again.
        save_seconds (float): Seconds that the command has to save.

    Attributes:
        terminated (bool): Whether the job got SIGTERM while the command ran.
    """

    def __init__(
        self, command: Sequence[str], outcome: str, progress: str, save_seconds: float
    ) -> None:
        self.command = list(command)
        self.outcome = outcome
        self.progress = progress
        self.save_seconds = save_seconds
        # What the command sees: submitit's local jobs hide all GPUs but those it chose.
        self.visible_gpus: str | None = os.environ.get('CUDA_VISIBLE_DEVICES')
        self.keep_gpus = False
        self._process: subprocess.Popen | None = None
        self._start = 0.0
        self._fruitless = 0
        self.terminated = False

    def __call__(self) -> None:
        """Run the command in the job, and write its exit code."""
        code, _ = self.run(self.command, os.environ)
        self.write_outcome(exit_code=code)

    def write_outcome(self, **contents: Any) -> None:
        """Write how the job has ended.

        Args:
            **contents: ``exit_code``, and a ``reason`` if there is one.
        """
        write_json(contents, self.outcome)

    def is_over(self) -> bool:
        """Whether the job has written how it has ended."""
        return osp.isfile(self.outcome)

    @property
    def note(self) -> str | None:
        """File for the number of the job that does this work, if only one may; else None."""
        return None

    def run(
        self, command: Sequence[str], environment: Mapping[str, str], log: IO | None = None
    ) -> tuple[int, Any]:
        """Run a command until it ends, or the job has to.

        Args:
            command (Sequence[str]): The words of the command.
            environment (Mapping[str, str]): Its environment variables.
            log (IO, optional): File for its output. Defaults to None: that of
                the job.

        Returns:
            tuple[int, Any]: Its exit code, negative for a signal, and its
            resource usage as of ``os.wait4``.
        """
        self._start = time.time()
        self.terminated = False
        before = signal.signal(signal.SIGTERM, self._terminate)
        process = self._process = subprocess.Popen(
            command,
            env=self._environment(environment),
            stdout=log,
            stderr=log,
            preexec_fn=self._prepare(),
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.terminate()  # such as Ctrl-C: it saves, and exits by itself
            raise
        finally:
            self._process = None
            signal.signal(signal.SIGTERM, before)
        if self.terminated and process.returncode != 0 and may_requeue():
            # As if submitit had been told to: it calls `checkpoint`, queues the job, and exits.
            signal.raise_signal(_number())
        return process.returncode, usage

    def checkpoint(self) -> Any:
        """Have the command save and exit; submitit calls it, and then queues the job again.

        Returns:
            DelayedSubmission | None: This job; None if it is not to be queued
            again.
        """
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(0.75 * self.save_seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()  # or it would still write when the job starts again
                self._process.wait()
        files = glob.iglob(self.progress, recursive=True)
        saved = any(osp.getmtime(path) >= self._start - 1 for path in files)
        self._fruitless = 0 if saved else self._fruitless + 1
        if self._fruitless == _FRUITLESS:
            self.write_outcome(
                exit_code=128 + signal.SIGTERM,
                reason=f'The job was ended {_FRUITLESS} times in a row before anything was saved: '
                'give it a longer --time.',
            )
            return None
        return import_submitit().helpers.DelayedSubmission(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_process': None}

    def _environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The command's environment variables: the GPUs and threads of the job."""
        result = dict(environment)
        if self.keep_gpus:
            result.pop('CUDA_VISIBLE_DEVICES', None)
            if self.visible_gpus is not None:
                result['CUDA_VISIBLE_DEVICES'] = self.visible_gpus
        if cpus := os.environ.get('SLURM_CPUS_PER_TASK'):
            result.setdefault('OMP_NUM_THREADS', cpus)
        return result

    @staticmethod
    def _prepare() -> Callable[[], None]:
        end_with_job = end_with_parent()

        def prepare() -> None:
            end_with_job()
            # Slurm sends it to all processes of a job, and it would kill the command.
            signal.signal(_number(), signal.SIG_IGN)

        return prepare

    def _terminate(self, number: int, frame: Any) -> None:
        """Pass SIGTERM on: some schedulers send it to the job's first process only."""
        self.terminated = True
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.terminate()


def _number() -> int:
    return getattr(signal, f'SIG{_SIGNAL}')


def may_requeue() -> bool:
    """Whether Slurm may put the job of this process into the queue again.

    Not if its user has cancelled it.
    """
    job = os.environ.get('SLURM_JOB_ID')
    if job is None or shutil.which('scontrol') is None:
        return False
    array = os.environ.get('SLURM_ARRAY_JOB_ID')
    if array is not None:  # its last job has the number of the whole array
        job = f'{array}_{os.environ["SLURM_ARRAY_TASK_ID"]}'
    command = ['scontrol', 'show', 'job', '-o', job]
    words = subprocess.run(command, capture_output=True, text=True).stdout.split()
    return {'Requeue=1', 'JobState=RUNNING', 'BatchFlag=1'} <= set(words)
