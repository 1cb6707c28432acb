# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Damaged results and logs are named."""

import pytest

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.json_files import read_json_lines, read_json_object


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('', 'Expecting value'),
        ('{"a": 1', 'delimiter'),
        ('[]', 'it holds a list, not an object'),
        ('null', 'it holds a NoneType, not an object'),
        ('{}', 'its "a" is \'None\''),
        ('{"a": "=cmd()"}', 'its "a" is \'=cmd()\''),
        ('{"a": true}', 'its "a" is \'True\''),
        ('[' * 100000, 'recursion'),
    ],
)
def test_objects(tmp_path, text, reason):
    (tmp_path / 'result.json').write_text(text)
    with pytest.raises(InputError) as error:
        read_json_object(str(tmp_path / 'result.json'), dict(a=(int, float)))
    assert str(error.value).startswith(f'"{tmp_path}/result.json" is damaged: ')
    assert reason in str(error.value)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / 'x.json').write_bytes(b'\xff\xfe\x00')
    for read in (read_json_object, read_json_lines):
        with pytest.raises(InputError, match=r'x\.json" is damaged: .*decode'):
            read(str(tmp_path / 'x.json'))


def test_a_whole_object(tmp_path):
    (tmp_path / 'x.json').write_text('{"a": 1.5, "b": [1]}')
    assert read_json_object(str(tmp_path / 'x.json'), dict(a=(int, float))) == dict(a=1.5, b=[1])


def test_lines(tmp_path):
    path = tmp_path / 'scalars.json'
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert read_json_lines(str(path)) == [dict(a=1), dict(a=2)]
    path.write_text('{"a": 1}\n{"a": ')  # killed while it was written
    assert read_json_lines(str(path)) == [dict(a=1)]
    path.write_text('{"a": 1\n{"a": 2}\n')
    with pytest.raises(InputError, match=r'scalars\.json" is damaged: line 1: '):
        read_json_lines(str(path))
    path.write_text('{"a": 1}\n3\n')
    with pytest.raises(InputError, match='line 2 holds a int, not an object'):
        read_json_lines(str(path))
