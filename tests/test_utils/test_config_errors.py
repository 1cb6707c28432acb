# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""An unknown type or argument in a config is one sentence with near names."""

from types import SimpleNamespace

import pytest
from mmengine.hooks import CheckpointHook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATA_SAMPLERS, HOOKS, LOOPS, Registry
from mmengine.runner import Runner
from mmpretrain.registry import METRICS, MODELS, TRANSFORMS
from torch import nn

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.config_errors import check_checkpoint_hooks, config_error

OWN = Registry('thing', locations=[])


@OWN.register_module()
class Broken:
    """Its own code is wrong, whatever the config says."""

    def __init__(self):
        dict.fromkeys(no_such_argument=1)


@OWN.register_module()
class Needy:
    def __init__(self, path):
        pass


def error_of(registry, **cfg):
    with pytest.raises((TypeError, KeyError)) as error:
        registry.build(cfg)
    return config_error(error.value)


@pytest.mark.parametrize(
    ('registry', 'cfg', 'start'),
    [
        (
            MODELS,
            dict(type='mtkdrl_mm.MultiTeacherDistiller', student=None, logit_wieght=1),
            'MultiTeacherDistiller takes no argument "logit_wieght". Did you mean "logit_los',
        ),
        (
            HOOKS,
            dict(type='mtkdrl_mm.AgentHook', update_intervall=2),
            'AgentHook takes no argument "update_intervall". Did you mean "update_interval"',
        ),
        (
            MODELS,
            dict(type='CrossEntropyLoss', loss_wieght=2),
            'CrossEntropyLoss takes no argument "loss_wieght". Did you mean "loss_weight" or '
            '"class_weight" or "pos_weight"? Known: "class_weight", ',
        ),
        # Passed on to the base class, whose arguments are known too.
        (
            LOOPS,
            dict(type='mtkdrl_mm.ResumableEpochLoop', runner=None, dataloader=[], max_epoch=3),
            'ResumableEpochLoop takes no argument "max_epoch". Did you mean "max_epochs"? Known: '
            '"dataloader", "dynamic_intervals", "max_epochs", "val_begin", "val_interval".',
        ),
        (TRANSFORMS, dict(type='Resize', scal=3), 'Resize takes no argument "scal". Did you mean'),
        (METRICS, dict(type='Accuracy', top=3), 'Accuracy takes no argument "top". Did you mean'),
        (
            DATA_SAMPLERS,
            dict(type='DefaultSampler', dataset=[], shufle=True),
            'DefaultSampler takes no argument "shufle". Did you mean "shuffle"',
        ),
        (
            OWN,
            dict(type='Needy'),
            "Needy needs the argument 'path', which the config does not contain",
        ),
        (
            MODELS,
            dict(type='LinearClsHed'),
            'LinearClsHed is not in the mmpretrain::model registry. Please check its spelling: did '
            'you mean LinearClsHead',
        ),
    ],
)
def test_what_nothing_takes(registry, cfg, start):
    assert error_of(registry, **cfg).startswith(start)


def test_errors_of_the_code_are_no_errors_of_the_config():
    assert error_of(OWN, type='Broken') is None
    assert config_error(TypeError("f() got an unexpected keyword argument 'x'")) is None
    assert config_error(KeyError('x')) is None


def test_what_mmengine_calls_itself():
    loader = dict(dataset=[], sampler=dict(type='DefaultSampler'), batchsize=2)
    with pytest.raises(TypeError) as error:
        Runner.build_dataloader(loader)
    assert config_error(error.value).startswith(
        'DataLoader takes no argument "batchsize". Did you mean "batch_size"'
    )
    with pytest.raises(TypeError) as error:
        build_optim_wrapper(nn.Linear(1, 1), dict(optimizer=dict(type='AdmaW', lr=1)))
    assert config_error(error.value).startswith(
        'There is no optimizer "AdmaW". Did you mean "AdamW"'
    )


def test_checkpoint_hook_with_a_setting_for_nothing():
    """mmengine's hook takes any, and fails after the first epoch."""

    class Saving:
        def __init__(self, hook):
            self.hooks = [hook]

        save_checkpoint = Runner.save_checkpoint

    check_checkpoint_hooks(Saving(CheckpointHook(interval=1, save_optimizer=False)))
    with pytest.raises(
        InputError,
        match=r'^CheckpointHook takes no argument "intervall"\. Did you mean "interval"',
    ):
        check_checkpoint_hooks(Saving(CheckpointHook(intervall=1)))
    check_checkpoint_hooks(Saving(SimpleNamespace(args=dict(x=1))))
