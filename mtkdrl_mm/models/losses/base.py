# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Base class of the distillation losses."""

from abc import ABCMeta, abstractmethod

import torch
from torch import Tensor, nn

from mtkdrl_mm.structures import StepTerms
from mtkdrl_mm.utils import InputError, check_number


class DistillationLoss(nn.Module, metaclass=ABCMeta):
    """A loss between the student and every teacher, image by image.

    Subclasses implement :meth:`forward`. They read what they need from the
    step's record and return one number per image and teacher; averaging over
    the batch and weighting over the teachers are the distiller's.

    Args:
        temperature (float): Softening temperature T > 0 of the probabilities
            that the loss compares; 1 for losses without one. Defaults to 1.

    Attributes:
        level (str): Whose weights over the teachers an extra loss takes, those
            of the 'logit' or of the 'feature' term.
    """

    level = 'logit'

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = check_number('temperature', temperature, exclusive=True)

    @abstractmethod
    def forward(self, terms: StepTerms) -> Tensor:
        """Compare the student with every teacher.

        Args:
            terms (StepTerms): The step's record for B images and M teachers.

        Returns:
            Tensor: Shape (B, M), float32, with gradient to the student.
            Column m depends on teacher m and the student alone.
        """


class FeatureLoss(DistillationLoss):
    """A loss between what the connectors make of the student's features and the teachers'.

    Subclasses implement :meth:`compare`.
    """

    level = 'feature'

    def forward(self, terms: StepTerms) -> Tensor:
        """Compare the features, shape (B, M).

        Raises:
            InputError: If the step has no projected features.
        """
        if terms.projections is None or terms.targets is None:
            raise InputError(
                f'{type(self).__name__} needs connectors: set `feature_loss_weight` above 0.'
            )
        pairs = list(zip(terms.projections, terms.targets))
        return torch.stack([self.compare(m, terms, *pair) for m, pair in enumerate(pairs)], dim=1)

    @abstractmethod
    def compare(self, index: int, terms: StepTerms, projection: Tensor, target: Tensor) -> Tensor:
        """Compare the student's features with those of one teacher.

        Args:
            index (int): The teacher's number m.
            terms (StepTerms): The step's record for B images.
            projection (Tensor): r_m(F^S), shape (B, c_m, h_m, w_m) or (B, d_m).
            target (Tensor): F^m, of the same shape.

        Returns:
            Tensor: Shape (B,), float32, with gradient to the student.
        """
