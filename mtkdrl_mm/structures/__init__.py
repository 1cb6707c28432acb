# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Records that pass through a training step, in plain torch."""

from .buffer_shards import BufferShards
from .hard_example_buffer import HardExampleBuffer
from .network_output import NetworkOutput
from .projection import Projection
from .step_terms import StepTerms
from .teacher_weights import AgentAction, TeacherWeights

__all__ = [
    'AgentAction',
    'BufferShards',
    'HardExampleBuffer',
    'NetworkOutput',
    'Projection',
    'StepTerms',
    'TeacherWeights',
]
