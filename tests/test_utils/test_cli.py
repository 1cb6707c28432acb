# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""--cfg-options keep the blanks of paths and names."""

import argparse

import pytest

from mtkdrl_mm.utils.cli import add_common_arguments


@pytest.fixture
def parse():
    """Function that reads --cfg-options."""

    def run(*options):
        parser = argparse.ArgumentParser()
        add_common_arguments(parser)
        return parser.parse_args(['--cfg-options', *options]).cfg_options

    return run


@pytest.mark.parametrize('option', ["model.losses=[dict(type='A', weight=1)]", 'no_equals_sign'])
def test_options_that_cannot_be_read(parse, capsys, option):
    with pytest.raises(SystemExit) as stop:
        parse(option)
    assert stop.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert option[:10] in message and 'cannot be parsed. Use key=value pairs' in message


@pytest.mark.parametrize(
    ('value', 'expected'),
    [
        # mmengine alone makes "trafficlight" of "traffic light".
        ("('traffic light', 'car')", ('traffic light', 'car')),
        ('traffic light,car', ['traffic light', 'car']),
        ('["traffic light"]', ['traffic light']),
        ("('cat','dog')", ('cat', 'dog')),
        ('cat,dog', ['cat', 'dog']),
        ('/mnt/my data/pets', '/mnt/my data/pets'),
        ('/mnt/my  data (old)/x', '/mnt/my  data (old)/x'),
        ('[/a b/c, /d e/f]', ['/a b/c', '/d e/f']),
        ('[(1, 2), ("a b", c)]', [(1, 2), ('a b', 'c')]),
        (' 5 ', 5),
        ('[0.5, 1e-3, True, None]', [0.5, 0.001, True, None]),
        ('a=b c', 'a=b c'),
    ],
)
def test_blanks(parse, value, expected):
    assert parse('a=1', f'key={value}') == {'a': 1, 'key': expected}
