# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Rows of a comparison, and the descriptions of their configs."""

import hashlib
import os
from dataclasses import replace

import pytest

from mtkdrl_mm.comparison import (
    Combination,
    Row,
    command_line,
    describe,
    list_combinations,
    list_rows,
    outer_variables,
)
from mtkdrl_mm.comparison.rows import parse_options, read_config
from mtkdrl_mm.utils import InputError


def test_a_row_has_options_and_variables(monkeypatch):
    row = Row.parse(['fast', 'a.py', 'optim.lr=1', 'BACKBONE=x=y', 'b.c=d=e'])
    assert row == Row('fast', 'a.py', ('optim.lr=1', 'b.c=d=e'), (('BACKBONE', 'x=y'),))
    for words in (['fast'], ['fast', 'a.py', 'lr']):
        with pytest.raises(
            InputError, match=r'^--row takes NAME CONFIG KEY=VALUE \.\.\., but got "'
        ):
            Row.parse(words)
    monkeypatch.setenv('BACKBONE', 'other')
    monkeypatch.setenv('HOME', '/here')
    environment = row.environment(3)
    assert [environment[key] for key in ('BACKBONE', 'RUN_SEED', 'HOME')] == ['x=y', '3', '/here']
    assert Combination(row, 3, 'hash').folder('runs') == os.path.join('runs', 'fast', 'seed_3')


def test_rows_of_a_command_line(tmp_path):
    first, second = (str(tmp_path / name) for name in ('student_aver.py', 'small.py'))
    for path in (first, second):
        open(path, 'w').close()
    rows = list_rows([first, second], [['other', first, 'a=1']])
    assert [row.name for row in rows] == ['aver', 'small', 'other']
    assert rows[2] == Row('other', first, ('a=1',))
    for configs, words, sentence in (
        ([], [], 'Nothing to compare: name configs, or add rows with --row.'),
        (['gone.py'], [], 'The config file "gone.py" does not exist.'),
        (
            [first],
            [['aver', second]],
            "Two rows have the same name: ['aver', 'aver']. Name them with --row.",
        ),
    ):
        with pytest.raises(InputError) as error:
            list_rows(configs, words)
        assert str(error.value) == sentence


@pytest.mark.parametrize('name', ['', '.', '..', '../out', 'a/b', 'a\\b', 'store', 'jobs', 'a\nb'])
def test_names_that_are_no_folder_of_the_work_dir_are_refused(tmp_path, name):
    config = tmp_path / 'student_.py'
    config.write_text('')
    configs, rows = ([], [[name, str(config)]]) if name else ([str(config)], [])
    with pytest.raises(InputError) as error:
        list_rows(configs, rows)
    assert str(error.value) == (
        f'A row cannot be named "{name}": that is its folder in the work dir, beside "jobs" and '
        '"store". Give another name with --row.'
    )


def test_names_of_many_kinds_are_fine(tmp_path):
    config = tmp_path / 'a.py'
    config.write_text('')
    names = ['a', 'A', 'a|b', 'größer', 'two words', '[x]', 'stored', '...']
    assert [row.name for row in list_rows([], [[name, str(config)] for name in names])] == names


def test_options_that_cannot_be_parsed_are_one_sentence():
    with pytest.raises(InputError, match=r"^Argument --cfg-options: 'nonsense' cannot be parsed"):
        parse_options(['nonsense'])


def test_options_are_read_as_those_of_a_training():
    assert parse_options([]) == {}
    assert parse_options(['a.b=1', 'c=[x, y]', 'd=two words']) == {
        'a.b': 1,
        'c': ['x', 'y'],
        'd': 'two words',
    }


def test_a_config_whose_base_is_gone(tmp_path):
    config = tmp_path / 'student.py'
    config.write_text("_base_ = 'gone.py'")
    with pytest.raises(InputError, match=r'student\.py" cannot be read: ".*/gone\.py", which it'):
        read_config(Row('student', str(config)), 0)


