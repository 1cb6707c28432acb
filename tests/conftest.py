# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What many tests need: tiny classifiers, batches, and the record of a step."""

import gc
import logging
import multiprocessing
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import hub_server
import numpy as np
import pytest
import torch
import warm_python
from mmengine.config import config as config_module
from mmengine.config import utils as config_utils
from mmengine.logging import MessageHub
from mmengine.optim import MultiStepLR
from mmengine.registry import init_default_scope
from mmengine.visualization import Visualizer
from mmpretrain.structures import DataSample

from mtkdrl_mm.models import (
    FeatureMSE,
    KLDivergence,
    MultiTeacherDistiller,
    PoolSpec,
    build_pool,
)
from mtkdrl_mm.models.build_classifier import build_classifier, read_network_config
from mtkdrl_mm.models.teachers.preprocessing import Preprocessing
from mtkdrl_mm.structures import NetworkOutput, Projection, StepTerms

# Where mmdet and mmsegmentation are not installed (they need mmcv with compiled operators), what
# needs them is left out.
collect_ignore = []
if not all(find_spec(package) for package in ('mmdet', 'mmseg', 'pycocotools')):
    collect_ignore = [
        'test_datasets/test_label_maps.py',
        'test_end_to_end/downstream',
        'test_engine/test_label_check_hook.py',
        'test_models/test_distilled_backbone.py',
        'test_tools/test_make_scenes.py',
        'test_utils/test_data_settings.py',
    ]


def pytest_configure():
    """The interpreter for the tools; once per session, before the workers start."""
    warm_python.prepare()


def pytest_unconfigure():
    warm_python.remove()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """More processes than there are cores: many tests wait for a process or a limit.

    Interpreters that have to import everything leave less time to wait.
    """
    return len(os.sched_getaffinity(0)) + (1 if os.environ.get('FRESH_PYTHON') else 2)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Distribute tests one by one, but keep together the files with fixtures for the whole file.

    With whole files, a process could be left with a long one at the end.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split('::')[0]
            return file if has_module_fixtures(config.rootpath / file) else nodeid

    # xdist's own groups get lost with pytest 9.
    return Scheduling(config, log) if config.getvalue('dist') == 'loadgroup' else None


@cache
def has_module_fixtures(path):
    return "scope='module'" in path.read_text()


def pytest_collection_modifyitems(items):
    """In several processes, the slow tests come first."""
    if 'PYTEST_XDIST_WORKER' in os.environ:
        items.sort(key=lambda item: item.get_closest_marker('slow') is None)


def pytest_collection_finish():
    """mmengine collects garbage for every data set; what the imports left is none."""
    gc.collect()
    gc.freeze()


PEERS = Path(__file__).parent / 'data' / 'peers_seed0.npz'


@pytest.fixture(autouse=True, scope='session')
def _scope():
    """The scope that the configs of this package set."""
    init_default_scope('mmpretrain')


@pytest.fixture(autouse=True, scope='session')
def _no_children_left():
    """Python waits at its end for a process that hangs, and the session for this one."""
    yield
    for child in multiprocessing.active_children():
        child.kill()


@pytest.fixture(autouse=True)
def _scope_of_the_next_test():
    """A runner of mmdet or mmseg leaves its own scope behind."""
    yield
    init_default_scope('mmpretrain')


@pytest.fixture(autouse=True)
def _visualizers_of_the_next_test():
    """Visualizers of one name are one, with the folder of a test that has ended and is removed."""
    yield
    kinds = [Visualizer]
    for kind in kinds:
        kind._instance_dict.clear()
        kinds += kind.__subclasses__()


@pytest.fixture(autouse=True, scope='session')
def _one_thread():
    """For tensors as small as here, several threads only wait for each other.

    Also in the processes that tests start, of which there are as many as cores at a time.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('OMP_NUM_THREADS', '1')
        yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope='session')
def _one_look_at_the_index():
    """mmengine reads mmpretrain's 85 lists of models for every config that names one of its files.

    Also for a file that is in none of them, such as those of mmpretrain's ``_base_``. Before, it
    looks through all installed packages.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config_utils, 'load', cache(config_utils.load))
        patch.setattr(config_module, 'is_installed', cache(config_module.is_installed))
        yield


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope='session')
def peers():
    """Inputs and outputs of the original authors' implementations, float64."""
    with np.load(PEERS) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.fixture
