# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Whatever file it is: all tensors of a network come from it, or one sentence."""

import copy
import logging

import pytest
import torch
import torchvision
from mmengine.logging import MMLogger
from mmengine.model.weight_init import PretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from mtkdrl_mm.models.load_weights import (
    fit_state_dict,
    load_network_weights,
    use_complete_pretrained,
)
from mtkdrl_mm.models.teachers import Preprocessing, Teacher
from mtkdrl_mm.utils import InputError

FILE = 'file.pth'


def load_teacher(network, path, name, which=None):
    return Teacher(name, network, Preprocessing(), path, which).load_weights()


@pytest.fixture
def networks(make_classifier, make_resnet):
    """A trained network, and one of the same config to load it into."""
    return make_classifier(make_resnet(4), seed=1), make_classifier(make_resnet(4), seed=2)


def prefixed(weights, prefix):
    return {prefix + key: value for key, value in weights.items()}


def same(first, second):
    other = second.state_dict()
    return all(torch.equal(value, other[key]) for key, value in first.state_dict().items())


PREFIXES = [
    '',
    'module.',
    '_orig_mod.',
    'module._orig_mod.',
    '_orig_mod.module.',
    'model.',
    'net.',
    'network.',
    'student.',
    'module.student.',
    'some.thing.else.',
]


@pytest.mark.parametrize('prefix', PREFIXES)
@pytest.mark.parametrize(
    'others', [{}, {'criterion.weight': torch.ones(2), 'steps': torch.ones(())}]
)
def test_any_prefix(networks, prefix, others):
    trained, network = networks
    weights = {**prefixed(trained.state_dict(), prefix), **others}
    line = load_network_weights(network, dict(state_dict=weights), FILE, 'student')
    assert same(trained, network)
    expected = 'student: loaded 122/122 tensors of file.pth'
    assert line == expected + (' (left out: criterion, steps)' if others else '')


def test_torch_compile_of_a_part(networks):
    trained, network = networks
    weights = {
        key.replace('backbone.', 'backbone._orig_mod.'): value
        for key, value in trained.state_dict().items()
    }
    load_network_weights(network, weights, FILE, 'student')
    assert same(trained, network)


@pytest.mark.parametrize('prefix', ['', 'module.', 'model.', 'module._orig_mod.', 'net.encoder.'])
def test_torchvisions_names_under_any_prefix(make_classifier, prefix):
    torch.manual_seed(0)
    original = torchvision.models.resnet18()
    network = make_classifier(dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py'))
    line = load_network_weights(network, prefixed(original.state_dict(), prefix), FILE, 'student')
    assert line == 'student: loaded 122/122 tensors of file.pth'
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(images), original.eval()(images), rtol=1e-4, atol=1e-4)


def test_a_prefix_that_the_file_lacks():
    wrapped = nn.ModuleDict(dict(model=nn.Linear(2, 3)))
    weights = nn.Linear(2, 3).state_dict()
    load_network_weights(wrapped, weights, FILE, 'network')
    assert torch.equal(wrapped['model'].weight, weights['weight'])


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'student.backbone.'])
def test_a_network_all_of_whose_layers_are_in_one_child(prefix):
    """As in EfficientNet: ``layers.`` may count as a part of the prefix, or of the names."""
    expected = {f'layers.{i}.weight': torch.full((2,), float(i)) for i in range(3)}
    fit = fit_state_dict({**prefixed(expected, prefix), 'head.weight': torch.ones(2)}, expected)
    assert fit.weights == expected and fit.left_out == ['head.weight']
    twice = {**prefixed(expected, 'a.'), **prefixed(expected, 'b.')}
    with pytest.raises(InputError, match='contains this network 2 times'):
        fit_state_dict(twice, expected)


def test_files_of_before_batches_were_counted(networks):
    trained, network = networks
    weights = trained.state_dict()
    for key in [key for key in weights if 'num_batches' in key]:
        del weights[key]
    line = load_network_weights(network, weights, FILE, 'student')
    assert line == 'student: loaded 102/122 tensors of file.pth'


