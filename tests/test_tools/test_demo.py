# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What the demo takes over from an earlier run."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from mtkdrl_mm.utils import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def demo(monkeypatch):
    """The tool, as a module."""
    spec = importlib.util.spec_from_file_location('demo', ROOT / 'tools' / 'demo.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(ROOT)
    return module


def test_a_result_of_another_config_is_refused(demo, tmp_path, capsys):
    short = dict(epochs=2, task_epochs=1, task_images=None)
    args = SimpleNamespace(work_dir=str(tmp_path), seed=0, **short)
    config = demo.describe('student_aver', demo.options_of('student_aver', args))
    folder = tmp_path / 'aver' / 'seed_0'
    folder.mkdir(parents=True)
    result = folder / 'result_2_epochs.json'
    result.write_text(json.dumps(dict(seconds=7.5, config=config)))
    assert demo.train('student_aver', args) == 7.5
    assert 'student_aver: exists' in capsys.readouterr().out
    # A method whose config has changed, or whose folder came from another seed.
    folder.rename(tmp_path / 'aver' / 'seed_1')
    args.seed = 1
    message = r'aver/seed_1 holds a training of another version of configs/demo/student_aver\.py'
    with pytest.raises(InputError, match=message):
        demo.train('student_aver', args)
