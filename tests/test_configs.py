# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The configs that come with the package."""

from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config, hub
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS

import mtkdrl_mm
from mtkdrl_mm.models import AVER, MTKDRL

ROOT = Path(mtkdrl_mm.__file__).parent.parent / 'configs'
FILES = sorted(
    str(path.relative_to(ROOT))
    for path in ROOT.rglob('*.py')
    if '_base_' not in path.parts
    and path.relative_to(ROOT).parts[0] != 'demo'
    # These inherit from mmdet and mmsegmentation.
    and (
        path.relative_to(ROOT).parts[0] not in ('detection', 'segmentation')
        or (find_spec('mmdet') and find_spec('mmseg'))
    )
)
DISTILLED = [name for name in FILES if name.startswith(('mtkdrl/', 'aver/'))]


@cache
def read(name):
    return Config.fromfile(ROOT / name)


def test_there_are_configs():
    assert {name.split('/')[0] for name in FILES} >= {'mtkdrl', 'aver', 'baseline'}


@pytest.mark.parametrize('name', FILES)
def test_every_config_can_be_read_and_printed(name):
    cfg = read(name)
    assert cfg.model.type and cfg.train_cfg and cfg.train_dataloader
    assert Config.fromstring(cfg.pretty_text, '.py').model.to_dict() == cfg.model.to_dict()


@pytest.mark.parametrize('name', DISTILLED)
def test_hooks_of_distillations_can_be_built(name):
    cfg = read(name)
    hooks = [*cfg.default_hooks.values(), *(cfg.get('custom_hooks') or [])]
    own = [hook for hook in hooks if hook.type.startswith('mtkdrl_mm.')]
    names = [type(MMENGINE_HOOKS.build(hook)).__name__ for hook in own]
    assert ('AgentHook' in names) == name.startswith('mtkdrl/')
    assert {'TeacherCheckHook', 'FiniteLossHook', 'PreemptionHook'} <= set(names)


@pytest.fixture(scope='module')
def build():
    """Function that builds a config's model.

    It saves the time to draw random numbers for large teachers, and to look
    through mmpretrain's index of models for each of them.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ('kaiming_uniform_', 'uniform_'):
            patch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)
        patch.setattr(hub, '_get_cfg_metainfo', cache(hub._get_cfg_metainfo))
        yield lambda name: MODELS.build(deepcopy(read(name).model))


@pytest.fixture
def class_centres(tmp_path, monkeypatch):
    """The file that configs with the ND loss name, relative to where training starts."""
    names = [teacher.name for teacher in read('mtkdrl/r18_imagenet.py').model.teachers]
    (tmp_path / 'data').mkdir()
    centres = {name: torch.zeros(1000, 2048) for name in names}
    torch.save(centres, tmp_path / 'data' / 'imagenet_centers.pth')
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize('name', [name for name in FILES if name.startswith('mtkdrl/')])
def test_models_of_mtkdrl_configs_can_be_built(name, build, class_centres):
    model = build(name)
    assert isinstance(model.weighting, MTKDRL)
    spec = model.teachers.spec
    assert len(set(spec.names)) == spec.num_teachers > 1
    assert all([t.checkpoint for t in model.teachers])
    assert model.weighting.state_sizes == [
        size + spec.num_classes + 3 for size in spec.embedding_sizes
    ]
    if name.endswith('_imagenet.py'):
        assert spec.num_classes == 1000


def test_published_imagenet_pool(build):
    model = build('aver/r18_imagenet.py')
    assert isinstance(model.weighting, AVER)
    counts = [sum(p.numel() for p in t.network.parameters()) for t in model.teachers]
    # torchvision's numbers for ResNet-50, ResNet-101, Wide-ResNet-50-2, ResNeXt-50-32x4d
    assert counts == [25_557_032, 44_549_160, 68_883_240, 25_028_904]
    assert sum(p.numel() for p in model.student.parameters()) == 11_689_512


def test_published_schedule():
    for name in DISTILLED:
        if not name.endswith('_imagenet.py') or '/r' not in name:
            continue
        cfg = read(name)
        assert cfg.train_cfg.max_epochs == 100
        optimizer = cfg.optim_wrapper.optimizer
        assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.1, 0.9, 1e-4)
        assert cfg.param_scheduler.milestones == [30, 60, 90]
        assert cfg.auto_scale_lr.base_batch_size == 256


TRANSFORMERS = [name for name in FILES if name.split('/')[-1].startswith(('deit_', 'cait_'))]


def unscoped(cfg):
    """Without the scopes that mmengine notes where a base comes from another package."""
    if isinstance(cfg, dict):
        return {key: unscoped(value) for key, value in cfg.items() if key != '_scope_'}
    return [unscoped(value) for value in cfg] if isinstance(cfg, (list, tuple)) else cfg


@pytest.mark.parametrize('name', TRANSFORMERS)
def test_deits_recipe(name):
    cfg = read(name)
    recipe = get_config('mmpretrain::deit/deit-tiny_4xb256_in1k.py')
    for key in ('optim_wrapper', 'param_scheduler', 'train_dataloader', 'val_dataloader'):
        assert unscoped(cfg[key]) == unscoped(recipe[key]), key
    assert cfg.data_preprocessor == recipe.data_preprocessor
    assert cfg.auto_scale_lr.base_batch_size == 1024
    assert cfg.train_cfg.max_epochs == recipe.train_cfg.max_epochs == 300
    student = cfg.model.get('student', cfg.model)
    if 'cfg_path' not in student:
        assert student.train_cfg == recipe.model.train_cfg
        assert student.head.loss == recipe.model.head.loss


def test_published_pool_of_transformers(build):
    pytest.importorskip('timm')
    for name, size in (('deit_tiny', 5_717_416), ('cait_xxs24', 11_956_264)):
        model = build(f'aver/{name}_imagenet.py')
        assert sum(p.numel() for p in model.student.parameters()) == size
        augments = model.data_preprocessor.batch_augments.augments
        assert [type(augment).__name__ for augment in augments] == ['Mixup', 'CutMix']
        assert model.label_smoothing is not None
    counts = [sum(p.numel() for p in t.network.parameters()) for t in model.teachers]
    # timm's numbers for CaiT-S24, DeiT-S, DeiT-B
    assert counts == [46_916_200, 22_050_664, 86_567_656]
    assert model.teachers.spec.embedding_sizes == (384, 384, 768)
    assert [type(c).__name__ for c in model.connectors.values()] == ['EmbeddingConnector'] * 3
    assert all(t.preprocessing.input_size in (None, (224, 224)) for t in model.teachers)


def test_no_decay_of_tokens_and_norms(build):
    pytest.importorskip('timm')
    model = build('mtkdrl/cait_xxs24_imagenet.py')
    wrapper = build_optim_wrapper(
        model.student, read('mtkdrl/cait_xxs24_imagenet.py').optim_wrapper
    )
    decay = {id(g['params'][0]): g['weight_decay'] for g in wrapper.optimizer.param_groups}
    for name, parameter in model.student.named_parameters():
        plain = parameter.ndim > 1 and 'pos_embed' not in name and 'cls_token' not in name
        assert decay[id(parameter)] == (0.05 if plain else 0), name
