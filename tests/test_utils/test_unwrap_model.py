# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Access to the model inside of wrappers."""

from mmengine.registry import MODEL_WRAPPERS
from torch import nn

from mtkdrl_mm.utils.unwrap_model import unwrap_model


def test_a_plain_model_is_returned_as_it_is():
    model = nn.Linear(1, 1)
    assert unwrap_model(model) is model


def test_nested_wrappers_are_removed(monkeypatch):
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    monkeypatch.setitem(MODEL_WRAPPERS._module_dict, 'Wrapper', Wrapper)
    model = nn.Linear(1, 1)
    assert unwrap_model(Wrapper(Wrapper(model))) is model
    # A network with a part of this name is no wrapper.
    network = nn.Module()
    network.module = model
    assert unwrap_model(network) is network
