# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The records that travel through a training step. Plain torch."""

from .network_output import NetworkOutput
from .projection import Projection, PullBack
from .sample_buffer import SampleBuffer
from .step_terms import StepTerms
from .teacher_weights import TeacherWeights

__all__ = ['NetworkOutput', 'Projection', 'PullBack', 'SampleBuffer', 'StepTerms', 'TeacherWeights']
