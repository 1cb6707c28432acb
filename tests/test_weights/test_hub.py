# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Weights on the Hugging Face hub, from a local server that speaks its protocol."""

import hashlib
import io
import json
import os
import subprocess
import sys
import time

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import save
from warm_python import tool_python

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.weights.checkpoint import read_checkpoint
from mtkdrl_mm.weights.hub import HubAddress, choose_file
from mtkdrl_mm.weights.locations import fetch, find_digest, find_file

pytest.importorskip('huggingface_hub')

ROLE = 'teacher "x"'
WEIGHTS = {'weight': torch.arange(600.0).view(20, 30), 'bias': torch.ones(2)}


def pickled(contents):
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    return buffer.getvalue()


SAFE = save(WEIGHTS)
PICKLE = pickled({key: value + 1 for key, value in WEIGHTS.items()})


def error_of(location):
    with pytest.raises(InputError) as error:
        read_checkpoint(location, ROLE)
    message = str(error.value)
    assert message.startswith('Teacher "x": ') and '\n' not in message
    return message


@pytest.mark.parametrize(
    ('location', 'address'),
    [
        ('hf://timm/resnet50.a1_in1k', HubAddress('timm/resnet50.a1_in1k')),
        ('hf://o/r/a/b.pth', HubAddress('o/r', 'a/b.pth')),
        ('hf://o/r@v1.0', HubAddress('o/r', None, 'v1.0')),
        ('hf://o/r/b.pth@refs/pr/3', HubAddress('o/r', 'b.pth', 'refs/pr/3')),
        ('hf://o/r@refs/pr/3', HubAddress('o/r', None, 'refs/pr/3')),
        # the form of huggingface_hub's file system
        ('hf://o/r@v1/b.pth', HubAddress('o/r', 'b.pth', 'v1')),
        ('hf://o/r@refs/pr/3/b.pth', HubAddress('o/r', 'b.pth', 'refs/pr/3')),
        ('hf://o/r@my%2Fbranch/b.pth', HubAddress('o/r', 'b.pth', 'my/branch')),
    ],
)
def test_addresses(location, address):
    assert HubAddress.parse(location, ROLE) == address


@pytest.mark.parametrize(
    'location',
    [
        *('hf://', 'hf://resnet50', 'hf://o/', 'hf://o/r/', 'hf://o/r/../x', 'hf://o/r@'),
        *('hf://o/r@a@b', 'hf://o/r@a/f@b', 'hf://-o/r', 'hf://o/r//f', 'hf://o o/r'),
    ],
)
def test_other_addresses_are_refused(location):
    assert f'"{location}" is no address of the Hugging Face hub' in error_of(location)


@pytest.mark.parametrize(
    ('names', 'chosen'),
    [
        (['pytorch_model.bin', 'model.safetensors', 'config.json'], 'model.safetensors'),
        (['pytorch_model.bin', 'other.safetensors'], 'pytorch_model.bin'),
        (['a/net.pth', 'README.md'], 'a/net.pth'),
        (['net.pth', 'net.safetensors'], 'net.safetensors'),
        (['model-00001-of-00002.safetensors', 'model.safetensors.index.json'], None),
        (['x-00001-of-00002.safetensors', 'x.safetensors.index.json', 'x.pt'], None),
    ],
)
def test_choice_of_the_file(names, chosen):
    chosen = chosen or next(name for name in names if name.endswith('.index.json'))
    assert choose_file(names, HubAddress('o/r'), ROLE) == chosen


def test_safetensors_are_preferred_and_come_from_the_cache_afterwards(hub):
    commit = hub.commit('o/net', {'model.safetensors': SAFE, 'pytorch_model.bin': PICKLE})
    assert find_file('hf://o/net', ROLE) is None and find_digest('hf://o/net', ROLE) == ''
    read = read_checkpoint('hf://o/net', ROLE)
    assert all(torch.equal(read[key], WEIGHTS[key]) for key in WEIGHTS)
    path = find_file('hf://o/net', ROLE)
    assert commit in path and path == fetch('hf://o/net', ROLE)
    assert find_digest('hf://o/net', ROLE) == hashlib.sha256(SAFE).hexdigest()
    # Another commit of the branch does not change what a training that goes on reads.
    later = hub.commit('o/net', {'model.safetensors': save({'weight': torch.zeros(2)})})
    hub.requests.clear()
    assert fetch('hf://o/net', ROLE) == path
    assert hub.requests == []
    assert later in fetch(f'hf://o/net@{later}', ROLE)
    assert not hub.downloads('pytorch_model.bin')


