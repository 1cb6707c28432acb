# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Estimate the GPU hours of detection and segmentation configs from their FLOPs.

    hours = images seen x 3 x 2 x multiply-adds of one forward pass / FLOP/s

A training step counts as three forward passes (one forward, two for the
gradients), and a multiply-add as two FLOPs. The sustained FLOP/s depend on the
GPU, the precision and the input pipeline: set ``--tflops`` to a measured value.
No data is needed, and nothing is trained.

    python tools/analysis_tools/estimate_gpu_hours.py configs/detection/*_coco.py
"""

import argparse
import glob
import os.path as osp
from functools import partial
from typing import Any

import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.launch import read_config_file, run_tool

# Training images of COCO-2017 with at least one box.
COCO_IMAGES = 117266


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('configs', nargs='+', help='configs of detectors or segmentors')
    parser.add_argument(
        '--tflops', type=float, default=6.0, help='10^12 FLOP/s that the GPU sustains in training'
    )
    parser.add_argument(
        '--images', type=int, default=COCO_IMAGES, help='training images, for schedules by epoch'
    )
    parser.add_argument(
        '--gpus', type=int, help='for schedules by iteration; by default as in the file name, 4xb2'
    )
    return parser.parse_args()


def input_size(cfg: Config) -> tuple[int, int]:
    """Height and width of the training images; the width is a multiple of 32."""
    scale = None
    for step in cfg.train_dataloader.dataset.pipeline:
        if step['type'].endswith('RandomCrop'):
            height, width = step['crop_size']
            return height, width
        if step['type'].endswith('Resize'):
            scale = step.get('scale')
    if scale is None:
        raise InputError(f'"{cfg.filename}" has no Resize or RandomCrop in its training pipeline.')
    # With the scale (1333, 800), an image of 4:3 becomes 1067 x 800.
    short = min(scale)
    long = min(max(scale), round(short * 4 / 3))
    return short, -(-long // 32) * 32


def multiply_adds(cfg: Config, size: tuple[int, int]) -> float:
    """Multiply-adds of a forward pass of one image, with the regions of a training step.

    The box heads of two-stage detectors are trained on 512 regions, the mask heads on at most 128.
    mmdet's forward pass uses 100 for the masks; in a cascade it uses all for boxes and masks.
    """
    if 'roi_head' in cfg.model:
        cascade = 'Cascade' in cfg.model.roi_head.type
        cfg.model.test_cfg.rpn.max_per_img = 128 if cascade else 512
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
    scope = cfg.default_scope
    if scope == 'mmdet':
        from mmdet.structures import DetDataSample as Sample
    else:
        from mmseg.structures import SegDataSample as Sample
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size)
    sample = Sample(metainfo=dict(**meta, scale_factor=(1.0, 1.0)))
    model.forward = partial(model.forward, data_samples=[sample])
    with torch.no_grad():
        info = get_model_complexity_info(
            model, None, inputs=torch.zeros(1, 3, *size), show_table=False, show_arch=False
        )
    return float(info['flops'])


def images_seen(cfg: Config, args: argparse.Namespace) -> int:
    """Number of images in the whole schedule, on all GPUs."""
    train_cfg: dict[str, Any] = cfg.train_cfg
    if 'max_iters' not in train_cfg:
        return int(train_cfg['max_epochs']) * args.images
    stem = osp.basename(cfg.filename)
    gpus = args.gpus
    if gpus is None:
        named = [part for part in stem.replace('-', '_').split('_') if 'xb' in part]
        if not named:
            raise InputError(f'The name "{stem}" contains no number of GPUs: set --gpus.')
        gpus = int(named[0].split('xb')[0])
    return int(train_cfg['max_iters']) * gpus * int(cfg.train_dataloader.batch_size)


def main() -> None:
    args = parse_args()
    check_number('--tflops', args.tflops, exclusive=True)
    paths = [path for pattern in args.configs for path in sorted(glob.glob(pattern)) or [pattern]]
    print(f'| config | input | GMACs | images seen | GPU hours at {args.tflops:g} TFLOP/s |')
    print('| --- | --- | --- | --- | --- |')
    for path in paths:
        cfg = read_config_file(path)
        init_default_scope(cfg.default_scope)
        size = input_size(cfg)
        macs = multiply_adds(cfg, size)
        images = images_seen(cfg, args)
        hours = images * 6 * macs / (args.tflops * 1e12) / 3600
        name = osp.splitext(osp.basename(path))[0]
        print(
            f'| {name} | {size[0]}x{size[1]} | {macs / 1e9:.0f} | {images:,} | {hours:.0f} |',
            flush=True,
        )


if __name__ == '__main__':
    run_tool(main)
