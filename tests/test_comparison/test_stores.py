# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Which trainings share a store, and how it is filled."""

import sys

import pytest
from test_teacher_outputs.stores import TENSORS, write_manifests

from mtkdrl_mm.comparison import (
    Combination,
    Row,
    Store,
    add_stored,
    describe,
    fill_stores,
    plan_stores,
    stores,
)
from mtkdrl_mm.comparison.named_files import changed_file
from mtkdrl_mm.utils import InputError

POOL = """
train_dataloader = dict(dataset=dict(data_root='{data}'))
model = dict(teachers=[dict(name=name, checkpoint=name + '{seed}.pth') for name in {names}])
"""


def test_trainings_with_the_same_data_and_teachers_share_a_store(settings, tmp_path):
    def row(name, names, data='data', seed=''):
        config = tmp_path / f'{name}.py'
        config.write_text(POOL.format(names=names, data=data, seed=seed))
        return Row(name, str(config))

    def plan(*rows, seeds=(0, 1)):
        given = [Combination(one, seed, 'hash') for seed in seeds for one in rows]
        found, planned = plan_stores(given, settings(store=str(tmp_path / 'store'), views=2))
        assert [(one.row, one.seed) for one in planned] == [(one.row, one.seed) for one in given]
        sources = [[f'{one.row.name} {one.seed}' for one in store.sources] for store in found]
        return sources, {(one.row.name, one.seed): one.store for one in planned}

    both, one = row('both', ['a', 'b']), row('one', ['a'])
    more, other = row('more', ['a', 'c']), row('other', ['a'], data='other')
    # One run of the tool for each choice of teachers that is new.
    assert plan(one, both, one)[0] == [['one 0', 'both 0']]
    assert plan(both, one, more)[0] == [['both 0', 'more 0']]
    filled, paths = plan(both, other)
    assert filled == [['both 0'], ['other 0']]
    assert paths['both', 0] == paths['both', 1] != paths['other', 0]
    # The same names with other weights.
    by_seed = row('by_seed', ['a'], seed='_{{$RUN_SEED:0}}')
    filled, paths = plan(both, by_seed)
    assert filled == [['both 0'], ['by_seed 0'], ['by_seed 1']]
    assert len(set(paths.values())) == 3
    # Another preprocessing of the student, at either place of a config.
    top, inner = row('top', ['a']), row('inner', ['a'])
    own = 'model.update(data_preprocessor=dict(mean=[2.0]))'
    for one_of_them, more in ((top, ''), (inner, own)):
        with open(one_of_them.config, 'a') as file:
            file.write(f'data_preprocessor = dict(mean=[1.0])\n{more}\n')
    assert plan(one, top, inner)[0] == [['one 0'], ['top 0'], ['inner 0']]
    # Without teachers there is nothing to store.
    plain = tmp_path / 'plain.py'
    plain.write_text(
        "train_dataloader = dict(dataset=dict()); model = dict(type='ImageClassifier')"
    )
    nothing = {('plain', 0): None, ('plain', 1): None}
    assert plan(Row('plain', str(plain))) == ([], nothing)
    # A store that exists is used as it is.
    (tmp_path / 'store' / 'inputs').mkdir(parents=True)
    assert set(plan(both)[1].values()) == {str(tmp_path / 'store')}


def test_a_store_knows_what_follows_from_options(settings, tmp_path):
    config = tmp_path / 'a.py'
    config.write_text(POOL.format(names=['a'], data='data', seed='') + "data_root = 'data'\n")
    rows = [Row('here', str(config)), Row('there', str(config), ('data_root=other',))]
    found, _ = plan_stores([Combination(row, 0, 'hash') for row in rows], settings(store='s'))
    assert len(found) == 2  # of other images
    with pytest.raises(InputError, match=r'^The row "b" .*: model\.teachers\.9\.name does not fit'):
        plan_stores(
            [Combination(Row('b', str(config), ('model.teachers.9.name=x',)), 0, 'hash')],
            settings(store='s'),
        )


