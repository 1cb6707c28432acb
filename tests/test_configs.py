# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The configs that come with the package."""

import argparse
import os
import re
from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config, DictAction
from mmengine.hub import get_config, hub
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS, DefaultScope
from mmengine.visualization import Visualizer

import mtkdrl_mm
from mtkdrl_mm.models import AVER, MTKDRL, build_pool
from mtkdrl_mm.models.distillers import MultiTeacherDistiller, multi_teacher_distiller
from mtkdrl_mm.utils import config_keys
from mtkdrl_mm.utils.config_keys import warn_of_unread_keys
from mtkdrl_mm.utils.launch import merge_options

PROJECT = Path(mtkdrl_mm.__file__).parent.parent
ROOT = PROJECT / 'configs'
# Packages that the configs of a folder need besides mmpretrain.
NEEDS = dict(detection=['mmdet'], segmentation=['mmseg'])
NAMES = sorted(
    str(path.relative_to(ROOT)) for path in ROOT.rglob('*.py') if '_base_' not in path.parts
)
FOLDERS = sorted({name.split('/')[0] for name in NAMES})


def requirements(name):
    """Packages that a config needs besides mmpretrain."""
    folder, *_, file = name.split('/')
    needed = list(NEEDS.get(folder, []))
    if folder in ('demo', 'cifar10'):
        needed += ['mmdet'] if file.startswith('detector') else []
        needed += ['mmseg'] if file.startswith('segmentor') else []
    distilled = folder == 'tiny_imagenet' and file != 'student_baseline.py'
    if distilled or file.startswith(('deit_', 'cait_')):
        needed += ['timm']
    return needed


def param(name):
    """A config's name, skipped without the packages that it needs."""
    missing = [package for package in requirements(name) if not find_spec(package)]
    return pytest.param(name, marks=pytest.mark.skipif(bool(missing), reason=f'needs {missing}'))


FILES = [param(name) for name in NAMES]


@cache
def read(name):
    return Config.fromfile(ROOT / name)


def test_there_are_configs():
    assert set(FOLDERS) == {
        *('aekd', 'aver', 'baseline', 'camkd', 'ebkd', 'mmkd', 'mtkdrl'),
        *('cifar10', 'cifar100', 'demo', 'detection', 'segmentation', 'tiny_imagenet'),
    }


@pytest.mark.parametrize('name', FILES)
def test_every_config_can_be_read_and_printed(name):
    cfg = read(name)
    assert cfg.model.type and cfg.train_cfg and cfg.train_dataloader
    assert Config.fromstring(cfg.pretty_text, '.py').model.to_dict() == cfg.model.to_dict()


@pytest.mark.parametrize('name', FILES)
def test_no_key_looks_misspelt(name, monkeypatch):
    found = []
    monkeypatch.setattr(config_keys, '_warn_once', found.append)
    warn_of_unread_keys(read(name))
    assert found == []


@pytest.fixture(scope='module')
def build(tmp_path_factory):
    """Function that builds a config's model; every pool of teachers is built once.

    It saves the time to draw random numbers for large networks, and to look
    through mmpretrain's index of models for each of them.
    """
    pools = {}
    names = [teacher.name for teacher in read('mtkdrl/r18_imagenet.py').model.teachers]
    centers = str(tmp_path_factory.mktemp('centers') / 'imagenet.pth')
    torch.save({name: torch.zeros(1000, 2048) for name in names}, centers)
    class_map = tmp_path_factory.mktemp('class_map') / 'classes.txt'
    class_map.write_text(''.join(f'class {index}\n' for index in range(50)))

    def make_pool(teachers, *arguments, **settings):
        key = repr(teachers)
        if key not in pools:
            pools[key] = build_pool(teachers, *arguments, **settings)
        return pools[key]

    with pytest.MonkeyPatch.context() as patch:
        for name in ('kaiming_uniform_', 'kaiming_normal_', 'normal_', 'trunc_normal_', 'uniform_'):
            patch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)
        patch.setattr(hub, '_get_cfg_metainfo', cache(hub._get_cfg_metainfo))
        patch.setattr(multi_teacher_distiller, 'build_pool', make_pool)
        # Configs name those of students and teachers relative to the project.
        patch.chdir(PROJECT)

        def build_model(name, cfg=None):
            model = deepcopy((cfg or read(name)).model)
            # The file that the config with the ND loss names.
            for loss in model.get('extra_losses', []):
                loss.update({key: centers for key in ('centers',) if key in loss})
            # That of Tiny-ImageNet, which its converter writes.
            for teacher in model.get('teachers', []):
                teacher.update({k: str(class_map) for k in ('class_map',) if k in teacher})
            with DefaultScope.overwrite_default_scope(read(name).default_scope):
                return MODELS.build(model)

        yield build_model


