# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What a tool says of a store, and finds out, before, while and after it writes it."""

import os
import re
import shutil
import time
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from test_teacher_outputs.stores import DATASET, VIEWS, manifest, specs, values, write_store
from torch.multiprocessing.spawn import start_processes

from mtkdrl_mm.engine import store_session
from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.teacher_outputs import (
    Manifest,
    OutputCodec,
    PackedLayout,
    StoreReader,
    StoreWriter,
    inputs_folder,
    inputs_manifest,
    teacher_folder,
)
from mtkdrl_mm.utils import InputError, distributed


@pytest.fixture
def logger():
    """Keeps what is logged."""
    lines = []
    return SimpleNamespace(info=lines.append, warning=lines.append, lines=lines)


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
def test_durations(seconds, text):
    assert store_session.duration(seconds) == text


def test_numbers_of_things():
    assert [store_session.count(n, 'view') for n in (0, 1, 2, 1234)] == [
        '0 views',
        '1 view',
        '2 views',
        '1,234 views',
    ]
    assert store_session.processes() == '1 process'


def test_columns():
    rows = [('name', 'n', 'x'), ('a', '10', 'y z'), ('bcdef', '200', '')]
    assert store_session.table(rows, '<><').split('\n') == [
        'name     n  x',
        'a       10  y z',
        'bcdef  200',
    ]


def test_the_folder_whose_disk_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').write_text('')
    for path in ('', 'not/yet/there', 'file', 'file/x'):
        assert store_session.existing_folder(path) == str(tmp_path)
    assert store_session.existing_folder('/nothing') == '/'


def test_what_it_will_take(tmp_path, monkeypatch):
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
    lines = store_session.describe_store(writer, store).split('\n')
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
    outputs = dict(a=NetworkOutput(logits, logits))
    return SimpleNamespace(outputs=outputs, labels=labels, samples=list(range(len(labels))))


def test_accuracy_on_what_is_stored(logger):
    accuracy = store_session.StoredPredictions(['a', 'never'], 5)
    accuracy.add(batch([0, 1, 2, 3], [[0], [1], [2], [0]]))
    # Images without a label, or with several, are not counted.
    accuracy.add(batch([4, 4, 4], [None, [4, 1], [4]]))
    accuracy.add(batch([4], [None]))
    accuracy.report(logger)
    assert logger.lines == ['Teacher "a" is right on 80.0 % of 5 augmented images.']


def test_a_teacher_near_chance(logger):
    accuracy = store_session.StoredPredictions(['a'], 5)
    accuracy.add(batch([0] * 5, [[0], [1], [2], [3], [4]]))
    accuracy.report(logger)
    assert logger.lines[1].startswith('Teacher "a" has an accuracy of only 20.0 %, below the minim')
    assert logger.lines[1].endswith('Mend this before training from the store.')


def test_a_teacher_with_its_classes_in_another_order(logger):
    """By every second image: all views of an image are in one half."""
    accuracy = store_session.StoredPredictions(['a'], 5)
    for _ in range(2):  # views
        accuracy.add(batch([1, 0, 2, 3, 4] * 5, [[0], [1], [2], [3], [4]] * 5))
    accuracy.report(logger)
    assert 'is right on 60.0 % of 50 augmented images' in logger.lines[0]
    assert logger.lines[1].startswith('Teacher "a" seems to have the classes in another order')
    assert '100.0 % instead of 58.3 %. tools/analysis_tools/check' in logger.lines[1]


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
def test_the_largest_deviation_is_printed(checked, logger, deviation):
    session = Session(checked, deviation)
    store_session.check_store(session, 100, 0, logger)  # there are not so many
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


def test_other_pixels_end_a_check(checked, logger):
    session = Session(checked, pixel=1)
    with pytest.raises(InputError) as error:
        store_session.check_store(session, 20, 0, logger)
    assert str(error.value).startswith(
        'The pixels of 2 of these 20 images are not those that were stored. '
    )
    assert str(error.value).endswith(', or store the outputs again in another folder.')
    assert logger.lines[0].startswith('Largest deviations')


def test_only_complete_views_are_checked(checked, logger):
    part = os.path.join(checked, 'a', 'view_000', 'part_0001.safetensors')
    os.remove(part)
    session = Session(checked)
    store_session.check_store(session, 6, 0, logger)
    assert {view for _, view in session.seen} == {1} and len(set(session.seen)) == 6
    assert '6 random augmented images of 1 complete view:' in logger.lines[0]
    other = Session(checked)
    store_session.check_store(other, 6, 1, logger)
    assert set(other.seen) != set(session.seen)  # another seed
    os.remove(part.replace('view_000', 'view_001'))
    with pytest.raises(InputError, match=r'No view in .* is complete: finish it before --check\.'):
        store_session.check_store(Session(checked), 30, 0, logger)


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


def test_writing(logger):
    writer = Missing(1000)
    store_session.write_store(writer, logger)
    # Twice: what another job had begun, and given up.
    assert writer.calls == [(True, True), (True, False)]
    assert logger.lines == [
        '1,000 augmented images, 500.00 ms each: about 8 min on 1 process.',
        'Teacher "a" is right on 75.0 % of 4 augmented images.',
        'The store is complete.',
    ]


class Uneven(Missing):
    """A writer whose process has another share than the others."""

    def __init__(self, batches, rest):
        super().__init__(10)
        self.shares = [batches, rest]

    def write_missing(self, progress=None, inspect=None):
        for _ in range(self.shares.pop(0)):
            time.sleep(0.2)
            if progress is not None:
                progress(1)


def write_unevenly(rank, folder):
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder}/group',
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=1),
    )
    distributed._SECONDS_BETWEEN_SIGNS = 0.3
    lines = []
    logger = SimpleNamespace(info=lines.append, warning=lines.append)
    # Each of them waits for the other one once, for longer than the time limit.
    store_session.write_store(Uneven(*((15, 0) if rank == 0 else (0, 15))), logger)
    torch.save(lines[-1], f'{folder}/{rank}.pth')


def test_a_share_may_take_longer_than_the_time_limit_of_the_processes(tmp_path):
    start_processes(write_unevenly, (str(tmp_path),), nprocs=2, start_method='fork')
    for rank in range(2):
        assert torch.load(tmp_path / f'{rank}.pth') == 'The store is complete.'


def test_nothing_to_write(logger):
    writer = Missing(0)
    store_session.write_store(writer, logger)
    assert writer.calls == [] and logger.lines == ['The store is complete.']


def test_values_that_were_cut_off(logger):
    store_session.write_store(Missing(4, saturated=3), logger)
    assert logger.lines[1] == (
        'Beyond the range of float16, and replaced by its largest number, 65504: 3 values. '
        '--logits float32 keeps them.'
    )


def test_blended_images_have_no_accuracy(logger):
    writer = Missing(4)
    writer.blends = True
    store_session.write_store(writer, logger)
    assert writer.calls[0] == (True, False)
    assert not any('is right on' in line for line in logger.lines)


def test_stores_of_the_tests_are_complete(checked):
    """Or the checks above would show nothing."""
    reader = StoreReader(checked, ['a'])
    assert reader.missing(0) == reader.missing(1) == []
