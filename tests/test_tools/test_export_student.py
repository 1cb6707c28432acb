# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Exported students are the trained ones, to the bit, wherever they are read."""

import argparse
import errno
import glob
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest
import torch
import torchvision
from mmengine.config import Config
from mmpretrain import ImageClassificationInferencer, get_model
from mmpretrain.datasets import CIFAR10
from PIL import Image
from safetensors import safe_open
from warm_python import tool_python

from mtkdrl_mm.models import MultiTeacherDistiller

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RESNET = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=3, in_channels=512, loss=dict(type='CrossEntropyLoss')
    ),
)
TINY = dict(
    RESNET,
    backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4),
    head=dict(RESNET['head'], in_channels=32),
)
LOADER = dict(
    dataset=dict(
        type='CustomDataset',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=32),
            dict(type='PackInputs'),
        ],
    )
)


def training_checkpoint(folder, student):
    """A checkpoint as the runner saves it, and the student in it."""
    cfg = Config(
        dict(
            model=dict(
                type='mtkdrl_mm.MultiTeacherDistiller',
                student=student,
                teachers=[dict(TINY, name='large'), dict(TINY, name='small')],
                weighting=dict(type='MTKDRL'),
            ),
            data_preprocessor=dict(mean=[9.0, 8.0, 7.0], std=[60.0, 61.0, 62.0], to_rgb=True),
            test_dataloader=LOADER,
            test_evaluator=dict(type='Accuracy'),
            test_cfg=dict(),
            custom_imports=dict(imports=['mtkdrl_mm']),
        )
    )
    torch.manual_seed(0)
    distiller = MultiTeacherDistiller(
        **{k: v for k, v in cfg.model.to_dict().items() if k != 'type'},
        data_preprocessor=cfg.data_preprocessor.to_dict(),
    )
    folder.mkdir()
    meta = dict(cfg=cfg.pretty_text, epoch=2, iter=200)
    meta['dataset_meta'] = dict(classes=['cat', 'dog', 'owl'])
    hub = dict(runtime_info=dict(max_epochs=5, max_iters=500))
    torch.save(
        dict(meta=meta, state_dict=distiller.state_dict(), optimizer={}, message_hub=hub),
        folder / 'epoch_2.pth',
    )
    logs = folder / '20260101_000000' / 'vis_data'
    logs.mkdir(parents=True)
    records = [
        {'accuracy/top1': 50.0, 'step': 1},
        {'loss': 1.0, 'accuracy/top1': 1.0, 'step': 2},
        {'accuracy/top1': 61.5, 'step': 2},
    ]
    (logs / 'scalars.json').write_text('\n'.join(json.dumps(r) for r in records))
    return str(folder / 'epoch_2.pth'), distiller.student.eval()


def export(*arguments, python=None):
    return subprocess.run(
        [python or tool_python(), 'tools/model_converters/export_student.py', *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope='module')
def tool():
    """The tool as a module."""
    path = f'{ROOT}/tools/model_converters/export_student.py'
    spec = importlib.util.spec_from_file_location('export_student', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def only(pattern):
    (path,) = glob.glob(str(pattern))
    return path


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    return training_checkpoint(tmp_path_factory.mktemp('tiny') / 'run', TINY)


@pytest.mark.slow
def test_mmpretrain_reads_the_student(tiny, tmp_path):
    checkpoint, student = tiny
    # Here in an interpreter that has imported nothing before.
    done = export(checkpoint, tmp_path / 'student.pth', python=sys.executable)
    assert done.returncode == 0, done.stderr
    path = only(tmp_path / 'student-*.pth')
    contents = torch.load(path)
    assert contents['meta']['classes'] == ['cat', 'dog', 'owl']
    assert contents['meta']['method'] == 'MTKDRL'
    assert contents['meta']['teachers'] == ['large', 'small']
    assert contents['meta']['accuracy'] == {'accuracy/top1': 61.5}
    assert 'MultiTeacherDistiller' in contents['meta']['training_config']
    assert contents['meta']['student_cfg'] == dict(
        model=TINY,
        data_preprocessor=dict(mean=[9.0, 8.0, 7.0], std=[60.0, 61.0, 62.0], to_rgb=True),
    )

    model = get_model(str(tmp_path / 'student.py'), pretrained=path)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), student(images))

    Image.new('RGB', (40, 40), (200, 30, 90)).save(tmp_path / 'photo.png')
    infer = ImageClassificationInferencer(str(tmp_path / 'student.py'), pretrained=path)
    result = infer(str(tmp_path / 'photo.png'))[0]
    assert result['pred_class'] in ('cat', 'dog', 'owl')


