# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Plot the predictions of several checkpoints of a detector or segmentor side by side.

One row for each image of the test set: the labels, then each checkpoint's
predictions. For example, the same detector from two backbones:

    python tools/analysis_tools/compare_predictions.py \\
        configs/detection/retinanet_r18_fpn_1x_coco.py \\
        baseline=work_dirs/detection/retinanet_r18_fpn_1x_coco/baseline/r18_imagenet/epoch_12.pth \\
        distilled=work_dirs/detection/retinanet_r18_fpn_1x_coco/mtkdrl/r18_imagenet/epoch_12.pth \\
        --out predictions.png
"""

import argparse
import math
import os.path as osp
from typing import Any

import matplotlib
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.fileio import get
from mmengine.registry import DATASETS, MODELS, VISUALIZERS, init_default_scope

from mtkdrl_mm.comparison.plots import save_figure
from mtkdrl_mm.datasets.class_checks import compare_classes
from mtkdrl_mm.models.load_weights import load_network_weights
from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.class_names import checkpoint_classes, shorten
from mtkdrl_mm.utils.files import check_output_file
from mtkdrl_mm.utils.launch import add_common_arguments, check_data, load_config, run_tool
from mtkdrl_mm.weights.checkpoint import read_checkpoint
from mtkdrl_mm.weights.local_files import missing_file

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import mmcv

# Tried in this order, because samples of panoptic data have both.
LABELS = ('gt_sem_seg', 'gt_instances')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='config of a detector or segmentor')
    parser.add_argument(
        'checkpoints', nargs='+', metavar='[NAME=]FILE', help='checkpoints to compare'
    )
    parser.add_argument('--out', default='predictions.png', help='image file to write')
    parser.add_argument(
        '--num-images',
        type=int,
        default=4,
        help='number of images, spread evenly over the test set',
    )
    parser.add_argument(
        '--indices', type=int, nargs='+', help='indices of the images in the test set'
    )
    parser.add_argument('--score-thr', type=float, default=0.3, help='minimum score of a box')
    parser.add_argument('--device', help='device, by default the GPU if there is one')
    add_common_arguments(parser)
    return parser.parse_args()


def read_checkpoints(arguments: list[str]) -> dict[str, str]:
    """Parse names and paths; the default name is folder and file."""
    checkpoints = {}
    for argument in arguments:
        name, separator, path = argument.partition('=')
        if not separator:
            path = argument
            name = osp.join(osp.basename(osp.dirname(path)), osp.basename(path))
        if missing := missing_file(path, 'checkpoint'):
            raise InputError(missing)
        if name in checkpoints:
            raise InputError(f'Two checkpoints are named "{name}": name them by NAME=FILE.')
        checkpoints[name] = path
    return checkpoints


def trained_classes(checkpoints: dict[str, str]) -> list[str] | None:
    """Class names that all checkpoints were trained on; None if none of them has any."""
    found: dict[str, list[str]] = {}
    for path in checkpoints.values():
        classes = checkpoint_classes(read_checkpoint(path, 'the checkpoint'))
        if classes is not None:
            found[path] = classes
    for path, classes in found.items():
        first = next(iter(found))
        if classes != found[first]:
            raise InputError(
                f'"{path}" was trained on the classes {shorten(classes)}, "{first}" on '
                f'{shorten(found[first])}: compare checkpoints of the same classes in one order.'
            )
    return next(iter(found.values()), None)


def predict(cfg: Config, checkpoint: str, samples: list[Any], device: str) -> list[Any]:
    """Predict samples with a checkpoint.

    Args:
        cfg (Config): Config with ``model``.
        checkpoint (str): Path of the weights.
        samples (list): Samples of the test set.
        device (str): Device of the model.

    Returns:
        list[BaseDataElement]: The samples with predictions, on the CPU.

    Raises:
        InputError: If not all weights of the model are in the file.
    """
    config = dict(cfg.model)
    # The preprocessing that the config defines outside of the model.
    if cfg.get('data_preprocessor') is not None:
        config.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(config)
    load_network_weights(model, read_checkpoint(checkpoint, 'checkpoint'), checkpoint, 'network')
    model = model.to(device).eval()
    with torch.no_grad():
        return [model.test_step(pseudo_collate([sample]))[0].cpu() for sample in samples]


def draw(visualizer: Any, sample: Any, score_thr: float, labels: bool) -> np.ndarray:
    """The image with labels or predictions on it, as RGB.

    Args:
        visualizer (Visualizer): mmdet's or mmseg's.
        sample (BaseDataElement): With predictions and labels.
        score_thr (float): Least score of a box.
        labels (bool): Whether to draw the labels instead of the predictions.
    """
    path = sample.img_path
    image = mmcv.imfrombytes(get(path), channel_order='rgb')
    options: dict[str, Any] = dict(draw_gt=labels, draw_pred=not labels, show=False)
    if 'gt_sem_seg' in sample:
        options['with_labels'] = False
    else:
        options['pred_score_thr'] = score_thr
    visualizer.add_datasample('comparison', image, sample, **options)
    return visualizer.get_image()


def main() -> None:
    args = parse_args()
    check_number('--num-images', args.num_images, minimum=1)
    check_output_file('--out', args.out)
    checkpoints = read_checkpoints(args.checkpoints)
    cfg = load_config(args)
    classes = trained_classes(checkpoints)
    check_data(cfg, ('test_dataloader',), classes)
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    if classes is not None:
        compare_classes(classes, dataset, 'test')
    if args.indices:
        indices = args.indices
        for index in indices:
            if not 0 <= index < len(dataset):
                raise InputError(
                    f'--indices {index}: the test set has images 0-{len(dataset) - 1}.'
                )
    else:
        count = min(args.num_images, len(dataset))
        indices = np.linspace(0, len(dataset) - 1, count).astype(int).tolist()
    samples = [dataset[index] for index in indices]
    first = samples[0]['data_samples']
    if not any(label in first for label in LABELS):
        raise InputError(f'"{args.config}" is no config of a detector or segmentor.')

    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    visualizer = VISUALIZERS.build(
        {**cfg.visualizer, 'vis_backends': None, 'name': 'comparison', 'save_dir': None}
    )
    visualizer.dataset_meta = dataset.metainfo
    columns: dict[str, list[np.ndarray]] = {}
    for name, path in checkpoints.items():
        predictions = predict(cfg, path, samples, device)
        if not columns:
            columns['labels'] = [draw(visualizer, p, args.score_thr, True) for p in predictions]
        columns[name] = [draw(visualizer, p, args.score_thr, False) for p in predictions]

    figure, grid = plt.subplots(
        len(indices), len(columns), figsize=(2.2 * len(columns), 2.2 * len(indices)), squeeze=False
    )
    for column, (name, pictures) in enumerate(columns.items()):
        grid[0][column].set_title(name, fontsize=10)
        for row, picture in enumerate(pictures):
            grid[row][column].imshow(picture)
            grid[row][column].axis('off')
    figure.tight_layout(pad=0.5)
    # At least the images' own pixels.
    largest = max(max(picture.shape[:2]) for picture in columns['labels'])
    save_figure(figure, args.out, max(100, math.ceil(largest / 2.2)))
    print(f'{len(indices)} images, {len(checkpoints)} checkpoints: {args.out}')


if __name__ == '__main__':
    run_tool(main)
