# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What is said of wrong names and numbers."""

import pytest

from mtkdrl_mm.engine.hooks import AgentHook
from mtkdrl_mm.models import JointAgent, MultiTeacherDistiller
from mtkdrl_mm.models.losses import FeatureMSE
from mtkdrl_mm.utils import InputError, check_flag, check_number, near_matches
from mtkdrl_mm.utils.errors import capitalized, check_config_file, first_line, summarise

KNOWN = ['AVER', 'MTKDRL', 'CAMKD', 'MMKD']


@pytest.mark.parametrize(
    ('name', 'hint'),
    [
        ('aver', 'Did you mean "AVER"?'),
        ('MTKD-RL', 'Did you mean "MTKDRL"'),
        ('CA-MKD', 'Did you mean "CAMKD"'),
    ],
)
def test_near_matches_come_first(name, hint):
    message = near_matches(name, KNOWN)
    assert message.startswith(hint)
    assert message.endswith('Known: "AVER", "CAMKD", "MMKD", "MTKDRL".')


def test_no_guess_where_nothing_is_near():
    assert near_matches('xyz', KNOWN) == 'Known: "AVER", "CAMKD", "MMKD", "MTKDRL".'


def test_a_missing_config_is_told_with_files_of_similar_names(tmp_path, monkeypatch):
    for name in ('r18_imagenet.py', 'r18_imagenet_stacking.py', 'r18_imagenet.txt', 'README.py'):
        (tmp_path / name).touch()
    check_config_file(str(tmp_path / 'r18_imagenet.py'))
    start = 'The config file "{}" does not exist.'
    missing = str(tmp_path / 'r18_imagenet_stack.py')
    with pytest.raises(InputError) as error:
        check_config_file(missing)
    assert str(error.value) == start.format(missing) + (
        f' Did you mean "{tmp_path}/r18_imagenet_stacking.py" or "{tmp_path}/r18_imagenet.py"?'
    )
    monkeypatch.chdir(tmp_path)
    for path, hint in [
        ('READM.py', ' Did you mean "README.py"?'),
        ('xyz.py', ''),
        ('gone/r18_imagenet.py', ''),
    ]:
        with pytest.raises(InputError) as error:
            check_config_file(path)
        assert str(error.value) == start.format(path) + hint


@pytest.mark.parametrize(
    ('value', 'kwargs'),
    [(0, {}), (2.5, {}), (1e-9, dict(exclusive=True)), (3, dict(minimum=3, maximum=3))],
)
def test_numbers_in_range(value, kwargs):
    assert check_number('alpha', value, **kwargs) is value


@pytest.mark.parametrize(
    ('value', 'kwargs', 'message'),
    [
        (-1, {}, '`alpha` must be at least 0, but is -1'),
        (0, dict(exclusive=True), '`alpha` must be greater than 0, but is 0'),
        (101, dict(maximum=100), '`alpha` must be at least 0 and at most 100, but is 101'),
        (-1, dict(maximum=100), 'at most 100, but is -1'),
        (1.5, dict(minimum=2), 'at least 2, but is 1.5'),
        (float('nan'), {}, 'must be a finite number, but is nan'),
        (float('inf'), {}, 'must be a finite number, but is inf'),
        ('3', {}, "must be a finite number, but is '3'"),
        (None, {}, 'must be a finite number, but is None'),
        (True, {}, 'must be a finite number, but is True'),
    ],
)
def test_numbers_out_of_range(value, kwargs, message):
    with pytest.raises(InputError, match=message):
        check_number('alpha', value, **kwargs)


def test_sentences_begin_with_a_capital_letter():
    assert capitalized('teacher "r50"') == 'Teacher "r50"'
    assert capitalized('the student of CIFAR') == 'The student of CIFAR'
    assert capitalized('') == ''


def test_summary_of_names():
    assert summarise(['a', 'b']) == 'a, b'
    assert summarise(list('abcdef'), most=2) == 'a, b and 4 more'
    assert summarise(['a\x1b[2J']) == "'a\\x1b[2J'"  # nothing that a terminal would obey


def test_first_line_of_an_error():
    assert first_line(RuntimeError('\n  sizes differ.  \nat line 3')) == 'sizes differ'
    assert first_line(KeyError()) == 'KeyError'
    assert len(first_line(ValueError('a' * 1000))) == 200


def test_flags_are_true_or_false():
    assert check_flag('relative', True) is True and check_flag('relative', False) is False
    for value in ('False', 'no', 0, 1, None):
        with pytest.raises(InputError) as error:
            check_flag('relative', value)
        assert str(error.value) == f'`relative` must be True or False, but is {value!r}.'


@pytest.mark.parametrize(
    'build',
    [
        lambda value: FeatureMSE(relative=value),
        lambda value: JointAgent([3, 3], standardize=value),
        lambda value: AgentHook(discount_memorised=value),
        lambda value: MultiTeacherDistiller(student={}, token_maps=value),
        lambda value: MultiTeacherDistiller(student={}, channels_last=value),
    ],
)
def test_flags_of_public_classes(build, monkeypatch):
    """Any text would count as True, 'False' too."""
    with pytest.raises(InputError, match='must be True or False'):
        build('False')
