# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Distillations of a tiny student with stored teacher outputs, and their comparison."""

import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from tqdm import tqdm
from waiting import patience

from .conftest import NETWORK, ROOT, Workshop

FORK = multiprocessing.get_context('fork')
#: Settings of a store that loses nothing.
LOSSLESS = dict(logits='float32', maps='full')
LOSSLESS_FLAGS = ('--logits', 'float32', '--maps', 'full')
# The agent's buffer is not empty at the end of the third epoch.
SETTINGS = """
train_dataloader['batch_size'] = 5
default_hooks['agent']['update_interval'] = 4
"""
BLENDED = """
data_preprocessor['num_classes'] = 4
model['student']['cfg_options'] = {'model.train_cfg': dict(augments=[
    dict(type='Mixup', alpha=0.4), dict(type='CutMix', alpha=1.0)])}
"""
BY_ITERATIONS = """
train_dataloader['sampler'] = dict(type='InfiniteSampler', shuffle=True)
train_cfg = dict(type='mtkdrl_mm.ResumableIterLoop', max_iters=20, val_interval=20)
default_hooks['agent'].update(warmup_iters=4, update_interval=6)
default_hooks['checkpoint'] = dict(by_epoch=False, interval=10)
param_scheduler = dict(type='MultiStepLR', by_epoch=False, milestones=[8])
"""
TRANSFORMER = """
model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='VisionTransformer', img_size=16, patch_size=4,
        arch=dict(embed_dims=12, num_layers=2, num_heads=2, feedforward_channels=24)),
    head=dict(type='VisionTransformerClsHead', num_classes={classes}, in_channels=12))
"""


class Distillery(Workshop):
    """A workshop with 31 images in batches of 5, the last of which has a single image."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self.data / 'train' / 'class_3' / '7.png').unlink()

    def config(  # type: ignore[override]
        self, name: str = 'tiny', extra: str = '', **settings: Any
    ) -> str:
        """Write a config; 7 iterations an epoch."""
        return super().config(name, extra=SETTINGS + extra, **settings)

    def mixed_pool(self) -> str:
        """Config with a transformer, a network of other classes, and an image encoder.

        The patch tokens of the transformers are their maps.
        """
        from mmpretrain import get_model

        torch.manual_seed(1)
        paths = dict(
            vit=self._write('vit.py', TRANSFORMER.format(classes=4)),
            wide=self._write(
                'wide.py', NETWORK.format(c=4, o=32).replace('num_classes=4', 'num_classes=7')
            ),
            clip=self._write('clip.py', TRANSFORMER.format(classes=8)),
        )
        teachers = []
        for name, path in paths.items():
            network = get_model(Config.fromfile(path))
            for parameter in network.parameters():
                if parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, std=1.4 / parameter[0].numel() ** 0.5)
            checkpoint = str(self.folder / f'{name}.pth')
            torch.save(dict(state_dict=network.state_dict()), checkpoint)
            teachers.append(dict(name=name, cfg_path=path, checkpoint=checkpoint))
        texts = str(self.folder / 'texts.pt')
        torch.save(torch.randn(4, 8), texts)
        teachers[1]['class_map'] = [5, 2, 0, 3]
        teachers[2]['zero_shot'] = dict(text_embeddings=texts, logit_scale=10.0)
        extra = f'\nmodel["teachers"] = {teachers!r}\nmodel["token_maps"] = True\n'
        return self.config('mixed', extra=extra)

    def fill(self, config: str, name: str, *flags: str, views: int = 2) -> str:
        """Fill a store by the tool."""
        root = str(self.folder / name)
        done = self.tool(
            'tools/store_teacher_outputs.py', config, root, '--views', str(views), *flags
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return root

    def distil(
        self, config: str, work_dir: str, outputs: Any, epochs: int = 3, **options: Any
    ) -> dict[str, Any]:
        """Train in this process with ``model.teacher_outputs``; return the last checkpoint."""
        options = {key.replace('__', '.'): value for key, value in options.items()}
        if 'IterLoop' not in Path(config).read_text():
            options['train_cfg.max_epochs'] = epochs
        options['model.teacher_outputs'] = outputs
        runner = self.runner(config, work_dir, **options)
        runner.train()
        return torch.load(runner.message_hub.get_info('last_ckpt'))

    @contextmanager
    def without_teachers(self) -> Iterator[None]:
        """The teachers' weights and texts are not on this machine."""
        files = [path for path in self.folder.iterdir() if path.suffix in ('.pth', '.pt')]
        hidden = self.folder / 'hidden'
        hidden.mkdir()
        for path in files:
            path.rename(hidden / path.name)
        try:
            yield
        finally:
            for path in files:
                (hidden / path.name).rename(path)
            hidden.rmdir()


def assert_same_training(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Student, connectors, agent, its buffers and both optimisers, bit by bit."""
    parts = {key.split('.')[0] for key in first['state_dict']}
    assert parts == {'student', 'connectors', 'weighting'}
    assert first['agent_hook']['algorithm']['updates'] > 1
    seen = [buffer['seen'] for buffer in first['agent_hook']['buffers']]
    assert seen and all(seen)
    for key in ('state_dict', 'agent_hook', 'optimizer'):
        different = difference(first[key], second[key], key)
        assert different is None, different


def difference(first: Any, second: Any, name: str = '') -> str | None:
    """Name of the first entry in which two nested states differ by any bit."""
    if type(first) is not type(second):
        return name
    if isinstance(first, torch.Tensor):
        same = first.shape == second.shape and first.dtype == second.dtype
        return None if same and torch.equal(first, second) else name
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return name
        pairs = [(key, first[key], second[key]) for key in first]
    elif isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return name
        pairs = list(zip(range(len(first)), first, second))
    else:
        return None if first == second else name
    found = (difference(one, other, f'{name}.{key}') for key, one, other in pairs)
    return next((each for each in found if each is not None), None)


class Fork:
    """A tool of the project in a fork of this process, the leader of a process group.

    It starts at once, and can be killed with its data workers.

    Args:
        log (Path): File for what it prints.
        *command (str): The tool and its arguments.
        setup (Callable, optional): Called in the new process. Defaults to None.
    """

    def __init__(self, log: Path, *command: str, setup: Callable[[], None] | None = None) -> None:
        self.log = log
        log.write_text('')
        self.process = FORK.Process(target=_run_tool, args=(log, command, setup))
        self.process.start()
        self.pid = self.process.pid
        with suppress(OSError):  # it has done so, and may have ended
            os.setpgid(self.pid, self.pid)

    def wait(self) -> int:
        """Wait for its end; return the exit status, negative for a signal."""
        self.process.join(timeout=patience(120))
        assert self.process.exitcode is not None, self.output()
        return self.process.exitcode

    def wait_for(self, text: str) -> None:
        """Wait until it has printed a text, or has ended."""
        end = time.monotonic() + patience(120)
        while text not in self.output() and self.process.is_alive():
            assert time.monotonic() < end, self.output()
            time.sleep(0.005)

    def kill(self) -> bool:
        """Kill the process group; return whether it was still running."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text()


def _run_tool(log: Path, command: Sequence[str], setup: Callable[[], None] | None) -> None:
    with suppress(PermissionError):
        os.setpgid(0, 0)
    with open(log, 'wb') as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.stdout, sys.stderr = (open(n, 'w', buffering=1, closefd=False) for n in (1, 2))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    # The lock of this process's bars is one with all its forks: one that is killed never frees it.
    tqdm.set_lock(threading.RLock())
    os.chdir(ROOT)
    sys.argv = list(command)
    if setup is not None:
        setup()
    runpy.run_path(command[0], run_name='__main__')
