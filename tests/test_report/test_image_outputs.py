# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What is known of a training without its data: warm-up, pixels, and what is missing."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mtkdrl_mm.engine.run_record import RunRecord
from mtkdrl_mm.report.image_outputs import (
    TrainedNetworks,
    _to_rgb,
    _trained,
    _warms_up,
    look_at_images,
    run_training_images,
)


@pytest.mark.parametrize(
    ('agent', 'meta', 'warms_up'),
    [
        ({}, dict(epoch=0, iter=5), True),  # within the first epoch, by default a warm-up
        ({}, dict(epoch=1, iter=10), False),
        (dict(warmup_epochs=3), dict(epoch=2, iter=20), True),
        (dict(warmup_epochs=3), dict(epoch=3, iter=30), False),
        (dict(warmup_iters=8), dict(epoch=0, iter=7), True),
        (dict(warmup_iters=8), dict(epoch=0, iter=8), False),
    ],
)
def test_warm_up(agent, meta, warms_up):
    hooks = dict(agent=dict(type='mtkdrl_mm.AgentHook', **agent))
    assert _warms_up(Config(dict(default_hooks=hooks)), meta) == warms_up


def test_warm_up_of_a_hook_elsewhere():
    """Among `custom_hooks`, where OpenMMLab's users put hooks of their own."""
    hook = dict(type='mtkdrl_mm.AgentHook')
    for hooks in (dict(custom_hooks=[hook]), dict(default_hooks=dict(mine=hook))):
        assert not _warms_up(Config(hooks), dict(epoch=1, iter=10))
        assert _warms_up(Config(hooks), dict(epoch=0, iter=5))


def test_trained_weights_are_not_their_average():
    """EMAHook saves the average as `state_dict`, and what is trained beside it."""
    state = dict(a=torch.tensor(1.0), b=torch.tensor(2.0))
    other = {'steps': torch.tensor(7), 'module.a': torch.tensor(3.0)}
    assert _trained(state, other) == dict(a=3.0, b=2.0)
    assert _trained(state, None) == state


@pytest.mark.parametrize('to_rgb', [True, False])
def test_pixels_before_normalisation(make_distiller, to_rgb):
    preprocessor = dict(mean=[10.0, 20.0, 30.0], std=[5.0, 6.0, 7.0], to_rgb=to_rgb)
    model = make_distiller(data_preprocessor=preprocessor)
    bgr = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    inputs = model.data_preprocessor(dict(inputs=bgr), False)['inputs']
    images = _to_rgb(model, inputs)
    expected = bgr.flip(1).permute(0, 2, 3, 1)
    assert torch.equal(torch.from_numpy(images[1]), expected[1])


def test_labels_of_training_images_are_not_smoothed(make_distiller, make_resnet, tmp_path):
    """The student's loss smooths them; below an image stands the label that the data gives it."""
    for number in range(5):
        folder = tmp_path / f'class_{number}'
        folder.mkdir()
        Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(folder / 'image.png')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    loader = dict(
        dataset=dict(type='CustomDataset', data_root=str(tmp_path), pipeline=pipeline),
        batch_size=3,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    student = make_resnet(4, type='LabelSmoothLoss', label_smooth_val=0.3, mode='original')
    preprocessor = dict(mean=[127.0] * 3, std=[60.0] * 3, num_classes=5)
    model = make_distiller(student=student, data_preprocessor=preprocessor).eval()
    networks = TrainedNetworks(model, Config(dict(train_dataloader=loader)), 0, 0, None)
    assert torch.equal(run_training_images(networks, 5).labels, torch.eye(5))


@pytest.mark.parametrize(
    ('values', 'reason'),
    [
        (dict(config=dict(model=dict(type='RetinaNet'))), 'This training has no teachers.'),
        (dict(config=dict(model=dict(teachers=[1]))), 'There is no checkpoint so far.'),
        (dict(checkpoint='a.pth'), 'The work dir holds no config file.'),
    ],
)
def test_reasons(values, reason):
    record = RunRecord('run', [], [], [], **values)
    found = look_at_images(record, Config.fromfile, 10)
    assert (found.weighted, found.evaluated, found.class_names) == (reason, reason, None)