def test_revisions_and_files_in_folders(hub):
    old = hub.commit('o/net', {'a/b.pth': PICKLE}, branch='v1')
    hub.commit('o/net', {'a/b.pth': pickled(dict(weight=torch.zeros(999)))})
    for location in ('hf://o/net/a/b.pth@v1', f'hf://o/net@{old}'):
        assert torch.equal(read_checkpoint(location, ROLE)['bias'], WEIGHTS['bias'] + 1)
    assert torch.equal(read_checkpoint('hf://o/net', ROLE)['weight'], torch.zeros(999))


def test_mmengine_reads_the_hub_too(hub):
    hub.commit('o/net', {'student.pth': PICKLE})
    read = CheckpointLoader.load_checkpoint('hf://o/net', map_location='cpu')
    assert torch.equal(read['weight'], WEIGHTS['weight'] + 1)


def test_a_pickle_is_read_as_plain_data(hub, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f'touch {tmp_path / "was_run"}',)

    hub.commit('o/evil', {'pytorch_model.bin': pickled(dict(WEIGHTS, extra=Evil()))})
    message = error_of('hf://o/evil')
    assert '"hf://o/evil" was refused, because reading it would run code' in message
    assert not (tmp_path / 'was_run').exists()


def shards(kind='safetensors', dump=save):
    """An index and its two files."""
    names = {key: f'model-{i + 1:05}-of-00002.{kind}' for i, key in enumerate(WEIGHTS)}
    stem = 'model' if kind == 'safetensors' else 'pytorch_model'
    index = json.dumps(dict(metadata=dict(total_size=2408), weight_map=names)).encode()
    files = {name: dump({key: WEIGHTS[key]}) for key, name in names.items()}
    return {f'{stem}.{kind}.index.json': index, **files}


@pytest.mark.parametrize(('kind', 'dump'), [('safetensors', save), ('bin', pickled)])
def test_weights_in_several_files(hub, kind, dump):
    files = shards(kind, dump)
    hub.commit('o/large', files)
    read = read_checkpoint('hf://o/large', ROLE)
    assert read.keys() == WEIGHTS.keys()
    assert all(torch.equal(read[key], WEIGHTS[key]) for key in WEIGHTS)
    digest = find_digest('hf://o/large', ROLE)
    assert digest == hashlib.sha256(b''.join(files.values())).hexdigest()
    # All files count: another second file is another teacher.
    path = find_file('hf://o/large', ROLE)
    second = path.replace(os.path.basename(path), list(files)[2])
    with open(os.path.realpath(second), 'ab') as file:
        file.write(b'x')
    assert find_digest('hf://o/large', ROLE) not in ('', digest)
    # Without one of them, the weights are not there.
    os.remove(second)
    assert find_file('hf://o/large', ROLE) is None and find_digest('hf://o/large', ROLE) == ''


def test_faults_of_an_index(tmp_path):
    files = shards()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    index, first, second = (tmp_path / name for name in files)
    assert read_checkpoint(str(index), ROLE).keys() == WEIGHTS.keys()
    first.write_bytes(second.read_bytes())
    message = f'lists weight in "{first.name}", which has no such tensor'
    assert message in error_of(str(index))
    first.unlink()
    assert f'lists the file "{first.name}", which is missing' in error_of(str(index))
    for content, part in (
        ('{"weight_map": {"weight": "../../etc/x.bin"}}', 'which is not in the same folder'),
        ('{"weight_map": {"weight": "x.py"}}', 'which is no .safetensors or .bin'),
        ('{"weight_map": {}}', 'its `weight_map` is empty'),
        ('{}', 'it has no `weight_map`'),
        ('[]', 'it has no `weight_map`'),
        ('{', 'is no index of files of weights ('),
    ):
        index.write_text(content)
        with pytest.raises(InputError) as error:
            read_checkpoint(str(index), ROLE)
        assert part in str(error.value) and str(index) in str(error.value)


