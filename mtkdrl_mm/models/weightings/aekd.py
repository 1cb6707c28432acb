# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Agree-to-disagree weights (AE-KD)."""

from typing import NamedTuple

import numpy as np
import torch
from mmengine.dist import get_world_size
from torch import Tensor

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms, TeacherWeights
from mtkdrl_mm.structures.step_terms import at_least_float32
from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.distributed import all_reduce_mean

from ..losses import KLDivergence
from ..teachers import PoolSpec
from .base import Weighting

# Where gradients cancel, rounding leaves a mean of up to 0.007 of the length that it would have
# if they were independent, in bfloat16 0.024 (measured with up to 1,024 images); where they do
# not, it has 0.8 of this length and more.
_CANCELLED = 0.03


class BatchGradients(NamedTuple):
    """Gradients of M losses, averaged over the images of this process.

    Attributes:
        mean (Tensor): g^m, shape (M, K).
        independent_norm (Tensor): Length that each g^m would have if the gradients
            of the images were independent of each other,
            sqrt(sum_i |g_i^m|^2) / B, shape (M,).
    """

    mean: Tensor
    independent_norm: Tensor


@MODELS.register_module()
class AEKD(Weighting):
    r"""Weights of the teachers' gradient combination that has the least norm.

    .. math::
        \min_w \tfrac{1}{2} \Big\| \sum_m w_m g^m \Big\|^2
        \quad \text{s.t.} \quad \sum_m w_m = 1, \; 0 \le w_m \le \frac{1}{\nu M}

    with g^m the batch mean of the gradient of teacher m's loss: for logits
    with respect to the student's logits, of the KL divergence in closed form
    T (p^S - p^m), of other losses by a backward pass per teacher; for features
    with respect to the student's map, see :func:`feature_gradients`. There is
    one w for the whole batch, also over several processes. Source: Du et al.,
    "Agree to Disagree: Adaptive Ensemble Knowledge Distillation in Gradient
    Space", NeurIPS 2020.

    The gradients of the images may cancel. Those behind the batch normalisation of
    a connector always do where the student's or the teacher's map has a single
    position: its gradient sums to 0 over batch and positions. What is left of g^m
    is then rounding, and counts as 0. Teachers without a gradient share all
    weight, up to the cap; if there are no others, all weights are equal.

    Args:
        pool (PoolSpec): Supplied by the distiller.
        nu (float, optional): Tolerance of disagreement in [1/M, 1]: with 1 all
            weights are equal, with 1/M one teacher may take all. Defaults to
            None, which is 1/M.

    Raises:
        InputError: If ``nu`` is out of range.
    """

    def __init__(self, pool: PoolSpec, nu: float | None = None) -> None:
        super().__init__(pool)
        least = 1 / pool.num_teachers
        self.nu = least if nu is None else check_number('nu', nu, minimum=least, maximum=1)
        if pool.num_classes < 2:
            raise InputError('AEKD needs at least two classes.')

    def forward(self, terms: StepTerms) -> TeacherWeights:
        """One weight per teacher, the same for all images of the batch."""
        shape = terms.logit_loss.shape
        logit = self.solve(logit_gradients(terms))
        feature = logit
        if terms.projections is not None:
            feature = self.solve(feature_gradients(terms))
        return TeacherWeights(logit=logit.expand(shape), feature=feature.expand(shape))

    def solve(self, gradients: BatchGradients) -> Tensor:
        """Solve the quadratic program.

        Args:
            gradients (BatchGradients): Those of this process.

        Returns:
            Tensor: w of shape (M,), float32.
        """
        columns = torch.cat([gradients.mean, gradients.independent_norm[:, None]], dim=1)
        columns = all_reduce_mean(columns).double()
        # The images of all processes are so many times as many.
        mean, independent_norm = columns[:, :-1], columns[:, -1] / get_world_size() ** 0.5
        cancelled = mean.norm(dim=1) < _CANCELLED * independent_norm
        mean = mean.masked_fill(cancelled[:, None], 0)
        gram = (mean @ mean.T).cpu().numpy()
        weights = min_norm_weights(gram, cap=1 / (self.nu * len(mean)))
        return torch.from_numpy(weights).to(mean.device, torch.float32)


def logit_gradients(terms: StepTerms) -> BatchGradients:
    """dL_i^m/dz_i^S of every teacher's logit loss, detached; K is C.

    Args:
        terms (StepTerms): The step's terms.
    """
    loss_fn = terms.logit_loss_fn or KLDivergence(terms.temperature)
    if type(loss_fn) is not KLDivergence:
        return _by_backward(terms.logit_loss, terms.student_logits)
    with torch.no_grad():
        student = terms.student_log_probs(loss_fn.temperature).exp()[:, None]
        teachers = loss_fn.teacher_log_probs(terms).exp()
        gradients = loss_fn.temperature * (student - teachers)
        return BatchGradients(
            gradients.mean(dim=0), gradients.norm(dim=2).norm(dim=0) / len(gradients)
        )


def feature_gradients(terms: StepTerms) -> BatchGradients:
    """dD_i^m/dF_i of every teacher, detached.

    F are the student's features (its map, or its embedding if no connector
    reads the map), with K entries per image. Where every connector starts with
    a linear map, one backward pass for all teachers goes no further than these
    maps, and only batch means go back through them. Otherwise every teacher
    has a backward pass of its own through its connector.

    Args:
        terms (StepTerms): The step's terms, with projections.
    """
    gradients = _through_stems(terms)
    if gradients is not None:
        return gradients
    source: Tensor | None = terms.student.embedding
    if any(projection.features.ndim == 4 for projection in terms.projections or []):
        source = terms.student.feature_map
    assert source is not None
    return _by_backward(terms.feature_loss, source)


