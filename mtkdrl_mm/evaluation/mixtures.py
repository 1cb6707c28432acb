# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""How much there is to gain from weighing teachers, found without training a student."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtkdrl_mm.comparison.summary import confidence_half_width
from mtkdrl_mm.models import JointAgent
from mtkdrl_mm.models.agents import Agent
from mtkdrl_mm.rl import MixtureLikelihood, RolloutBuffer, best_static_weights

_BATCH_SIZE = 64


@dataclass(frozen=True)
class Mixture:
    """A way to weigh the teachers, on images that it has not been fitted to.

    Attributes:
        name (str): 'equal weights', 'static weights', 'weights per image', or a
            teacher.
        log_likelihoods (Tensor): log sum_m w_i^m p_i^m[y_i] in nats, shape (N,).
        accuracy (float): Share of images whose label is the mixture's most
            likely class.
        weights (Tensor): Mean weight of every teacher, shape (M,).
    """

    name: str
    log_likelihoods: Tensor
    accuracy: float
    weights: Tensor

    @property
    def cross_entropy(self) -> float:
        """Mean cross entropy in nats."""
        return -float(self.log_likelihoods.mean())

    def gain(self, other: 'Mixture', groups: Tensor) -> tuple[float, float]:
        """Mean gain over another mixture, and half its 95 % interval, in nats.

        Args:
            other (Mixture): On the same images.
            groups (Tensor): Number of the image behind every row, shape (N,).
                Views of one image are no independent samples: their mean counts.
        """
        difference = (self.log_likelihoods - other.log_likelihoods).double()
        count = int(groups.max()) + 1
        sums = torch.zeros(count, dtype=torch.float64).index_add_(0, groups, difference)
        means = sums / torch.bincount(groups, minlength=count)
        return float(means.mean()), confidence_half_width(means.numpy())


def compare_mixtures(
    names: Sequence[str],
    logits: Tensor,
    labels: Tensor,
    images: Tensor,
    folds: int = 5,
    passes: int = 20,
    seed: int = 0,
) -> list[Mixture]:
    """Fit weights for the teachers' mixture, and judge them by cross-validation.

    Static weights are the best ones of the images that they are fitted to, see
    :func:`mtkdrl_mm.rl.best_static_weights`. Those per image are of an agent that learns from
    the teachers' logits alone, by :class:`MixtureLikelihood`: one agent, and no
    bound on what others could reach.

    Args:
        names (Sequence[str]): The M teachers.
        logits (Tensor): Their logits on images that they were not trained on,
            shape (N, M, C).
        labels (Tensor): Shape (N,), int64.
        images (Tensor): Number of the image behind every row, from 0, shape
            (N,). All views of an image are in one fold.
        folds (int): Number of folds. Defaults to 5.
        passes (int): Passes over the images of a fit. Defaults to 20.
        seed (int): Seed of folds and fits. Defaults to 0.

    Returns:
        list[Mixture]: Every teacher alone, equal weights, static weights and
        weights per image.
    """
    log_probs = logits.float().log_softmax(dim=2)
    rewards = log_probs.gather(2, labels[:, None, None].expand(-1, len(names), 1))[..., 0].exp()
    states = list(logits.float().unbind(dim=1))
    generator = torch.Generator().manual_seed(seed)
    order: Tensor = torch.randperm(int(images.max()) + 1, generator=generator)
    fold = order.remainder(folds)[images]
    static, per_image = torch.empty_like(rewards), torch.empty_like(rewards)
    for number in range(folds):
        inside, outside = fold != number, fold == number
        static[outside] = best_static_weights(rewards[inside])
        agent = _fit([state[inside] for state in states], rewards[inside], passes, seed)
        with torch.no_grad():
            per_image[outside] = agent([state[outside] for state in states])[0].exp()
    alone = torch.eye(len(names))
    weights = {name: alone[m].expand_as(rewards) for m, name in enumerate(names)}
    weights['equal weights'] = torch.full_like(rewards, 1 / len(names))
    weights.update({'static weights': static, 'weights per image': per_image})
    return [_judge(name, one, log_probs, labels) for name, one in weights.items()]


def _fit(states: Sequence[Tensor], rewards: Tensor, passes: int, seed: int) -> Agent:
    """An agent that has learned the mixture of some images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        agent = JointAgent([state.shape[1] for state in states])
    # States in half precision, and a reward each; twice as much, so that nothing is dropped.
    nbytes = 2 * sum(agent.state_sizes) + 4 * len(agent.state_sizes)
    buffer = RolloutBuffer(agent.state_sizes, 2 * nbytes * len(rewards) / 2**20)
    order = torch.randperm(len(rewards), generator=torch.Generator().manual_seed(seed))
    for part in order.split(_BATCH_SIZE):
        buffer.add([state[part] for state in states], rewards[part], torch.Generator())
    optimizer = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-3)
    algorithm = MixtureLikelihood(agent, optimizer=optimizer, epochs=passes, seed=seed)
    algorithm.update(buffer)
    return agent


def _judge(name: str, weights: Tensor, log_probs: Tensor, labels: Tensor) -> Mixture:
    mixed = (weights[..., None] * log_probs.exp()).sum(dim=1)
    of_label = mixed.gather(1, labels[:, None])[:, 0].clamp(min=1e-8)
    accuracy = float((mixed.argmax(dim=1) == labels).float().mean())
    return Mixture(name, of_label.log(), accuracy, weights.mean(dim=0))
