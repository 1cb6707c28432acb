# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Networks of timm by their names alone, with weights from a local Hugging Face hub."""

import inspect
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from mtkdrl_mm.models import Preprocessing, TimmImageClassifier, build_pool
from mtkdrl_mm.models.teachers.build_teacher import read_teacher_config
from mtkdrl_mm.models.teachers.teacher_record import complete_record, teacher_record
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.weights.locations import fetch
from mtkdrl_mm.weights.timm_networks import resolve_timm_weights

timm = pytest.importorskip('timm')
pytest.importorskip('huggingface_hub')

NAME = 'resnet10t.c3_in1k'
# As of a data set that is loaded as BGR, with a mean and std of its own.
STUDENT = Preprocessing((120.0, 115.0, 104.0), (60.0, 59.0, 58.0), True)


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    network = timm.create_model(NAME).eval()
    with torch.no_grad():  # logits of the usual size
        network.fc.weight.mul_(30)
    return network


def weights_of(network):
    return save({key: value.contiguous() for key, value in network.state_dict().items()})


def test_a_name_is_network_preprocessing_and_weights(hub, network):
    hub.commit(f'timm/{NAME}', {'model.safetensors': weights_of(network), 'README.md': b'hello'})
    pool = build_pool([dict(model_name=NAME), dict(model_name=NAME, name='b')], STUDENT)
    pool.load_weights()
    assert pool.names == (NAME, 'b') and pool.spec.embedding_sizes == (512, 512)
    assert pool[0].checkpoint == f'timm://{NAME}'
    # The pixels of an image, as timm's own transform normalises them.
    config = timm.data.resolve_model_data_config(network)
    size = (*config['input_size'][1:], 3)
    pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    transform = timm.data.create_transform(**{**config, 'crop_pct': 1.0}, is_training=False)
    bgr = torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1).float()
    own = Preprocessing(to_rgb=False)
    with torch.no_grad():
        expected = network(transform(Image.fromarray(pixels))[None])
        (output, _) = pool(STUDENT.convert(bgr[None], own))
    assert expected.std() > 0.1
    torch.testing.assert_close(output.logits, expected, rtol=1e-3, atol=1e-3)


def test_other_names(hub):
    for entry, part in (
        (dict(model_name='resnet5O'), 'has no network "resnet5O". Did you mean "resnet50"'),
        (dict(model_name='resnet50.a1_in2k'), 'Did you mean "resnet50.a1_in1k"'),
        (dict(model_name=['resnet50']), '`model_name` must be a name of timm, but is'),
        (dict(model_name='resnet18', depht=3), 'timm cannot build "resnet18" with {\'depht\': 3}'),
        (dict(model_name='resnet18', num_classes=0), '`num_classes` must be at least 1'),
        (
            dict(model_name='vit_small_patch14_dinov2.lvd142m'),
            'timm\'s weights of "vit_small_patch14_dinov2.lvd142m" have no classifier',
        ),
    ):
        with pytest.raises(InputError) as error:
            build_pool([entry], STUDENT)
        assert part in str(error.value) and '\n' not in str(error.value)
    for location, part in (
        ('timm://resnet5O', 'Teacher: timm .* has no network "resnet5O". Did you mean "resnet50"'),
        ('timm://resnet50.a9', 'has no weights "a9" of "resnet50". Did you mean "resnet50\\.'),
        ('timm://vit_base_patch16_siglip_gap_224.pali2', 'has no weights "pali2"'),
        ('timm://resnet10t_no', 'has no network "resnet10t_no"'),
        ('timm://efficientnet_b8', 'timm has no weights of "efficientnet_b8"'),
        ('timm://resnet50.a1_in1k', 'there is no repository .*/timm/resnet50.a1_in1k'),
    ):
        with pytest.raises(InputError, match=part):
            fetch(location, 'teacher')


@pytest.mark.parametrize(
    ('source', 'location'),
    [
        (dict(hf_hub_id='o/r'), 'hf://o/r'),
        (dict(hf_hub_id='o/r@v2', hf_hub_filename='a.bin', url='x'), 'hf://o/r/a.bin@v2'),
        (dict(url='https://e.org/a.pth'), 'https://e.org/a.pth'),
        (dict(hf_hub_id='o/r', hf_hub_filename='a.npz'), None),
        (dict(url='https://e.org/a.npz'), None),
    ],
)
def test_where_timm_has_weights(monkeypatch, source, location):
    cfg = timm.models.PretrainedCfg(**source)
    monkeypatch.setattr('timm.models.get_pretrained_cfg', lambda name: cfg)
    if location is not None:
        assert resolve_timm_weights('resnet18', 'teacher') == location
        return
    with pytest.raises(InputError, match=r"Teacher: timm's weights .* are in JAX's format, which"):
        resolve_timm_weights('resnet18', 'teacher')


