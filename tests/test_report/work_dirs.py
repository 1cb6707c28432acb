# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Writes what trainings leave in their work dirs."""

import json


def step(epoch, iteration, **values):
    """A log line of a training step; ``epoch`` None for a training by iterations."""
    record = dict(lr=0.1, loss=1 / iteration, iter=iteration, step=iteration, time=0.5)
    return {**record, **({} if epoch is None else dict(epoch=epoch)), **values}


def validation(position, accuracy, **values):
    """A log line of a validation."""
    return {'accuracy/top1': accuracy, 'time': 0.1, 'data_time': 0.0, 'step': position, **values}


def write_session(work_dir, name, records, config=None):
    """Write the folder of one start; returns it."""
    folder = work_dir / name
    (folder / 'vis_data').mkdir(parents=True)
    if records:
        lines = ''.join(json.dumps(record) + '\n' for record in records)
        (folder / 'vis_data' / 'scalars.json').write_text(lines)
    if config is not None:
        (folder / 'vis_data' / 'config.py').write_text(config)
    return folder
