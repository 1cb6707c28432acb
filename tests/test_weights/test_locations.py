# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Where weights are, and how they come to this machine."""

import os
import subprocess

import pytest
import torch
from warm_python import tool_python

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.weights.checkpoint import read_checkpoint
from mtkdrl_mm.weights.locations import fetch

WEIGHTS = dict(weight=torch.arange(6.0).view(2, 3), bias=torch.ones(2, dtype=torch.bfloat16))


def test_unreachable_url(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    url = 'http://127.0.0.1:9/folder/teacher.pth'
    with pytest.raises(InputError) as error:
        fetch(url, 'teacher "x"')
    message = str(error.value)
    assert message.startswith(f'Teacher "x": "{url}"')
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


def test_addresses_without_a_file():
    with pytest.raises(InputError, match='names no file'):
        fetch('https://example.org/..', 'x')


def test_torchvision_names():
    with pytest.raises(InputError, match=r'torchvision has no weights "resnet5".*Did you mean'):
        fetch('torchvision://resnet5', 'teacher "x"')


FETCH = """
import sys, time, torch
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.weights.locations import fetch
calls = []
def download(url, path, progress):
    open(sys.argv[2], 'a').write('x')
    time.sleep(2)
    if sys.argv[1] == 'fails':
        raise OSError('no route')
    if sys.argv[1] == 'dies':
        import os
        if len(open(sys.argv[2]).read()) == 1:
            os.kill(os.getpid(), 9)
    open(path + '.part', 'w').write('done')
    import os; os.replace(path + '.part', path)
torch.hub.download_url_to_file = download
try:
    print(open(fetch('https://example.org/x.pth', 'teacher')).read())
except InputError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ('how', 'downloads', 'lines'),
    [
        ('works', 1, ['done', 'done', 'done']),
        ('fails', 1, ['Teacher: "https://example.org/x.pth" cannot be downloaded (no route).'] * 3),
        ('dies', 2, ['done', 'done']),  # the next one of those that wait goes on
    ],
)
def test_one_process_downloads_and_the_others_wait(tmp_path, how, downloads, lines):
    command = [tool_python(), '-c', FETCH, how, str(tmp_path / 'calls')]
    environment = dict(os.environ, TORCH_HOME=str(tmp_path), LOCAL_RANK='0')
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    ends = [output.strip().split('\n')[-1] for output in outputs]
    assert (tmp_path / 'calls').read_text() == 'x' * downloads
    assert sum(end.startswith(lines[0]) for end in ends) == len(lines)
