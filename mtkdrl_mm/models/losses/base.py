# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Base class of the distillation losses."""

from abc import ABCMeta, abstractmethod

import torch
from torch import Tensor, nn

from mtkdrl_mm.structures import StepTerms
from mtkdrl_mm.structures.step_terms import check_shape
from mtkdrl_mm.utils import InputError, check_number

#: Standard deviation below which a student's logits count as constant. Those of new students have
#: 0.015 and more, over classes and over images (eight networks, images of CIFAR-10), unless their
#: heads start with weights of zero, as VisionTransformerClsHead does.
CONSTANT_LOGITS = 0.01


class DistillationLoss(nn.Module, metaclass=ABCMeta):
    """Loss between the student and every teacher, image by image.

    Subclasses implement :meth:`forward`. They read the step's terms and return
    one number per image and teacher. The distiller weighs these over the
    teachers and averages them over the batch.

    Args:
        temperature (float): Softening temperature T > 0 of the probabilities
            that the loss compares; 1 for losses without one. Defaults to 1.

    Attributes:
        level (str): 'logit' or 'feature': which of the two teacher weights an
            extra loss is multiplied with.
    """

    level = 'logit'

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = check_number('temperature', temperature, exclusive=True)

    def observe(self, terms: StepTerms) -> None:
        """See a training step's record, once and before the loss is read.

        For losses with statistics of their own: methods may compare the same
        teachers several times in one step.

        Args:
            terms (StepTerms): The step's record for B images and M teachers.
        """

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
    """Loss between the projected features of the student and the teachers' features.

    Subclasses implement :meth:`compare`.
    """

    level = 'feature'

    def forward(self, terms: StepTerms) -> Tensor:
        """Compare the features, shape (B, M).

        Raises:
            InputError: If the step has no projected features, or :meth:`compare`
                returns something else than a loss per image.
        """
        if terms.projections is None:
            raise InputError(
                f'{type(self).__name__} needs connectors: set `feature_loss_weight` above 0.'
            )
        losses = []
        for m, projection in enumerate(terms.projections):
            loss = self.compare(m, terms, projection.features, projection.target)
            check_shape(loss, (len(projection.target),), f'`compare` of {type(self).__name__}')
            losses.append(loss)
        return torch.stack(losses, dim=1)

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
