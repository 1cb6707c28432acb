# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Agents: policies over the teachers, one file each."""

from .attention_agent import AttentionAgent
from .base import Agent, Policy
from .fused_policy import FusedPolicy
from .joint_agent import JointAgent
from .per_teacher_agent import PerTeacherAgent
from .projecting_agent import ProjectingAgent
from .static_agent import StaticAgent

__all__ = [
    'Agent',
    'AttentionAgent',
    'FusedPolicy',
    'JointAgent',
    'PerTeacherAgent',
    'Policy',
    'ProjectingAgent',
    'StaticAgent',
]