@pytest.mark.parametrize(
    ('meta', 'hub', 'by_epoch', 'step'),
    [
        # Checkpoints of this package's runner say how much of the epoch is done.
        (dict(epoch=2, iter=200, progress=dict(images_done=0)), {}, True, 2),
        (dict(epoch=2, iter=299, progress=dict(images_done=990)), {}, True, None),
        (dict(epoch=2, iter=300, progress=dict(images_done=1000)), {}, True, None),
        # Those of mmengine's have the length of the training.
        (dict(epoch=2, iter=200), dict(max_epochs=5, max_iters=500), True, 2),
        (dict(epoch=2, iter=250), dict(max_epochs=5, max_iters=500), True, None),
        (dict(epoch=2, iter=200), {}, True, None),
        (dict(epoch=2), dict(max_epochs=5, max_iters=500), True, None),
        (dict(epoch=0, iter=200), dict(max_epochs=1, max_iters=500), True, None),
        (dict(epoch=0, iter=200), {}, False, 200),
        (dict(epoch=2, iter=299, progress=dict(images_done=990)), {}, False, 299),
        ({}, {}, True, None),
    ],
)
def test_which_validation_is_of_the_same_weights(tool, meta, hub, by_epoch, step):
    cfg = {} if by_epoch else dict(default_hooks=dict(logger=dict(log_metric_by_epoch=False)))
    contents = dict(meta=meta, message_hub=dict(runtime_info=hub))
    assert tool.validated_step(cfg, contents) == step


def test_the_accuracy_is_that_of_the_weights_in_any_folder(tool, tmp_path):
    folder = tmp_path / 'run [lr=0.1]'
    (folder / '1' / 'vis_data').mkdir(parents=True)
    (folder / '1' / 'vis_data' / 'scalars.json').write_text('{"accuracy/top1": 61.5, "step": 2}\n')
    done = dict(meta=dict(epoch=2, iter=200, progress=dict(images_done=0)))
    assert tool.find_accuracy({}, done, str(folder / 'epoch_2.pth')) == {'accuracy/top1': 61.5}
    done['meta'].update(iter=299, progress=dict(images_done=990))
    assert tool.find_accuracy({}, done, str(folder / 'interrupted_iter_299.pth')) == {}