def test_an_interrupted_download_goes_on_where_it_stopped(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, 'DOWNLOAD_CHUNK_SIZE', 10_000)
    content = save({'weight': torch.arange(50_000.0)})
    hub.commit('o/net', {'model.safetensors': content})
    hub.cuts = [75_000]
    try:
        read = read_checkpoint('hf://o/net', ROLE)
    except InputError as error:  # versions of huggingface_hub differ in what they repeat
        assert 'cannot be downloaded' in str(error) and 'Start again to continue' in str(error)
        assert find_file('hf://o/net', ROLE) is None
        read = read_checkpoint('hf://o/net', ROLE)
    assert torch.equal(read['weight'], torch.arange(50_000.0))
    assert hub.downloads('model.safetensors')[-1] == 'bytes=70000-'
    assert find_digest('hf://o/net', ROLE) == hashlib.sha256(content).hexdigest()


def test_missing_things(hub):
    hub.commit('o/net', {'model.safetensors': SAFE, 'net_a.pth': PICKLE})
    hub.commit('o/two', {'a.pth': PICKLE, 'b.pth': PICKLE})
    hub.commit('o/none', {'README.md': b'hello'})
    assert 'there is no repository' in error_of('hf://o/nothing')
    assert 'has no branch, tag or commit "v9"' in error_of('hf://o/net@v9')
    assert 'has no branch, tag or commit "v9"' in error_of('hf://o/net/net_a.pth@v9')
    message = error_of('hf://o/net/net_b.pth')
    assert 'has no file "net_b.pth". Did you mean "net_a.pth"?' in message
    message = error_of('hf://o/two')
    assert 'has several files of weights (a.pth, b.pth): name one of them, such as' in message
    assert 'such as hf://o/two/a.pth' in message
    assert '"hf://o/none" has no file of weights' in error_of('hf://o/none')


def test_private_and_gated_repositories(hub, monkeypatch):
    for repo in ('o/private', 'o/gated'):
        hub.commit(repo, {'model.safetensors': SAFE})
        hub.readable_by[repo] = 'hf_secret'
    hub.gated.add('o/gated')
    assert 'or it is private' in error_of('hf://o/private')
    for location in ('hf://o/gated', 'hf://o/gated/model.safetensors'):
        message = error_of(location)
        assert f'is gated: accept its terms at {hub.url}/o/gated, and log in' in message
    monkeypatch.setenv('HF_TOKEN', 'hf_secret')
    for repo in ('o/private', 'o/gated'):
        read = read_checkpoint(f'hf://{repo}', ROLE)
        assert torch.equal(read['weight'], WEIGHTS['weight'])


def test_offline(hub, monkeypatch):
    from huggingface_hub import constants

    hub.commit('o/net', {'model.safetensors': SAFE})
    hub.commit('o/pickle', {'net.pth': PICKLE})
    fetch('hf://o/net', ROLE), fetch('hf://o/pickle', ROLE)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    hub.requests.clear()
    assert torch.equal(read_checkpoint('hf://o/net', ROLE)['weight'], WEIGHTS['weight'])
    assert torch.equal(read_checkpoint('hf://o/pickle', ROLE)['weight'], WEIGHTS['weight'] + 1)
    message = error_of('hf://o/other/a.pth@v1')
    assert (
        f'is not in the cache ("{constants.HF_HUB_CACHE}"), and HF_HUB_OFFLINE forbids' in message
    )
    assert ' download o/other a.pth --revision v1` elsewhere' in message
    assert hub.requests == []


def test_a_hub_that_does_not_work(hub, monkeypatch):
    hub.commit('o/pickle', {'net.pth': PICKLE})
    fetch('hf://o/pickle', ROLE)
    hub.error = 500
    for location in ('hf://o/net', 'hf://o/net/net.pth'):
        assert f'"{location}" cannot be downloaded (' in (message := error_of(location))
        assert '500' in message
    # What is in the cache is used.
    assert torch.equal(read_checkpoint('hf://o/pickle', ROLE)['weight'], WEIGHTS['weight'] + 1)