def test_a_training_checkpoint_and_its_student(make_distiller, make_classifier, make_resnet):
    trained = make_distiller(weighting='MTKDRL', student=make_resnet(4))
    contents = dict(state_dict=trained.state_dict(), meta={})
    plain = make_classifier(make_resnet(4), seed=5)
    line = load_network_weights(plain, contents, FILE, 'network')
    assert same(trained.student, plain)
    assert line == ('network: loaded 122/122 tensors of file.pth (left out: connectors, weighting)')
    # and back: into a distiller, which is built without teachers for testing, or with them
    for teachers in ('two', None):
        distiller = make_distiller(teachers=teachers, student=make_resnet(4), seed=3)
        torch.nn.init.zeros_(distiller.student.backbone.conv1.weight)
        for weights in (plain.state_dict(), trained.state_dict()):
            load_network_weights(distiller, dict(state_dict=weights), FILE, 'student')
            assert same(plain, distiller.student)


@pytest.mark.parametrize('which', [None, 'ema', 'raw'])
def test_averaged_weights(networks, make_classifier, make_resnet, which):
    trained, network = networks
    averaged = make_classifier(make_resnet(4), seed=7)
    expected = trained if which == 'raw' else averaged
    kind, other = ('raw', 'averaged') if which == 'raw' else ('averaged', 'raw')
    contents = dict(model=trained.state_dict(), model_ema=averaged.state_dict())
    line = load_network_weights(network, contents, FILE, 'student', which)
    assert same(expected, network)
    assert line == (
        f'student: loaded 122/122 tensors of file.pth (the {kind} weights; '
        f'the file has the {other} ones too)'
    )
    # side by side in one state dict, as Lightning saves them
    weights = {
        **prefixed(trained.state_dict(), 'model.'),
        **prefixed(averaged.state_dict(), 'ema_model.module.'),
    }
    load_network_weights(network, dict(state_dict=weights), FILE, 'student', which)
    assert same(expected, network)


def test_the_teachers_key(networks, tmp_path, make_classifier, make_resnet):
    trained, network = networks
    averaged = make_classifier(make_resnet(4), seed=7)
    path = str(tmp_path / 'timm.pth')
    torch.save(dict(state_dict=trained.state_dict(), state_dict_ema=averaged.state_dict()), path)
    for which, expected in ((None, averaged), ('ema', averaged), ('raw', trained)):
        assert load_teacher(network, path, 't', which) == 122
        assert same(expected, network)


def test_the_network_twice(networks):
    trained, network = networks
    weights = {**prefixed(trained.state_dict(), 'a.'), **prefixed(trained.state_dict(), 'b.')}
    with pytest.raises(
        InputError, match=r'^Student: "file\.pth" contains this network 2 times.*"a\."'
    ):
        load_network_weights(network, weights, FILE, 'student')


def test_nothing_fits(networks):
    _, network = networks
    for weights in (nn.Linear(3, 2).state_dict(), {'a.b.c': torch.ones(2)}):
        with pytest.raises(InputError, match=r'Not in the file: backbone\.conv1\.weight'):
            load_network_weights(network, weights, FILE, 'student')


def test_half_of_it(networks):
    trained, network = networks
    weights = trained.state_dict()
    del weights['backbone.layer3.1.conv2.weight']
    with pytest.raises(InputError, match=r'Not in the file: backbone\.layer3\.1\.conv2\.weight\. '):
        load_network_weights(network, weights, FILE, 'student')


def test_a_deeper_network_is_another(networks, make_classifier, make_resnet):
    _, network = networks
    deep = make_resnet(4)
    deep['backbone']['depth'] = 34
    weights = make_classifier(deep).state_dict()
    for prefix in ('', 'student.'):
        with pytest.raises(InputError, match=r'Only in the file: backbone\.layer1\.2\.conv1'):
            load_network_weights(network, prefixed(weights, prefix), FILE, 'student')


def test_a_backbone_is_no_network(networks):
    trained, network = networks
    for weights in (trained.backbone.state_dict(), prefixed(trained.backbone.state_dict(), 'm.')):
        with pytest.raises(
            InputError, match='It has the whole backbone, but no head: load it into'
        ):
            load_network_weights(network, weights, FILE, 'student')


def test_other_classes(networks, make_classifier, make_resnet):
    _, network = networks
    weights = make_classifier(make_resnet(4, num_classes=7)).state_dict()
    with pytest.raises(
        InputError, match=r'^Student: "file\.pth" has 7 classes, but the config has 5\. Set the'
    ) as error:
        load_network_weights(network, weights, FILE, 'student')
    assert "init_cfg=dict(type='mtkdrl_mm.DistilledBackbone'" in str(error.value)


