# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Class centres: written by the tool, right, and read by NormDirection."""

import cv2
import pytest
import torch
from mmengine.config import Config
from mmpretrain import get_model

from .conftest import CLASSES, Workshop

pytestmark = pytest.mark.slow


def test_centers_are_the_mean_features_and_train_nd(workshop: Workshop):
    config, out = workshop.config(), str(workshop.folder / 'centers.pth')
    tool = 'tools/analysis_tools/compute_class_centers.py'
    done = workshop.tool(tool, config, out, fresh=True)
    assert done.returncode == 0, done.stderr[-2000:]
    centers = torch.load(out)

    for teacher in workshop.teachers:
        model = get_model(Config.fromfile(teacher['cfg_path']), pretrained=teacher['checkpoint'])
        model.eval()
        for label in range(CLASSES):
            paths = sorted((workshop.data / 'train' / f'class_{label}').iterdir())
            pixels = [torch.from_numpy(cv2.imread(str(p)).copy()) for p in paths]
            images = torch.stack(pixels).flip(-1).permute(0, 3, 1, 2).float()
            with torch.no_grad():
                (features,) = model.extract_feat((images - 127) / 60)
            torch.testing.assert_close(
                centers[teacher['name']][label], features.mean(dim=0), atol=1e-4, rtol=1e-4
            )

    with open(config, 'a') as file:
        file.write(f"\nmodel['extra_losses'] = [dict(type='NormDirection', centers={out!r})]\n")
    work_dir = str(workshop.folder / 'nd')
    trained = workshop.train(
        config, '--work-dir', work_dir, '--cfg-options', 'train_cfg.max_epochs=1'
    )
    assert trained.returncode == 0, trained.stderr[-2000:]
    assert 'loss_normdirection: ' in trained.stdout

    path = workshop.teachers[1]['checkpoint']
    weights = torch.load(path)
    first = next(iter(weights.get('state_dict', weights).values()))
    first.add_(0.01)
    torch.save(weights, path)
    refused = workshop.train(config, '--work-dir', work_dir + '_other')
    assert refused.returncode != 0
    name = workshop.teachers[1]['name']
    assert f'computed with other weights of teacher "{name}"' in refused.stderr
