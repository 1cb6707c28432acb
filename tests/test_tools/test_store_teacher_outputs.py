# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The parts of the tool that fills a store: its settings, tables, and what it finds out."""

import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_teacher_outputs.stores import contents, manifest, specs, write_store

from mtkdrl_mm.teacher_outputs import (
    StoreReader,
    StoreWriter,
    TeacherOutputsSettings,
    TensorSpec,
    teacher_folder,
)
from mtkdrl_mm.utils import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def tool():
    path = ROOT / 'tools' / 'store_teacher_outputs.py'
    spec = importlib.util.spec_from_file_location('store_teacher_outputs', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def parse(tool, monkeypatch):
    """Function that parses a command line, without the config."""

    def run(line):
        monkeypatch.setattr(sys, 'argv', ['tool', 'config.py', *line.split()])
        return tool.parse_args()

    return run


# -- Settings -----------------------------------------------------------------------------------


def test_settings_of_a_new_store(tool, parse, tmp_path):
    read = tool.read_settings
    store = str(tmp_path / 'new')
    assert read(parse(f'{store} --views 8')) == TeacherOutputsSettings(
        root=store, views=8, write=True
    )
    line = (
        f'{store} --views 2 --seed 3 --logits float32 --embeddings projected '
        '--embedding-channels 5 --maps projected --map-channels 7'
    )
    assert read(parse(line)) == TeacherOutputsSettings(
        root=store,
        views=2,
        seed=3,
        write=True,
        logits='float32',
        embeddings='projected',
        embedding_channels=5,
        maps='projected',
        map_channels=7,
    )
    assert not os.path.exists(store)


@pytest.mark.parametrize(
    ('line', 'sentence'),
    [
        ('--launcher local', '--launcher local needs --jobs, the number of processes.'),
        ('--jobs 2', '--jobs needs --launcher slurm or local.'),
        ('--jobs 2 --launcher pytorch', '--jobs needs --launcher slurm or local.'),
        ('--time 5 --launcher slurm', '--time belongs to jobs: add --launcher slurm or local.'),
        (
            '--jobs 2 --launcher slurm --check',
            '--check and --dry-run run in this process: leave out --jobs.',
        ),
    ],
)
def test_flags_of_jobs_that_do_not_fit(parse, line, sentence):
    with pytest.raises(InputError) as error:
        parse(f'store {line}')
    assert str(error.value) == sentence


@pytest.fixture
def submit(tool, parse, monkeypatch, tmp_path, capsys):
    """Function that submits jobs that end with these exit codes; returns them, and the output."""

    def run(line, *codes):
        submitted = []

        def run_jobs(jobs, settings, on_end):
            submitted.extend(jobs)
            for index, (job, code) in enumerate(zip(jobs, codes, strict=True)):
                log = tmp_path / f'{index}.out'
                log.write_text(f'Error: Job {index} has no memory.\n')
                job.write_outcome(exit_code=code)
                on_end(index, str(log))

        monkeypatch.setattr(tool, 'run_jobs', run_jobs)
        config = SimpleNamespace(work_dir=str(tmp_path / 'work'))
        monkeypatch.setattr(tool, 'load_config', lambda args: config)
        monkeypatch.setattr(tool, 'check_data', lambda cfg, loaders: None)
        tool.submit(parse(line))
        return submitted, capsys.readouterr().out

    return run


def test_jobs_run_the_same_command_without_their_flags(submit, tool):
    line = 'a_store --views 2 --launcher local --gpus-per-node 0 --jobs 2 --teachers a b'
    (job, _), output = submit(f'{line} --cfg-options x=1 y=2', 0, 0)
    words = 'config.py a_store --views 2 --teachers a b --cfg-options x=1 y=2'.split()
    assert job.command == [sys.executable, str(Path(tool.__file__)), *words]
    assert output.endswith('"a_store" is complete.\n')


def test_dead_jobs_are_reported_and_the_others_complete_the_store(submit, tmp_path):
    _, output = submit('a_store --views 2 --launcher local --jobs 3', 0, 137, 0)
    assert f'  job 1: FAILED, see {tmp_path}/1.out: Error: Job 1 has no memory.' in output
    assert output.endswith('"a_store" is complete, although 1 job failed.\n')
    with pytest.raises(InputError) as error:
        submit('a_store --views 2 --launcher local --jobs 2', 1, 1)
    assert str(error.value) == (
        'No job has finished; complete parts are kept. Job 0 has no memory.'
    )


@pytest.mark.parametrize(
    ('maps', 'expected'),
    [
        (None, dict(maps='none')),
        (('pooled_map', (6, 1, 1)), dict(maps='pooled')),
        (('token_map', (6, 2, 2)), dict(maps='full')),
        (('map_components', (6, 2, 2)), dict(maps='projected', map_channels=6)),
    ],
)
def test_settings_of_an_existing_store_need_no_flags(tool, parse, tmp_path, maps, expected):
    of = manifest('a', tensors=specs(maps, 'float32'))
    store = write_store(str(tmp_path), of, manifest('b', tensors=specs(None, 'float32')))
    settings = tool.read_settings(parse(store))
    fixed = dict(root=store, views=2, seed=0, write=True, logits='float32', embeddings='full')
    assert settings == TeacherOutputsSettings(**fixed, **expected)
    # Flags outweigh them; what does not fit is found when the folder is opened.
    settings = tool.read_settings(parse(f'{store} --views 3 --seed 1 --logits float16 --maps full'))
    assert (settings.views, settings.seed) == (3, 1)
    assert (settings.logits, settings.maps) == ('float16', 'full')


def test_settings_are_those_of_the_chosen_teachers(tool, parse, tmp_path):
    maps = ('map_components', (2, 2, 2))
    store = write_store(
        str(tmp_path),
        manifest('a', tensors=specs(maps)),
        manifest('b', tensors=specs()),
        manifest('c', tensors=specs(('feature_map', (2, 2, 2)))),
    )

    def maps_of(flags):
        return tool.read_settings(parse(f'{store} {flags}')).maps

    assert maps_of('--teachers b') == 'none'
    assert maps_of('--teachers c b') == 'full'
    assert maps_of('') == 'projected'
    # A teacher that is added is stored as the others.
    assert maps_of('--teachers new') == 'projected'


def test_embeddings_are_stored_as_the_others(tool, parse, tmp_path):
    vectors = [TensorSpec('logits', (3,), 'float16')]
    components = [*vectors, TensorSpec('embedding_components', (4,), 'float16')]
    store = write_store(
        str(tmp_path), manifest('a', tensors=specs()), manifest('b', tensors=components)
    )

    def embeddings(flags):
        settings = tool.read_settings(parse(f'{store} {flags}'))
        return settings.embeddings, settings.embedding_channels

    assert embeddings('') == embeddings('--teachers new') == ('projected', 4)
    assert embeddings('--teachers a') == ('full', 256)
    assert embeddings('--embeddings full') == ('full', 4)


@pytest.mark.parametrize(
    ('flags', 'sentence'),
    [
        ('--views 0', '`--views` must be at least 1, but is 0.'),
        ('--views 2 --seed -1', '`--seed` must be at least 0, but is -1.'),
        ('--views 2 --map-channels 0', '`--map-channels` must be at least 1, but is 0.'),
        ('--views 2 --check 0', '`--check` must be at least 1, but is 0.'),
        ('--check', '"{store}" is no store: there is nothing to check.'),
        ('', '"{store}" is no store yet: give --views, the number of augmented views of every'),
    ],
)
def test_flags_that_are_refused(tool, parse, tmp_path, flags, sentence):
    store = str(tmp_path / 'new')
    with pytest.raises(InputError, match='^' + re.escape(sentence.format(store=store))):
        tool.read_settings(parse(f'{store} {flags}'))


def test_a_file_in_the_place_of_the_store(tool, parse, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match=r'/file" is a file: give the folder of the store\.$'):
        tool.read_settings(parse(f'{tmp_path}/file --views 2'))


@pytest.mark.parametrize('flags', ['--views 2', '--views 2 --dry-run', ''])
def test_a_folder_with_something_else_in_it(tool, parse, tmp_path, flags):
    """A store in the work dir of a training."""
    (tmp_path / 'vis_data').mkdir()
    for name in ('last_checkpoint', 'epoch_2.pth', '.hidden'):
        (tmp_path / name).write_text('')
    with pytest.raises(InputError) as error:
        tool.read_settings(parse(f'{tmp_path} {flags}'))
    assert str(error.value) == (
        f'"{tmp_path}" is no store of teacher outputs, but holds epoch_2.pth, last_checkpoint, '
        'vis_data. Give a folder that is empty or does not exist yet.'
    )


def test_folders_that_may_become_a_store(tool, parse, tmp_path):
    """Those that are empty, a store that was killed at its start, and one without its inputs."""
    (tmp_path / 'begun' / 'inputs').mkdir(parents=True)
    (tmp_path / 'begun' / '.shared-1').touch()
    (tmp_path / 'empty').mkdir()
    write_store(str(tmp_path / 'whole'), manifest())
    shutil.rmtree(tmp_path / 'whole' / 'inputs')
    for name in ('begun', 'empty', 'whole'):
        assert tool.read_settings(parse(f'{tmp_path}/{name} --views 2')).views == 2


def test_a_target_that_cannot_be_written(tool, parse, tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'access', lambda path, mode: (path, mode) != (str(tmp_path), os.W_OK))
    for store in (str(tmp_path), f'{tmp_path}/new/store'):
        with pytest.raises(InputError) as error:
            tool.read_settings(parse(f'{store} --views 2'))
        assert str(error.value) == (
            f'"{store}" cannot be made: there is no write access to "{tmp_path}".'
        )
        assert tool.read_settings(parse(f'{store} --views 2 --dry-run')).views == 2
    # What is complete may be on a medium that is read only.
    store = write_store(str(tmp_path / 'store'), manifest('a'))
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    assert tool.read_settings(parse(store)).views == 2


def test_which_teachers_are_stored(tool, parse, tmp_path):
    model = SimpleNamespace(teachers=SimpleNamespace(names=('c', 'a', 'b')))
    store = write_store(str(tmp_path), manifest('a'), manifest('d'))

    def chosen(flags):
        return tool.chosen_teachers(model, parse(f'{store} {flags}'))

    assert chosen('') == ['c', 'a', 'b']
    assert chosen('--teachers b c') == ['c', 'b']
    # A check is of what is there.
    assert chosen('--check') == chosen('--check 3 --teachers a') == ['a']
    for flags, sentence in (
        ('--teachers d', '--teachers: the config has no teacher "d". Known: "a", "b", "c".'),
        ('--check --teachers a b', f'"{store}" holds no outputs of teacher "b". Known: "a", "d".'),
    ):
        with pytest.raises(InputError, match=re.escape(sentence)):
            chosen(flags)
    shutil.rmtree(teacher_folder(store, 'a'))
    with pytest.raises(InputError, match=re.escape(f'"{store}" holds no outputs of teacher "c"')):
        chosen('--check')


# -- Interruptions ------------------------------------------------------------------------------


def test_interrupted(tool, monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    codes = []
    monkeypatch.setattr(tool, 'run', interrupt)
    monkeypatch.setattr(os, '_exit', codes.append)
    tool.main()
    assert codes == [130]
    out = capsys.readouterr().out
    assert out == '\nInterrupted: complete parts are kept, and the same command goes on.\n'


def test_a_shadow_shows_what_is_there_and_leaves_nothing(tool, tmp_path):
    checked = write_store(str(tmp_path), manifest('a', tensors=specs(dtype='float32')))
    part = os.path.join(checked, 'a', 'view_000', 'part_0001.safetensors')
    os.remove(part)
    # What a killed process had only begun.
    Path(checked, 'b').mkdir()
    Path(checked, 'b', 'basis.safetensors').write_text('')
    before = contents(checked)
    with tool.shadow(checked) as folder:
        assert StoreReader(folder, ['a']).missing(0) == [part.replace(checked, folder)]
        # What is new comes into the shadow alone.
        StoreWriter(teacher_folder(folder, 'b'), manifest('b'))
        StoreWriter(teacher_folder(folder, 'c'), manifest('c'))
    assert not os.path.exists(folder)
    assert contents(checked) == before
    with pytest.raises(KeyboardInterrupt), tool.shadow(f'{checked}/none') as folder:
        assert os.listdir(folder) == []
        raise KeyboardInterrupt
    assert not os.path.exists(folder)
