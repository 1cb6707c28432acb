# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The overview of one training: its results, and its config in a few words."""

import inspect
import os.path as osp
from typing import Any

import numpy as np

from mtkdrl_mm.engine.hooks import AgentHook
from mtkdrl_mm.engine.run_record import RunRecord
from mtkdrl_mm.utils.hook_configs import find_hook, kind_of

from .charts import format_number
from .page import Block, Facts, Section, Table


def make_overview(record: RunRecord) -> Section:
    """Make the section with results and settings.

    Args:
        record (RunRecord): What the training's work dir holds.
    """
    model, config = config_part(record.config, 'model'), record.config
    rows: list[tuple[str, str]] = []
    done, planned = record.position
    unit = record.unit
    if planned is None:
        rows.append(('Length', f'{done} {unit}s'))
    else:
        state = 'finished' if done >= planned else 'not finished'
        rows.append(('Length', f'{done} of {planned} {unit}s, {state}'))
    if record.train and record.by_epoch:
        rows[-1] = (rows[-1][0], f'{rows[-1][1]}; {record.train[-1]["step"]} iterations')
    starts = [osp.basename(session) for session in record.sessions]
    if len(starts) > 1:
        rows.append(('Starts', f'{len(starts)}, resumed: {", ".join(starts)}'))
    elif starts:
        rows.append(('Start', starts[0]))
    student = model.get('student')
    if isinstance(student, dict):
        rows.append(('Student', str(student.get('cfg_path') or student.get('type'))))
    elif model.get('backbone'):
        rows.append(('Backbone', _component(model['backbone'])))
    if model.get('teachers'):
        rows.append(('Weighting', _component(_weighting(model))))
        rows += _agent(config)
        losses = [
            f'{_component(model.get(f"{key}_loss", default))}, weight {model.get(weight, number)}'
            for key, default, weight, number in (
                ('logit', 'KLDivergence', 'logit_loss_weight', 1.0),
                ('feature', 'FeatureMSE', 'feature_loss_weight', 5.0),
            )
        ]
        rows.append(('Logit loss', losses[0]))
        rows.append(('Feature loss', losses[1]))
        stored = model.get('teacher_outputs')
        if stored is not None:
            rows.append(('Teacher outputs', _component(stored).strip()))
    loader = config_part(config, 'train_dataloader')
    dataset = config_part(loader, 'dataset')
    if dataset:
        shown = {k: dataset[k] for k in ('data_root', 'ann_file', 'data_prefix') if dataset.get(k)}
        rows.append(('Training data', _component(dict(type=dataset.get('type', ''), **shown))))
    if loader.get('batch_size'):
        rows.append(('Batch size per process', str(loader['batch_size'])))
    optimizer = config_part(config_part(config, 'optim_wrapper'), 'optimizer')
    if optimizer:
        rows.append(('Optimizer', _component(optimizer)))
    if record.checkpoint:
        rows.append(('Checkpoint', osp.basename(record.checkpoint)))
    blocks: list[Block] = []
    if record.metrics:
        blocks.append(_results(record))
    blocks.append(Facts(rows))
    return Section('overview', 'Overview', blocks)


def _agent(config: dict[str, Any]) -> list[tuple[str, str]]:
    """How the agent is trained: what tells the variants of MTKD-RL apart."""
    hook = find_hook(config, 'AgentHook')
    if hook is None:
        return []
    defaults = inspect.signature(AgentHook).parameters

    def setting(key: str) -> Any:
        return hook.get(key, defaults[key].default)

    rows = [
        (title, _component(setting(key)))
        for title, key in (
            ('Reward', 'reward'),
            ('Advantage', 'advantage'),
            ('RL algorithm', 'algorithm'),
        )
    ]
    source = 'training images'
    if setting('experience') == 'held_out':
        dataset = config_part(config_part(config, 'held_out_dataloader'), 'dataset')
        shown = {k: dataset[k] for k in ('data_root', 'ann_file', 'data_prefix') if dataset.get(k)}
        source = f'held-out images, {_component(dict(type=dataset.get("type", ""), **shown))}'
        if setting('discount_memorised'):
            source += "; what teachers repeat of the student's images by heart is discounted"
    rows.append(('The agent learns from', source))
    weighting = config_part(config_part(config, 'model'), 'weighting')
    if weighting.get('feature_weights') == 'probes':
        rows.append(('Feature weights', 'the same for all images, by probes on the same images'))
    return rows


def _results(record: RunRecord) -> Table:
    rows = []
    for key in record.metrics:
        points = record.metric(key)
        finite = [(y, x) for x, y in points if np.isfinite(y)]
        if not points:
            continue
        (high, when), (low, _) = (max(finite), min(finite)) if finite else ((np.nan, 0.0),) * 2
        rows.append([key, *map(format_number, (points[-1][1], high, when, low))])
    unit = record.unit
    head = ['metric', 'last', 'highest', f'in {unit}', 'lowest']
    return Table('Results of the validations', head, rows)


def config_part(config: Any, key: str) -> dict[str, Any]:
    """A dict in a config; empty if there is none under the key."""
    value = config.get(key) if isinstance(config, dict) else None
    return value if isinstance(value, dict) else {}


def _component(value: Any) -> str:
    """The type of a config's component, with its other settings."""
    if isinstance(value, dict):
        rest = ', '.join(f'{k}={v!r}' for k, v in value.items() if k != 'type')
        return f'{kind_of(value)} ({rest})' if rest else kind_of(value)
    return str(value)


def describe_model(model: dict[str, Any]) -> str:
    """A sentence about a model, of its config."""
    if model.get('teachers'):
        weighting = _component(_weighting(model)).split(' ')[0]
        count = len(model['teachers'])
        return f'Distillation from {count} teacher{"s" * (count != 1)}, weighed by {weighting}.'
    return f'{kind_of(model)} without teachers.' if model.get('type') else ''


def _weighting(model: dict[str, Any]) -> Any:
    return model.get('weighting', 'AVER')  # the distiller's default