FIRST, SECOND, THIRD = (dict(mean=[x] * 3, std=[60.0] * 3, to_rgb=True) for x in (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ('model', 'top', 'student', 'mean'),
    [
        (None, FIRST, None, 1.0),
        (None, FIRST, SECOND, 1.0),
        (None, None, SECOND, 2.0),
        (THIRD, FIRST, SECOND, 3.0),
        (THIRD, FIRST, None, 3.0),
        (THIRD, None, SECOND, 3.0),
        (None, None, None, None),
    ],
)
def test_the_exported_preprocessing_is_that_of_the_training(tool, model, top, student, mean):
    network = dict(TINY) if student is None else dict(TINY, data_preprocessor=student)
    cfg = Config(dict(model=dict(type='mtkdrl_mm.MultiTeacherDistiller', student=network)))
    if model is not None:
        cfg.model.data_preprocessor = model
    if top is not None:
        cfg.data_preprocessor = top
    # As mmengine's runner builds it.
    arguments = {k: v for k, v in cfg.to_dict()['model'].items() if k != 'type'}
    arguments.setdefault('data_preprocessor', top)
    distiller = MultiTeacherDistiller(**arguments)
    own = distiller.data_preprocessor
    assert (own.mean.flatten().tolist() if own._enable_normalize else None) == (mean and [mean] * 3)
    saved = dict(meta=dict(student_cfg=distiller.student_cfg))
    found = [
        (cfg, tool.trusted_student(cfg)),
        (cfg, tool.found_student(cfg.to_dict(), {}, 'x.pth')),
        (cfg, tool.found_student(cfg.to_dict(), saved, 'x.pth')),
    ]
    if student is None:  # a network that is trained without teachers has no student
        baseline = Config(dict(cfg.to_dict(), model=dict(TINY)))
        if model is not None:
            baseline.model.data_preprocessor = model
        found.append((baseline, tool.trusted_student(baseline)))
        found.append((baseline, tool.found_student(baseline.to_dict(), {}, 'x.pth')))
    for config, parts in found:
        exported = get_model(tool.student_config(config, *parts)).data_preprocessor
        assert exported._enable_normalize == own._enable_normalize
        assert exported.to_rgb == own.to_rgb
        assert mean is None or torch.equal(exported.mean, own.mean)


def test_testing_has_the_classes_of_the_training(tool):
    """mmpretrain takes those of the config, which may be ImageNet's."""
    root = dict(data_root='data/mine')
    plain = Config(
        dict(
            data_preprocessor=dict(num_classes=1000, to_rgb=True),
            test_evaluator=[dict(type='Accuracy', topk=(1, 5))],
            test_dataloader=dict(
                dataset=dict(
                    type='ConcatDataset',
                    datasets=[
                        dict(type='ImageNet', **root),
                        dict(type='CustomDataset', metainfo=dict(classes=('b', 'a')), **root),
                    ],
                )
            ),
        )
    )
    tool.name_classes(plain, [])
    assert plain.data_preprocessor.num_classes == 1000  # nothing is known
    tool.name_classes(plain, ['a', 'b'])
    assert plain.data_preprocessor == dict(num_classes=2, to_rgb=True)
    assert plain.test_evaluator == [dict(type='Accuracy', topk=(1,))]
    imagenet, mine = plain.test_dataloader.dataset.datasets
    assert tuple(imagenet.metainfo.classes) == ('a', 'b')
    assert tuple(mine.metainfo.classes) == ('b', 'a')  # what the user has set
    names = CIFAR10.METAINFO['classes']
    plain = Config(dict(test_dataloader=dict(dataset=dict(type='CIFAR10', **root))))
    tool.name_classes(plain, names)
    assert plain.test_dataloader.dataset == dict(type='CIFAR10', **root)


@pytest.mark.slow
def test_name_holds_the_hash_and_the_same_student_gets_the_same(tiny, tmp_path):
    for name in ('a', 'b'):
        assert export(tiny[0], tmp_path / f'{name}.safetensors').returncode == 0
    first, second = (only(tmp_path / f'{name}-*.safetensors') for name in ('a', 'b'))
    assert first[-20:] == second[-20:]
    with open(first, 'rb') as file:
        assert hashlib.sha256(file.read()).hexdigest()[:8] in first


@pytest.mark.slow
def test_safetensors_of_the_backbone_alone(tiny, tmp_path):
    checkpoint, student = tiny
    done = export(checkpoint, tmp_path / 'backbone.safetensors', '--backbone-only')
    assert done.returncode == 0, done.stderr
    with safe_open(only(tmp_path / 'backbone-*.safetensors'), 'pt') as file:
        assert json.loads(file.metadata()['meta'])['classes'] == ['cat', 'dog', 'owl']
        weights = {key: file.get_tensor(key) for key in file.keys()}
    own = {f'backbone.{k}': v for k, v in student.backbone.state_dict().items()}
    assert weights.keys() == own.keys()
    assert all(torch.equal(weights[key], own[key]) for key in own)
    assert not (tmp_path / 'backbone.py').exists()


@pytest.mark.slow
def test_torchvision_gives_equal_logits(tmp_path, hub, monkeypatch):
    monkeypatch.setenv('HF_TOKEN', hub.write_token)
    checkpoint, student = training_checkpoint(tmp_path / 'run', RESNET)
    flags = ['--format', 'torchvision', '--push-to-hub', 'me/tv']
    done = export(checkpoint, tmp_path / 'tv.pth', *flags)
    assert done.returncode == 0, done.stderr
    assert 'network of torchvision: resnet18\n' in done.stdout
    network = torchvision.models.resnet18(num_classes=3)
    network.load_state_dict(torch.load(only(tmp_path / 'tv-*.pth')))
    # As the card says.
    stored = hub.repos['me/tv']
    files = stored['commits'][stored['refs']['main']]
    loaded = {}
    exec(files['README.md'].decode().split('```python\n')[1].split('```')[0], loaded)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for model in (network, loaded['network']):
            torch.testing.assert_close(model.eval()(images), student(images), rtol=0, atol=1e-5)
    # mmpretrain cannot read these names, so there is no config.
    assert files.keys() == {'pytorch_model.bin', 'README.md'}
    assert not (tmp_path / 'tv.py').exists()


@pytest.mark.parametrize(
    ('suffix', 'form'), [('.pth', 'mmpretrain'), ('.pth', 'torchvision'), ('.safetensors', '')]
)
def test_nothing_is_left_by_a_full_disk(tool, tmp_path, monkeypatch, suffix, form):
    args = argparse.Namespace(out=str(tmp_path / f'student{suffix}'), format=form)
    path, size = tool.save(dict(a=torch.ones(3)), {}, args)
    assert os.path.getsize(path) == size
    os.remove(path)

    def full(handle):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space') as error:
        tool.save(dict(a=torch.ones(3)), {}, args)
    assert error.value.filename == path and os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_full_disk_is_one_sentence(tiny, tmp_path):
    (tmp_path / 'student.py.tmp').symlink_to('/dev/full')
    done = export(tiny[0], tmp_path / 'student.pth')
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert f'"{tmp_path}/student.py" cannot be written: No space left on device' in done.stderr
    assert not (tmp_path / 'student.py.tmp').is_symlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('{run}', 'x.pth', '--format', 'torchvision'), 'it differs from resnet18 in bn1.bias, '),
        (('{other}', 'x.pth'), 'hold the student of its config: head.fc.bias have other shapes'),
        (('{run}', 'x.pth', '--private'), '--private and --license are for --push-to-hub ORG/REPO'),
        (('{run}', 'x.onnx'), 'must end in .pth or .safetensors'),
        (('none.pth', 'x.pth'), 'the file "none.pth" does not exist'),
        (('{weights}', 'x.pth'), 'holds no config'),
    ],
)
def test_bad_input_is_one_sentence(tiny, tmp_path, arguments, message):
    torch.save(dict(state_dict=tiny[1].state_dict()), tmp_path / 'weights.pth')
    contents = torch.load(tiny[0])
    contents['state_dict']['student.head.fc.bias'] = torch.zeros(4)
    torch.save(contents, tmp_path / 'other.pth')
    names = dict(run=tiny[0], weights=tmp_path / 'weights.pth', other=tmp_path / 'other.pth')
    first, out, *rest = (argument.format(**names) for argument in arguments)
    done = export(first, tmp_path / out, *rest)
    assert done.returncode != 0
    assert message in done.stderr and 'Traceback' not in done.stderr


