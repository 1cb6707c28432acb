# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Reading files that come from strangers."""

import argparse
import os
import pickle
from collections import Counter, OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner.checkpoint import CheckpointLoader

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.weights.checkpoint import read_checkpoint, read_tensor
from mtkdrl_mm.weights.state_dict import extract_state_dict

WEIGHTS = dict(weight=torch.arange(6.0).view(2, 3), bias=torch.ones(2, dtype=torch.bfloat16))


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f'touch {self.marker}',)


class EvilEval(Evil):
    def __reduce__(self):
        return eval, (f'open({str(self.marker)!r}, "w")',)


def refused(path, role='teacher "x"'):
    with pytest.raises(InputError) as error:
        read_checkpoint(str(path), role)
    message = str(error.value)
    assert message.startswith('Teacher "x"') and str(path) in message
    return message


def test_missing_file_and_folder(tmp_path):
    assert 'does not exist' in refused(tmp_path / 'no.pth')
    assert 'is a folder' in refused(tmp_path)


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('share', [0.0, 0.3, 0.7, 0.99])
def test_truncated_file(tmp_path, zipped, share):
    path = tmp_path / 'part.pth'
    torch.save(dict(weight=torch.randn(100, 100)), path, _use_new_zipfile_serialization=zipped)
    contents = path.read_bytes()
    path.write_bytes(contents[: int(len(contents) * share)])
    assert 'truncated, damaged, or another kind of file' in refused(path)


@pytest.mark.parametrize(
    'contents', [b'<html>404 not found</html>', b'\x89PNG\r\n\x1a\n' + bytes(99), b'hello', b'\x80']
)
def test_other_kinds_of_files(tmp_path, contents):
    path = tmp_path / 'other.pth'
    path.write_bytes(contents)
    assert 'truncated, damaged, or another kind of file' in refused(path)


@pytest.mark.parametrize(('contents', 'kind'), [([1, 2], 'list'), (torch.ones(3), 'Tensor')])
def test_files_without_a_dict(tmp_path, contents, kind):
    torch.save(contents, tmp_path / 'x.pth')
    assert f'holds a {kind}, not a checkpoint' in refused(tmp_path / 'x.pth')


@pytest.mark.parametrize('kind', [Evil, EvilEval])
@pytest.mark.parametrize('form', ['zip', 'legacy', 'plain pickle', 'in a log history'])
def test_code_is_refused_and_not_run(tmp_path, kind, form):
    marker, path = tmp_path / 'was_run', tmp_path / 'evil.pth'
    contents = dict(state_dict=dict(WEIGHTS), extra=kind(marker))
    if form == 'in a log history':  # next to what makes a checkpoint need more than weights
        hub = MessageHub('test_code')
        hub.update_scalar('train/loss', 1.0)
        contents['message_hub'] = hub.state_dict()
    if form == 'plain pickle':
        path.write_bytes(pickle.dumps(contents))
    else:
        torch.save(contents, path, _use_new_zipfile_serialization=form != 'legacy')
    message = refused(path)
    assert not marker.exists()
    if form != 'plain pickle':
        name = 'system' if kind is Evil else 'eval'
        assert 'was refused, because reading it would run code' in message
        assert f'{name} is not plain data' in message
        assert 'weights_only=False' in message  # what to do about it
    # The file does run code when it is read carelessly.
    with open(path, 'rb') as file:
        if form == 'plain pickle':
            pickle.load(file)
        else:
            torch.load(file, weights_only=False)
    assert marker.exists()


