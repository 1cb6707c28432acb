# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A short comparison of methods on photographs."""

import csv
import os.path as osp

from .. import ROOT
from ..findings import Reporter
from ..tools import start_tool, start_training, work_dir


def comparison(report: Reporter) -> None:
    """A short comparison on CIFAR-10: plain training, AVER, MTKD-RL."""
    data = osp.abspath(report.args.cifar10)
    if not report.full:
        report.needs_gpu('a comparison on CIFAR-10')
        return
    if not osp.isdir(osp.join(data, 'meta')):
        report.not_run('a comparison on CIFAR-10', f'no images in {data}: give --cifar10')
        return
    epochs = 4
    options = [f'train_cfg.max_epochs={epochs}', f'train_cfg.val_interval={epochs}']
    options += [f'default_hooks.checkpoint.interval={epochs}', 'param_scheduler.1.T_max=4']
    names = ('train_dataloader', 'val_dataloader')
    options += [f'{name}.dataset.data_root={data}' for name in names]
    options += [f'{name}.num_workers=3' for name in names]
    teachers = ('resnet', 'densenet', 'repvgg', 'regnet')
    started = []
    for name in teachers:
        config = osp.join(ROOT, 'configs', 'cifar10', f'teacher_{name}.py')
        started.append(start_training(report, name, config, '--cfg-options', *options)[0])
    for name, process in zip(teachers, started):
        process.join()
        report.expect(f'teacher {name}: exit code', process.exitcode, 0)
    methods = [
        osp.join(ROOT, 'configs', 'cifar10', f'student_{m}.py')
        for m in ('baseline', 'aver', 'mtkdrl')
    ]
    rows = []
    for method in methods:
        name = osp.basename(method)[len('student_') : -len('.py')]
        own = (
            []
            if name == 'baseline'
            else [
                f'model.teachers.{i}.checkpoint={work_dir(report, t)}/epoch_{epochs}.pth'
                for i, t in enumerate(teachers)
            ]
        )
        rows += ['--row', name, method, 'CIFAR10_POOL=clean', *own]
    out = osp.join(report.folder, 'compare')
    flags = [*rows, '--seeds', '0', '--jobs', '3', '--work-dir', out, '--cfg-options', *options]
    process, _ = start_tool(report, 'compare', 'analysis_tools/compare_methods.py', *flags)
    process.join()
    report.expect('exit code of the comparison', process.exitcode, 0)
    with open(osp.join(out, 'table.md')) as file:
        report.text('table.md', file.read())
    with open(osp.join(out, 'runs.csv')) as file:
        for run in csv.DictReader(file):
            # Far from what these networks can do, and far from chance (90 %).
            error = 100 - float(run['accuracy/top1'])
            report.limit(f'{run["method"]}: error', error, 80.0, '%')
