# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Kill trainings at random moments, resume them, and compare with an undisturbed one.

    python tools/dev/stress_resume.py --kills 50 --terms 20

Every trial trains a tiny student from two tiny teachers on random images, with two data
workers and ``max_keep_ckpts=1``. A kill ends the training process with SIGKILL; a term sends
SIGTERM to the whole process group, data workers included. Both are sent at a random moment
after the first checkpoint. The training is then resumed, and its last checkpoint must equal that
of an undisturbed training in every bit: student, connectors, agent, optimisers, schedules.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

from test_end_to_end.conftest import AUGMENT, Workshop, environment  # noqa: E402

from mtkdrl_mm.weights.checkpoint import read_checkpoint  # noqa: E402

COMPARED = ('state_dict', 'optimizer', 'param_schedulers', 'agent_hook')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--kills', type=int, default=50, help='trainings to end with SIGKILL')
    parser.add_argument('--terms', type=int, default=20, help='trainings to end with SIGTERM')
    parser.add_argument('--epochs', type=int, default=25, help='epochs of a training')
    parser.add_argument('--processes', type=int, default=1, help='processes of a training')
    parser.add_argument('--seed', type=int, default=0, help='seed of the random moments')
    return parser.parse_args()


def differences(first: Any, second: Any, path: str = '') -> list[str]:
    """List the paths where two nested structures of tensors and plain data differ."""
    if isinstance(first, torch.Tensor):
        same = isinstance(second, torch.Tensor) and torch.equal(first, second)
        return [] if same else [path]
    if isinstance(first, dict) and isinstance(second, dict):
        if first.keys() != second.keys():
            return [path]
        return [d for k in first for d in differences(first[k], second[k], f'{path}.{k}')]
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        if len(first) != len(second):
            return [path]
        pairs = enumerate(zip(first, second))
        return [d for i, (a, b) in pairs for d in differences(a, b, f'{path}.{i}')]
    return [] if callable(first) or first == second else [path]


class Trials:
    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args = args
        self.folder = folder
        workshop = Workshop(folder)
        self.config = workshop.config('stress', workers=2, augment=AUGMENT)
        self.random = random.Random(args.seed)

    def command(self, work_dir: Path, *flags: str) -> list[str]:
        tool = [sys.executable, '-u', 'tools/train.py', self.config]
        if self.args.processes > 1:
            tool = ['bash', 'tools/dist_train.sh', self.config, str(self.args.processes)]
        return [
            *tool,
            '--work-dir',
            str(work_dir),
            *flags,
            '--cfg-options',
            f'train_cfg.max_epochs={self.args.epochs}',
            f'train_dataloader.batch_size={8 // self.args.processes}',
            'default_hooks.checkpoint.max_keep_ckpts=1',
            'default_hooks.agent.update_interval=3',
        ]

    def start(self, work_dir: Path, *flags: str) -> 'subprocess.Popen[bytes]':
        work_dir.mkdir(exist_ok=True)
        with open(work_dir / 'output.txt', 'ab') as log:
            return subprocess.Popen(
                self.command(work_dir, *flags),
                cwd=ROOT,
                env=environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def reference(self) -> float:
        """Train undisturbed; returns the seconds from the first checkpoint to the end."""
        work_dir = self.folder / 'reference'
        process = self.start(work_dir)
        self.wait_for_checkpoint(work_dir, process)
        start = time.time()
        if process.wait() != 0:
            sys.exit((work_dir / 'output.txt').read_text()[-3000:])
        self.expected = read_checkpoint(str(self.last(work_dir)), 'reference')
        return time.time() - start

    def last(self, work_dir: Path) -> Path:
        return work_dir / f'epoch_{self.args.epochs}.pth'

    @staticmethod
    def wait_for_checkpoint(work_dir: Path, process: 'subprocess.Popen[bytes]') -> None:
        while process.poll() is None and not (work_dir / 'last_checkpoint').exists():
            time.sleep(0.005)

    def trial(self, name: str, number: int, seconds: float) -> tuple[bool, str]:
        """Disturb a training at a random moment, resume it, compare."""
        work_dir = self.folder / name
        process = self.start(work_dir)
        self.wait_for_checkpoint(work_dir, process)
        delay = self.random.uniform(0, seconds)
        time.sleep(delay)
        if process.poll() is not None:
            what = 'had ended'
        elif number == signal.SIGKILL and self.args.processes == 1:
            process.kill()
            what = f'killed after {delay:.2f} s'
        else:
            os.killpg(process.pid, number)
            what = f'{signal.Signals(number).name} to the group after {delay:.2f} s'
        code = process.wait()
        if number == signal.SIGTERM and what != 'had ended' and code not in (0, 143):
            return False, f'{what}, exit code {code}'
        code = self.start(work_dir, '--resume').wait()
        if code != 0:
            return False, f'{what}, then resuming ended with {code}: see {work_dir}/output.txt'
        actual = read_checkpoint(str(self.last(work_dir)), 'resumed')
        different = [d for k in COMPARED for d in differences(self.expected[k], actual[k], k)]
        if different:
            return False, f'{what}, then different: {", ".join(different[:4])}'
        return True, f'{what}, then equal'


def main() -> None:
    args = parse_args()
    passed = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(args, Path(folder))
        seconds = trials.reference()
        plan = [(signal.SIGKILL, i) for i in range(args.kills)]
        plan += [(signal.SIGTERM, i) for i in range(args.terms)]
        for number, index in plan:
            good, text = trials.trial(f'{signal.Signals(number).name}_{index}', number, seconds)
            passed, failed = passed + good, failed + (not good)
            print(f'{"ok  " if good else "FAIL"} {index + 1}: {text}', flush=True)
            if not good:
                log = Path(folder) / f'{signal.Signals(number).name}_{index}' / 'output.txt'
                print(log.read_text()[-1500:], flush=True)
    print(f'{passed} passed, {failed} failed')
    sys.exit(failed > 0)


if __name__ == '__main__':
    main()
