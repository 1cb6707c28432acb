# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""An unknown type or argument in a config is one sentence with near names."""

import re
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATA_SAMPLERS, HOOKS, LOOPS, Registry
from mmengine.runner import Runner
from mmpretrain.registry import METRICS, MODELS, TRANSFORMS
from torch import nn

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.config_errors import (
    check_checkpoint_hooks,
    check_settings,
    config_error,
    refused_settings,
)

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
    with pytest.raises(InputError, match=r'^`interval of CheckpointHook` must be a finite number'):
        check_checkpoint_hooks(Saving(CheckpointHook(interval='2 epochs')))
    check_checkpoint_hooks(Saving(SimpleNamespace(args=dict(x=1))))


@OWN.register_module()
class Own(nn.Module):
    """A user's class, which refuses a setting itself, or whose base class does."""

    def __init__(self, width, groups=1):
        super().__init__()
        if width == 3:
            raise ValueError('three is no width')
        self.conv = nn.Conv2d(width, width, 1, groups=groups)


def refusal_of(build, *args, **kwargs):
    with pytest.raises((ValueError, TypeError, AssertionError, KeyError)) as error:
        build(*args, **kwargs)
    return refused_settings(error.value)


@pytest.mark.parametrize(
    ('registry', 'cfg', 'sentence'),
    [
        # Of several settings those that the message names.
        (
            MODELS,
            dict(type='ResNet', depth=19, num_stages=4),
            r'ResNet refuses its settings \(depth=19\): invalid depth 19 for resnet\. '
            r'\(Raised in mmpretrain/models/backbones/resnet\.py, line \d+\.\)',
        ),
        # A message that names none, and one without words.
        (
            HOOKS,
            dict(type='EMAHook', begin_iter=-1, begin_epoch=2),
            r'EMAHook refuses its settings \(begin_iter=-1, .*\): .* '
            r'\(Raised in mmengine/hooks/ema_hook\.py, line \d+\.\)',
        ),
        (
            TRANSFORMS,
            dict(type='RandomCrop', crop_size='all', padding=4),
            r"RandomCrop refuses its settings \(crop_size='all', padding=4\)\. "
            r'\(Raised in mmpretrain/datasets/transforms/processing\.py, line \d+\.\)',
        ),
        # A user's class whose settings torch refuses.
        (
            OWN,
            dict(type='Own', width=4, groups=3),
            r'Own refuses its settings \(groups=3\): in_channels must be divisible by groups\. '
            r'\(Raised in torch/nn/modules/conv\.py, line \d+\.\)',
        ),
        # Its own errors keep their traceback.
        (OWN, dict(type='Own', width=3), None),
    ],
)
def test_values_that_are_refused(registry, cfg, sentence):
    found = refusal_of(registry.build, cfg)
    if sentence is None:
        assert found is None
    else:
        assert re.fullmatch(sentence, found)


def test_what_mmengine_refuses_without_a_registry():
    loader = dict(dataset=[1], sampler=dict(type='DefaultSampler'), batch_size=1, num_workers=-2)
    assert refusal_of(Runner.build_dataloader, loader).startswith(
        'DataLoader refuses its settings (num_workers=-2): num_workers option should be non-negat'
    )


def test_errors_after_building_are_no_refusals():
    assert refused_settings(ValueError('without a traceback')) is None
    model = OWN.build(dict(type='Own', width=4))
    assert refusal_of(model.conv, 'no image') is None


def test_the_key_of_a_refused_setting(tmp_path):
    """The key is that of the runner's config, although mmengine adds arguments."""
    runner = dict(
        model=dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(type='LeNet5', num_classes=2),
        ),
        default_scope='mmpretrain',
        work_dir=str(tmp_path),
        train_dataloader=dict(
            dataset=[1], sampler=dict(type='DefaultSampler', shuffle=False), batch_size=1
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr='fast')),
        default_hooks=dict(logger=None),
        experiment_name='refused',
    )
    text = refusal_of(Runner.from_cfg(Config(runner)).train)
    assert text.startswith("`optim_wrapper.optimizer`: SGD refuses its settings (lr='fast'")


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(randomness=dict(seed='abc')), "`randomness.seed` must be a finite number, but is 'a"),
        (dict(randomness=dict(seed=-1)), '`randomness.seed` must be at least 0'),
        (dict(log_level='INFOS'), 'There is no `log_level` "INFOS". Did you mean "INFO"? Known: '),
        (
            dict(env_cfg=dict(mp_cfg=dict(mp_start_method='forks'))),
            'There is no `env_cfg.mp_cfg.mp_start_method` "forks". Did you mean "fork"',
        ),
        (
            dict(optim_wrapper=dict(clip_grad=dict(max_norm='1'))),
            "`optim_wrapper.clip_grad.max_norm` must be a finite number, but is '1'.",
        ),
        (
            dict(log_processor=dict(window_size='ten')),
            '`log_processor.window_size` must be a finite',
        ),
        (dict(val_dataloader=dict(batch_size=0)), '`val_dataloader.batch_size` must be at least 1'),
        (dict(train_dataloader=dict(num_workers=-2)), '`train_dataloader.num_workers` must be at'),
    ],
)
def test_settings_that_mmengine_does_not_check(settings, message):
    with pytest.raises(InputError, match='^' + re.escape(message)):
        check_settings(Config(settings))


def test_usual_settings_pass():
    check_settings(Config())
    check_settings(
        Config(
            dict(
                randomness=dict(seed=None),
                log_level='DEBUG',
                env_cfg=dict(mp_cfg=dict(mp_start_method='fork')),
                optim_wrapper=dict(clip_grad=dict(max_norm=5.0)),
                val_dataloader=None,
                test_dataloader=dict(batch_size=None),
            )
        )
    )
    check_settings(Config(dict(randomness=dict(seed=3), optim_wrapper=dict(clip_grad=None))))
