# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""How much following a teacher helps a student, measured by training it for some steps."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor
from torch.nn import functional

from mtkdrl_mm.comparison.summary import confidence_half_width
from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.models.weightings import Weighting
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.seeding import seed_step


@dataclass(frozen=True)
class Usefulness:
    """What a student gains from some steps with one weighting of its teachers.

    Attributes:
        gains (Tensor): Decrease of the mean cross entropy on the images of each
            class in nats, from R repeats, shape (R, C). NaN for a class without
            images, and for all of a repeat in which the student diverged.
        counts (Tensor): Number of test images of each class, shape (C,).
        weights (Tensor): Mean logit weight of every teacher in these steps, shape
            (M,).
    """

    gains: Tensor
    counts: Tensor
    weights: Tensor

    @property
    def totals(self) -> Tensor:
        """Decrease of the mean cross entropy of all images, shape (R,).

        NaN where the student diverged.
        """
        # A class without images has no loss. Others may be NaN, which is a result.
        gains = torch.where(self.counts.gt(0), self.gains, 0.0)
        return (gains * self.counts).sum(dim=1) / self.counts.sum()

    def gain(self, other: 'Usefulness | None' = None) -> tuple[float, float | None]:
        """Mean of the totals, and half its 95 % interval over the repeats.

        Args:
            other (Usefulness, optional): What is subtracted, repeat by repeat.
                Defaults to None: nothing.

        Returns:
            tuple[float, float | None]: In nats; None with one repeat.
        """
        totals = self.totals if other is None else self.totals - other.totals
        if len(totals) == 1:
            return float(totals), None
        return float(totals.mean()), confidence_half_width(totals.numpy())


def measure_usefulness(
    model: MultiTeacherDistiller,
    optim_wrapper: OptimWrapper,
    weightings: Mapping[str, Weighting],
    repeats: Sequence[Sequence[Any]],
    images: Tensor,
    labels: Tensor,
    seed: int,
    first_iterations: Sequence[int],
) -> dict[str, Usefulness]:
    r"""Train a student from the same state with every weighting, and compare.

    The usefulness of a teacher is

    .. math::
        u^m = H(\theta) - H(\theta + \Delta^m),

    where H is the cross entropy on images that the student is not trained on, and
    :math:`\Delta^m` the change of the student by some training steps in which that
    teacher has the whole weight.

    Args:
        model (MultiTeacherDistiller): With the student's state, which it has
            again afterwards.
        optim_wrapper (OptimWrapper): The student's optimiser with its state, which
            it has again afterwards. Gradients that are accumulated in it are lost.
        weightings (Mapping[str, Weighting]): What is compared, by name.
        repeats (Sequence[Sequence]): R lists of batches, as the model's
            ``train_step`` takes them. Every weighting is trained on each list. With
            gradient accumulation, each is for a whole number of the optimiser's
            steps.
        images (Tensor): N test images, preprocessed, shape (N, 3, H, W).
        labels (Tensor): Their classes, shape (N,), int64.
        seed (int): The training's. What mixup, dropout and weightings draw is what
            they would draw in the training at these iterations, and the same for
            all weightings; the global generators are seeded for it.
        first_iterations (Sequence[int]): Number of the first iteration of each list.

    Returns:
        dict[str, Usefulness]: By name.

    Raises:
        InputError: If the optimiser's last step in a list would have fewer batches
            than its others.
    """
    _check_accumulation(optim_wrapper, repeats)
    # Every list of batches ends with a step, so the count is right for all of them.
    optim_wrapper.initialize_count_status(model, 0, -1)
    state = deepcopy(model.state_dict())
    optimizer_state = deepcopy(optim_wrapper.state_dict())
    original, training = model.weighting, model.training
    before, counts = _cross_entropy(model, images, labels)
    found: dict[str, list[Tensor]] = {name: [] for name in weightings}
    weights: dict[str, list[Tensor]] = {name: [] for name in weightings}
    handle = model.register_step_hook(
        lambda terms, of_step: seen.append(of_step.logit.detach().mean(dim=0).cpu())
    )
    try:
        for batches, first in zip(repeats, first_iterations, strict=True):
            for name, weighting in weightings.items():
                seen: list[Tensor] = weights[name]
                model.weighting = original
                model.load_state_dict(state)
                optim_wrapper.load_state_dict(deepcopy(optimizer_state))
                optim_wrapper.zero_grad()
                model.weighting = weighting
                model.train()
                for iteration, batch in enumerate(batches, start=first):
                    seed_step(seed, iteration)
                    # A copy: the preprocessor writes blended labels into the samples.
                    model.train_step(deepcopy(batch), optim_wrapper)
                found[name].append(before - _cross_entropy(model, images, labels)[0])
    finally:
        handle.remove()
        model.weighting = original
        model.load_state_dict(state)
        optim_wrapper.load_state_dict(optimizer_state)
        model.train(training)
    return {
        name: Usefulness(torch.stack(found[name]), counts, torch.stack(weights[name]).mean(dim=0))
        for name in weightings
    }


def _check_accumulation(optim_wrapper: OptimWrapper, repeats: Sequence[Sequence[Any]]) -> None:
    counts = optim_wrapper._accumulative_counts
    for batches in repeats:
        if len(batches) % counts:
            raise InputError(
                f'The optimiser steps once in {counts} batches '
                f'(`optim_wrapper.accumulative_counts`), so {len(batches)} batches end between two '
                f'steps: give a multiple of {counts} (`--steps` counts batches).'
            )


@torch.no_grad()
def _cross_entropy(
    model: MultiTeacherDistiller, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean cross entropy and number of the images of every class, in eval mode; shapes (C,)."""
    model.eval()
    logits = torch.cat([model(part, mode='tensor').float() for part in images.split(256)])
    losses = functional.cross_entropy(logits, labels, reduction='none').double().cpu()
    classes = labels.cpu()
    counts = torch.bincount(classes, minlength=logits.shape[1]).double()
    sums = torch.zeros_like(counts).index_add_(0, classes, losses)
    return sums / counts, counts