def test_the_file_is_not_changed(networks):
    trained, network = networks
    contents = dict(state_dict=prefixed(trained.state_dict(), 'module.'))
    before = copy.copy(contents['state_dict'])
    load_network_weights(network, contents, FILE, 'student')
    assert contents['state_dict'].keys() == before.keys()


def test_parts_of_a_tiny_network():
    own = nn.Linear(2, 3).state_dict()
    layers = {
        f'layers.{i}.{k}': v for i in range(2) for k, v in nn.Linear(2, 3).state_dict().items()
    }
    with pytest.raises(InputError, match='contains this network 2 times'):
        fit_state_dict(layers, own)
    # shapes decide where names do not
    layers['layers.1.weight'] = torch.ones(5, 2)
    assert fit_state_dict(layers, own).weights['weight'] is layers['layers.0.weight']


# mmengine's `Pretrained`.


@pytest.fixture
def complete():
    """What the tools do."""
    use_complete_pretrained()
    yield
    WEIGHT_INITIALIZERS.register_module(name='Pretrained', force=True, module=PretrainedInit)


@pytest.fixture
def log(request):
    """The lines that are logged."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_instance(request.node.name, log_level='INFO')
    logger.addHandler(handler)
    return lines


def pretrained(make_classifier, cfg, path, where='model', **kwargs):
    init = dict(type='Pretrained', checkpoint=str(path), **kwargs)
    cfg = copy.deepcopy(cfg)
    (cfg if where == 'model' else cfg['backbone'])['init_cfg'] = init
    return make_classifier(cfg)


@pytest.mark.parametrize('prefix', ['', 'module.', 'model.', 'student.'])
def test_pretrained_networks(
    complete, log, networks, make_classifier, make_resnet, tmp_path, prefix
):
    trained, _ = networks
    torch.save(dict(state_dict=prefixed(trained.state_dict(), prefix)), tmp_path / FILE)
    network = pretrained(make_classifier, make_resnet(4), tmp_path / FILE)
    network.init_weights()
    assert same(trained, network)
    assert f'ImageClassifier: loaded 122/122 tensors of {tmp_path}/{FILE}' in log


@pytest.mark.parametrize('prefix', [None, 'backbone.', 'student.backbone.', 'wrong.'])
def test_pretrained_backbones(
    complete, log, networks, make_classifier, make_resnet, tmp_path, prefix
):
    trained, _ = networks
    for outer in ('', 'student.', 'module.'):
        torch.save(dict(state_dict=prefixed(trained.state_dict(), outer)), tmp_path / FILE)
        kwargs = {} if prefix is None else dict(prefix=prefix)
        network = pretrained(make_classifier, make_resnet(4), tmp_path / FILE, 'backbone', **kwargs)
        network.init_weights()
        assert same(trained.backbone, network.backbone)
    assert any(line.startswith('ResNet: loaded 120/120 tensors of') for line in log)


def test_pretrained_of_another_network(complete, make_classifier, make_resnet, tmp_path):
    torch.save(make_classifier(make_resnet(6)).state_dict(), tmp_path / FILE)
    network = pretrained(make_classifier, make_resnet(4), tmp_path / FILE)
    with pytest.raises(
        InputError, match=r'file\.pth" is of another architecture, the shapes differ'
    ):
        network.init_weights()
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / FILE)
    for kwargs, message in (({}, 'Not in the file'), (dict(strict=False), 'no tensor that fits')):
        network = pretrained(make_classifier, make_resnet(4), tmp_path / FILE, 'backbone', **kwargs)
        with pytest.raises(InputError, match=message):
            network.init_weights()


def test_pretrained_parts_on_request(
    complete, log, networks, make_classifier, make_resnet, tmp_path
):
    trained, _ = networks
    torch.save(trained.backbone.state_dict(), tmp_path / FILE)
    deep = make_resnet(4)
    deep['backbone']['depth'] = 34
    network = pretrained(make_classifier, deep, tmp_path / FILE, 'backbone', strict=False)
    network.init_weights()
    assert torch.equal(network.backbone.conv1.weight, trained.backbone.conv1.weight)
    assert [line for line in log if line.startswith('ResNet: loaded 120/216 tensors of')], log
