# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""How much each teacher counts for each image."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class TeacherWeights:
    """What a weighting strategy says of a batch of B images and M teachers.

    Attributes:
        logit (Tensor): Weights wl of the logit terms, shape (B, M), summing to
            1 over the teachers, detached.
        feature (Tensor): Weights wf of the feature terms, same shape and sum.
        states (List[Tensor], optional): What the agent saw, M tensors of shape
            (B, d_m + C + 3); only from strategies with an agent.
        policy_entropy (Tensor, optional): Entropy of the agent's policy in
            nats, averaged over its two heads, shape (B,).
    """

    logit: Tensor
    feature: Tensor
    states: list[Tensor] | None = None
    policy_entropy: Tensor | None = None