@pytest.mark.slow
def test_the_hub_gets_student_config_and_card(tiny, tmp_path, hub, monkeypatch):
    from huggingface_hub import hf_hub_download

    checkpoint, student = tiny
    monkeypatch.setenv('HF_TOKEN', hub.write_token)
    flags = ['--push-to-hub', 'me/tiny', '--license', 'mit']
    done = export(checkpoint, tmp_path / 's.safetensors', *flags)
    assert done.returncode == 0, done.stderr
    assert f'pushed to the hub: {hub.url}/me/tiny/commit/' in done.stdout
    card = open(hf_hub_download('me/tiny', 'README.md'), encoding='utf-8').read()
    for part in ('license: mit', 'by MTKDRL', '61.50 %', 'ResNet_CIFAR18', '3 classes'):
        assert part in card
    for name in ('large', 'small'):
        assert re.search(rf'\| {name} +\| +unknown \|', card)
    # As the card says, and by the address alone.
    loaded = {}
    exec(card.split('```python\n')[1].split('```')[0], loaded)
    images = torch.randn(2, 3, 32, 32)
    again = get_model(hf_hub_download('me/tiny', 'config.py'), pretrained='hf://me/tiny')
    with torch.no_grad():
        for model in (loaded['model'], again):
            assert torch.equal(model.eval()(images), student(images))
    # Another kind of file takes the place of the first.
    flags = ['--push-to-hub', 'me/tiny', '--backbone-only']
    assert export(checkpoint, tmp_path / 'b.pth', *flags).returncode == 0
    stored = hub.repos['me/tiny']
    files = stored['commits'][stored['refs']['main']]
    assert files.keys() == {'pytorch_model.bin', 'README.md'}