def test_other_classes(hub, network):
    hub.commit(f'timm/{NAME}', {'model.safetensors': weights_of(network)})
    pool = build_pool([dict(model_name=NAME, num_classes=7)], STUDENT)
    with pytest.raises(InputError, match='has 1000 classes, but the config has 7'):
        pool.load_weights()
    pool = build_pool([dict(model_name=NAME, class_map=[999, 0])], STUDENT, num_classes=2)
    pool.load_weights()
    inputs = torch.randn(1, 3, 64, 64)
    (output,) = pool(inputs)
    converted = pool[0].preprocessing.convert(inputs, STUDENT)
    with torch.no_grad():
        expected = network(converted)[:, [999, 0]]
    torch.testing.assert_close(output.logits, expected, rtol=1e-3, atol=1e-3)


def test_a_file_of_ones_own_has_the_students_classes(tmp_path):
    """And not those of timm's weights of this name; a class map, or a number, says otherwise."""
    path = str(tmp_path / 'own.pth')
    torch.save(timm.create_model('resnet10t', num_classes=7).state_dict(), path)
    entry = dict(model_name='resnet10t', checkpoint=path)
    pool = build_pool([entry], STUDENT, num_classes=7)
    assert pool.spec.num_classes == pool[0].network.head.num_classes == 7
    pool.load_weights()
    mapped = dict(entry, class_map=[6, 0, 2])
    with pytest.raises(InputError, match='beside a `cfg_path`, `num_classes=7` beside a `model_na'):
        build_pool([mapped], STUDENT, num_classes=3).load_weights()
    pool = build_pool([dict(mapped, num_classes=7)], STUDENT, num_classes=3)
    pool.load_weights()
    assert pool.spec.num_classes == 3


def test_number_of_classes_of_a_student(make_distiller, make_batch):
    student = dict(type='mtkdrl_mm.TimmImageClassifier', model_name='resnet10t')
    distiller = make_distiller(student=student, num_classes=5)
    assert distiller.student.head.num_classes == 5
    sum(distiller(*make_batch(2), mode='loss').values()).backward()
    assert distiller.student.backbone.model.conv1[0].weight.grad.abs().sum() > 0
    assert TimmImageClassifier('resnet10t').head.num_classes == 1000


def hub_config(network, **changes):
    """What timm's push_to_hf_hub writes."""
    pretrained = {key: network.pretrained_cfg[key] for key in ('mean', 'std', 'input_size')}
    content = dict(
        architecture='resnet10t',
        num_classes=3,
        pretrained_cfg=dict(pretrained, mean=[0.1, 0.2, 0.3], classifier='fc', unknown=1),
        model_args=dict(avg_down=False),
    )
    return json.dumps({**content, **changes}).encode()


def test_a_network_of_the_hub(hub):
    torch.manual_seed(0)
    network = timm.create_model('resnet10t', num_classes=3, avg_down=False).eval()
    files = {'config.json': hub_config(network), 'model.safetensors': weights_of(network)}
    commit = hub.commit('me/fine-tuned', files)
    for address in ('hf://me/fine-tuned', f'hf://me/fine-tuned@{commit}'):
        pool = build_pool([dict(model_name=address)], STUDENT)
        pool.load_weights()
        assert pool.names == ('fine-tuned',) and pool.spec.num_classes == 3
        assert pool[0].preprocessing.mean == pytest.approx([25.5, 51.0, 76.5])
        assert pool[0].checkpoint == address
        inputs = torch.randn(1, 3, 64, 64)
        converted = pool[0].preprocessing.convert(inputs, STUDENT)
        with torch.no_grad():
            torch.testing.assert_close(pool(inputs)[0].logits, network(converted))
    hub.commit('o/other', {'config.json': b'{"model_type": "vit"}'})
    hub.commit('o/newer', {'config.json': hub_config(network, architecture='resnet10q')})
    for repo, part in (
        ('o/other', '"hf://o/other" is no network of timm: its config.json names no'),
        ('o/newer', 'The network "hf://o/newer": timm .* has no network "resnet10q". Did you'),
        ('o/none', 'there is no repository'),
        ('me/fine-tuned/model.safetensors', '`model_name` must be the address of a repository'),
    ):
        with pytest.raises(InputError, match=part):
            build_pool([dict(model_name=f'hf://{repo}')], STUDENT)


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('pretrained', True),
        ('pretrained', False),
        ('pretrained_cfg', 'a1_in1k'),
        ('pretrained_cfg_overlay', dict(hf_hub_id='o/evil', source='hf-hub')),
        ('checkpoint_path', '/etc/passwd'),
        ('cache_dir', '/tmp'),
        ('features_only', True),
        ('pruned', True),
        ('kwargs_filter', ['num_classes']),
        ('cfg', 'x'),
        ('act_layer', dict(a=1)),
        ('layers', [2, [dict(a=1)]]),
        ('no_such', 1),
    ],
)
def test_a_repository_sets_arguments_of_the_network_only(hub, network, monkeypatch, key, value):
    def build(*args, **kwargs):
        raise AssertionError('timm was called')

    config = hub_config(network, model_args={'avg_down': False, key: value})
    hub.commit('o/evil', {'config.json': config})
    parameters = inspect.signature(timm.create_model)
    monkeypatch.setattr(timm, 'create_model', build)
    build.__signature__ = parameters
    with pytest.raises(InputError, match=f'config.json of "hf://o/evil" sets `{key}` in `model_ar'):
        TimmImageClassifier('hf://o/evil')