def test_configs_without_a_model_or_data(settings, tmp_path):
    empty, no_data = tmp_path / 'empty.py', tmp_path / 'no_data.py'
    empty.write_text('')
    no_data.write_text("model = dict(teachers=[dict(name='a')])")
    one = Combination(Row('empty', str(empty)), 0, 'hash')
    assert plan_stores([one], settings(store='s')) == ([], [one])
    assert len(describe(one.row, settings(store='s'))) == 12
    with pytest.raises(InputError) as error:
        plan_stores([Combination(Row('a', str(no_data)), 0, 'hash')], settings(store='s'))
    assert str(error.value) == (
        f'{no_data} has no `train_dataloader.dataset`, of which --store could keep what the '
        'teachers say.'
    )


@pytest.mark.parametrize(
    ('path', 'fine'),
    [
        ('a b/c-d', True),
        ('a,b', False),
        ('[a]', False),
        ('12', False),
        ("'a'", False),
        ('(a)', False),
    ],
)
def test_the_folder_of_a_store_is_an_option_of_the_trainings(settings, path, fine):
    if fine:
        assert plan_stores([], settings(store=path)) == ([], [])
    else:
        with pytest.raises(InputError, match=r'^--store ".*" cannot be passed to the trainings as'):
            plan_stores([], settings(store=path))


def test_trainings_know_what_their_store_holds(settings, tmp_path):
    """Wherever it is, and again once it is filled; results without that record are fine."""
    config = tmp_path / 'both.py'
    config.write_text(POOL.format(names=['a', 'b'], data='data', seed=''))
    plain = tmp_path / 'plain.py'
    plain.write_text("train_dataloader = dict(dataset=dict()); model = dict(type='A')")
    given = [
        Combination(Row('both', str(config)), 0, 'hash', (('labels.txt', '1'),)),
        Combination(Row('plain', str(plain)), 0, 'hash'),
    ]
    (store,), planned = plan_stores(given, settings(store=str(tmp_path / 'new')))
    assert [one.files for one in planned] == [(('labels.txt', '1'),), ()]
    write_manifests(store.path, 'a', 'b', 'c')
    filled, without = add_stored(planned)
    names = ['inputs', 'a', 'b']
    assert [path for path, _ in filled.files] == [
        'labels.txt',
        *(f'--store/{name}/manifest.json' for name in names),
    ]
    assert without.files == () and add_stored([filled]) == [filled]
    moved = tmp_path / 'moved'
    write_manifests(str(moved), 'a', 'b')
    _, planned = plan_stores(given, settings(store=str(moved)))
    assert planned[0].files == filled.files
    write_manifests(str(moved), 'a', 'b', tensors=TENSORS[:2])  # --maps none
    _, planned = plan_stores(given, settings(store=str(moved)))
    assert changed_file(dict(filled.files), planned[0].files) == '--store/a/manifest.json'
    assert changed_file({'labels.txt': '1'}, planned[0].files) is None


def test_stores_are_filled_by_their_tool(settings, monkeypatch, tmp_path, capsys):
    calls = []

    def run(command, env, stdout):
        calls.append((command, env['RUN_SEED'], env['A']))
        return len(calls) - 1, None

    monkeypatch.setattr(stores, 'run_child', run)
    row = Row('fast', 'config.py', ('b=2',), (('A', 'x'),))
    store = Store('store/1', 'data', dict(a='', b=''), [Combination(row, 3, 'hash')])
    kwargs = dict(work_dir=str(tmp_path / 'runs'), cfg_options=('a=1',), views=2)
    fill_stores([store], settings(store_flags='--maps "full"', **kwargs))
    tool = 'here/tools/store_teacher_outputs.py'
    start = [tool, 'config.py', 'store/1', '--maps', 'full', '--views', '2']
    end = ['--cfg-options', 'a=1', 'b=2']
    assert calls == [([sys.executable, *start, *end], '3', 'x')]
    assert capsys.readouterr().out == '  teachers a, b: stored in store/1, 0 s\n'
    with pytest.raises(InputError) as error:
        fill_stores([store], settings(launch='torchrun -n 2', **kwargs))
    assert calls[1][0] == [
        *('torchrun', '-n', '2', tool, 'config.py', 'store/1', '--views', '2'),
        *('--launcher', 'pytorch', *end),
    ]
    assert str(error.value) == (
        'The outputs of the teachers of fast could not be stored in "store/1"; see above and '
        f'{tmp_path}/runs/store_output.txt.'
    )
