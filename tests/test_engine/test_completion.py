# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The record that a training has ended."""

import errno

import pytest

from mtkdrl_mm.engine import completion
from mtkdrl_mm.engine.completion import forget_completion, is_complete, note_completion


def test_only_the_position_that_was_noted_is_complete(tmp_path):
    assert not is_complete(str(tmp_path), dict(epochs=3))
    note_completion(str(tmp_path), dict(epochs=3))
    assert [p.name for p in tmp_path.iterdir()] == ['completed.json']
    assert is_complete(str(tmp_path), dict(epochs=3))
    assert not is_complete(str(tmp_path), dict(epochs=2))
    assert not is_complete(str(tmp_path), dict(iterations=3))
    for _ in range(2):
        forget_completion(str(tmp_path))
        assert not is_complete(str(tmp_path), dict(epochs=3))


def test_a_damaged_record_is_none(tmp_path):
    (tmp_path / 'completed.json').write_text('{"epochs": ')
    assert not is_complete(str(tmp_path), dict(epochs=3))


def test_other_processes_follow_the_main_one(tmp_path, monkeypatch):
    """Whose machine may have no such work dir."""
    monkeypatch.setattr(completion, 'is_main_process', lambda: False)
    monkeypatch.setattr(completion, 'broadcast_from_main', lambda value: True)
    assert is_complete(str(tmp_path / 'nowhere'), dict(epochs=3))


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EBADF])
def test_a_full_disk_at_the_end_is_only_reported(tmp_path, monkeypatch, number):
    lines = []
    monkeypatch.setattr(completion, 'print_log', lambda text, *a, **k: lines.append(text))

    def fail(*args):
        raise OSError(number, 'what the system says')

    monkeypatch.setattr(completion, 'write_json', fail)
    if number == errno.EBADF:  # a fault of the program
        with pytest.raises(OSError, match='what the system says'):
            note_completion(str(tmp_path), dict(epochs=3))
        return
    note_completion(str(tmp_path), dict(epochs=3))
    assert 'completed.json" cannot be written: ' in lines[0]
    assert lines[0].endswith('If this training is resumed, its last validation will be repeated.')
