# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Weights from meta networks."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import NetworkOutput, StepTerms, TeacherWeights
from mtkdrl_mm.structures.step_terms import at_least_float32
from mtkdrl_mm.utils import check_number

from ..teachers import PoolSpec
from .base import Weighting


class MetaNetwork(nn.Sequential):
    """Linear -> ReLU -> linear; the softmax of the result weighs the teachers.

    Args:
        in_features (int): Length of the input.
        num_teachers (int): M.
        hidden (int): Width of the hidden layer.
    """

    def __init__(self, in_features: int, num_teachers: int, hidden: int) -> None:
        super().__init__(nn.Linear(in_features, hidden), nn.ReLU(), nn.Linear(hidden, num_teachers))


@MODELS.register_module()
class MMKD(Weighting):
    r"""Two meta networks, trained on the student's loss on hard images.

    .. math::
        w_l = \mathrm{softmax}\, h_l([z^1 | \dots | z^M | z^S]), \qquad
        w_f = \mathrm{softmax}\, h_f([G^1 | \dots | G^M | G^S])

    with the similarities :math:`G_{ij} = \langle F_i, F_j \rangle` of image i to
    the images j of its batch, as each network sees them. The networks are
    trained by ``MetaLearningHook``, without which they keep their random
    weights. Source: Zhang et al., "Adaptive Multi-Teacher Knowledge
    Distillation with Meta-Learning", arXiv:2306.06634.

    In the original the width of the feature network is the size of the batch.
    Here every row of similarities is averaged into the same number of bins, so
    that another batch size, the last batch of an epoch and another number of
    processes work; and features have length 1, since inner products of whole
    maps drive the softmax into saturation. With ``bins`` equal to the batch
    size and ``normalize=False`` it is the original.

    Args:
        pool (PoolSpec): Supplied by the distiller.
        bins (int): Bins that the similarities of an image are averaged into.
            Defaults to 16.
        normalize (bool): Whether features have length 1. Defaults to True.
        hidden (int, optional): Width of the hidden layers. Defaults to None:
            half of the input, as in the original, but at most 512.

    Raises:
        InputError: If a number is out of range.
    """

    trainer_config = "meta_learning=dict(type='mtkdrl_mm.MetaLearningHook')"

    def __init__(
        self, pool: PoolSpec, bins: int = 16, normalize: bool = True, hidden: int | None = None
    ) -> None:
        super().__init__(pool)
        self.bins = int(check_number('bins', bins, minimum=1))
        self.normalize = normalize
        if hidden is not None:
            check_number('hidden', hidden, minimum=1)
        networks = pool.num_teachers + 1
        logit_size, feature_size = networks * pool.num_classes, networks * self.bins
        self.logit_network = MetaNetwork(
            logit_size, pool.num_teachers, hidden or min(512, max(1, logit_size // 2))
        )
        self.feature_network = MetaNetwork(
            feature_size, pool.num_teachers, hidden or min(512, max(1, feature_size // 2))
        )
        # Outside of their own updates nothing else, DDP's reducer included, is
        # to expect gradients here.
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, terms: StepTerms) -> TeacherWeights:
        """The networks' weights."""
        logit, feature = self.weigh(terms)
        return TeacherWeights(logit=logit, feature=feature)

    def weigh(self, terms: StepTerms) -> tuple[Tensor, Tensor]:
        """The networks' weights, with gradient where it is switched on.

        Args:
            terms (StepTerms): The step's record for B images and M teachers.

        Returns:
            tuple[Tensor, Tensor]: w_l and w_f of shape (B, M), summing to 1
            over the teachers; no gradient flows into the student.
        """
        logits = torch.cat([terms.teacher_logits.flatten(1), terms.student_logits], dim=1)
        rows = [self.similarities(network) for network in (*terms.teachers, terms.student)]
        return (
            self.logit_network(logits.detach()).softmax(dim=1),
            self.feature_network(torch.cat(rows, dim=1)).softmax(dim=1),
        )

    @torch.no_grad()
    def similarities(self, network: NetworkOutput) -> Tensor:
        """Similarities of every image to its batch, averaged into bins.

        Args:
            network (NetworkOutput): A network's outputs on B images; the map
                is used, or the embedding where there is none.

        Returns:
            Tensor: Shape (B, bins).
        """
        features = network.embedding if network.feature_map is None else network.feature_map
        features = at_least_float32(features).flatten(1)
        if self.normalize:
            features = F.normalize(features, dim=1)
        rows = features @ features.T
        return F.adaptive_avg_pool1d(rows[:, None], self.bins)[:, 0]


def meta_loss(
    weights: tuple[Tensor, Tensor],
    derivatives: Sequence[Tensor],
    terms: StepTerms,
    rate: float,
) -> Tensor:
    r"""First-order change of the hard images' cross entropy by the look-ahead step.

    .. math::
        L = -\frac{\eta}{B} \sum_i \sum_m \big(
            \alpha\, wl_i^m \langle v, \nabla KL_i^m \rangle
            + \beta\, wf_i^m \langle v, \nabla D_i^m \rangle \big)

    whose gradient with respect to the weights is that of the cross entropy
    after the step: v is its gradient with respect to the stepped parameters,
    which are linear in the weights.

    Args:
        weights (tuple[Tensor, Tensor]): w_l and w_f of shape (B, M).
        derivatives (Sequence[Tensor]): The two inner products, shape (B, M)
            each, from :class:`mtkdrl_mm.engine.look_ahead.LookAhead`.
        terms (StepTerms): The step's record.
        rate (float): Learning rate eta of the look-ahead step.

    Returns:
        Tensor: A scalar.
    """
    gain = (weights[0] * derivatives[0]).mul(terms.logit_loss_weight) + (
        weights[1] * derivatives[1]
    ).mul(terms.feature_loss_weight)
    return gain.sum(dim=1).mean().mul(-rate)