def _through_stems(terms: StepTerms) -> BatchGradients | None:
    stems = [p.stem for p in terms.projections or [] if p.stem is not None]
    same_source = all(stem.source is stems[0].source for stem in stems)
    if len(stems) < terms.num_teachers or not same_source:
        return None
    # As sums over the entries: their means are too small for half precision.
    sizes = [stem.output[0].numel() for stem in stems]
    total = (terms.feature_loss * terms.feature_loss.new_tensor(sizes)).sum()
    gradients = torch.autograd.grad(
        total, [stem.output for stem in stems], retain_graph=True, allow_unused=True
    )
    if any(gradient is None for gradient in gradients):  # the loss reads other tensors
        return None
    # Their lengths at the source are not known without a backward pass of the whole batch. With
    # random signs nothing cancels: the mean has the length of one of independent gradients.
    signs = torch.randint(2, (len(stems[0].source),), generator=torch.Generator().manual_seed(0))
    signs = signs.mul(2).sub(1).to(stems[0].output.device)
    means, independent_norms = [], []
    for stem, gradient, size in zip(stems, gradients, sizes):
        gradient = at_least_float32(gradient)
        means.append(stem.mean_vjp(gradient.mean(dim=0)).flatten().div(size))
        signed = torch.tensordot(signs.to(gradient), gradient, dims=1) / len(gradient)
        independent_norms.append(stem.mean_vjp(signed).norm().div(size))
    return BatchGradients(torch.stack(means), torch.stack(independent_norms))


def _by_backward(losses: Tensor, source: Tensor) -> BatchGradients:
    means, independent_norms = [], []
    for loss in losses.sum(dim=0):
        (gradient,) = torch.autograd.grad(loss, source, retain_graph=True)
        gradient = at_least_float32(gradient)
        means.append(gradient.mean(dim=0).flatten())
        independent_norms.append(gradient.norm() / len(gradient))
    return BatchGradients(torch.stack(means), torch.stack(independent_norms))


def min_norm_weights(gram: np.ndarray, cap: float) -> np.ndarray:
    """Weights of the combination of vectors that has the least norm.

    A primal active-set method (Nocedal and Wright, "Numerical Optimization",
    algorithm 16.3) ends at the exact solution of the quadratic program also if
    some vectors are thousands of times as long as others. SciPy has no routine
    for such programs, and its general ones end too early then.

    Args:
        gram (np.ndarray): Inner products of the M vectors, shape (M, M).
        cap (float): Greatest weight, at least 1/M.

    Returns:
        np.ndarray: Shape (M,), each in [0, cap], summing to 1.
    """
    count = len(gram)
    scale = float(np.trace(gram)) / count
    if count == 1 or not np.isfinite(scale) or scale <= 0 or cap * count <= 1 + 1e-9:
        return np.full(count, 1 / count)
    gram = gram / scale
    norms = np.sqrt(gram.diagonal())
    norms = np.maximum(norms, 1e-9 * norms.max())
    # As if each vector had a component of its own of 1e-6 of its length: the solution is unique.
    gram = gram + 1e-12 * np.diag(norms**2)
    weights = np.full(count, 1 / count)
    free = np.full(count, True)
    settled = False  # whether the free weights are the best ones beside the others
    for _ in range(100 * count):  # 2 M are enough, measured up to M = 32
        # Weight should go from the greatest slope to the least one.
        slopes = gram @ weights
        to = np.where(weights < cap, slopes, np.inf).argmin()
        source = np.where(weights > 0, slopes, -np.inf).argmax()
        rounding = 1e-14 * (norms[to] + norms[source]) * (weights @ norms)
        if slopes[source] - slopes[to] <= 1e-10 * (weights @ slopes) + rounding:
            break
        if settled:
            # A weight that is at its bound by chance would stop every step at once.
            free = (weights > 0) & (weights < cap)
            if free[to] and free[source]:  # there are no better numbers
                break
            free[[to, source]] = True
        inside = np.flatnonzero(free)
        move = _least_norm_within(gram, norms, weights, free) - weights[inside]
        bound = np.where(move < 0, 0.0, cap)
        reach = np.full(len(inside), np.inf)
        np.divide(bound - weights[inside], move, out=reach, where=move != 0)
        step = reach.min(initial=1.0)
        settled = bool(step == 1)
        weights[inside] = np.clip(weights[inside] + step * move, 0.0, cap)
        if not settled:
            first = reach.argmin()
            weights[inside[first]] = bound[first]
            free[inside[first]] = False
    return weights / weights.sum()


def _least_norm_within(
    gram: np.ndarray, norms: np.ndarray, weights: np.ndarray, free: np.ndarray
) -> np.ndarray:
    """Weights of the free vectors for the least norm, without bounds; the others stay."""
    if not free.any():
        return weights[free]
    lengths = norms[free]
    correlations = gram[np.ix_(free, free)] / np.outer(lengths, lengths)
    fixed = gram[np.ix_(free, ~free)] @ weights[~free]
    sides = np.stack([np.ones_like(lengths), fixed], axis=1) / lengths[:, None]
    unit, offset = (np.linalg.solve(correlations, sides) / lengths[:, None]).T
    left = 1 - weights[~free].sum()
    return unit * (left + offset.sum()) / unit.sum() - offset