def metadata(name):
    """What the metafile of its folder says about a config."""
    metafile = ROOT / name.split('/')[0] / 'metafile.yml'
    models = yaml.safe_load(metafile.read_text())['Models']
    (found,) = [model for model in models if model['Config'] == f'configs/{name}']
    return found['Metadata']


@pytest.mark.parametrize('name', FILES)
def test_every_config_can_be_built(name, build):
    cfg = read(name)
    Visualizer.get_instance('configs')
    model = build(name)
    distilled = isinstance(model, MultiTeacherDistiller)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        wrapper = build_optim_wrapper(revert_sync_batchnorm(model), deepcopy(cfg.optim_wrapper))
        settings = [*cfg.default_hooks.values(), *(cfg.get('custom_hooks') or [])]
        hooks = [MMENGINE_HOOKS.build(deepcopy(hook)) for hook in settings if hook]
    size = metadata(name).get('Parameters')
    if size is not None:  # of the student alone; teachers and agent stay behind
        assert sum(p.numel() for p in getattr(model, 'student', model).parameters()) == size
    trained = {id(p) for group in wrapper.optimizer.param_groups for p in group['params']}
    expected = {id(p) for p in model.parameters() if p.requires_grad}
    assert trained >= expected
    names = {type(hook).__name__ for hook in hooks}
    assert {'CheckpointHook', 'LoggerHook'} <= names
    if not distilled:
        assert not names & {'AgentHook', 'MetaLearningHook', 'TeacherCheckHook'}
        return
    assert {'TeacherCheckHook', 'TeacherWeightHook', 'FiniteLossHook', 'PreemptionHook'} <= names
    # The hook that trains the weighting is there, and no other.
    needed = set(re.findall(r'mtkdrl_mm\.(\w+)', model.weighting.trainer_config or ''))
    assert names & {'AgentHook', 'MetaLearningHook'} == needed
    spec = model.teachers.spec
    assert len(set(spec.names)) == spec.num_teachers >= 1
    assert all(teacher.checkpoint for teacher in model.teachers)
    sizes = {'demo': 10, 'cifar10': 10, 'cifar100': 100, 'tiny_imagenet': 50}
    assert spec.num_classes == sizes.get(name.split('/')[0], 1000)


METHODS = {
    'mtkdrl/r18_imagenet.py': ('PerTeacherAgent', 3, 'ClosenessReward'),
    'mtkdrl/r18_imagenet_stacking.py': ('JointAgent', 1, 'LabelProbabilityReward'),
    'mtkdrl/r18_imagenet_static.py': ('StaticAgent', 1, 'LabelProbabilityReward'),
    'mtkdrl/r18_imagenet_as_released.py': ('JointAgent', 3, 'StudentLossReward'),
}


@pytest.mark.parametrize('name', METHODS)
def test_forms_of_mtkdrl(name):
    agent, parts, reward = METHODS[name]
    cfg = read(name)
    assert cfg.model.weighting.agent.type == agent
    assert len(cfg.model.weighting.parts) == parts
    assert cfg.default_hooks.agent.reward.type == reward


@pytest.mark.parametrize('name', ['r18', 'r34', 'deit_tiny', 'cait_xxs24'])
def test_states_of_published_mtkdrl(name, build):
    if name in ('deit_tiny', 'cait_xxs24'):
        pytest.importorskip('timm')
    weighting = build(f'mtkdrl/{name}_imagenet.py').weighting
    assert isinstance(weighting, MTKDRL)
    spec = weighting.pool
    assert weighting.agent.state_sizes == [
        size + spec.num_classes + 3 for size in spec.embedding_sizes
    ]


def test_every_method_has_weighting_and_hooks():
    """The variables that the other configs read through ``_base_``."""
    for folder, variables in {
        'methods': {'weighting', 'weighting_hooks'},
        'pools': {'teachers'},
    }.items():
        files = sorted((ROOT / '_base_' / folder).glob('*.py'))
        assert len(files) > 4
        for file in files:
            found = {key for key in Config.fromfile(file) if not key.startswith('_')}
            assert found - {'name'} == variables, file.name


def test_readme_shows_the_main_config():
    """The example in ``configs/README.md``, but for the file's first comment."""
    (shown,) = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL)
    lines = (ROOT / 'mtkdrl' / 'r18_imagenet.py').read_text().splitlines(keepends=True)
    assert shown == ''.join(line for line in lines if not line.startswith('#'))


def listed(folder):
    """Files that the tables of a folder's README link to."""
    text = (ROOT / folder / 'README.md').read_text()
    return re.findall(r'\]\(\.?/?(\w[\w./-]*\.py)\)', text)


@pytest.mark.parametrize('folder', FOLDERS)
def test_readme_lists_every_config(folder):
    names = {name.removeprefix(f'{folder}/') for name in NAMES if name.startswith(f'{folder}/')}
    assert set(listed(folder)) == names


