# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Base class of the weighting strategies."""

from abc import ABCMeta, abstractmethod

from mmengine.model import BaseModule

from mtkdrl_mm.structures import StepTerms, TeacherWeights
from mtkdrl_mm.utils import InputError

from ..teachers import PoolSpec


class Weighting(BaseModule, metaclass=ABCMeta):
    """Strategy that weighs the teachers, image by image.

    Subclasses implement :meth:`forward`. A strategy reads the step's terms and
    knows neither runner nor optimiser.

    Args:
        pool (PoolSpec): The pool of M teachers; supplied by the distiller.

    Attributes:
        trainer_config (str | None): What a config must have in `default_hooks`
            for the strategy to be trained, for example
            ``agent=dict(type='mtkdrl_mm.AgentHook')``; None for strategies
            without parameters. Without it the distiller refuses to train.
        has_trainer (bool): Whether :meth:`attach_trainer` was called.
    """

    trainer_config: 'str | None' = None

    def __init__(self, pool: PoolSpec) -> None:
        super().__init__()
        self.pool = pool
        self.has_trainer = False

    def attach_trainer(self) -> None:
        """Note that something trains this strategy; called before training by what does."""
        self.has_trainer = True

    def check_trainer(self) -> None:
        """Make sure that a strategy that must be trained is.

        Raises:
            InputError: If it needs a hook, or has parameters to be trained, and no
                hook has attached itself: it would keep its first weights for ever.
        """
        if self.trainer_config is not None and not self.has_trainer:
            raise InputError(
                f'Nothing trains the weighting {type(self).__name__}: add {self.trainer_config} '
                'to `default_hooks`. A training loop of your own that trains it calls its '
                '`attach_trainer()`.'
            )
        if not self.has_trainer and any(value.requires_grad for value in self.parameters()):
            raise InputError(
                f'Nothing trains the parameters of the weighting {type(self).__name__}: weights '
                'have no gradient, so the optimiser of the student does not. A hook must, which '
                'calls `attach_trainer()`; or make them buffers.'
            )

    @abstractmethod
    def forward(self, terms: StepTerms) -> TeacherWeights:
        """Weigh the teachers.

        Args:
            terms (StepTerms): The step's record for B images.

        Returns:
            TeacherWeights: Logit and feature weights, detached, each of shape
            (B, M) and summing to 1 over the teachers.
        """
