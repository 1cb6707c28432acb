# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Several processes do what one does."""

import pytest
import torch

from .conftest import Workshop, largest_difference, weights_of

pytestmark = pytest.mark.slow


def test_two_processes_equal_one(workshop: Workshop):
    config = workshop.config(augment=[])
    flags = ['--cfg-options', 'train_cfg.max_epochs=3']
    one = workshop.train(config, '--work-dir', str(workshop.folder / 'one'), *flags)
    assert one.returncode == 0, one.stderr[-2000:]
    two = workshop.run(
        'bash',
        'tools/dist_train.sh',
        config,
        '2',
        '--work-dir',
        str(workshop.folder / 'two'),
        *flags,
        'train_dataloader.batch_size=4',
        env=dict(PORT='29617'),
    )
    assert two.returncode == 0, two.stderr[-3000:]
    first = torch.load(workshop.folder / 'one' / 'epoch_3.pth')
    second = torch.load(workshop.folder / 'two' / 'epoch_3.pth')
    assert largest_difference(first['state_dict'], second['state_dict']) < 1e-5
    assert second['agent_hook']['algorithm']['updates'] == 3
    # The agent has moved, so that its equality says something.
    start = weights_of(workshop.folder / 'two' / 'epoch_1.pth')
    agent = [k for k in start if k.startswith('weighting.agent.networks')]
    moved = {k: second['state_dict'][k] for k in agent}
    assert largest_difference({k: start[k] for k in agent}, moved) > 1e-3

    tested = workshop.run(
        'bash',
        'tools/dist_test.sh',
        config,
        str(workshop.folder / 'two' / 'epoch_3.pth'),
        '2',
        '--work-dir',
        str(workshop.folder / 'tested'),
        env=dict(PORT='29618'),
    )
    assert tested.returncode == 0, tested.stderr[-3000:]
    assert 'accuracy/top1' in tested.stdout
