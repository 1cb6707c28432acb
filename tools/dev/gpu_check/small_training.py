# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A small distillation, for trainings that are interrupted and losses on a CPU."""

import os.path as osp

import torch
from mmengine.config import Config

from mtkdrl_mm.benchmark import write_images

from . import ROOT
from .findings import Reporter

NETWORK = """
model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels={width}, base_channels={width}),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=4, in_channels={features},
              loss=dict(type='CrossEntropyLoss')))
"""
DISTILLATION = """
_base_ = {base!r}
data_preprocessor = dict(mean=[127.0] * 3, std=[60.0] * 3, to_rgb=True)
_dataset = dict(type='CustomDataset', data_root={root!r}, data_prefix='images', pipeline=[
    dict(type='LoadImageFromFile'), dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')])
train_dataloader = dict(batch_size=8, num_workers=1, dataset=_dataset,
    sampler=dict(type='DefaultSampler', shuffle=True))
val_cfg = None
test_cfg = None
train_cfg = dict(type='mtkdrl_mm.ResumableEpochLoop', max_epochs={epochs})
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.02, momentum=0.9))
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval={epochs}),
    teacher_check=dict(num_batches=0), agent=dict(type='mtkdrl_mm.AgentHook'))
randomness = dict(seed=0, deterministic=True)
model = dict(
    type='mtkdrl_mm.MultiTeacherDistiller',
    student=dict(cfg_path={student!r}),
    teachers={teachers!r},
    weighting=dict(type='MTKDRL'),
    teacher_inference='eager')
"""


def small_training(report: Reporter, epochs: int) -> str:
    """Write images, networks and the config of a small distillation; returns the config's path."""
    from mmpretrain import get_model

    folder = report.folder
    path = osp.join(folder, 'distillation.py')
    if osp.isfile(path):
        return path
    write_images(osp.join(folder, 'images'), 48, 4, 32)
    networks = {}
    for name, width in (('student', 8), ('teacher0', 8), ('teacher1', 12)):
        networks[name] = osp.join(folder, f'{name}.py')
        with open(networks[name], 'w') as file:
            file.write(NETWORK.format(width=width, features=8 * width))
    teachers = []
    torch.manual_seed(0)
    for name in ('teacher0', 'teacher1'):
        model = get_model(Config.fromfile(networks[name]))
        checkpoint = osp.join(folder, f'{name}.pth')
        torch.save(dict(state_dict=model.state_dict()), checkpoint)
        teachers.append(dict(name=name, cfg_path=networks[name], checkpoint=checkpoint))
    base = osp.join(ROOT, 'configs', '_base_', 'distillation.py')
    with open(path, 'w') as file:
        file.write(
            DISTILLATION.format(
                base=base,
                root=folder,
                epochs=epochs,
                student=networks['student'],
                teachers=teachers,
            )
        )
    return path