def test_a_hub_that_does_not_answer(hub, monkeypatch):
    monkeypatch.setattr('mtkdrl_mm.weights.hub.SECONDS_OF_SILENCE', 0.2)
    hub.commit('o/net', {'model.safetensors': SAFE})
    hub.silence = 5
    start = time.monotonic()
    message = error_of('hf://o/net')
    assert '"hf://o/net" cannot be downloaded (' in message and 'timed out' in message
    assert time.monotonic() - start < 5


def test_a_pickle_in_the_cache_does_not_hide_safetensors(hub):
    hub.commit('o/net', {'model.safetensors': SAFE, 'pytorch_model.bin': PICKLE})
    fetch('hf://o/net/pytorch_model.bin', ROLE)
    assert fetch('hf://o/net', ROLE).endswith('model.safetensors')


@pytest.mark.parametrize(
    ('cached', 'files', 'chosen'),
    [
        ('model_variant.safetensors', ['model.safetensors'], 'model.safetensors'),
        ('other.safetensors', ['pytorch_model.bin'], 'pytorch_model.bin'),
        ('fp16/model.safetensors', ['model.safetensors'], 'model.safetensors'),
        ('net.safetensors', ['net.pth'], 'net.safetensors'),
    ],
)
def test_the_choice_is_among_the_files_of_the_repository(hub, cached, files, chosen):
    commit = hub.commit('o/net', {cached: SAFE, **dict.fromkeys(files, PICKLE)})
    fetch(f'hf://o/net/{cached}', ROLE)
    path = fetch('hf://o/net', ROLE)
    assert path.endswith(f'{commit}/{chosen}') and path == find_file('hf://o/net', ROLE)


def test_a_cached_variant_is_used_where_the_hub_cannot_be_asked(hub, monkeypatch):
    from huggingface_hub import constants

    hub.commit('o/net', {'model.safetensors': SAFE, 'model_variant.safetensors': SAFE})
    path = fetch('hf://o/net/model_variant.safetensors', ROLE)
    logged = []
    monkeypatch.setattr('mtkdrl_mm.weights.hub.print_log', lambda text, *_: logged.append(text))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert fetch('hf://o/net', ROLE) == path
    assert logged == [f'hf://o/net: the hub cannot be asked for its files, "{path}" is used']


def test_a_later_commit_does_not_change_the_choice(hub):
    commit = hub.commit('o/net', {'net.pth': PICKLE})
    path = fetch('hf://o/net', ROLE)
    hub.commit('o/net', {'model.safetensors': SAFE, 'net.pth': PICKLE})
    assert fetch('hf://o/net', ROLE) == path
    # Unless the commit is gone, as after a repository was made anew.
    del hub.repos['o/net']['commits'][commit]
    assert fetch('hf://o/net', ROLE).endswith('/model.safetensors')


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    message = error_of('hf://o/net')
    assert message.endswith(
        '"hf://o/net" needs huggingface_hub, which is not installed: '
        "pip install 'huggingface_hub>=0.26'"
    )
    assert find_digest('hf://o/net', ROLE) == ''


FETCH = """
import sys
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.weights.locations import find_digest, fetch
try:
    fetch(sys.argv[1], 'teacher')
    print(find_digest(sys.argv[1], 'teacher'))
except InputError as error:
    print(error)
"""


def run_processes(location, count, **environment):
    """The last line of what each of several processes prints that need a file."""
    processes = [
        subprocess.Popen(
            [tool_python(), '-c', FETCH, location],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    return [output.strip().split('\n')[-1] for output in outputs], ''.join(outputs)


@pytest.mark.slow
def test_one_process_downloads_and_the_others_wait(hub):
    hub.commit('o/net', {'model.safetensors': SAFE})
    hub.delay = 2
    lines, log = run_processes('hf://o/net', 3)
    assert lines == [hashlib.sha256(SAFE).hexdigest()] * 3
    assert hub.downloads('model.safetensors') == [None]
    assert log.count('Another process is downloading hf://o/net: waiting for it') == 2
    # With the variable of the environment.
    assert run_processes('hf://o/net', 1, HF_HUB_OFFLINE='1')[0] == lines[:1]
    (line,), _ = run_processes('hf://o/other', 1, HF_HUB_OFFLINE='1')
    assert line.startswith('Teacher: "hf://o/other" is not in the cache (')
