# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Train a model from an mmpretrain, mmdet or mmseg config."""

import argparse

import torch
from mmengine.config import Config

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.launch import (
    add_common_arguments,
    build_runner,
    check_data,
    load_config,
    run_tool,
)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Train a model')
    parser.add_argument('config', help='train config file path')
    add_common_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        type=str,
        const='auto',
        help='resume from the given checkpoint, by default the latest one in the work dir',
    )
    parser.add_argument(
        '--amp', action='store_true', help='enable automatic-mixed-precision training'
    )
    parser.add_argument(
        '--no-validate',
        action='store_true',
        help='disable the validation during training',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate from the base batch size to the actual one',
    )
    parser.add_argument(
        '--no-persistent-workers',
        action='store_true',
        help='disable the persistent_workers option in dataloaders',
    )
    return parser.parse_args()


def merge_args(cfg: Config, args: argparse.Namespace) -> None:
    """Merge the flags of training into the config, in place."""
    if args.no_validate:
        cfg.val_cfg = None
        cfg.val_dataloader = None
        cfg.val_evaluator = None
    if args.amp:
        if not torch.cuda.is_available():
            raise InputError('--amp needs a GPU, and torch finds none here.')
        kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
        if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise InputError(f'--amp does not work with the optimizer wrapper "{kind}".')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.resume == 'auto':
        cfg.resume = True
        cfg.load_from = None
    elif args.resume is not None:
        cfg.resume = True
        cfg.load_from = args.resume
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise InputError(
                '--auto-scale-lr needs `auto_scale_lr=dict(base_batch_size=...)` in the config.'
            )
        cfg.auto_scale_lr.enable = True
    if args.no_persistent_workers:
        for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            if isinstance(cfg.get(name), dict):
                cfg[name].pop('persistent_workers', None)


def main() -> None:
    """Train."""
    args = parse_args()
    cfg = load_config(args)
    merge_args(cfg, args)
    check_data(cfg, ('train_dataloader', 'val_dataloader'))
    build_runner(cfg).train()


if __name__ == '__main__':
    run_tool(main)