def test_the_description_knows_variables_but_no_seed(settings, tmp_path, monkeypatch):
    config = tmp_path / 'a.py'
    config.write_text("path = '{{$STUDENT:resnet56}}/{{$RUN_SEED:0}}'")
    row = Row('a', str(config))
    monkeypatch.delenv('STUDENT', raising=False)
    default = describe(row, settings())
    monkeypatch.setenv('RUN_SEED', '7')
    assert describe(row, settings()) == default
    monkeypatch.setenv('STUDENT', 'mobilenetv2')
    other = describe(row, settings())
    assert other != default
    monkeypatch.delenv('STUDENT')
    chosen = Row('a', str(config), (), (('STUDENT', 'mobilenetv2'),))
    assert describe(chosen, settings()) == other
    # The environment is as before.
    assert 'STUDENT' not in os.environ and os.environ['RUN_SEED'] == '7'
    with_option = Row('a', str(config), ('resume=1',))
    for_all = settings(cfg_options=('resume=1',))
    assert describe(with_option, settings()) == describe(row, for_all) != default


def test_a_store_is_part_of_the_description(settings, tmp_path):
    config = tmp_path / 'a.py'
    config.write_text("model = dict(teachers=[dict(name='a')])")
    row = Row('a', str(config))
    texts = [
        describe(row, settings()),
        describe(row, settings(store='s', views=2)),
        describe(row, settings(store='s', views=4)),
        describe(row, settings(store='s', views=4, store_flags='--maps full')),
    ]
    assert len(set(texts)) == 4
    # Its path is not.
    assert describe(row, settings(store='t', views=2)) == texts[1]


def test_the_description_knows_which_of_two_options_counts(settings, tmp_path):
    config = tmp_path / 'a.py'
    config.write_text('lr = 1')

    def of(for_all, *own):
        return describe(Row('a', str(config), own), settings(cfg_options=tuple(for_all)))

    # A row's options come after those of all rows.
    assert of(['lr=2'], 'lr=3') == of([], 'lr=3') != of(['lr=3'], 'lr=2')
    assert of(['model.y=1', 'lr=2']) == of(['lr=2', 'model.y=1'])
    assert of(['model.y=1'], 'model=None') == of([], 'model=None')
    assert of(['model.y=1'], 'model.yz=None') != of([], 'model.yz=None')
    # Known from earlier versions, whose results go on to be valid: both options in one hash.
    words = "{'lr': 1}\ncompile=2\nresume=1"
    assert of(['resume=1'], 'compile=2') == hashlib.sha256(words.encode()).hexdigest()[:12]


@pytest.mark.parametrize('key', ['randomness.seed', 'randomness', 'RUN_SEED'])
def test_seeds_are_set_by_the_comparison_only(settings, tmp_path, key):
    config = tmp_path / 'a.py'
    config.write_text('lr = 1')
    row = Row.parse(['fast', str(config), f'{key}=7'])
    reason = f'sets `{key}`, but the seed of every training is one of --seeds: name it there.'
    with pytest.raises(InputError) as error:
        list_combinations([row], [0, 1], settings())
    assert str(error.value) == f'--row fast {reason}'
    if key != 'RUN_SEED':
        with pytest.raises(InputError) as error:
            list_combinations([Row('a', str(config))], [0], settings(cfg_options=(f'{key}=7',)))
        assert str(error.value) == f'--cfg-options {reason}'
    fine = Row('a', str(config), ('randomness.deterministic=True',))
    assert len(list_combinations([fine], [0, 1], settings())) == 2


def test_a_variable_that_no_config_reads_is_refused(settings, tmp_path):
    for name, text in (
        ('a', "n = '{{$NUM_TEACHERS:4}}'; seed = '{{$RUN_SEED:0}}'"),
        ('b', 'n = 0'),
    ):
        (tmp_path / f'{name}.py').write_text(text)

    def names(*words):
        rows = [Row.parse([name, str(tmp_path / config), *rest]) for name, config, *rest in words]
        return [one.row.name for one in list_combinations(rows, [0], settings())]

    with pytest.raises(InputError) as error:
        names(('two', 'a.py', 'NUM_TEACHER=2'))
    assert str(error.value) == (
        f'The row "two" sets NUM_TEACHER, which {tmp_path}/a.py does not read. '
        'Did you mean "NUM_TEACHERS"? Known: "NUM_TEACHERS".'
    )
    assert names(('two', 'a.py', 'NUM_TEACHERS=2')) == ['two']
    # A row without a pool, in a comparison on a pool.
    assert names(('a', 'a.py', 'NUM_TEACHERS=2'), ('b', 'b.py', 'NUM_TEACHERS=2')) == ['a', 'b']
    with pytest.raises(
        InputError, match=r'sets NUM_TEACHERS, which .*b\.py does not read\. Known: '
    ):
        names(('b', 'b.py', 'NUM_TEACHERS=2'))


