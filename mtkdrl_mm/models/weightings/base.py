# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Base class of the weighting strategies."""

from abc import ABCMeta, abstractmethod

from mmengine.model import BaseModule

from mtkdrl_mm.structures import StepTerms, TeacherWeights

from ..teachers import PoolSpec


class Weighting(BaseModule, metaclass=ABCMeta):
    """Decides how much each teacher counts, image by image.

    Subclasses implement :meth:`forward`. A strategy reads the step's record and
    knows neither runner nor optimiser.

    Args:
        pool (PoolSpec): The pool of M teachers; supplied by the distiller.

    Attributes:
        required_hook (str | None): Name of the hook without which the strategy
            does not work, or None.
    """

    required_hook: 'str | None' = None

    def __init__(self, pool: PoolSpec) -> None:
        super().__init__()
        self.pool = pool

    @abstractmethod
    def forward(self, terms: StepTerms) -> TeacherWeights:
        """Weigh the teachers.

        Args:
            terms (StepTerms): The step's record for B images.

        Returns:
            TeacherWeights: Logit and feature weights, detached, each of shape
            (B, M) and summing to 1 over the teachers.
        """