@pytest.mark.slow
def test_pushing_is_checked_before_anything_is_written(tiny, tmp_path, hub):
    one_sentence(
        export(tiny[0], tmp_path / 's.pth', '--push-to-hub', 'me/tiny'),
        '"me/tiny" cannot be pushed to without a token: log in by',
    )
    assert not list(tmp_path.glob('s*'))


def changed(checkpoint, path, **meta):
    """The checkpoint with other entries in its ``meta``; None takes one out."""
    contents = torch.load(checkpoint)
    contents['meta'].update(meta)
    contents['meta'] = {k: v for k, v in contents['meta'].items() if v is not None}
    torch.save(contents, path)
    return path


def one_sentence(done, *parts):
    assert done.returncode != 0 and 'Traceback' not in done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.mark.slow
def test_a_config_in_a_file_is_never_run(tiny, tmp_path):
    text = torch.load(tiny[0])['meta']['cfg']
    marker = tmp_path / 'was_run'
    (tmp_path / 'evilmod.py').write_text(f'open({str(marker)!r}, "w")')
    run = f"__import__('os').system('touch {marker}')"
    system = f"dict(type='os.system', command='touch {marker}')"
    for number, (cfg, message) in enumerate(
        [
            (f'{text}\nx = {run}\n', 'is read as plain values only'),
            (f'import os\n{text}', 'is read as plain values only'),
            (text.replace("type='GlobalAveragePooling'", "type='os.system'"), "'os.system'"),
            (text.replace("dict(type='Accuracy')", system), "'os.system', which is no component"),
            (text.replace("type='ResNet_CIFAR'", "type='TIMMBackbone'"), 'may read further files'),
        ]
    ):
        assert cfg != text
        path = changed(tiny[0], tmp_path / f'{number}.pth', cfg=cfg)
        one_sentence(export(path, tmp_path / 'out.pth'), message)
    # Modules that it would import are just data.
    cfg = text.replace("'mtkdrl_mm',", "'mtkdrl_mm', 'evilmod',")
    assert cfg != text
    path = changed(tiny[0], tmp_path / 'imports.pth', cfg=cfg)
    environment = dict(os.environ, PYTHONPATH=f'{ROOT}:{tmp_path}')
    done = subprocess.run(
        [tool_python(), 'tools/model_converters/export_student.py', path, tmp_path / 's.pth'],
        cwd=ROOT,
        env=environment,
        capture_output=True,
    )
    assert done.returncode == 0 and not marker.exists()


def by_path(tmp_path, checkpoint):
    """A checkpoint whose config names the student's file, which would run code."""
    marker = tmp_path / 'was_run'
    file = tmp_path / 'network.py'
    file.write_text(f'open({str(marker)!r}, "w")\nmodel = {TINY!r}\n')
    text = torch.load(checkpoint)['meta']['cfg']
    cfg = Config.fromstring(text, '.py')
    cfg.model.student = dict(cfg_path=str(file))
    return marker, cfg