def test_two_rows_that_are_the_same_training_are_refused(settings, tmp_path):
    (tmp_path / 'inner.py').write_text("n = '{{$INNER:4}}'")
    config = tmp_path / 'a.py'
    config.write_text(f"n = '{{{{$OUTER:4}}}}'; cfg_path = '{tmp_path}/inner.py'")

    def count(*words):
        rows = [Row('plain', str(config)), Row.parse(['other', str(config), *words])]
        return len(list_combinations(rows, [0, 1], settings()))

    for same in ('OUTER=4', 'INNER=4', f'cfg_path={tmp_path}/inner.py'):
        with pytest.raises(InputError) as error:
            count(same)
        assert str(error.value) == (
            'The rows "plain" and "other" are the same training: with their options and variables, '
            'their configs do not differ. Leave one out.'
        )
    assert count('OUTER=5') == count('INNER=5') == count('n=5') == 4


def test_rows_that_differ_in_variables_of_their_files_only_are_refused(settings, tmp_path):
    """The variable of the method is another one, but the model has the same weighting."""
    rows = []
    for name in ('AVER', 'CAMKD'):
        (tmp_path / f'method_{name}.py').write_text(f"weighting = dict(type='{name}')")
        config = tmp_path / f'{name}.py'
        config.write_text(
            f"_base_ = './method_{name}.py'\nmodel = dict(weighting=_base_.weighting)\nown = 1"
        )
        rows.append(Row(name, str(config)))
    assert len(list_combinations(rows, [0], settings())) == 2

    def refused(*options):
        with pytest.raises(InputError) as error:
            list_combinations([rows[0], replace(rows[1], options=options)], [0], settings())
        return str(error.value)

    assert refused('model.weighting.type=AVER').startswith(
        'The rows "AVER" and "CAMKD" are the same training: '
    )
    # An option for the variable would have trained CAMKD.
    assert refused('weighting.type=AVER') == (
        'The row "CAMKD" cannot be trained. "weighting" is a variable that the config file has '
        'already used, so that --cfg-options weighting.type=... would change nothing: set '
        'model.weighting.type.'
    )
    options = ('model.weighting.b=1', 'model.weighting.a=1')
    rows[0] = replace(rows[0], options=options)
    assert 'are the same training' in refused('model.weighting.type=AVER', *options[::-1])
    # What no file uses may be read by a user's own code.
    rows[0] = replace(rows[0], options=())
    rows[1] = replace(rows[1], options=('model.weighting.type=AVER', 'own=2'))
    assert len(list_combinations(rows, [0], settings())) == 2


def test_an_option_that_does_not_fit_a_config_is_refused(settings, tmp_path):
    config = tmp_path / 'a.py'
    config.write_text('model = dict(depth=18)')
    rows = [Row('deep', str(config), ('modle.depth=34',))]
    with pytest.raises(
        InputError, match=r'^The row "deep" cannot be trained\. --cfg-options: .*"modle"'
    ):
        list_combinations(rows, [0], settings())


def test_variables_of_the_process_on_which_trainings_depend(settings, tmp_path, monkeypatch):
    config = tmp_path / 'a.py'
    config.write_text("n = '{{$POOL:weak}}{{$SIZE:4}}{{$NOT_SET:1}}{{$RUN_SEED:0}}'")
    for name, value in dict(POOL='a b', SIZE='5', OTHER='1', RUN_SEED='7').items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv('NOT_SET', raising=False)
    own = Row('own', str(config), (), (('POOL', 'c'),))
    one = list_combinations([own], [0, 1], settings())
    assert outer_variables(one) == {'SIZE': '5'}
    both = list_combinations([own, Row('a', str(config))], [0], settings())
    assert outer_variables(both) == {'POOL': 'a b', 'SIZE': '5'}
    words = ['compare.py', str(config)]
    assert command_line(words, outer_variables(both)) == (
        f"POOL='a b' SIZE=5 python compare.py {config}"
    )