def peers_terms(peers):
    """The step's record made from those inputs."""
    maps = [peers[f'teacher_map_{m}'] for m in range(4)]
    return StepTerms(
        NetworkOutput(peers['student_logits'], embedding=None),
        [
            NetworkOutput(logits, maps[m].mean(dim=(2, 3)), maps[m])
            for m, logits in enumerate(peers['teacher_logits'].unbind(1))
        ],
        peers['labels'],
        [Projection(peers[f'projected_student_map_{m}'], maps[m]) for m in range(4)],
        KLDivergence(),
        FeatureMSE(),
    )


def random_terms(
    images=6,
    teachers=3,
    classes=5,
    labels=None,
    features=True,
    dtype=torch.float64,
    temperature=4.0,
    seed=0,
    **kwargs,
):
    """A record with random outputs; the same ones for the same seed.

    Teacher m has m + 3 channels, and the student's logits and projections are
    leaves with gradient.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    hard = torch.randint(classes, (images,), generator=generator)
    student = NetworkOutput(normal(images, classes).mul(2).requires_grad_(), normal(images, 4))
    outputs, projections = [], []
    for m in range(teachers):
        feature_map = normal(images, m + 3, 2, 2)
        outputs.append(
            NetworkOutput(normal(images, classes).mul(2), feature_map.mean(dim=(2, 3)), feature_map)
        )
        projected = normal(images, m + 3, 2, 2).requires_grad_()
        projections.append(Projection(projected, feature_map))
    return StepTerms(
        student,
        outputs,
        hard if labels is None else labels,
        projections if features else None,
        KLDivergence(temperature),
        FeatureMSE(),
        temperature=temperature,
        **kwargs,
    )


@pytest.fixture
def make_terms():
    """Function that makes a random record, see random_terms."""
    return random_terms


@pytest.fixture
def make_spec():
    """Function that describes the pool of a record."""

    def make(terms):
        return PoolSpec(
            names=tuple(f't{m}' for m in range(terms.num_teachers)),
            num_classes=terms.student_logits.shape[1],
            embedding_sizes=tuple(t.embedding.shape[1] for t in terms.teachers),
            map_channels=tuple(t.feature_map.shape[1] for t in terms.teachers),
        )

    return make


def resnet(width=4, num_classes=5, **loss):
    """Config of an mmpretrain classifier with ResNet-18's layers and few channels."""
    head = dict(type='LinearClsHead', num_classes=num_classes, in_channels=8 * width, topk=(1,))
    if loss:
        head['loss'] = loss
    return dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18, base_channels=width, stem_channels=width),
        neck=dict(type='GlobalAveragePooling'),
        head=head,
    )


def vit(width=16, num_classes=5):
    """Config of an mmpretrain classifier with a tiny VisionTransformer."""
    arch = dict(embed_dims=width, num_layers=2, num_heads=2, feedforward_channels=2 * width)
    return dict(
        type='ImageClassifier',
        backbone=dict(type='VisionTransformer', arch=arch, img_size=32, patch_size=16),
        head=dict(type='VisionTransformerClsHead', num_classes=num_classes, in_channels=width),
    )


