# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Trainings and tools that fill a store: several at once, killed, and on a full disk."""

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from test_teacher_outputs.stores import contents, run_with_mounts

from mtkdrl_mm.engine.loops import ResumableEpochLoop, ResumableIterLoop
from mtkdrl_mm.models import TeacherPool
from mtkdrl_mm.teacher_outputs import StoreWriter, ViewJournal

from .stored import BY_ITERATIONS, LOSSLESS, LOSSLESS_FLAGS, Distillery, Fork, assert_same_training

pytestmark = pytest.mark.slow
STORE_TOOL = 'tools/store_teacher_outputs.py'


class Filled(Distillery):
    """A distillery with a config, and a store that the tool has written in peace."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.tiny = self.config()
        self.by_iterations = self.config('iterations', BY_ITERATIONS)
        self.peace = contents(self.fill(self.tiny, 'peace', *LOSSLESS_FLAGS))
        self.live = cache(self._live)
        self.count = 0

    def _live(self, seed: int, config: str | None = None) -> dict:
        name, config = f'live_{seed}_{config is None}', config or self.tiny
        return self.distil(config, name, dict(views=2), randomness__seed=seed)

    def new(self) -> str:
        """Path of a store that does not exist."""
        self.count += 1
        return str(self.folder / f'store_{self.count}')

    def start(
        self,
        root: str,
        seed: int,
        *flags: str,
        setup: Callable[[], None] | None = None,
        config: str | None = None,
        **loader: object,
    ) -> Fork:
        """Start or resume a training, of three epochs or 20 iterations, that fills a store."""
        name = f'{Path(root).name}_seed{seed}'
        work_dir = self.folder / name
        outputs = [f'{key}={value}' for key, value in filling(root).items()]
        command = ['tools/train.py', config or self.tiny, '--work-dir', str(work_dir), *flags]
        command += ['--cfg-options', *(f'model.teacher_outputs.{option}' for option in outputs)]
        command += [f'randomness.seed={seed}']
        command += ['train_cfg.max_epochs=3'] * (config is None)
        command += [f'train_dataloader.{key}={value}' for key, value in loader.items()]
        return Fork(self.folder / f'{name}.log', *command, setup=setup)

    def result(self, root: str, seed: int) -> dict:
        """Last checkpoint of a training that was started."""
        work_dir = self.folder / f'{Path(root).name}_seed{seed}'
        return torch.load((work_dir / 'last_checkpoint').read_text())


def filling(root: str) -> dict:
    return dict(LOSSLESS, root=root, views=2, write=True)


@pytest.fixture(scope='module')
def filled(tmp_path_factory):
    return Filled(tmp_path_factory.mktemp('faults'))


def test_trainings_share_a_store_one_after_the_other(filled, monkeypatch):
    """The second one, with other batches, runs no teacher."""
    batches = []
    forward = TeacherPool.forward

    def counted(self, inputs, data_samples=None, names=None):
        batches.append(hasattr((data_samples or [None])[0], 'teacher_outputs'))
        return forward(self, inputs, data_samples, names)

    monkeypatch.setattr(TeacherPool, 'forward', counted)
    root = filled.new()
    for seed, expected in ((1, 14), (2, 0)):
        batches.clear()
        last = filled.distil(filled.tiny, f'after_{seed}', filling(root), randomness__seed=seed)
        assert sum(batches) == expected
        assert contents(root) == filled.peace
        assert_same_training(filled.live(seed), last)


def test_trainings_share_a_store_at_the_same_time(filled):
    root = filled.new()
    running = [filled.start(root, seed, num_workers=seed - 1) for seed in (1, 2)]
    for each in running:
        assert each.wait() == 0, each.output()
    assert contents(root) == filled.peace
    for seed in (1, 2):
        assert_same_training(filled.live(seed), filled.result(root, seed))


def kill_at(owner: type, name: str, count: int) -> Callable[[], None]:
    """Set-up that kills the process group in call number ``count`` of a method, from 1."""

    def setup():
        method, calls = getattr(owner, name), []

        def watched(*args, **kwargs):
            calls.append(None)
            if len(calls) == count:
                os.killpg(0, signal.SIGKILL)
            return method(*args, **kwargs)

        setattr(owner, name, watched)

    return setup


@pytest.mark.parametrize(
    ('owner', 'method', 'count', 'stored'),
    [
        (ResumableEpochLoop, 'run_iter', 10, 3),  # in the epoch of view 1
        (ResumableEpochLoop, 'run_iter', 17, 6),  # in the first epoch that reads
        (ViewJournal, 'append', 9, 3),
        (StoreWriter, 'write_part', 2, 1),  # between the parts of view 0
        (StoreWriter, 'write_part', 4, 3),
        (ViewJournal, 'remove', 2, 6),
    ],
)
def test_a_killed_training_is_resumed(filled, owner, method, count, stored):
    root = filled.new()
    killed = filled.start(root, 1, setup=kill_at(owner, method, count), num_workers=1)
    assert killed.wait() == -signal.SIGKILL, killed.output()
    assert len(list(Path(root).glob('*/view_*/*.safetensors'))) == stored
    resumed = filled.start(root, 1, '--resume')
    assert resumed.wait() == 0, resumed.output()
    assert contents(root) == filled.peace
    assert_same_training(filled.live(1), filled.result(root, 1))


def test_two_trainings_are_killed_again_and_again(filled):
    """One of them writes what the other one reads, and the reverse."""
    root = filled.new()
    drawn = random.Random()
    kills = 0
    for _ in range(6):
        running = [filled.start(root, seed, '--resume') for seed in (1, 2)]
        for each in running:
            each.wait_for('Teachers: ')
        time.sleep(drawn.uniform(0, 0.6))
        kills += sum([each.kill() for each in running])
        for name, content in contents(root).items():
            assert name not in filled.peace or content == filled.peace[name]
    assert kills
    running = [filled.start(root, seed, '--resume') for seed in (1, 2)]
    for each in running:
        assert each.wait() == 0, each.output()
    assert contents(root) == filled.peace
    for seed in (1, 2):
        assert_same_training(filled.live(seed), filled.result(root, seed))


@pytest.mark.parametrize('loop', [ResumableEpochLoop, ResumableIterLoop])
def test_a_training_that_was_stopped_in_the_middle_of_an_epoch(filled, loop):
    """What it has computed is not computed again."""

    def stop():
        run_iter = loop.run_iter

        def watched(self, *args):
            if self._iter == 10:
                signal.raise_signal(signal.SIGTERM)
            run_iter(self, *args)

        loop.run_iter = watched

    config = filled.by_iterations if loop is ResumableIterLoop else None
    root = filled.new()
    stopped = filled.start(root, 1, setup=stop, config=config, num_workers=1)
    assert stopped.wait() == 128 + signal.SIGTERM, stopped.output()
    assert len(os.listdir(f'{root}/journals')) == 1
    resumed = filled.start(root, 1, '--resume', config=config)
    assert resumed.wait() == 0, resumed.output()
    assert 'that were in no batch' not in resumed.output()
    assert contents(root) == filled.peace
    assert_same_training(filled.live(1, config), filled.result(root, 1))


def test_images_that_are_in_no_batch(filled):
    """An epoch leaves out one of 31 images."""
    root = filled.new()
    dropping = filled.start(root, 1, drop_last=True)
    assert dropping.wait() == 0, dropping.output()
    assert re.findall(r'images of view (\d) that were in no batch: (\d+)', dropping.output()) == [
        ('0', '1'),
        ('1', '1'),
    ]
    assert contents(root) == filled.peace
    options = dict(randomness__seed=1, train_dataloader__drop_last=True)
    live = filled.distil(filled.tiny, 'dropped_live', dict(views=2), **options)
    assert live['meta']['iter'] == 18
    assert_same_training(live, filled.result(root, 1))


def test_two_processes_fill_a_store(filled):
    root = filled.new()
    options = [f'model.teacher_outputs.{key}={value}' for key, value in filling(root).items()]
    done = filled.run(
        'bash',
        'tools/dist_train.sh',
        filled.tiny,
        '2',
        '--work-dir',
        str(filled.folder / 'two'),
        '--cfg-options',
        *options,
        'train_cfg.max_epochs=3',
        env=dict(PORT='29661'),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert contents(root) == filled.peace
    assert done.stdout.count('is stored in') == 2


def test_a_disk_that_is_full_in_the_middle(filled):
    root = Path(filled.new())
    root.mkdir()
    name = f'{root.name}_seed1'

    def setup():
        run_iter = ResumableEpochLoop.run_iter

        def watched(self, idx, batch):
            if self._iter == 9:
                fill_up(root)
            run_iter(self, idx, batch)

        ResumableEpochLoop.run_iter = watched

    def test():
        assert os.system(f'mount -o remount,size=100k {root}') == 0
        refused = filled.start(str(root), 1)
        assert refused.wait() == 1
        sentence = refused.output().strip().splitlines()[-1]
        assert sentence.startswith(f'Error: The outputs for "{root}" need '), sentence
        assert os.system(f'mount -o remount,size=600k {root}') == 0

        started = filled.start(str(root), 1, setup=setup)
        assert started.wait() == 0, started.output()
        (warning,) = re.findall(r'WARNING - ("[^\n]*No space left[^\n]*)', started.output())
        assert re.fullmatch(
            rf'"{root}/journals/view_001\..*\.tmp" cannot be written: No space left on device '
            r'\(0\.0 MiB free on that disk\)\. The training goes on, with running teachers where '
            r'nothing is stored\. To store the rest, mend this and resume\.',
            warning,
        ), warning
        assert len(list(root.glob('*/view_000/*.safetensors'))) == 3
        assert not list(root.glob('*/view_001/*'))
        # As resumed from the second epoch.
        (root / 'full').unlink()
        work_dir = filled.folder / name
        shutil.copy(work_dir / 'epoch_3.pth', filled.folder / 'full.pth')
        (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_2.pth'))
        (work_dir / 'epoch_3.pth').unlink()
        resumed = filled.start(str(root), 1, '--resume')
        assert resumed.wait() == 0, resumed.output()
        assert contents(root) == filled.peace

    run_with_mounts([f'mount -t tmpfs -o size=600k tmpfs {root}'], test)
    assert_same_training(filled.live(1), torch.load(filled.folder / 'full.pth'))
    assert_same_training(filled.live(1), filled.result(str(root), 1))


def fill_up(folder: Path) -> None:
    """Fill the disk to the last byte."""
    try:
        with open(folder / 'full', 'wb', 0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        pass


class Large(Distillery):
    """A distillery whose store has 20 views, and so 60 parts, and one written in peace."""

    VIEWS = 20

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.tiny = self.config()
        begin = time.monotonic()
        first = self.start(folder / 'peace', 'first')
        first.wait_for('Outputs of 2 teachers')
        self.start_seconds = time.monotonic() - begin
        assert first.wait() == 0, first.output()
        self.seconds = time.monotonic() - begin - self.start_seconds
        self.peace = contents(folder / 'peace')

    def start(self, root: Path, name: str, *flags: str) -> Fork:
        """Start the tool."""
        command = [STORE_TOOL, self.tiny, str(root), '--views', str(self.VIEWS), *flags]
        return Fork(self.folder / f'{name}.log', *command)


@pytest.fixture(scope='module')
def large(tmp_path_factory):
    return Large(tmp_path_factory.mktemp('large'))


def test_a_tool_that_is_killed_20_times(large):
    """Every third time two of them run at once, and some are killed before the first part."""
    root = large.folder / 'killed'
    drawn = random.Random()
    kills, parts = 0, set()
    whole = sum('part_' in name for name in large.peace)
    for number in range(60):
        if number >= 20 and len(parts) >= 4:
            break
        names = ('first', 'second') if number % 3 == 2 else ('first',)
        running = [large.start(root, name) for name in names]
        if number % 4:
            running[0].wait_for('Outputs of 2 teachers')
            time.sleep(drawn.uniform(0, large.seconds / 8))
        else:
            time.sleep(drawn.uniform(0, large.start_seconds))
        kills += sum([each.kill() for each in running])
        found = contents(root)
        count = sum('part_' in name for name in found)
        parts.add(count)
        for name, content in found.items():
            assert name.endswith('.tmp') or content == large.peace[name], name
        if count == whole and len(parts) < 4:  # too fast to be seen in between: once more
            shutil.rmtree(root)
    # Else it was killed before it wrote, or had finished, and the test shows nothing.
    assert kills >= 15 and len(parts) >= 4
    last = large.start(root, 'first')
    assert last.wait() == 0, last.output()
    assert contents(root) == large.peace
    again = large.start(root, 'first')
    assert again.wait() == 0 and 'The store is complete.' in again.output()


def test_a_tool_on_a_full_disk(large):
    root = large.folder / 'disk'
    root.mkdir()
    needed = sum(map(len, large.peace.values()))

    def test():
        assert os.system(f'mount -o remount,size=200k {root}') == 0
        refused = large.start(root, 'first')
        assert refused.wait() == 1
        assert re.search(
            rf'Error: The outputs for "{root}" need \d+\.\d KiB more, but only 1\d\d\.\d KiB are '
            r'free on that disk\. Make space, choose another folder, or store fewer views or '
            r'smaller tensors\.\n$',
            refused.output(),
        ), refused.output()
        assert os.system(f'mount -o remount,size=4m {root}') == 0

        writing = large.start(root, 'first')
        while not (root / 'inputs' / 'view_002' / 'part_0000.safetensors').exists():
            assert writing.process.is_alive(), writing.output()
            time.sleep(0.005)
        fill_up(root)
        assert writing.wait() == 1
        assert re.search(
            rf'Error: "{root}/(inputs|teacher[01])/view_\d+/part_0000\.safetensors" cannot be '
            r'written: No space left on device \(0\.0 MiB free on that disk\)\. The complete parts '
            r'are kept; make space or access, and run the same again\.\n$',
            writing.output(),
        ), writing.output()
        assert 'Traceback' not in writing.output()
        (root / 'full').unlink()
        found = contents(root)
        assert all(large.peace[name] == content for name, content in found.items())
        assert 11 <= len(found) < len(large.peace)
        last = large.start(root, 'first')
        assert last.wait() == 0, last.output()
        assert contents(root) == large.peace

    assert needed < 4 * 2**20
    run_with_mounts([f'mount -t tmpfs -o size=4m tmpfs {root}'], test)


def tool(filled: Filled, root: str, *flags: str) -> str:
    """What the tool prints."""
    done = filled.tool(STORE_TOOL, filled.tiny, root, *flags)
    assert done.returncode == 0 and 'Traceback' not in done.stderr, done.stderr[-3000:]
    return done.stdout


def test_a_teacher_is_added(filled):
    root = filled.new()
    flags = ['--views', '2', *LOSSLESS_FLAGS]
    tool(filled, root, *flags, '--teachers', 'teacher1')
    first = contents(root)
    assert {name.split('/')[0] for name in first} == {'inputs', 'teacher1'}
    assert all(filled.peace[name] == content for name, content in first.items())
    times = {path: path.stat().st_mtime_ns for path in Path(root).glob('**/*') if path.is_file()}
    printed = tool(filled, root, '--teachers', 'teacher0')
    assert re.search(r'\nteacher0 +656 bytes +55\.7 KiB +55\.7 KiB +logits 4, ', printed), printed
    assert contents(root) == filled.peace
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_check(filled):
    root = str(filled.folder / 'peace')
    printed = tool(filled, root, '--check', '20')
    assert 'Largest deviations on 20 random augmented images of 2 complete views:' in printed
    for tensor in ('logits', 'embedding', 'feature_map'):
        assert len(re.findall(rf'\nteacher[01] +{tensor} +0 +0\n', printed)) == 2, printed
    assert 'The pixels of all these images are those that were stored.' in printed
    assert contents(root) == filled.peace


def test_check_of_what_is_not_stored(filled):
    """Nothing is written by it."""
    root = filled.new()
    done = filled.tool(STORE_TOOL, filled.tiny, root, '--views', '2', '--check')
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        f'Error: "{root}" is no store: there is nothing to check.'
    )
    assert not os.path.exists(root)


def test_check_finds_other_weights_and_pixels(tmp_path):
    d = Distillery(tmp_path)
    config = d.config()
    root = d.fill(config, 'store', views=1)
    before = contents(root)
    image = d.data / 'train' / 'class_1' / '2.png'
    original = image.read_bytes()
    shutil.copy(d.data / 'train' / 'class_2' / '2.png', image)
    weights = Path(d.teachers[1]['checkpoint'])
    for expected in (
        r'Error: The pixels of [1-9]\d* of these 31 images are not those that were stored\. An '
        r'image file, the pipeline, or what decodes images has changed: restore it, or store the '
        r'outputs again in another folder\.',
        rf'Error: "{root}/teacher1" was stored for teacher "teacher1" with another version of the '
        r'weights \(sha256\): .*',
    ):
        done = d.tool(STORE_TOOL, config, root, '--check')
        assert done.returncode == 1 and 'Traceback' not in done.stderr, done.stderr
        assert re.fullmatch(expected, done.stderr.strip().splitlines()[-1]), done.stderr[-500:]
        image.write_bytes(original)
        contents_of_file = torch.load(weights)
        contents_of_file['state_dict']['head.fc.bias'] += 1e-3
        torch.save(contents_of_file, weights)
    assert contents(root) == before


@pytest.mark.parametrize('stored', [(), ('teacher0',)])
def test_a_dry_run_writes_nothing(filled, stored):
    root = filled.new()
    flags = ['--views', '2', *LOSSLESS_FLAGS]
    if stored:
        tool(filled, root, *flags, '--teachers', *stored)
    before = contents(root)
    printed = tool(filled, root, *flags, '--dry-run')
    assert contents(root) == before and os.path.exists(root) == bool(stored)
    # 164 and 244 numbers in float32, of 31 images in 2 views; per view 8 KiB more for the file.
    needed = {'teacher0': '0 bytes' if stored else '55.7 KiB', 'teacher1': '75.1 KiB'}
    for name, size in needed.items():
        assert re.search(rf'\n{name} +\d+ bytes +\d\d\.\d KiB +{size} ', printed), printed
    assert re.search(r'ms per augmented image: about \d+ s on 1 process\. Nothing was', printed)
    other = filled.tool(STORE_TOOL, filled.tiny, root, '--views', '3', '--dry-run')
    assert other.returncode == bool(stored), other.stderr
    if stored:
        assert other.stderr.strip().splitlines()[-1] == (
            f'Error: "{root}/inputs" was stored for the inputs with another number of views: 2 '
            'there, 3 here. Use the same, or another folder for the store.'
        )
