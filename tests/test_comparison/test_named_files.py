# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The files on which a result depends."""

import hashlib
import os

import pytest
from mmengine.config import Config
from test_teacher_outputs.stores import TENSORS, write_manifests

from mtkdrl_mm.comparison import Row, describe, list_combinations
from mtkdrl_mm.comparison.named_files import changed_file, named_files, read_variables


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_files_at_any_key(tmp_path):
    (tmp_path / 'data' / 'meta').mkdir(parents=True)
    texts = {'weights.pth': 'w', 'data/meta/train.txt': 'a 0', 'classes.txt': 'a'}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    weights, labels, classes = (str(tmp_path / name) for name in texts)
    dataset = dict(data_root=str(tmp_path / 'data'), ann_file='meta/train.txt', data_prefix='meta')
    config = Config(
        dict(
            model=dict(teachers=[dict(checkpoint=weights, class_map=classes)], type='gone.pth'),
            train_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=dataset)),
            bad='\0',
        )
    )
    assert named_files(config) == {
        weights: sha256('w'),
        labels: sha256('a 0'),
        classes: sha256('a'),
    }
    # A file is read again when it has changed.
    (tmp_path / 'weights.pth').write_text('other')
    assert named_files(config)[weights] == sha256('other')


def test_configs_of_networks_and_what_they_name(tmp_path, monkeypatch):
    base, student, weights = (tmp_path / name for name in ('base.py', 'student.py', 'w.pth'))
    base.write_text("model = dict(depth='{{$DEPTH:18}}')")
    student.write_text(f"_base_ = 'base.py'\nmodel = dict(init_cfg=dict(checkpoint='{weights}'))")
    weights.write_text('w')
    config = Config(dict(model=dict(student=dict(cfg_path=str(student)))))
    first = named_files(config)
    assert list(first) == [str(student), str(weights)] and first[str(weights)] == sha256('w')
    monkeypatch.setenv('DEPTH', '34')
    second = named_files(config)
    assert second[str(student)] != first[str(student)]
    assert 'mmpretrain::resnet/resnet18_8xb32_in1k.py' in named_files(
        Config(dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py'))
    )
    # What cannot be read, the training names.
    student.write_text("_base_ = 'gone.py'")
    monkeypatch.setenv('DEPTH', '50')
    assert named_files(config) == {}


@pytest.fixture
def row(tmp_path):
    checkpoint = tmp_path / 'teacher_{{$RUN_SEED:0}}.pth'
    config = tmp_path / 'student.py'
    config.write_text(
        f"model = dict(teachers=[dict(name='a', checkpoint='{checkpoint}', student='s.py')])"
    )
    return Row('student', str(config))


def test_a_teacher_trained_again_is_another_one(settings, row, tmp_path):
    for seed in (0, 1):
        (tmp_path / f'teacher_{seed}.pth').write_text(str(seed))

    def descriptions():
        found = list_combinations([row], [0, 1], settings())
        assert [one.seed for one in found] == [0, 1]
        assert [describe(row, settings(), seed) for seed in (0, 1)] == [
            one.description for one in found
        ]
        return [one.files for one in found]

    first = descriptions()
    assert len(set(first)) == 2 and descriptions() == first
    assert first[0] == ((str(tmp_path / 'teacher_0.pth'), sha256('0')),)
    (tmp_path / 'teacher_1.pth').write_text('trained again')
    second = descriptions()
    assert second[0] == first[0] and second[1] != first[1]


READ = "__import__('os').environ['RUN_SEED']"  # mmengine imports `os` only beside a `_base_`


@pytest.mark.parametrize(
    ('outer', 'inner'),
    [
        (f"w = '{{here}}/' + {READ} + '.pth'", ''),
        ("cfg_path = '{here}/inner.py'", "w = '{here}/{{$RUN_SEED:0}}.pth'"),
        ("cfg_path = '{here}/inner.py'", "_base_ = '{here}/base.py'"),
        ('from mmengine.config import read_base\nwith read_base():\n    from .base import *', ''),
    ],
    ids=['os.environ', 'cfg_path', 'base of cfg_path', 'read_base'],
)
def test_the_files_of_a_seed_are_its_own(settings, tmp_path, outer, inner):
    """Wherever the config reads it; they were those of the first seed."""
    base = f"w = '{{here}}/' + {READ} + '.pth'"
    for name, text in dict(base=base, inner=inner, outer=outer).items():
        (tmp_path / f'{name}.py').write_text(text.replace('{here}', str(tmp_path)))
    for seed in (0, 1):
        (tmp_path / f'{seed}.pth').write_text(str(seed))
    row = Row('a', str(tmp_path / 'outer.py'))

    def weights(*seeds):
        found = [dict(one.files) for one in list_combinations([row], seeds, settings())]
        return [{path: of[path] for path in of if path.endswith('.pth')} for of in found]

    first = weights(0, 1)
    assert first == [{str(tmp_path / f'{seed}.pth'): sha256(str(seed))} for seed in (0, 1)]
    assert weights(1) == first[1:]
    (tmp_path / '1.pth').write_text('trained again')
    assert changed_file(first[1], weights(0, 1)[1].items()) == str(tmp_path / '1.pth')


def test_options_may_name_the_file(settings, row, tmp_path):
    other = tmp_path / 'other.pth'
    other.write_text('a')
    row = Row('student', row.config, (f'model.teachers.0.checkpoint={other}',))
    (found,) = list_combinations([row], [0], settings())
    assert found.files == ((str(other), sha256('a')),)


def test_rows_without_a_seed_in_their_config_are_read_once(settings, tmp_path, monkeypatch):
    from mtkdrl_mm.comparison import rows

    config = tmp_path / 'a.py'
    config.write_text('model = dict(depth=18)')
    read = []
    inner = rows.read_config_file
    monkeypatch.setattr(rows, 'read_config_file', lambda path: read.append(path) or inner(path))
    rows_ = [Row('a', str(config)), Row('b', str(config), ('model.depth=34',))]
    found = list_combinations(rows_, [3, 4], settings())
    assert [(one.row.name, one.seed) for one in found] == [
        ('a', 3),
        ('b', 3),
        ('a', 4),
        ('b', 4),
    ]
    assert len({one.description for one in found}) == 2 and len(read) == 2

    assert 'RUN_SEED' not in os.environ


def test_only_what_reads_the_seed_is_read_for_each(settings, tmp_path, monkeypatch):
    """The record of earlier versions, under the bare path, is that of their first seed."""
    from mtkdrl_mm.comparison import named_files as module
    from mtkdrl_mm.comparison import rows

    config, by_seed, plain = (str(tmp_path / f'{name}.py') for name in ('a', 'by_seed', 'plain'))
    texts = {
        config: f"teachers = [dict(cfg_path='{by_seed}'), dict(cfg_path='{plain}')]",
        by_seed: "depth = '{{$RUN_SEED:0}}'",
        plain: 'depth = 18',
    }
    for path, text in texts.items():
        with open(path, 'w') as file:
            file.write(text)
    read = []

    def count(name, module, argument):
        inner = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args: read.append(args[argument]) or inner(*args))

    count('read_config_file', rows, 0)
    count('read_network_file', module, 0)
    found = list_combinations([Row('a', config)], range(5), settings())
    assert [read.count(path) for path in (config, by_seed, plain)] == [1, 1 + 5, 1]
    assert len({one.description for one in found}) == 1
    files = [dict(one.files) for one in found]
    for seed, each in enumerate(files):
        assert list(each) == [f'{by_seed} with RUN_SEED={seed}', plain]
        earlier = {by_seed: files[0][f'{by_seed} with RUN_SEED=0'], plain: each[plain]}
        assert changed_file(earlier, each.items()) is None
    assert len({*files[0].values(), *files[1].values()}) == 3


