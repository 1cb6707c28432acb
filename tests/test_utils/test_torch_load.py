# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What ``torch.load`` accepts."""

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader

from mtkdrl_mm.utils.torch_load import allow_mmengine_checkpoints


def test_checkpoints_of_mmengine_are_read_where_torch_is_strict(mmengine_checkpoint):
    if not hasattr(torch.serialization, 'add_safe_globals'):
        pytest.skip('this torch is not strict by default')
    path, _ = mmengine_checkpoint
    allow_mmengine_checkpoints()
    # The loaders of mmengine's maintained fork take the types off the list again.
    CheckpointLoader.load_checkpoint(str(path))
    contents = torch.load(path, weights_only=True)
    assert contents['message_hub']['runtime_info']['best_score'] == 71.5