class Gadget:
    """Asks for an attribute, as pickled log histories do for their own methods."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return getattr, self.arguments


@pytest.mark.parametrize(
    'arguments',
    [(MessageHub, 'get_instance'), (np.ndarray, 'tofile'), (HistoryBuffer, '__subclasses__')],
)
def test_attributes_of_other_classes_are_refused(tmp_path, arguments):
    torch.save(dict(weight=torch.ones(1), extra=Gadget(*arguments)), tmp_path / 'gadget.pth')
    assert 'is not plain data' in refused(tmp_path / 'gadget.pth')


def test_training_checkpoints_of_mmengine_are_read(mmengine_checkpoint):
    path, expected = mmengine_checkpoint
    contents = read_checkpoint(str(path), 'teacher "x"')
    for key, value in expected['state_dict'].items():
        assert torch.equal(contents['state_dict'][key], value)
    losses, _ = contents['message_hub']['log_scalars']['train/loss'].data
    np.testing.assert_allclose(losses, [1, 1 / 2, 1 / 3])
    assert contents['message_hub']['runtime_info']['best_score'] == 71.5
    assert contents['meta']['seed'] == 7 and contents['meta']['classes'] == ('cat', 'dog')
    np.testing.assert_array_equal(
        contents['param_schedulers'][0]['values'], np.array([0.1, 0.2], dtype=np.float32)
    )
    assert contents['param_schedulers'][1]['milestones'] == Counter({2: 2, 5: 1})
    momentum = contents['optimizer']['state'][0]['momentum_buffer']
    assert torch.equal(momentum, expected['optimizer']['state'][0]['momentum_buffer'])


@pytest.mark.parametrize('zipped', [True, False])
def test_dtypes_and_containers(tmp_path, zipped):
    contents = OrderedDict(
        WEIGHTS,
        half=torch.ones(2, dtype=torch.float16),
        long=torch.arange(3),
        parameter=torch.nn.Parameter(torch.randn(2)),
        size=torch.Size([3, 4]),
        kind=torch.float16,
    )
    torch.save(contents, tmp_path / 'x.pth', _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(str(tmp_path / 'x.pth'), 'x')
    assert read['size'] == (3, 4) and read['kind'] is torch.float16
    for key in ('weight', 'bias', 'half', 'long', 'parameter'):
        assert read[key].dtype == contents[key].dtype
        assert torch.equal(read[key], contents[key])


def test_training_scripts_leftovers_do_not_matter(tmp_path):
    args = argparse.Namespace(lr=0.1, output=tmp_path)
    for zipped in (True, False):
        torch.save(
            dict(model=WEIGHTS, args=args, epoch=3),
            tmp_path / 'deit.pth',
            _use_new_zipfile_serialization=zipped,
        )
        contents = read_checkpoint(str(tmp_path / 'deit.pth'), 'teacher "x"')
        assert contents['epoch'] == 3 and 'args' not in contents
        weights = extract_state_dict(contents, 'deit.pth', 'teacher "x"')
        assert torch.equal(weights['weight'], WEIGHTS['weight'])


def test_the_printed_way_out_works(tmp_path):
    torch.save(dict(model=WEIGHTS, extra=Evil(tmp_path / 'was_run')), tmp_path / 'evil.pth')
    message = refused(tmp_path / 'evil.pth')
    code = message[message.index('c = torch.load') :]
    files = dict(FILE=tmp_path / 'evil.pth', NEW_FILE=tmp_path / 'new.pth')
    exec(code, dict(torch=torch, **files))
    read = read_checkpoint(str(tmp_path / 'new.pth'), 'x')
    assert torch.equal(read['weight'], WEIGHTS['weight'])


LOADERS = {
    '': lambda path, patch: str(path),
    'https://': lambda path, patch: f'https://example.org/a/{path.name}',
    'torchvision://': lambda path, patch: patch('get_torchvision_models', 'torchvision', path),
    'modelzoo://': lambda path, patch: patch('get_torchvision_models', 'modelzoo', path),
    'open-mmlab://': lambda path, patch: patch('get_external_models', 'open-mmlab', path),
    'openmmlab://': lambda path, patch: patch('get_external_models', 'openmmlab', path),
    'mmcls://': lambda path, patch: patch('get_mmcls_models', 'mmcls', path),
}


@pytest.fixture
def address(monkeypatch, tmp_path):
    """Function from a file and a scheme to an address that leads to the file."""

    def table(function, scheme, path):
        models = dict(network=f'https://example.org/{path.name}')
        monkeypatch.setattr(f'mmengine.runner.checkpoint.{function}', lambda: models)
        return f'{scheme}://network'

    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    (tmp_path / 'hub' / 'checkpoints').mkdir(parents=True)
    return lambda scheme, path: LOADERS[scheme](path, table)


def test_no_loader_of_mmengine_is_left():
    """Those of its maintained fork read a refused file again, without protection."""
    assert {loader.__module__ for loader in CheckpointLoader._schemes.values()} == {
        'mtkdrl_mm.weights.checkpoint'
    }


@pytest.mark.parametrize('scheme', LOADERS)
def test_mmengine_reads_plain_data_from_everywhere(tmp_path, address, scheme):
    path = tmp_path / 'hub' / 'checkpoints' / 'network.pth'
    location = address(scheme, path)
    weights = {f'backbone.{k}': v for k, v in WEIGHTS.items()}
    meta = dict(config='import os', epoch=2)
    torch.save(dict(state_dict=weights, meta=meta, args=argparse.Namespace(a=1)), path)
    contents = CheckpointLoader.load_checkpoint(location, map_location='cpu')
    prefix = '' if scheme == 'mmcls://' else 'backbone.'
    assert torch.equal(contents['state_dict'][f'{prefix}weight'], WEIGHTS['weight'])
    if scheme != 'mmcls://':
        assert contents['meta'] == dict(epoch=2)  # mmengine would run `config`

    marker = tmp_path / 'was_run'
    torch.save(dict(state_dict=weights, extra=Evil(marker)), path)
    with pytest.raises(InputError, match='was refused, because reading it would run code'):
        CheckpointLoader.load_checkpoint(location)
    assert not marker.exists()


def test_mmengine_reads_plain_data_from_ceph(monkeypatch, tmp_path):
    marker = tmp_path / 'was_run'
    contents = dict(state_dict=WEIGHTS, meta=dict(config='x'))
    files = {}
    for name, extra in (('good', {}), ('evil', dict(extra=Evil(marker)))):
        torch.save({**contents, **extra}, tmp_path / name)
        files[f's3://bucket/{name}'] = files[f'cluster:s3://bucket/{name}'] = (
            tmp_path / name
        ).read_bytes()
    monkeypatch.setattr(
        'mtkdrl_mm.weights.checkpoint.get_file_backend',
        lambda *args, **kwargs: SimpleNamespace(get=files.__getitem__),
    )
    for location in files:
        if location.endswith('evil'):
            with pytest.raises(InputError, match='would run code'):
                CheckpointLoader.load_checkpoint(location)
        else:
            read = CheckpointLoader.load_checkpoint(location)
            assert torch.equal(read['state_dict']['weight'], WEIGHTS['weight'])
            assert read['meta'] == {}
    assert not marker.exists()


def test_unknown_addresses():
    with pytest.raises(InputError, match=r'addresses with "pavi://" cannot be read'):
        CheckpointLoader.load_checkpoint('pavi://x')
    with pytest.raises(InputError, match=r'mmengine has no weights "resnet5"'):
        CheckpointLoader.load_checkpoint('open-mmlab://resnet5')


def test_map_location(tmp_path):
    contents = dict(state_dict=OrderedDict(WEIGHTS), other=[(torch.ones(2), 1)])
    torch.save(contents, tmp_path / 'x.pth')
    for here in (None, 'cpu', torch.device('cpu'), lambda storage, where: storage):
        read = CheckpointLoader.load_checkpoint(str(tmp_path / 'x.pth'), here)
        assert read['state_dict']['weight'].device.type == 'cpu'
    read = CheckpointLoader.load_checkpoint(str(tmp_path / 'x.pth'), 'meta')
    assert read['state_dict']['weight'].is_meta and read['other'][0][0].is_meta


def test_arrays_of_numpy(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / 'a.npy', array)
    np.testing.assert_array_equal(read_tensor(str(tmp_path / 'a.npy'), 'x').numpy(), array)
    data = (tmp_path / 'a.npy').read_bytes()
    (tmp_path / 'lie.npy').write_bytes(data.replace(b'(2, 3)', b'(9999999999, 3)'))
    (tmp_path / 'cut.npy').write_bytes(data[:-1])
    np.save(tmp_path / 'evil.npy', np.array([Evil(tmp_path / 'was_run')]), allow_pickle=True)
    for name in ('lie', 'cut', 'evil'):
        with pytest.raises(InputError, match=rf'{name}\.npy" cannot be read as a checkpoint'):
            read_tensor(str(tmp_path / f'{name}.npy'), 'x')
    assert not (tmp_path / 'was_run').exists()
