# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The best weights that are the same for all images."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from mtkdrl_mm.rl import best_static_weights


@pytest.mark.parametrize('count', [20, 500])
def test_static_weights_are_the_best_ones(count):
    """As scipy finds them, on the simplex; bad teachers get nothing."""
    generator = torch.Generator().manual_seed(count)
    powers = torch.tensor([1.0, 1.1, 3.0, 8.0])
    probabilities = torch.rand(count, 4, generator=generator) ** powers
    values = probabilities.double().numpy()
    best = minimize(
        lambda weights: -np.log(values @ weights).mean(),
        np.full(4, 0.25),
        bounds=[(0, 1)] * 4,
        constraints=dict(type='eq', fun=lambda weights: weights.sum() - 1),
        options=dict(ftol=1e-12),
    )
    weights = best_static_weights(probabilities)
    assert -np.log(values @ weights.numpy()).mean() <= best.fun + 2e-6
    np.testing.assert_allclose(weights, best.x, atol=5e-3)
    assert weights[2:].max() < 5e-3


def test_static_weights_where_no_teacher_gives_the_label_a_chance():
    probabilities = torch.tensor([[0.0, 0.0], [0.9, 0.1]])
    torch.testing.assert_close(
        best_static_weights(probabilities), torch.tensor([1.0, 0.0]), atol=1e-5, rtol=0
    )
