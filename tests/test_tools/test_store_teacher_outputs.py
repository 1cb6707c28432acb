# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The parts of the tool that fills a store: its settings, tables, and what it finds out."""

import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_teacher_outputs.stores import (
    DATASET,
    VIEWS,
    contents,
    manifest,
    values,
    write,
    write_store,
)

from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.teacher_outputs import (
    Manifest,
    OutputCodec,
    PackedLayout,
    StoreReader,
    StoreWriter,
    TeacherOutputsSettings,
    TensorSpec,
    inputs_folder,
    inputs_manifest,
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


@pytest.fixture
def logger():
    """Keeps what is logged."""
    lines = []
    return SimpleNamespace(info=lines.append, warning=lines.append, lines=lines)


def specs(maps=None, dtype='float16'):
    found = [TensorSpec('logits', (3,), dtype), TensorSpec('embedding', (5,), dtype)]
    return found if maps is None else [*found, TensorSpec(*maps, dtype)]


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


# -- What is printed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [
        (0.4, '0 s'),
        (119, '119 s'),
        (120, '2 min'),
        (7199, '120 min'),
        (7200, '2.0 h'),
        (5.26 * 3600, '5.3 h'),
    ],
)
def test_durations(tool, seconds, text):
    assert tool.duration(seconds) == text


def test_numbers_of_things(tool):
    assert [tool.count(n, 'view') for n in (0, 1, 2, 1234)] == [
        '0 views',
        '1 view',
        '2 views',
        '1,234 views',
    ]
    assert tool.processes() == '1 process'


def test_columns(tool):
    rows = [('name', 'n', 'x'), ('a', '10', 'y z'), ('bcdef', '200', '')]
    assert tool.table(rows, '<><').split('\n') == [
        'name     n  x',
        'a       10  y z',
        'bcdef  200',
    ]


def test_the_folder_whose_disk_counts(tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').write_text('')
    for path in ('', 'not/yet/there', 'file', 'file/x'):
        assert tool.existing_folder(path) == str(tmp_path)
    assert tool.existing_folder('/nothing') == '/'


def test_what_it_will_take(tool, tmp_path, monkeypatch):
    store = str(tmp_path)
    of = manifest('a', tensors=specs(('feature_map', (2, 2, 2))))
    writers = dict(a=StoreWriter(teacher_folder(store, 'a'), of))
    inputs = StoreWriter(inputs_folder(store), inputs_manifest(DATASET, VIEWS, 4))
    for part in range(3):
        samples = of.samples(part)
        writers['a'].write_part(0, part, values(of, 0, samples))
        inputs.write_part(0, part, dict(crc32=np.arange(len(samples), dtype=np.uint32)))
    writer = SimpleNamespace(
        names=('a',),
        writers=writers,
        inputs=inputs,
        num_views=2,
        part_size=4,
        bytes_needed=lambda: dict(a=writers['a'].bytes_needed(), inputs=inputs.bytes_needed()),
    )
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=3 * 2**30))
    lines = tool.describe(writer, store).split('\n')
    assert lines[0] == 'Outputs of 1 teacher on 10 images x 2 views, in parts of 4 images'
    head, teacher, pixels = (re.split(r'  +', line) for line in lines[2:5])
    assert head == ['teacher', 'per image and view', 'on disk', 'to write', 'contents']
    # 3 + 5 + 8 float16 numbers; 6 parts of 8 KiB besides 20 rows.
    contents = 'logits 3, embedding 5, feature_map 2x2x2 (float16)'
    assert teacher == ['a', '32 bytes', '48.6 KiB', '24.3 KiB', contents]
    assert pixels == ['(pixels)', '4 bytes', '48.1 KiB', '24.0 KiB', 'crc32 (uint32)']
    assert lines[-1] == f'To write: 48.4 KiB. Free on the disk of "{store}": 3.0 GiB.'


def batch(predicted, labels):
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), 5).float()
    labels = [None if label is None else torch.tensor(label) for label in labels]
    return SimpleNamespace(outputs=dict(a=NetworkOutput(logits, logits)), labels=labels)


def test_accuracy_on_what_is_stored(tool, logger):
    accuracy = tool.Accuracy(['a', 'never'])
    accuracy.add(batch([0, 1, 2, 3], [[0], [1], [2], [0]]))
    # Images without a label, or with several, are not counted.
    accuracy.add(batch([4, 4, 4], [None, [4, 1], [4]]))
    accuracy.add(batch([4], [None]))
    accuracy.report(logger, 5)
    assert logger.lines == ['Teacher "a" is right on 80.0 % of 5 augmented images.']


def test_a_teacher_near_chance(tool, logger):
    accuracy = tool.Accuracy(['a'])
    accuracy.add(batch([0] * 5, [[0], [1], [2], [3], [4]]))
    accuracy.report(logger, 5)
    assert logger.lines[1].startswith('Teacher "a" has an accuracy of only 20.0 % on the augmented')


# -- Check --------------------------------------------------------------------------------------