@pytest.mark.slow
def test_a_file_that_a_checkpoint_names_is_not_read(tiny, tmp_path):
    marker, cfg = by_path(tmp_path, tiny[0])
    path = changed(tiny[0], tmp_path / 'by_path.pth', cfg=cfg.pretty_text)
    one_sentence(
        export(path, tmp_path / 'out.pth'),
        f'"{path}" contains only the path of its student\'s config. Pass the config of the '
        'training: --config CONFIG.',
    )
    assert not marker.exists()
    # A config that the user passes is executed.
    cfg.dump(tmp_path / 'config.py')
    done = export(path, tmp_path / 'out.pth', '--config', tmp_path / 'config.py')
    assert done.returncode == 0, done.stderr
    assert marker.exists()
    one_sentence(export(path, tmp_path / 'x.pth', '--config', 'no.py'), '"no.py" does not exist')


@pytest.mark.slow
def test_a_distiller_inside_the_student_is_not_built(tiny, tmp_path):
    marker, cfg = by_path(tmp_path, tiny[0])
    inner = dict(cfg.model, type='mtkdrl_mm.MultiTeacherDistiller')
    head = dict(type='LinearClsHead', num_classes=3, in_channels=3)
    cfg.model = dict(type='ImageClassifier', backbone=inner, head=head)
    path = changed(tiny[0], tmp_path / 'inside.pth', cfg=cfg.pretty_text)
    one_sentence(export(path, tmp_path / 'out.pth'), 'which may read further files', '--config')
    assert not marker.exists()


@pytest.mark.slow
def test_the_students_config_in_the_checkpoint_suffices(tiny, tmp_path):
    marker, cfg = by_path(tmp_path, tiny[0])
    distiller = MultiTeacherDistiller(student=dict(TINY), num_classes=3)
    path = changed(
        tiny[0],
        tmp_path / 'whole.pth',
        cfg=cfg.pretty_text,
        student_cfg=distiller.student_cfg,
    )
    done = export(path, tmp_path / 'out.pth')
    assert done.returncode == 0, done.stderr
    assert not marker.exists()
    model = get_model(str(tmp_path / 'out.py'), pretrained=only(tmp_path / 'out-*.pth'))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), tiny[1](images))
    evil = dict(distiller.student_cfg, model=dict(type='os.system', command=f'touch {marker}'))
    path = changed(tiny[0], tmp_path / 'evil.pth', cfg=cfg.pretty_text, student_cfg=evil)
    one_sentence(export(path, tmp_path / 'evil_out.pth'), "names the type 'os.system'")
    assert not marker.exists()


@pytest.mark.slow
def test_only_what_was_asked_for_is_written(tiny, tmp_path):
    cfg = Config.fromstring(torch.load(tiny[0])['meta']['cfg'], '.py')
    cfg.work_dir = str(tmp_path / 'elsewhere')
    cfg.filename = '../../elsewhere.py'
    path = changed(tiny[0], tmp_path / 'run.pth', cfg=cfg.pretty_text)
    (tmp_path / 'out').mkdir()
    assert export(path, tmp_path / 'out' / 's.pth').returncode == 0
    written = sorted(p.name for p in tmp_path.rglob('*') if p.is_file() and p != path)
    assert len(written) == 2 and written[0].startswith('s-') and written[1] == 's.py'


@pytest.mark.slow
def test_the_exported_config_names_no_file_of_before(tiny, tmp_path):
    cfg = Config.fromstring(torch.load(tiny[0])['meta']['cfg'], '.py')
    cfg.model.student.backbone.init_cfg = [
        dict(type='Kaiming', layer=['Conv2d']),
        dict(type='Pretrained', checkpoint='/home/me/x.pth'),
    ]
    path = changed(tiny[0], tmp_path / 'run.pth', cfg=cfg.pretty_text)
    assert export(path, tmp_path / 's.pth').returncode == 0
    exported = Config.fromfile(tmp_path / 's.py')
    assert exported.model.backbone.init_cfg == [dict(type='Kaiming', layer=['Conv2d'])]
