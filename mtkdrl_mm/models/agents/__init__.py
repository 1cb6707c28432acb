# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Agents: policies over the teachers, one file each."""

from .attention_agent import AttentionAgent
from .base import Agent
from .joint_agent import JointAgent
from .mixing_agent import MixingAgent
from .per_teacher_agent import PerTeacherAgent
from .projecting_agent import ProjectingAgent

__all__ = [
    'Agent',
    'AttentionAgent',
    'JointAgent',
    'MixingAgent',
    'PerTeacherAgent',
    'ProjectingAgent',
]
