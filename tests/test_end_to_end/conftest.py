# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A tiny data set, tiny teachers, and configs over the project's own bases."""

import os
import os.path as osp
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image
from warm_python import tool_python

from mtkdrl_mm.engine.runner import ResumableRunner
from mtkdrl_mm.utils.torch_load import allow_mmengine_checkpoints

# torch >= 2.6 refuses mmengine's checkpoints unless their few types are allowed.
allow_mmengine_checkpoints()

ROOT = Path(__file__).parents[2]
CLASSES = 4
NETWORK = """
model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels={c}, base_channels={c},
                  norm_cfg=dict(type='GN', num_groups=2)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=4, in_channels={o},
              loss=dict(type='CrossEntropyLoss')))
"""
CONFIG = """
_base_ = {base!r}
data_preprocessor = dict(mean=[127.0] * 3, std=[60.0] * 3, to_rgb=True)
_dataset = dict(type='CustomDataset', data_root={root!r}, data_prefix='train',
    pipeline=[dict(type='LoadImageFromFile'), *{augment}, dict(type='PackInputs')])
train_dataloader = dict(batch_size=8, num_workers={workers}, dataset=_dataset,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(batch_size=16, num_workers=0, dataset=dict(
    type='CustomDataset', data_root={root!r}, data_prefix='val',
    pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]),
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False))
val_evaluator = dict(type='Accuracy', topk=1)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
train_cfg = dict(type='mtkdrl_mm.ResumableEpochLoop', max_epochs=4, val_interval=2)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.02, momentum=0.9))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[1, 3])
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))
model = dict(
    type='mtkdrl_mm.MultiTeacherDistiller',
    student=dict(cfg_path={student!r}),
    teachers={teachers!r},
    weighting=dict(type='MTKDRL'),
    connector=dict(norm_cfg=None),
    teacher_inference='eager',  # no choice by time: runs are compared bit by bit
)
default_hooks['agent'] = dict(type='mtkdrl_mm.AgentHook')
"""
AUGMENT = [
    dict(type='RandomCrop', crop_size=16, padding=3),
    dict(type='RandomFlip', prob=0.5),
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """What mmengine does for the log only: look for compilers, and format configs nicely."""
    monkeypatch.setattr('mmengine.runner.runner.collect_env', lambda: {})
    # mmengine's maintained fork imports it where it is used.
    for name in ('mmengine.config.config.FormatCode', 'yapf.yapflib.yapf_api.FormatCode'):
        monkeypatch.setattr(name, lambda text, **_: (text, True), raising=False)


class Workshop:
    """Writes configs and runs trainings in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / 'data'
        rng = np.random.default_rng(0)
        for split, count in (('train', 8), ('val', 4)):
            for label in range(CLASSES):
                target = self.data / split / f'class_{label}'
                target.mkdir(parents=True)
                for i in range(count):
                    pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                    pixels[4 * label : 4 * label + 4] //= 4
                    Image.fromarray(pixels).save(target / f'{i}.png')
        self.student = self._write('student.py', NETWORK.format(c=4, o=32))
        self.teachers = []
        torch.manual_seed(0)
        for index, channels in enumerate((4, 6)):
            name = f'teacher{index}'
            path = self._write(f'{name}.py', NETWORK.format(c=channels, o=8 * channels))
            from mmpretrain import get_model

            checkpoint = str(folder / f'{name}.pth')
            model = get_model(Config.fromfile(path))
            model.init_weights()
            torch.save(dict(state_dict=model.state_dict()), checkpoint)
            self.teachers.append(dict(name=name, cfg_path=path, checkpoint=checkpoint))

    def _write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def config(
        self,
        name: str = 'tiny',
        workers: int = 0,
        augment: list[dict] | None = None,
        extra: str = '',
    ) -> str:
        """Write a distillation config; 4 iterations an epoch. ``extra`` are its last lines."""
        return self._write(
            f'{name}.py',
            CONFIG.format(
                base=str(ROOT / 'configs' / '_base_' / 'distillation.py'),
                root=str(self.data),
                augment=AUGMENT if augment is None else augment,
                workers=workers,
                student=self.student,
                teachers=self.teachers,
            )
            + extra,
        )

    def runner(self, config: str, work_dir: str, **options: Any) -> Runner:
        """Build a runner in this process."""
        cfg = Config.fromfile(config)
        cfg.work_dir = str(self.folder / work_dir)
        cfg.experiment_name = uuid.uuid4().hex
        cfg.merge_from_dict(options)
        return ResumableRunner.from_cfg(cfg)

    def run(
        self, *command: str, env: dict[str, str] | None = None
    ) -> 'subprocess.CompletedProcess[str]':
        """Run a command to its end."""
        return subprocess.run(
            list(command),
            cwd=ROOT,
            env=environment(**(env or {})),
            capture_output=True,
            text=True,
            timeout=600,
        )

    def train(self, config: str, *flags: str) -> 'subprocess.CompletedProcess[str]':
        """Run tools/train.py."""
        return self.tool('tools/train.py', config, *flags)

    def tool(self, *command: str, fresh: bool = False) -> 'subprocess.CompletedProcess[str]':
        """Run a tool of the project to its end; ``fresh``: by a new interpreter."""
        return self.run(sys.executable if fresh else tool_python(), *command)


def environment(fresh: bool = False, **extra: str) -> dict[str, str]:
    """The environment of a subprocess: the Python of the tests first.

    ``fresh`` is for tests that signal processes: "python" is then a real interpreter.
    """
    folders = [osp.dirname(path) for path in (tool_python(), sys.executable)]
    path = os.pathsep.join([*folders[fresh:], os.environ['PATH']])
    return {**os.environ, 'PATH': path, **extra}


def weights_of(path: Any) -> dict[str, torch.Tensor]:
    """The state dict of a checkpoint."""
    return torch.load(path, map_location='cpu')['state_dict']


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Largest absolute difference between two state dicts of the same keys."""
    assert first.keys() == second.keys()
    return max(float((first[k].double() - second[k].double()).abs().max()) for k in first)


def relative_difference(
    first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], start: dict[str, torch.Tensor]
) -> float:
    """How far two trainings ended apart, per distance from their start, in the worst part.

    For trainings that sum in another order. They differ by 1e-7 in a gradient, and Adam makes steps
    of full length also of gradients near zero: single weights end as far apart as the machine will
    have it, a part as a whole does not.
    """
    assert first.keys() == second.keys() == start.keys()
    floats = [k for k in first if first[k].is_floating_point()]
    assert all(torch.equal(first[k], second[k]) for k in first.keys() - set(floats))

    def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], part: str) -> float:
        keys = [k for k in floats if k.split('.')[0] == part]
        return float(torch.cat([(a[k] - b[k]).double().flatten() for k in keys]).norm())

    parts = {key.split('.')[0] for key in floats}
    return max(distance(first, second, part) / distance(second, start, part) for part in parts)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """A fresh workshop."""
    return Workshop(tmp_path)