def randomize(network, seed=0):
    """Random weights and BatchNorm statistics, so that nothing is a fresh network's."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim > 1:
                gain = 1.5 if 'head' in name else 1.2
                tensor.copy_(noise * gain / tensor[0].numel() ** 0.5)
            elif name.endswith(('weight', 'running_var')):
                tensor.copy_(noise.mul(0.2).add(1).clamp(min=0.2))
            else:
                tensor.copy_(noise * 0.2)
    return network


def classifier(cfg, seed=None):
    """The built network in eval mode, with random weights if a seed is given."""
    model, _ = read_network_config(cfg, 'test network')
    network = build_classifier(model, None, None, 'test network').eval()
    return network if seed is None else randomize(network, seed)


@pytest.fixture
def make_resnet():
    """Function that returns the config of a tiny ResNet."""
    return resnet


@pytest.fixture
def make_vit():
    """Function that returns the config of a tiny VisionTransformer."""
    return vit


@pytest.fixture
def make_classifier():
    """Function that builds a classifier from a config."""
    return classifier


@pytest.fixture
def make_pool():
    """Function that builds a pool with random weights."""

    def make(teachers, student=None, num_classes=None):
        pool = build_pool(teachers, student or Preprocessing(), num_classes)
        for m, network in enumerate([t.network for t in pool]):
            randomize(network, seed=m + 1)
        return pool

    return make


@pytest.fixture
def make_distiller():
    """Function that builds a distiller whose networks have random weights.

    By default the teachers are two ResNets, called "a" and "b".
    """

    def make(teachers='two', seed=0, **kwargs):
        if teachers == 'two':
            teachers = [dict(resnet(4), name='a'), dict(resnet(6), name='b')]
        kwargs.setdefault('student', resnet(4))
        # A choice that depends on times would change the last bits from run to run.
        kwargs.setdefault('teacher_inference', 'eager')
        torch.manual_seed(seed)
        distiller = MultiTeacherDistiller(teachers=teachers, **kwargs)
        randomize(distiller.student, seed=99)
        if distiller.has_teachers:
            distiller.weighting.attach_trainer()  # in place of a hook
            for m, network in enumerate([t.network for t in distiller.teachers]):
                randomize(network, seed=m + 1)
        return distiller

    return make


@pytest.fixture
def make_batch():
    """Function that returns preprocessed images and their labels."""

    def make(images=4, classes=5, size=32, seed=0, scores=None):
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(images, 3, size, size, generator=generator)
        # Images that differ much give outputs that differ much.
        inputs = inputs + 2 * torch.randn(images, 3, 1, 1, generator=generator)
        labels = torch.randint(classes, (images,), generator=generator)
        samples = [DataSample().set_gt_label(int(label)) for label in labels]
        if scores is not None:
            for sample, score in zip(samples, scores):
                sample.set_gt_score(score)
        return inputs, samples

    return make


@pytest.fixture
def record_steps():
    """Function that makes a distiller keep its records; returns the list."""

    def attach(distiller):
        steps = []
        distiller.register_step_hook(lambda terms, weights: steps.append((terms, weights)))
        return steps

    return attach


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A local Hugging Face hub with an empty cache, for this process and those it starts."""
    from huggingface_hub import constants, file_download

    with hub_server.serve() as running:
        cache = str(tmp_path / 'hf' / 'hub')
        template = running.url + '/{repo_id}/resolve/{revision}/{filename}'
        monkeypatch.setattr(constants, 'ENDPOINT', running.url)
        monkeypatch.setattr(constants, 'HF_HUB_CACHE', cache)
        for module in (constants, file_download):
            if hasattr(module, 'HUGGINGFACE_CO_URL_TEMPLATE'):
                monkeypatch.setattr(module, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
        # The protocol of large files that newer versions prefer; the hub speaks both.
        if hasattr(constants, 'HF_HUB_DISABLE_XET'):
            monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True)
        monkeypatch.setenv('HF_HUB_DISABLE_XET', '1')
        monkeypatch.setenv('HF_ENDPOINT', running.url)
        monkeypatch.setenv('HF_HOME', str(tmp_path / 'hf'))
        for name in ('HF_TOKEN', 'HF_HUB_CACHE', 'HF_HUB_OFFLINE'):
            monkeypatch.delenv(name, raising=False)
        yield running


class FakeRunner(SimpleNamespace):
    """What the hooks ask of a runner."""

    @property
    def train_dataloader(self):
        return self.train_loop.dataloader

    @property
    def val_dataloader(self):
        return self.val_loop.dataloader


@pytest.fixture
def make_runner(request):
    """Function that makes a runner for hooks."""

    def make(model, **kwargs):
        name = request.node.name
        defaults = dict(
            model=model,
            hooks=[],
            iter=0,
            epoch=0,
            seed=7,
            message_hub=MessageHub.get_instance(name),
            logger=logging.getLogger(name),
            cfg={},
            train_loop=SimpleNamespace(dataloader=[]),
            val_loop=None,
            _resume=False,
        )
        return FakeRunner(**{**defaults, **kwargs})

    yield make
    MessageHub._instance_dict.pop(request.node.name, None)


@pytest.fixture
def mmengine_checkpoint(tmp_path):
    """A checkpoint as mmengine's runner saves it in the middle of a training, and its contents."""
    path = tmp_path / 'epoch_1.pth'
    hub = MessageHub('test_checkpoint')
    for step in range(3):
        hub.update_scalar('train/loss', 1.0 / (step + 1))
    hub.update_info('iter', 3)
    hub.update_info('best_score', np.float64(71.5))
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    contents = dict(
        meta=dict(epoch=1, iter=3, seed=np.int64(7), classes=('cat', 'dog'), time='today'),
        state_dict=network.state_dict(),
        message_hub=hub.state_dict(),
        optimizer=optimizer.state_dict(),
        param_schedulers=[
            dict(last_step=3, values=np.array([0.1, 0.2], dtype=np.float32)),
            MultiStepLR(optimizer, milestones=[2, 2, 5]).state_dict(),
        ],
    )
    torch.save(contents, path)
    return path, contents