def test_arguments_of_the_network_are_taken_from_a_repository(hub, network):
    arguments = dict(layers=[1, 1, 1, 2], act_layer='silu', cardinality=None)
    weights = dict(url='https://e.org/x', hf_hub_id='o/x', source='hf-hub', custom_load='hf')
    pretrained = dict(std=[0.5] * 3, input_size=[3, 64, 64], classifier='fc', **weights)
    config = hub_config(network, model_args=arguments, pretrained_cfg=pretrained)
    hub.commit('me/net', {'config.json': config})
    backbone = TimmImageClassifier('hf://me/net', drop_path_rate=0.1).backbone
    assert len(backbone.model.layer3) == 1 and len(backbone.model.layer4) == 2
    assert isinstance(backbone.model.act1, torch.nn.SiLU)
    cfg = backbone.model.pretrained_cfg
    assert cfg['std'] == [0.5] * 3 and backbone.img_size == (64, 64) and cfg['num_classes'] == 3
    assert not cfg.keys() & {'url', 'hf_hub_id', 'source'} and not cfg['custom_load']


@pytest.mark.parametrize(
    'name', ['hf-hub:o/evil', 'local-dir:/tmp/evil', 'timm:resnet18', '/resnet18']
)
def test_a_network_is_a_plain_name_of_timm(hub, network, name):
    hub.commit('o/evil', {'config.json': hub_config(network, architecture=name)})
    for model_name in (name, 'hf://o/evil'):
        with pytest.raises(InputError, match=f'timm .* has no network "{name}"'):
            TimmImageClassifier(model_name)


def test_weights_with_the_names_of_their_authors_are_converted_by_timm(hub):
    arguments = dict(img_size=32, depth=2, num_classes=8)
    torch.manual_seed(0)
    network = timm.create_model('vit_tiny_patch16_224', **arguments).eval()
    with torch.no_grad():
        network.head.bias.zero_()
        network.head.weight.normal_()
    state = network.state_dict()
    files = {f'visual.trunk.{k}': v for k, v in state.items() if not k.startswith('head.')}
    files['visual.head.proj.weight'] = state['head.weight']
    files['text.positional_embedding'] = torch.zeros(3)
    hub.commit('laion/clip', {'open_clip_model.safetensors': save(files)})
    entry = dict(model_name='vit_tiny_patch16_224', checkpoint='hf://laion/clip', **arguments)
    pool = build_pool([entry], STUDENT)
    pool.load_weights()
    inputs = torch.randn(2, 3, 32, 32)
    converted = pool[0].preprocessing.convert(inputs, STUDENT)
    with torch.no_grad():
        torch.testing.assert_close(pool(inputs)[0].logits, network(converted))
    # Other files get the message of before.
    hub.commit('o/other', {'net.safetensors': save({'visual.x': torch.zeros(1)})})
    with pytest.raises(InputError, match='is of another architecture than its config'):
        build_pool([{**entry, 'checkpoint': 'hf://o/other'}], STUDENT).load_weights()


def test_identity_of_the_weights(hub, network):
    content = weights_of(network)

    def record(**changes):
        entry = {**dict(model_name=NAME, name='t'), **changes}
        return teacher_record(read_teacher_config(entry, 0, None), STUDENT)

    # Before anything is downloaded, repository and revision are what is known.
    names = [
        record().checkpoint,
        record(checkpoint=f'hf://timm/{NAME}').checkpoint,
        record(checkpoint=f'hf://timm/{NAME}/model.safetensors@v1').checkpoint,
    ]
    assert names == [f'timm/{NAME}', f'timm/{NAME}', f'timm/{NAME}/model.safetensors@v1']
    assert record().weights_sha256 == '' and record().preprocessing == dict(of='timm')
    hub.commit(f'timm/{NAME}', {'model.safetensors': content})
    fetch(f'timm://{NAME}', 'teacher')
    found = record()
    assert len(found.weights_sha256) == 64
    assert record(checkpoint=f'hf://timm/{NAME}').weights_sha256 == found.weights_sha256
    other = record(checkpoint='hf://o/other')
    with pytest.raises(InputError, match=f'with the weights of "timm/{NAME}", but the config nam'):
        complete_record(other, found)
