# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What teachers cost."""

import pytest
import torch

from mtkdrl_mm.engine.forward_cost import forward_costs, peak_memory


def test_costs(make_distiller, make_resnet):
    teachers = [dict(make_resnet(4), name='small'), dict(make_resnet(32), name='large')]
    distiller = make_distiller(teachers).train()
    before = {k: v.clone() for k, v in distiller.student.state_dict().items()}
    inputs, labels = torch.randn(8, 3, 64, 64), torch.randint(5, (8,))
    small, large = forward_costs(distiller, inputs, labels, repeats=3)
    for cost, network in ((small, distiller.teachers[0].network), (large, None)):
        assert 0 < cost.share < 1 and cost.seconds > 0
        if network is not None:
            assert cost.parameters == sum(p.numel() for p in network.parameters())
            size = sum(t.numel() * t.element_size() for t in network.state_dict().values())
            assert cost.weights_mib == pytest.approx(size / 2**20)
    assert large.seconds > small.seconds and large.share > small.share
    assert large.peak_mib > small.peak_mib > 0
    assert small.share + large.share < 1
    # the student is left as it was
    assert distiller.student.training
    for key, value in distiller.student.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(p.grad is None for p in distiller.student.parameters())


def test_peak_of_memory():
    def action():
        first = torch.zeros(2**20)  # 4 MiB
        second = first + 1
        del first
        third = second.repeat(2)  # 4 and 8
        del second, third
        torch.zeros(2**21)

    assert peak_memory(action, torch.device('cpu')) == pytest.approx(12, abs=0.1)
