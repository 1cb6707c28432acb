# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""How well labels can be told from embeddings, by a linear probe."""

import math

import torch
from mmengine.dist import all_reduce
from scipy.optimize import minimize_scalar
from torch import Tensor

# Images at a time, so that nothing as large as all their scores in double precision is made.
_CHUNK = 4096
# Penalties that are tried, relative to the number of images: inputs have variance 1.
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


@torch.no_grad()
def probe_scores(embeddings: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    r"""Score the classes of every image by a linear probe that was fitted to the others.

    The probe is ridge regression of the one-hot labels y on embeddings of mean 0 and
    variance 1. One fit gives the scores of every image left out:

    .. math::
        s_{-i} = y_i - \frac{y_i - s_i}{1 - h_i}

    with s_i its scores by the probe of all images, and h_i its leverage. Of five
    penalties the one is taken whose scores have the least squared error. Sources: Alain
    and Bengio, "Understanding intermediate layers using linear classifier probes",
    arXiv:1610.01644; Cook and Weisberg, "Residuals and Influence in Regression", 1982.

    It is to be called on all processes, each with some of the images, or none. An image
    should be there once: a copy of it among the others gives its label away.

    Args:
        embeddings (Tensor): Those of this process, shape (N, d).
        labels (Tensor): Shape (N,), int64, on the same device.
        num_classes (int): C.

    Returns:
        Tensor: Of the images of this process, shape (N, C), float32. They are no
        logits: their scale means nothing.

    Example:
        >>> import torch
        >>> from mtkdrl_mm.rl import probe_scores
        >>> labels = torch.arange(300) % 3
        >>> probe_scores(torch.eye(3)[labels], labels, 3)[:2].round(decimals=2)
        tensor([[1., 0., 0.],
                [0., 1., 0.]])
    """
    inputs = embeddings.double()
    count = float(_total(inputs.new_tensor(float(len(inputs)))))
    shares = _total(torch.bincount(labels, minlength=num_classes).double()) / count
    inputs = inputs - _total(inputs.sum(dim=0)) / count
    inputs /= _total(inputs.square().sum(dim=0)).div(count).sqrt().clamp_min(1e-12)
    # Inputs have mean 0: labels need not be centred in this product.
    products = inputs.new_zeros(num_classes, inputs.shape[1])
    products = _total(products.index_add_(0, labels, inputs))
    # Every process finds these vectors itself, and where the spectrum has equal values other
    # ones: sums over processes are taken before, and nothing that is left depends on them.
    values, vectors = torch.linalg.eigh(_total(inputs.T @ inputs))
    inputs, products = inputs @ vectors, (products @ vectors).T

    def left_out_errors(rows: slice, penalty: float) -> Tensor:
        """y_i minus the scores s_{-i}."""
        scaled = inputs[rows] / (values.clamp_min(0) + penalty * count)
        leverage = (scaled * inputs[rows]).sum(dim=1, keepdim=True) + 1 / count
        errors = (shares + scaled @ products).neg_()
        errors[torch.arange(len(errors), device=errors.device), labels[rows]] += 1
        return errors / (1 - leverage).clamp_min(1e-6)

    chunks = [slice(start, start + _CHUNK) for start in range(0, len(inputs), _CHUNK)]

    def squared_error(penalty: float) -> float:
        squares = [left_out_errors(rows, penalty).square().sum() for rows in chunks]
        return float(_total(sum(squares, inputs.new_zeros(()))))

    best = min(_PENALTIES, key=squared_error)
    scores = embeddings.new_zeros(len(inputs), num_classes, dtype=torch.float32)
    scores[torch.arange(len(scores), device=scores.device), labels] = 1
    for rows in chunks:
        scores[rows] -= left_out_errors(rows, best).float()
    return scores


@torch.no_grad()
def probe_log_probs(embeddings: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Make log probabilities of :func:`probe_scores`, at the temperature that fits best.

    It is to be called on all processes, each with some of the images, or none.

    Args:
        embeddings (Tensor): Those of this process, shape (N, d).
        labels (Tensor): Shape (N,), int64, on the same device.
        num_classes (int): C.

    Returns:
        Tensor: Of the images of this process, shape (N, C), float32: the log
        probabilities of the classes by a probe that has not seen the image.
    """
    scores = probe_scores(embeddings, labels, num_classes)
    count = float(_total(scores.new_tensor(float(len(scores)))))
    parts = list(zip(scores.split(_CHUNK), labels.split(_CHUNK)))

    def loss(log_temperature: float) -> float:
        total = scores.new_zeros((), dtype=torch.float64)
        for part, label in parts:
            log_probs = part.double().mul(math.exp(-log_temperature)).log_softmax(dim=1)
            total -= log_probs.gather(1, label[:, None]).sum()
        return float(_total(total)) / count

    best = minimize_scalar(loss, bounds=(-7, 5), method='bounded', options=dict(xatol=1e-3))
    return scores.mul(math.exp(-best.x)).log_softmax(dim=1)


def _total(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    all_reduce(tensor)
    return tensor
