# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""How well labels can be told from embeddings, by a linear probe."""

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from torch import Tensor

# Images at a time, so that nothing as large as all their scores in double precision is made.
_CHUNK = 4096
# Penalties that are tried, relative to the number of images: inputs have variance 1.
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)


@torch.no_grad()
def probe_scores(embeddings: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    r"""Score the classes of every image by a linear probe that was fitted to the others.

    The probe is ridge regression of the one-hot labels y on embeddings of mean 0 and
    variance 1. One fit gives the scores of every image left out:

    .. math::
        s_{-i} = y_i - \frac{y_i - s_i}{1 - h_i}

    with s_i its scores by the probe of all images, and h_i its leverage. Of four
    penalties the one is taken whose scores have the least squared error. Sources: Alain
    and Bengio, "Understanding intermediate layers using linear classifier probes",
    arXiv:1610.01644; Cook and Weisberg, "Residuals and Influence in Regression", 1982.

    It is to be called on all processes, each with some of the images, or none.

    Args:
        embeddings (Tensor): Those of this process, shape (N, d).
        labels (Tensor): Shape (N,), int64.
        num_classes (int): C.

    Returns:
        Tensor: Of the images of this process, shape (N, C), float32. They are no
        logits: their scale means nothing.

    Example:
        >>> import torch
        >>> from mtkdrl_mm.evaluation import probe_scores
        >>> labels = torch.arange(300) % 3
        >>> probe_scores(torch.eye(3)[labels], labels, 3)[:2].round(decimals=2)
        tensor([[1., 0., 0.],
                [0., 1., 0.]])
    """
    inputs, targets = embeddings.double(), F.one_hot(labels, num_classes)
    count = float(_total(torch.tensor(float(len(inputs)))))
    inputs = inputs - _total(inputs.sum(dim=0)) / count
    variance = _total(inputs.square().sum(dim=0)).div(count)
    inputs = inputs / variance.sqrt().clamp_min(1e-12)
    values, vectors = torch.linalg.eigh(_total(inputs.T @ inputs))
    inputs = inputs @ vectors
    # Inputs have mean 0: labels need not be centred in this product.
    products = torch.zeros(num_classes, len(values), dtype=torch.float64)
    products = _total(products.index_add_(0, labels, inputs)).T
    shares = _total(targets.sum(dim=0).double()) / count

    def left_out_errors(rows: slice, penalty: float) -> Tensor:
        """y_i minus the scores s_{-i}."""
        scaled = inputs[rows] / (values.clamp_min(0) + penalty * count)
        leverage = (scaled * inputs[rows]).sum(dim=1, keepdim=True) + 1 / count
        errors = targets[rows] - (shares + scaled @ products)
        return errors / (1 - leverage).clamp_min(1e-6)

    chunks = [slice(start, start + _CHUNK) for start in range(0, len(inputs), _CHUNK)]

    def squared_error(penalty: float) -> float:
        squares = [left_out_errors(rows, penalty).square().sum() for rows in chunks]
        return float(_total(sum(squares, torch.zeros((), dtype=torch.float64))))

    best = min(_PENALTIES, key=squared_error)
    scores = torch.empty(targets.shape)
    for rows in chunks:
        scores[rows] = (targets[rows] - left_out_errors(rows, best)).float()
    return scores


def _total(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    all_reduce(tensor)
    return tensor
