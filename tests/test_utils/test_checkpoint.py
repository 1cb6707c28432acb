# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Reading files that come from strangers."""

import os
import pickle
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.optim import MultiStepLR

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.checkpoint import (
    allow_mmengine_checkpoints,
    extract_state_dict,
    fetch,
    read_checkpoint,
    summarise,
)

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


def mmengine_checkpoint(path):
    """A checkpoint as mmengine's runner saves it in the middle of a training."""
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
    return contents


def test_training_checkpoints_of_mmengine_are_read(tmp_path):
    expected = mmengine_checkpoint(tmp_path / 'epoch_1.pth')
    contents = read_checkpoint(str(tmp_path / 'epoch_1.pth'), 'teacher "x"')
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


def test_torch_load_reads_them_too_where_it_is_strict(tmp_path):
    if not hasattr(torch.serialization, 'add_safe_globals'):
        pytest.skip('this torch is not strict by default')
    mmengine_checkpoint(tmp_path / 'epoch_1.pth')
    allow_mmengine_checkpoints()
    contents = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)
    assert contents['message_hub']['runtime_info']['best_score'] == 71.5


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


def test_unreachable_url(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    url = 'http://127.0.0.1:9/folder/teacher.pth'
    message = refused(url)
    assert 'cannot be downloaded' in message
    # where to put the file by hand
    assert str(tmp_path / 'hub' / 'checkpoints' / 'teacher.pth') in message
    assert not list(tmp_path.rglob('*.pth*'))


def test_downloaded_file_is_not_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    folder = tmp_path / 'hub' / 'checkpoints'
    folder.mkdir(parents=True)
    torch.save(WEIGHTS, folder / 'teacher.pth')
    read = read_checkpoint('http://127.0.0.1:9/folder/teacher.pth?token=1', 'teacher "x"')
    assert torch.equal(read['weight'], WEIGHTS['weight'])


def test_file_urls_and_local_paths(tmp_path):
    torch.save(WEIGHTS, tmp_path / 'x.pth')
    assert fetch(str(tmp_path / 'x.pth'), 'x') == str(tmp_path / 'x.pth')


def test_torchvision_names():
    with pytest.raises(InputError, match=r'torchvision has no weights "resnet5".*Did you mean'):
        fetch('torchvision://resnet5', 'teacher "x"')


@pytest.mark.parametrize(
    'contents',
    [
        WEIGHTS,
        dict(state_dict=WEIGHTS, meta={}),
        dict(model_state_dict=WEIGHTS),
        dict(model=WEIGHTS, epoch=3),
        {f'module.{k}': v for k, v in WEIGHTS.items()},
        dict(
            state_dict={
                **{f'student.{k}': v for k, v in WEIGHTS.items()},
                'connectors.0.projection.conv.weight': torch.ones(1),
                'weighting.agent.networks.0.0.weight': torch.ones(1),
            }
        ),
        {**WEIGHTS, 'epoch': 3},
    ],
)
def test_weights_are_found(contents):
    weights = extract_state_dict(contents, 'x.pth', 'x')
    assert weights.keys() == WEIGHTS.keys()
    assert all(weights[key] is WEIGHTS[key] for key in WEIGHTS)


@pytest.mark.parametrize('contents', [{}, dict(epoch=3, lr=0.1), dict(state_dict={})])
def test_no_weights(contents):
    with pytest.raises(InputError, match=r'Teacher "x": "x\.pth" holds no weights \(its keys are'):
        extract_state_dict(contents, 'x.pth', 'teacher "x"')


def test_summary_of_keys():
    assert summarise(['a', 'b']) == 'a, b'
    assert summarise(list('abcdef'), most=2) == 'a, b and 4 more'
