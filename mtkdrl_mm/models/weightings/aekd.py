# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Agree-to-disagree weights (AE-KD)."""

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms, TeacherWeights
from mtkdrl_mm.structures.step_terms import at_least_float32
from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.distributed import all_reduce_mean

from ..losses import KLDivergence
from ..teachers import PoolSpec
from .base import Weighting


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

    def solve(self, gradients: Tensor) -> Tensor:
        """Solve the quadratic program.

        Args:
            gradients (Tensor): g^m of this process, shape (M, K).

        Returns:
            Tensor: w of shape (M,), float32.
        """
        gradients = all_reduce_mean(gradients).double()
        gram = (gradients @ gradients.T).cpu().numpy()
        weights = min_norm_weights(gram, cap=1 / (self.nu * len(gradients)))
        return torch.from_numpy(weights).to(gradients.device, torch.float32)


def logit_gradients(terms: StepTerms) -> Tensor:
    """mean_i dL_i^m/dz_i^S of every teacher's logit loss, detached, shape (M, C).

    Args:
        terms (StepTerms): The step's terms.
    """
    loss_fn = terms.logit_loss_fn
    if loss_fn is not None and type(loss_fn) is not KLDivergence:
        gradients = []
        for loss in terms.logit_loss.sum(dim=0):
            (gradient,) = torch.autograd.grad(loss, terms.student_logits, retain_graph=True)
            gradients.append(gradient.mean(dim=0))
        return torch.stack(gradients)
    temperature = terms.temperature
    with torch.no_grad():
        student = terms.student_log_probs(temperature).exp()[:, None]
        if loss_fn is None:
            teachers = terms.teacher_log_probs(temperature).exp()
        else:
            teachers = loss_fn.teacher_log_probs(terms).exp()
        return temperature * (student - teachers).mean(dim=0)


def feature_gradients(terms: StepTerms) -> Tensor:
    """mean_i dD_i^m/dF_i of every teacher, detached, shape (M, K).

    F are the student's features (its map, or its embedding if no connector
    reads the map), with K entries per image. Where every connector starts with
    a linear map, one backward pass for all teachers goes no further than these
    maps, and only batch means go back through them. Otherwise every teacher
    has a backward pass of its own through its connector.

    Args:
        terms (StepTerms): The step's terms, with projections.
    """
    gradients = _gradients_through_stems(terms)
    return _gradients_by_backward(terms) if gradients is None else gradients


def _gradients_through_stems(terms: StepTerms) -> Tensor | None:
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
    means = [at_least_float32(gradient).mean(dim=0) for gradient in gradients]
    return torch.stack(
        [stem.mean_vjp(mean).flatten().div(size) for stem, mean, size in zip(stems, means, sizes)]
    )


def _gradients_by_backward(terms: StepTerms) -> Tensor:
    source: Tensor | None = terms.student.embedding
    if any(projection.features.ndim == 4 for projection in terms.projections or []):
        source = terms.student.feature_map
    assert source is not None
    gradients = []
    for loss in terms.feature_loss.sum(dim=0):
        (gradient,) = torch.autograd.grad(loss, source, retain_graph=True)
        gradients.append(at_least_float32(gradient).mean(dim=0).flatten())
    return torch.stack(gradients)


def min_norm_weights(gram: np.ndarray, cap: float) -> np.ndarray:
    """Weights of the combination of vectors that has the least norm.

    Args:
        gram (np.ndarray): Inner products of the M vectors, shape (M, M).
        cap (float): Greatest weight, at least 1/M.

    Returns:
        np.ndarray: Shape (M,), each in [0, cap], summing to 1.
    """
    count = len(gram)
    start = np.full(count, 1 / count)
    scale = float(np.trace(gram)) / count
    if count == 1 or not np.isfinite(scale) or scale <= 0 or cap * count <= 1 + 1e-9:
        return start
    gram = gram / scale
    result = minimize(
        lambda w: 0.5 * w @ gram @ w,
        start,
        jac=lambda w: gram @ w,
        bounds=[(0.0, cap)] * count,
        constraints=dict(type='eq', fun=lambda w: w.sum() - 1, jac=lambda w: np.ones(count)),
        method='SLSQP',
        options=dict(ftol=1e-12, maxiter=100),
    )
    weights = np.clip(result.x, 0.0, cap)
    return weights / weights.sum()
