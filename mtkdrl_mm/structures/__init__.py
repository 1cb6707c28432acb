# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The records that travel through a training step. Plain torch."""

from .hard_example_buffer import HardExampleBuffer
from .network_output import NetworkOutput
from .projection import VJP, Projection
from .step_terms import StepTerms
from .teacher_weights import TeacherWeights

__all__ = ['VJP', 'HardExampleBuffer', 'NetworkOutput', 'Projection', 'StepTerms', 'TeacherWeights']