class Session:
    """A writer whose teacher says what is stored, plus a deviation."""

    names = ('a',)

    def __init__(self, root, deviation=0.0, pixel=0):
        self.root, self.deviation, self.pixel = root, deviation, pixel
        self.of = Manifest.read(teacher_folder(root, 'a'))
        self.inputs = Manifest.read(inputs_folder(root))
        self.codec = OutputCodec(PackedLayout(dict(a=self.of.tensors)))
        self.seen = []
        self.runner = self  # it runs the teachers itself

    def compute(self, keys):
        for sample, view in keys:
            self.seen.append((sample, view))
            rows = values(self.of, view, [sample])
            logits = torch.from_numpy(rows['logits'].astype(np.float32))
            logits[0, 1] += self.deviation if sample == 7 else 0
            output = NetworkOutput(logits, torch.from_numpy(rows['embedding']).float())
            crc32 = int(values(self.inputs, view, [sample])['crc32'][0])
            crc32 += self.pixel if sample == 7 else 0
            yield SimpleNamespace(
                samples=[sample], views=[view], crc32=[crc32], outputs=dict(a=output)
            )


@pytest.fixture
def checked(tmp_path):
    return write_store(str(tmp_path), manifest('a', tensors=specs(dtype='float32')))


@pytest.mark.parametrize('deviation', [0.0, 2.5])
def test_the_largest_deviation_is_printed(tool, checked, logger, deviation):
    session = Session(checked, deviation)
    tool.check(session, 100, 0, logger)  # there are not so many
    assert len(session.seen) == len(set(session.seen)) == 20
    title, _, head, logits, embedding, _ = logger.lines[0].split('\n')
    assert title == 'Largest deviations on 20 random augmented images of 2 complete views:'
    assert re.split(r'  +', head) == ['teacher', 'tensor', 'deviation', 'in standard deviations']
    row = logits.split()
    assert row[:3] == ['a', 'logits', f'{deviation:.2g}']
    # Of three neighbouring numbers, of which the middle one is 2.5 larger.
    relative = deviation / np.std([0.0, 1 + deviation, 2.0])
    assert row[3] == f'{relative:.2g}'
    assert embedding.split() == ['a', 'embedding', '0', '0']
    assert logger.lines[1:] == ['The pixels of all these images are those that were stored.']


def test_other_pixels_end_a_check(tool, checked, logger):
    session = Session(checked, pixel=1)
    with pytest.raises(InputError) as error:
        tool.check(session, 20, 0, logger)
    assert str(error.value).startswith(
        'The pixels of 2 of these 20 images are not those that were stored. '
    )
    assert str(error.value).endswith(', or store the outputs again in another folder.')
    assert logger.lines[0].startswith('Largest deviations')


def test_only_complete_views_are_checked(tool, checked, logger):
    part = os.path.join(checked, 'a', 'view_000', 'part_0001.safetensors')
    os.remove(part)
    session = Session(checked)
    tool.check(session, 6, 0, logger)
    assert {view for _, view in session.seen} == {1} and len(set(session.seen)) == 6
    assert '6 random augmented images of 1 complete view:' in logger.lines[0]
    other = Session(checked)
    tool.check(other, 6, 1, logger)
    assert set(other.seen) != set(session.seen)  # another seed
    os.remove(part.replace('view_000', 'view_001'))
    with pytest.raises(InputError, match=r'No view in .* is complete: finish it before --check\.'):
        tool.check(Session(checked), 30, 0, logger)


# -- Writing ------------------------------------------------------------------------------------


class Missing:
    """A writer that lacks some images of which it can write a part at a time."""

    names, blends, root = ('a',), False, 'store'
    runner = SimpleNamespace(
        pool=SimpleNamespace(spec=SimpleNamespace(num_classes=5)),
        seconds_per_image=lambda: 0.5,
    )

    def __init__(self, images, saturated=0):
        self.images, self.calls = images, []
        self.codec = SimpleNamespace(saturated=saturated)

    def num_missing_images(self):
        return self.images

    def write_missing(self, progress=None, inspect=None):
        self.calls.append((progress is not None, inspect is not None))
        if progress is not None:
            progress(self.images)
            if inspect is not None:
                inspect(batch([1] * 4, [[1], [1], [1], [0]]))


def test_writing(tool, logger):
    writer = Missing(1000)
    tool.write(writer, logger)
    # Twice: what another job had begun, and given up.
    assert writer.calls == [(True, True), (False, False)]
    assert logger.lines == [
        '1,000 augmented images, 500.00 ms each: about 8 min on 1 process.',
        'Teacher "a" is right on 75.0 % of 4 augmented images.',
        'The store is complete.',
    ]


def test_nothing_to_write(tool, logger):
    writer = Missing(0)
    tool.write(writer, logger)
    assert writer.calls == [] and logger.lines == ['The store is complete.']


def test_values_that_were_cut_off(tool, logger):
    tool.write(Missing(4, saturated=3), logger)
    assert logger.lines[1] == (
        'Beyond the range of float16, and replaced by its largest number, 65504: 3 values. '
        '--logits float32 keeps them.'
    )


def test_blended_images_have_no_accuracy(tool, logger):
    writer = Missing(4)
    writer.blends = True
    tool.write(writer, logger)
    assert writer.calls[0] == (True, False)
    assert not any('is right on' in line for line in logger.lines)


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


def test_a_shadow_shows_what_is_there_and_leaves_nothing(tool, checked):
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


def test_stores_of_the_tests_are_complete(checked):
    """Or the checks above would show nothing."""
    assert StoreReader(checked, ['a']).missing(0) == []
    assert write(teacher_folder(checked, 'a'), Manifest.read(f'{checked}/a')).missing(1) == []