@pytest.mark.parametrize('folder', FOLDERS)
def test_metafile_lists_every_config(folder):
    meta = yaml.safe_load((ROOT / folder / 'metafile.yml').read_text())
    names = {name for name in NAMES if name.startswith(f'{folder}/')}
    models = meta['Models']
    assert [model['Config'] for model in models] == [f'configs/{n}' for n in sorted(names)]
    collections = {collection['Name'] for collection in meta['Collections']}
    assert {model['In Collection'] for model in models} == collections
    for collection in meta['Collections']:
        assert (PROJECT / collection['README']).is_file()


def rows():
    """What the READMEs give to ``compare_methods.py --row``."""
    for folder in FOLDERS:
        text = (ROOT / folder / 'README.md').read_text().replace('\\\n', ' ')
        for name, config, options in re.findall(r'--row (\w+) configs/(\S+)((?: +\S+=\S+)*)', text):
            marks = param(config).marks
            yield pytest.param(config, options.split(), marks=marks, id=f'{config}-{name}')


@pytest.mark.parametrize(('config', 'options'), list(rows()))
def test_rows_in_readmes_can_be_built(config, options, build, monkeypatch):
    default = read(config)
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='*', action=DictAction, default={})
    for option in options:
        if option.split('=')[0].isupper():
            monkeypatch.setenv(*option.split('='))
    options = [option for option in options if not option.split('=')[0].isupper()]
    cfg = Config.fromfile(ROOT / config)
    merge_options(cfg, parser.parse_args(['--cfg-options', *options]).cfg_options)
    # Every row differs from the config, but for the one that names the default.
    changed = cfg.to_dict() != default.to_dict()
    assert changed == (os.environ.get('BACKBONE') != default.get('variant', ''))
    assert build(config, cfg) is not None
    if 'agent' in cfg.default_hooks:
        hook = MMENGINE_HOOKS.build(deepcopy(cfg.default_hooks.agent))
        assert type(hook).__name__ == 'AgentHook'


def test_model_index_imports_every_metafile():
    index = yaml.safe_load((PROJECT / 'model-index.yml').read_text())
    assert index['Import'] == [f'configs/{folder}/metafile.yml' for folder in FOLDERS]
    models = [
        model['Name']
        for file in index['Import']
        for model in yaml.safe_load((PROJECT / file).read_text())['Models']
    ]
    assert len(set(models)) == len(models) == len(NAMES)


def test_published_imagenet_pool(build):
    model = build('aver/r18_imagenet.py')
    assert isinstance(model.weighting, AVER)
    counts = [sum(p.numel() for p in t.network.parameters()) for t in model.teachers]
    # torchvision's numbers for ResNet-50, ResNet-101, Wide-ResNet-50-2, ResNeXt-50-32x4d
    assert counts == [25_557_032, 44_549_160, 68_883_240, 25_028_904]
    assert sum(p.numel() for p in model.student.parameters()) == 11_689_512


RESNETS = [name for name in NAMES if re.match(r'\w+/r(18|34)_\w*imagenet', name)]


@pytest.mark.parametrize('name', RESNETS)
def test_published_schedule(name):
    cfg = read(name)
    assert cfg.train_cfg.max_epochs == 100
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.1, 0.9, 1e-4)
    assert cfg.param_scheduler.milestones == [30, 60, 90]
    assert cfg.auto_scale_lr.base_batch_size == 256


TRANSFORMERS = [name for name in NAMES if name.split('/')[-1].startswith(('deit_', 'cait_'))]


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


def test_students_of_deits_recipe():
    recipe = get_config('mmpretrain::deit/deit-tiny_4xb256_in1k.py').model
    deit = read('baseline/deit_tiny_imagenet.py').model
    cait = read('baseline/cait_xxs24_imagenet.py').model
    # A neck of None is no neck.
    assert unscoped(deit) == {k: v for k, v in unscoped(recipe).items() if k != 'neck'}
    assert unscoped(cait.train_cfg) == unscoped(recipe.train_cfg)
    assert unscoped(cait.head.loss) == unscoped(recipe.head.loss)


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


def test_pool_of_efficientnets(build):
    pytest.importorskip('timm')
    model = build('tiny_imagenet/student_mtkdrl.py')
    counts = [sum(p.numel() for p in t.network.parameters()) for t in model.teachers]
    # timm's numbers for tf_efficientnet_lite0, 1 and 2
    assert counts == [4_652_008, 5_416_680, 6_092_072]
    assert model.teachers.spec.embedding_sizes == (1280, 1280, 1280)
    assert [type(c).__name__ for c in model.connectors.values()] == ['MapConnector'] * 3
    for teacher in model.teachers:
        settings = teacher.preprocessing
        assert (settings.input_size, settings.to_rgb) == ((128, 128), True)
        # (pixel - 127) / 128
        assert set(settings.mean) == {127.0} and set(settings.std) == {128.0}


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
