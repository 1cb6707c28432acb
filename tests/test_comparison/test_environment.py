# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Code and machine of a comparison."""

import subprocess

from mtkdrl_mm.comparison.environment import command_line, current_commit


def test_the_commit_of_a_repository(tmp_path):
    assert current_commit(str(tmp_path)) == 'unknown'

    def git(*words):
        author = ('-c', 'user.name=a', '-c', 'user.email=a@b')
        done = subprocess.run(
            ['git', *author, *words], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    git('init')
    (tmp_path / 'tools').mkdir()
    (tmp_path / 'tools' / 'a.py').write_text('1')
    git('add', '.')
    git('commit', '-m', 'a')
    commit = git('rev-parse', '--short', 'HEAD')
    assert current_commit(str(tmp_path)) == commit
    (tmp_path / 'tools' / 'a.py').write_text('2')
    assert current_commit(str(tmp_path)) == f'{commit}+'


def test_a_machine_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert current_commit(str(tmp_path)) == 'unknown'


def test_a_tool_is_named_from_the_current_folder(tmp_path, monkeypatch):
    """A table that is published must not name the folders of the machine."""
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    inside, outside = tmp_path / 'here' / 'tools' / 'a.py', tmp_path / 'b.py'
    assert command_line([str(inside), '--out', 'x y']) == "python tools/a.py --out 'x y'"
    assert command_line(['tools/a.py']) == 'python tools/a.py'
    assert command_line([str(outside)]) == f'python {outside}'
