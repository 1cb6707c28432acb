# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Registries of mtkdrl_mm, children of mmengine's root registries.

Components of this package are found from any OpenMMLab config by their scope,
for example ``type='mtkdrl_mm.MultiTeacherDistiller'``. Inside a distiller's own
config (weighting, losses, connectors, agent) the scope may be left out.
"""

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import RUNNERS as MMENGINE_RUNNERS
from mmengine.registry import TASK_UTILS as MMENGINE_TASK_UTILS
from mmengine.registry import WEIGHT_INITIALIZERS as MMENGINE_WEIGHT_INITIALIZERS
from mmengine.registry import Registry

SCOPE = 'mtkdrl_mm'

# Distillers, weighting strategies, agents, losses, connectors, backbones.
MODELS = Registry('model', parent=MMENGINE_MODELS, scope=SCOPE, locations=['mtkdrl_mm.models'])
# Rewards, advantages and RL algorithms.
TASK_UTILS = Registry(
    'task util', parent=MMENGINE_TASK_UTILS, scope=SCOPE, locations=['mtkdrl_mm.rl']
)
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope=SCOPE, locations=['mtkdrl_mm.engine.hooks'])
LOOPS = Registry('loop', parent=MMENGINE_LOOPS, scope=SCOPE, locations=['mtkdrl_mm.engine.loops'])
RUNNERS = Registry(
    'runner', parent=MMENGINE_RUNNERS, scope=SCOPE, locations=['mtkdrl_mm.engine.runner']
)
DATA_SAMPLERS = Registry(
    'data sampler',
    parent=MMENGINE_DATA_SAMPLERS,
    scope=SCOPE,
    locations=['mtkdrl_mm.datasets'],
)
DATASETS = Registry(
    'dataset', parent=MMENGINE_DATASETS, scope=SCOPE, locations=['mtkdrl_mm.datasets']
)
WEIGHT_INITIALIZERS = Registry(
    'weight initializer',
    parent=MMENGINE_WEIGHT_INITIALIZERS,
    scope=SCOPE,
    locations=['mtkdrl_mm.models.distilled_backbone'],
)
