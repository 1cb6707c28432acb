# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Hooks."""

from .accumulated_gradients_hook import AccumulatedGradientsHook
from .agent_hook import AgentHook
from .backbone_check_hook import BackboneCheckHook
from .broadcast_buffers_hook import BroadcastBuffersHook
from .collect_results_hook import CollectResultsHook
from .durable_checkpoint_hook import DurableCheckpointHook
from .early_stopping_hook import ResumableEarlyStoppingHook
from .finite_loss_hook import FiniteLossHook
from .label_check_hook import LabelCheckHook
from .left_out_images_hook import LeftOutImagesHook
from .meta_learning_hook import MetaLearningHook
from .param_scheduler_hook import ElasticParamSchedulerHook
from .preemption_hook import PreemptionHook
from .teacher_check_hook import TeacherCheckHook
from .teacher_outputs_hook import TeacherOutputsHook
from .teacher_weight_hook import TeacherWeightHook
from .topk_limit_hook import TopKLimitHook

__all__ = [
    'AccumulatedGradientsHook',
    'AgentHook',
    'BackboneCheckHook',
    'BroadcastBuffersHook',
    'CollectResultsHook',
    'DurableCheckpointHook',
    'ElasticParamSchedulerHook',
    'FiniteLossHook',
    'LabelCheckHook',
    'LeftOutImagesHook',
    'MetaLearningHook',
    'PreemptionHook',
    'ResumableEarlyStoppingHook',
    'TeacherCheckHook',
    'TeacherOutputsHook',
    'TeacherWeightHook',
    'TopKLimitHook',
]
