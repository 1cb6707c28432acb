# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Uploads to a local Hugging Face hub."""

import os
import sys

import pytest

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.weights.hub_upload import HubUpload

pytest.importorskip('huggingface_hub')


def files_of(hub, repo):
    stored = hub.repos[repo]
    return stored['commits'][stored['refs']['main']]


def test_one_commit_per_push(hub, monkeypatch, tmp_path):
    monkeypatch.setenv('HF_TOKEN', hub.write_token)
    large = os.urandom(5000)
    (tmp_path / 'net.pth').write_bytes(large)
    upload = HubUpload('team/net', private=True)
    upload.push({'net.bin': str(tmp_path / 'net.pth'), 'README.md': b'# first'}, set(), 'one')
    assert files_of(hub, 'team/net') == {'net.bin': large, 'README.md': b'# first'}
    assert hub.readable_by == {'team/net': hub.write_token}
    url = HubUpload('team/net').push({'README.md': b'# second'}, {'net.bin', 'x'}, 'two')
    assert files_of(hub, 'team/net') == {'README.md': b'# second'}
    assert url == f'{hub.url}/team/net/commit/{hub.repos["team/net"]["refs"]["main"]}'


def error_of(repo='team/net'):
    with pytest.raises(InputError) as error:
        HubUpload(repo)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_what_is_checked_first(hub, monkeypatch):
    from huggingface_hub import constants

    for repo in ('net', 'a/b/c', 'a/b@c', ''):
        assert 'needs the name of a repository, ORG/REPO, but is' in error_of(repo)
    assert 'cannot be pushed to without a token: log in by' in error_of()
    monkeypatch.setenv('HF_TOKEN', 'hf_other')
    assert f'{hub.url} does not let this token write to "team/net" (401)' in error_of()
    hub.error = 500
    assert f'"team/net" cannot be pushed to {hub.url} (' in error_of()
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert 'cannot be pushed to while HF_HUB_OFFLINE is set' in error_of()
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    assert error_of().startswith('--push-to-hub needs huggingface_hub, which is not installed')


def test_a_repository_that_may_not_be_written(hub, monkeypatch):
    monkeypatch.setenv('HF_TOKEN', hub.write_token)
    upload = HubUpload('team/net')
    hub.write_token = 'hf_other'
    with pytest.raises(InputError, match=r'does not let this token write to "team/net" \(403\)'):
        upload.push({'README.md': b''}, set(), 'one')
