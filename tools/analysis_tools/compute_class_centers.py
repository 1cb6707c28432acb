# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Compute the class centres of every teacher's features on the training data.

The centre of a class is the mean of the teacher's features over the class's
training images, in the validation pipeline (without augmentation).
``NormDirection`` reads the file.

    python tools/analysis_tools/compute_class_centers.py CONFIG OUT.pth
"""

import argparse

import torch
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.utils import track_iter_progress

from mtkdrl_mm.engine.build_dataloader import build_dataloader
from mtkdrl_mm.engine.build_distiller import build_distiller
from mtkdrl_mm.models import MapConnector, MultiTeacherDistiller
from mtkdrl_mm.models.losses.norm_direction import DIGESTS_KEY
from mtkdrl_mm.structures.step_terms import pooled
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.files import check_output_file
from mtkdrl_mm.utils.launch import (
    add_common_arguments,
    check_data,
    load_config,
    run_tool,
)
from mtkdrl_mm.weights.torch_file import write_torch_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='distillation config')
    parser.add_argument('out', help='file to write')
    add_common_arguments(parser)
    return parser.parse_args()


@torch.no_grad()
def compute_centers(
    model: MultiTeacherDistiller, dataloader: torch.utils.data.DataLoader
) -> dict[str, torch.Tensor]:
    """Compute the mean features per teacher and class.

    Args:
        model (MultiTeacherDistiller): The distiller, with loaded teachers.
        dataloader (DataLoader): The training images with hard labels.

    Returns:
        dict[str, Tensor]: Centres of shape (C, d_m) by the teacher's name.

    Raises:
        InputError: If a class has no image.
    """
    pool, device = model.live_teachers, next(model.student.parameters()).device
    count = torch.zeros(pool.spec.num_classes, device=device)
    sums: dict[str, torch.Tensor] = {}
    for batch in track_iter_progress((dataloader, len(dataloader))):
        data = model.data_preprocessor(batch, False)
        labels = torch.cat([s.gt_label for s in data['data_samples']]).to(device)
        count += torch.bincount(labels, minlength=len(count))
        outputs = pool(data['inputs'], data['data_samples'])
        for name, output, connector in zip(pool.names, outputs, model.connectors.values()):
            use_map = isinstance(connector, MapConnector)
            features = pooled(output.feature_map if use_map else output.embedding)
            total = sums.setdefault(name, features.new_zeros(len(count), features.shape[1]))
            total.index_add_(0, labels, features)
    empty = (count == 0).nonzero().flatten().tolist()
    if empty:
        raise InputError(f'The training data has no image of the classes {empty[:10]}.')
    return {name: (total / count[:, None]).cpu() for name, total in sums.items()}


def main() -> None:
    args = parse_args()
    check_output_file('OUT', args.out)
    cfg = load_config(args)
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    check_data(cfg, ('train_dataloader', 'val_dataloader'))
    # Without the loss that reads the centres, which do not exist yet.
    model = build_distiller(cfg)
    if model.connectors is None:
        raise InputError(
            '`feature_loss_weight` is 0: there are no connectors, which select the features.'
        )
    model.teachers.load_weights()
    model.to(get_device()).eval()
    loader = cfg.train_dataloader
    loader.dataset.pipeline = cfg.val_dataloader.dataset.pipeline
    loader.sampler = dict(type='DefaultSampler', shuffle=False)
    loader.pop('drop_last', None)
    loader.pop('batch_sampler', None)
    centers = compute_centers(model, build_dataloader(loader))
    digests = {record.name: record.weights_sha256 for record in model.teacher_records}
    write_torch_file({**centers, DIGESTS_KEY: digests}, args.out)
    print(f'\nClass centres of {", ".join(centers)} are in {args.out}.')


if __name__ == '__main__':
    run_tool(main)