def test_the_variables_that_a_config_reads(tmp_path):
    (tmp_path / 'base.py').write_text("pool = '{{$POOL:weak}}'")
    (tmp_path / 'teacher.py').write_text("depth = {{'$DEPTH:18'}}")
    config = tmp_path / 'student.py'
    config.write_text(
        "_base_ = 'base.py'\nimport os\nimage = '{{ fileBasename }}'  # NOT_THIS\n"
        "a, b = os.environ.get('GOT', '0'), os.getenv('ASKED')\nnames = ['OTHERWISE']\n"
        f"model = dict(teachers=[dict(cfg_path='{tmp_path}/teacher.py')])\n"
    )
    config = Config.fromfile(str(config))
    asked = {'POOL', 'DEPTH', 'GOT', 'ASKED'}
    assert read_variables(config) == asked
    assert read_variables(config, behind_paths=False) == asked - {'DEPTH'}
    assert read_variables(config, ['OTHERWISE', 'NOT_THIS', 'POOL']) == asked | {'OTHERWISE'}


def test_what_a_training_reads_from_a_store(settings, tmp_path):
    """It is not what else the store holds, nor the form of its files."""
    root = str(tmp_path / 'store')
    names = "model = dict(teachers=[dict(name='a'), dict(name='b')], teacher_outputs={})"
    configs = dict(
        whole=names.format(f'{root!r}'),
        two_views=names.format(f'dict(root={root!r}, first_views=2)'),
        agent=names.format(f'{root!r}') + '\nheld_out_dataloader = dict()',
        writes=names.format(f'dict(root={root!r}, views=2, write=True)'),
        runs=names.format('dict(views=2)'),
        alone=f'model = dict(teacher_outputs={root!r})',
    )
    for name, text in configs.items():
        (tmp_path / f'{name}.py').write_text(text)

    def files(name='whole', **kwargs):
        row = Row(name, str(tmp_path / f'{name}.py'))
        (one,) = list_combinations([row], [0], settings(**kwargs))
        return dict(one.files)

    def path(*folders):
        return os.path.join(root, *folders, 'manifest.json')

    assert files() == {}  # it is not there, which the training says
    write_manifests(root, 'a', 'b')
    first, two_views = files(), files('two_views')
    assert set(first) == {path('inputs'), path('a'), path('b')}
    for other in ('writes', 'runs', 'alone'):
        assert files(other) == {}
    assert files(store='other') == {}  # which the training reads instead
    # With one more teacher, and images of an agent, of which this training reads nothing.
    write_manifests(root, 'a', 'b', 'c')
    write_manifests(os.path.join(root, 'held_out'), 'a', 'b', 'c')
    assert files() == first
    held_out = {path('held_out', name) for name in ('inputs', 'a', 'b')}
    assert set(files('agent')) == {*first, *held_out}
    # Stored again: more views, less of them.
    write_manifests(root, 'a', 'b', num_views=4)
    assert changed_file(first, files().items()) == path('inputs')
    assert files('two_views') == two_views
    write_manifests(root, 'a', 'b', tensors=TENSORS[:2])
    assert changed_file(first, files().items()) == path('a')
    (tmp_path / 'store' / 'a' / 'manifest.json').write_text('{}')  # damaged
    assert set(files()) == {path('inputs'), path('b')}


def test_the_number_of_processes_counts(settings, row):
    eight = settings(launch='torchrun --nproc_per_node=8')
    assert describe(row, settings()) != describe(row, eight)


def test_what_has_changed():
    before = dict(a='1', b='2')
    assert changed_file(before, [('a', '1'), ('c', '3')]) is None  # gone, and new
    assert changed_file(before, [('a', '1'), ('b', '3')]) == 'b'
    assert changed_file({}, [('b', '3')]) is None
