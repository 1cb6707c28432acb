# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""All checks."""

from collections.abc import Callable
from dataclasses import dataclass

from ..findings import Reporter
from .comparison import comparison
from .copies import buffer_copies, host_copies
from .costs import memory, step_times, store, training_times
from .interruptions import interruptions
from .numerics import channels_last, environment, precision, teacher_modes


@dataclass(frozen=True)
class Check:
    """A function that reports what it finds.

    Attributes:
        function (Callable): The function. Its name and the first line of its
            docstring are shown.
        seconds (float): The time that it may take on a GPU. Without one, a check may take all
            that is left.
    """

    function: Callable[[Reporter], None]
    seconds: float

    @property
    def name(self) -> str:
        """Its name, for ``--checks``."""
        return self.function.__name__

    @property
    def title(self) -> str:
        """What it checks."""
        return (self.function.__doc__ or '').split('\n')[0].rstrip('.')


#: All checks by name, in the order of their importance, because later ones may not fit.
CHECKS = {
    check.name: check
    for check in (
        Check(environment, seconds=30),
        Check(precision, seconds=60),
        Check(channels_last, seconds=40),
        Check(teacher_modes, seconds=70),
        Check(host_copies, seconds=30),
        Check(buffer_copies, seconds=20),
        Check(interruptions, seconds=110),
        Check(memory, seconds=60),
        Check(step_times, seconds=90),
        Check(training_times, seconds=120),
        Check(store, seconds=40),
        Check(comparison, seconds=170),
    )
}
