# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Contiguous and channels_last batches and networks."""

import copy

import pytest
import torch
from torch import nn

from mtkdrl_mm.models.memory_format import check_trainable_in_channels_last, is_channels_last
from mtkdrl_mm.utils import InputError

CPU, GPU = torch.device('cpu'), torch.device('cuda')


def network(width: int, stride: int = 2, kernel: int = 1, groups: int = 1) -> nn.Module:
    """A convolution in a network."""
    padding = kernel // 2
    conv = nn.Conv2d(width, 2 * width, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(nn.Identity(), conv)


def test_a_student_with_wrong_gradients_is_refused():
    """The process may crash by them: this cannot be shown here."""
    with pytest.raises(InputError, match='"1" of the student has 4') as error:
        check_trainable_in_channels_last(network(4), CPU)
    assert 'Leave out channels_last' in str(error.value)
    with pytest.raises(InputError, match='has 4'):
        check_trainable_in_channels_last(network(8, groups=2), CPU)
    check_trainable_in_channels_last(network(4), GPU)


@pytest.mark.parametrize(
    'settings', [dict(width=16), dict(width=24), dict(width=4, stride=1), dict(width=4, kernel=3)]
)
def test_what_is_not_refused_has_right_gradients(settings):
    """From 16 channels on, the block of AVX-512: a fault there would end the tests' process."""
    torch.manual_seed(0)
    plain = network(**settings)
    other = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    check_trainable_in_channels_last(other, CPU)
    images = torch.randn(8, settings['width'], 16, 16)
    for net, layout in ((plain, torch.contiguous_format), (other, torch.channels_last)):
        net(images.contiguous(memory_format=layout)).square().sum().backward()
    torch.testing.assert_close(other[1].weight.grad, plain[1].weight.grad, rtol=1e-4, atol=1e-4)


def test_is_channels_last():
    images = torch.randn(2, 3, 4, 4)
    assert not is_channels_last(images)
    assert is_channels_last(images.contiguous(memory_format=torch.channels_last))
    # Of one channel or one position, both formats are the same.
    assert not is_channels_last(torch.randn(2, 1, 4, 4).to(memory_format=torch.channels_last))
