# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Results of trainings, whose files may be damaged."""

import json

import pytest

from mtkdrl_mm.comparison import Run
from mtkdrl_mm.utils import InputError

# As versions before this one wrote it, without commit, config and the metric's name.
RESULT = dict(
    method='aver',
    seed=0,
    metric=61.5,
    seconds=3.0,
    seconds_per_epoch=1.5,
    peak_mib=100,
    curves={'teacher_weight/logit/a': [[1, 0.5], [2, 0.5]]},
    class_weights=None,
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / 'result.json'


def test_a_result_is_written_and_read(file):
    file.write_text(json.dumps({**RESULT, 'of another version': 1}))
    run = Run.read(str(file))
    assert run == Run(**RESULT) and run.commit is run.config is run.metric_name is None
    new = dict(commit='abc', config='hash', metric_name='accuracy/top1', files={'a.pth': '1f'})
    new.update(device='CPU, 2 cores', versions='torch 2.1.2')
    run = Run(**{**RESULT, **new})
    run.write(str(file))
    assert json.loads(file.read_text()) == {**RESULT, **new}
    assert Run.read(str(file)) == run


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('[]', 'it holds a list'),
        ('{"config": 1', 'delimiter'),
        ('{"accuracy/top1": "=cmd()"}', 'its "method"'),
        ('null', 'it holds a NoneType'),
        (json.dumps({**RESULT, 'metric': '61'}), 'its "metric" is'),
        (
            json.dumps({**RESULT, 'curves': {'teacher_weight/logit/a': [1, 2]}}),
            '"curves" are no pairs',
        ),
        (json.dumps({**RESULT, 'curves': {'teacher_weight/logit/a': 3}}), ''),
        (json.dumps({**RESULT, 'class_weights': dict(logit=[[1.0]], teachers=[])}), 'no table'),
        (json.dumps({**RESULT, 'class_weights': dict(teachers=[])}), 'logit'),
    ],
)
def test_a_damaged_result_is_named(file, text, reason):
    file.write_text(text)
    with pytest.raises(InputError) as error:
        Run.read(str(file))
    assert str(error.value).startswith(f'"{file}" is damaged: ') and reason in str(error.value)
