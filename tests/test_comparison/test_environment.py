# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Code and machine of a comparison."""

import subprocess

from mtkdrl_mm.comparison.environment import current_commit


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
