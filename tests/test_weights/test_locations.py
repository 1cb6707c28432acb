# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Where weights are, and how they come to this machine."""

import hashlib
import io
import os
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from warm_python import tool_python

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.weights import download, locations
from mtkdrl_mm.weights.checkpoint import read_checkpoint
from mtkdrl_mm.weights.locations import fetch, find_file

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


class Web:
    """A server with files; of a file in ``cut`` it sends the first bytes only."""

    def __init__(self):
        self.files, self.cut, self.requests, self.waits = {}, {}, [], {}
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = web.files[self.path]
                web.requests.append(self.path)
                self.send_response(200)
                self.send_header('Content-Length', str(len(body)))
                self.end_headers()
                self.wfile.write(body[: web.cut.get(self.path, len(body))])
                if self.path in web.waits:
                    web.waits[self.path].wait(60)

            def log_message(self, *args):
                pass

        self.server = HTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @contextmanager
    def silent(self, path):
        """Do not end the response to a request for a file."""
        self.waits[path] = threading.Event()
        try:
            yield
        finally:
            self.waits.pop(path).set()

    def add(self, path, value):
        """Add a file of weights that are all ``value``; return its URL."""
        file = io.BytesIO()
        torch.save(dict(weight=torch.full((1000,), float(value))), file)
        self.files[path] = file.getvalue()
        return self.url + path


@pytest.fixture
def web(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    web = Web()
    yield web
    web.server.shutdown()
    web.server.server_close()


def value(url):
    return read_checkpoint(url, 'teacher "x"')['weight'][0].item()


def test_urls_with_the_same_last_part_are_different_files(web, tmp_path):
    paths = ['/a/model.bin', '/b/model.bin', '/model.bin?id=1', '/model.bin?id=2']
    urls = [web.add(path, number) for number, path in enumerate(paths)]
    for _ in range(2):  # of the web, and of the cache
        assert [value(url) for url in urls] == [0, 1, 2, 3]
    assert web.requests == paths
    folder = tmp_path / 'hub' / 'checkpoints'
    digest = hashlib.sha256(urls[1].encode()).hexdigest()
    # The first has the name that torch gives it.
    assert fetch(urls[0], 'x') == str(folder / 'model.bin')
    assert fetch(urls[1], 'x') == str(folder / f'{digest[:16]}-model.bin')
    assert find_file(f'{web.url}/c/model.bin', 'x') is None
    assert not list(folder.glob('*.tmp'))


def test_a_name_taken_in_the_meantime_is_left_to_its_url(web, monkeypatch):
    first, second = web.add('/a/model.bin', 1), web.add('/b/model.bin', 2)
    decide = locations._local_path

    def decide_before_the_other(url, role):
        path = decide(url, role)
        if url == second:
            monkeypatch.setattr(locations, '_local_path', decide)
            assert value(first) == 1  # another process is faster
        return path

    monkeypatch.setattr(locations, '_local_path', decide_before_the_other)
    assert locations._download(second, 'x') != fetch(first, 'x')
    assert (value(first), value(second)) == (1, 2)


def test_a_download_that_breaks_off_is_not_kept(web, tmp_path):
    url = web.add('/a.pth', 3)
    size = len(web.files['/a.pth'])
    web.cut['/a.pth'] = 100
    with pytest.raises(InputError) as error:
        value(url)
    reason = f'the connection ended after 100 of {size} bytes'
    assert f'"{url}" cannot be downloaded ({reason}).' in str(error.value)
    assert not list(tmp_path.rglob('*.pth')) and not list(tmp_path.rglob('*.tmp'))
    web.cut.clear()
    assert value(url) == 3
    # One that another program has left there is named.
    path = tmp_path / 'hub' / 'checkpoints' / 'a.pth'
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=f'remove "{path}" to download it again'):
        value(url)
    path.unlink()
    assert value(url) == 3


@pytest.mark.parametrize('sent', [0, 1000])
def test_a_server_that_falls_silent_is_given_up(web, tmp_path, monkeypatch, sent):
    """All processes would wait for it for ever, without a word."""
    monkeypatch.setattr(download, 'SECONDS_OF_SILENCE', 0.2)
    url = web.add('/teacher.pth', 1)
    web.cut['/teacher.pth'] = sent
    with web.silent('/teacher.pth'), pytest.raises(InputError, match=r'cannot be downloaded') as e:
        fetch(url, 'teacher "x"')
    assert 'timed out' in str(e.value) and not list(tmp_path.rglob('*.pth*'))
    del web.cut['/teacher.pth']
    assert float(read_checkpoint(url, 'teacher "x"')['weight'][0]) == 1


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
from mtkdrl_mm.weights import locations
def download(url, path):
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
locations.download_file = download
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
