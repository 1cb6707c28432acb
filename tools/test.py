# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Test a checkpoint of an mmpretrain, mmdet or mmseg config.

Of a distiller the student is tested: no teacher is built, and no teacher file is
read.
"""

import argparse
import os.path as osp
from contextlib import nullcontext
from copy import deepcopy

import mmengine
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.evaluator import DumpResults

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.class_names import checkpoint_classes
from mtkdrl_mm.utils.data_settings import loader_datasets
from mtkdrl_mm.utils.files import PARTIAL_SUFFIX, check_output_file, replacing_file
from mtkdrl_mm.utils.launch import (
    add_common_arguments,
    build_runner,
    check_data,
    load_config,
    run_tool,
)
from mtkdrl_mm.weights.checkpoint import read_checkpoint
from mtkdrl_mm.weights.local_files import missing_file


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Test (and evaluate) a model')
    parser.add_argument('config', help='test config file path')
    parser.add_argument('checkpoint', help='checkpoint file')
    add_common_arguments(parser)
    parser.add_argument('--out', help='the file to save results to')
    parser.add_argument(
        '--out-item',
        choices=['metrics', 'pred'],
        help='what --out contains: metrics or predictions (default)',
    )
    parser.add_argument('--amp', action='store_true', help='test with automatic mixed precision')
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test-time augmentation by `tta_model` and `tta_pipeline` of the config; without '
        'them, classifiers average the scores of the image and its mirror image',
    )
    parser.add_argument('--show-dir', help='directory for images of the results')
    parser.add_argument('--show', action='store_true', help='show the results in a window')
    parser.add_argument(
        '--interval', type=int, default=1, help='interval of the samples that are shown'
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds that a window stays open'
    )
    return parser.parse_args()


def merge_args(cfg: Config, args: argparse.Namespace) -> None:
    """Merge the flags of testing into the config, in place."""
    if missing := missing_file(args.checkpoint, 'checkpoint'):
        raise InputError(missing)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.amp:
        cfg.test_cfg.fp16 = True
    if args.show or args.show_dir is not None:
        if 'visualization' not in cfg.default_hooks:
            raise InputError('--show and --show-dir need a `visualization` in `default_hooks`.')
        cfg.default_hooks.visualization.update(
            enable=True,
            show=args.show,
            wait_time=args.wait_time,
            out_dir=args.show_dir,
            interval=args.interval,
        )
    if str(cfg.model.get('type')).endswith('MultiTeacherDistiller'):
        cfg.model.teachers = None
    if args.tta:
        add_tta(cfg)


def add_tta(cfg: Config) -> None:
    """Wrap model and pipeline for test-time augmentation, in place."""
    if ('tta_model' in cfg) != ('tta_pipeline' in cfg):
        raise InputError('--tta needs both `tta_model` and `tta_pipeline` in the config, or none.')
    datasets = [dataset for _, dataset in loader_datasets(cfg, ('test_dataloader',))]
    if 'tta_model' not in cfg:
        if cfg.get('default_scope') != 'mmpretrain':
            raise InputError(
                '--tta needs `tta_model` and `tta_pipeline` in the config of a '
                f'{cfg.model.get("type")}.'
            )
        flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
        *steps, pack = datasets[0]['pipeline']
        cfg.tta_model = dict(type='mmpretrain.AverageClsScoreTTA')
        cfg.tta_pipeline = [*steps, dict(type='TestTimeAug', transforms=[flips, [pack]])]
    # The preprocessing that the config defines outside of the model.
    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    for dataset in datasets:
        dataset['pipeline'] = deepcopy(cfg.tta_pipeline)


def trained_classes(checkpoint: str) -> list[str] | None:
    """Class names that a checkpoint was trained on; None if it holds none."""
    if '://' in checkpoint:
        return None
    return checkpoint_classes(read_checkpoint(checkpoint, 'the checkpoint'))


def main() -> None:
    """Test."""
    args = parse_args()
    if args.out is None and args.out_item is not None:
        raise InputError('--out-item needs --out FILE.')
    check_output_file('--out', args.out)
    cfg = load_config(args)
    merge_args(cfg, args)
    check_data(cfg, ('test_dataloader',), trained_classes(args.checkpoint))
    runner = build_runner(cfg)
    stem, suffix = osp.splitext(args.out or '')
    partial = f'{stem}{PARTIAL_SUFFIX}{suffix}'  # mmengine takes the format from the suffix
    if args.out and args.out_item in ('pred', None):
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=partial))
    writes = args.out and is_main_process()
    with replacing_file(partial, args.out) if writes else nullcontext():
        metrics = runner.test()
        if writes and args.out_item == 'metrics':
            mmengine.dump(metrics, partial)


if __name__ == '__main__':
    run_tool(main)
