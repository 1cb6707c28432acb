# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Measure how fast stored teacher outputs are read, beside two other ways to read the same files.

Random samples are read by one process, from a warm page cache, and from a cold one: before every
cold round the kernel drops the files from its page cache, and all of them are opened again. The
ways to read are interleaved, round by round, so that other load on the machine affects all of
them alike; ratios are taken within a round.

- ``store``: batches by ``StoreReader.read_packed``, as in training; also one sample at a time, and,
  from a cold cache, with the checksums of all parts compared.
- ``safe_open``: safetensors' own slices of a row.
- ``memmap``: numpy's maps of the same files. If a file is truncated under a map, the process dies.

Without a store, one with random numbers is written to a temporary folder. It must be on the disk
that is to be measured: a file system in memory has no cold cache.

    python tools/analysis_tools/benchmark_store.py
    python tools/analysis_tools/benchmark_store.py work_dirs/store --rounds 9
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
from safetensors import safe_open

from mtkdrl_mm.teacher_outputs import (
    DatasetRecord,
    Manifest,
    StoreReader,
    StoreWriter,
    TeacherRecord,
    TensorSpec,
    ViewRecord,
    inputs_folder,
    inputs_manifest,
    list_teachers,
    teacher_folder,
)
from mtkdrl_mm.teacher_outputs.part_file import read_header
from mtkdrl_mm.teacher_outputs.paths import part_path
from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.files import check_output_file, write_json
from mtkdrl_mm.utils.launch import run_tool

# Reads the samples of a batch of view 0 to packed rows.
Read = Callable[[list[int]], np.ndarray]


class RowByRow:
    """Reads rows with objects that hold one open part each.

    Args:
        reader (StoreReader): Reader of the same store, for manifests and layout.
    """

    def __init__(self, reader: StoreReader) -> None:
        self.reader = reader
        self.parts: dict[tuple[str, int], list] = {}

    def open_part(self, path: str, manifest: Manifest, part: int) -> list:
        """Return one array-like object per tensor."""
        raise NotImplementedError

    def read(self, samples: list[int]) -> np.ndarray:
        """Read samples to packed rows."""
        layout = self.reader.layout
        packed = np.zeros((len(samples), layout.nbytes), np.uint8)
        rows = layout.unpack_numpy(packed)
        for name, manifest in self.reader.manifests.items():
            for index, sample in enumerate(samples):
                part, row = divmod(sample, manifest.part_size)
                if (name, part) not in self.parts:
                    path = part_path(teacher_folder(self.reader.root, name), 0, part)
                    self.parts[name, part] = self.open_part(path, manifest, part)
                for spec, tensor in zip(manifest.tensors, self.parts[name, part]):
                    rows[name][spec.name][index] = tensor[row : row + 1][0]
        return packed


class SafeOpen(RowByRow):
    """Slices of safetensors."""

    def open_part(self, path: str, manifest: Manifest, part: int) -> list:
        """Return a slice object per tensor."""
        file = safe_open(path, 'numpy')
        return [file.get_slice(spec.name) for spec in manifest.tensors]


class MemoryMap(RowByRow):
    """Memory maps of numpy."""

    def open_part(self, path: str, manifest: Manifest, part: int) -> list:
        """Return a memory map per tensor."""
        with open(path, 'rb') as file:
            header = read_header(file.fileno(), path, manifest, 0, part)
            return [
                np.memmap(file, spec.dtype, 'r', offset, (header.rows, *spec.shape))
                for spec, offset in zip(manifest.tensors, header.offsets)
            ]


def build_ways(root: str, teachers: list[str], cold: bool) -> dict[str, Callable[[], Read]]:
    """List the ways to read; each call opens the store anew."""

    def one_by_one() -> Read:
        read = StoreReader(root, teachers, verify=False).read_packed
        return lambda samples: np.concatenate([read([sample], 0) for sample in samples])

    def store(verify: bool = False) -> Read:
        read = StoreReader(root, teachers, verify=verify).read_packed
        return lambda samples: read(samples, 0)

    ways: dict[str, Callable[[], Read]] = {'store': store, 'store, one at a time': one_by_one}
    if cold:
        ways['store, with checksums'] = lambda: store(verify=True)
    ways['safe_open'] = lambda: SafeOpen(StoreReader(root, teachers)).read
    ways['memmap'] = lambda: MemoryMap(StoreReader(root, teachers)).read
    return ways


def drop_from_cache(root: str) -> None:
    """Drop all files below a folder from the page cache. Nothing may map them."""
    for folder, _, names in os.walk(root):
        for name in names:
            handle = os.open(os.path.join(folder, name), os.O_RDONLY)
            try:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)


def measure(
    root: str, teachers: list[str], cold: bool, count: int, batch_size: int, rounds: int
) -> dict[str, list[float]]:
    """Measure samples per second of every way to read.

    Args:
        root (str): The store; its view 0 must be complete.
        teachers (list[str]): Names of the teachers.
        cold (bool): Whether files are dropped from the page cache first.
        count (int): Number of samples per round; at most all.
        batch_size (int): Samples per call.
        rounds (int): Number of interleaved rounds.

    Returns:
        dict[str, list[float]]: Samples per second, round by round.
    """
    ways = build_ways(root, teachers, cold)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    draw = random.Random(0)
    with_all = range(StoreReader(root, teachers).num_samples)
    readers = {} if cold else {name: build() for name, build in ways.items()}
    for read in readers.values():
        read(list(with_all))  # opens all parts, and fills the cache
    for _ in range(rounds):
        samples = draw.sample(with_all, min(count, len(with_all)))
        for name, build in ways.items():
            if cold:
                drop_from_cache(root)
            start = time.perf_counter()
            read = build() if cold else readers[name]
            for first in range(0, len(samples), batch_size):
                read(samples[first : first + batch_size])
            rates[name].append(len(samples) / (time.perf_counter() - start))
            del read
    return rates


def write_random_store(
    root: str, teachers: int, samples: int, part_size: int, logits: int, embedding: int
) -> float:
    """Write a store of random numbers; return the MiB per second, with the flush to the disk."""
    dataset = DatasetRecord('random', samples)
    views = ViewRecord(num_views=1, seed=0, scheme=0, pipeline='random')
    tensors = (
        TensorSpec('logits', (logits,), 'float16'),
        TensorSpec('embedding', (embedding,), 'float16'),
    )
    draw = np.random.default_rng(0)
    inputs = inputs_manifest(dataset, views, part_size)
    writer = StoreWriter(inputs_folder(root), inputs)
    for part in range(inputs.num_parts):
        crc32 = draw.integers(0, 2**32, len(inputs.samples(part)), dtype=np.uint32)
        writer.write_part(0, part, dict(crc32=crc32))
    seconds = 0.0
    for number in range(teachers):
        teacher = TeacherRecord(f'teacher{number}', '', {}, None, {}, None)
        manifest = Manifest(dataset, views, tensors, part_size, teacher)
        writer = StoreWriter(teacher_folder(root, teacher.name), manifest)
        writer.check_free_space()
        for part in range(manifest.num_parts):
            rows = len(manifest.samples(part))
            arrays = {
                spec.name: draw.standard_normal((rows, *spec.shape), np.float32) for spec in tensors
            }
            start = time.perf_counter()
            writer.write_part(0, part, arrays)
            seconds += time.perf_counter() - start
    return teachers * samples * (logits + embedding) * 2 / 2**20 / seconds


def report(title: str, rates: dict[str, list[float]]) -> None:
    """Print a table of medians, and of ratios to the store within each round."""
    print(f'\n{title:<28}{"samples/s":>12}{"/ store":>10}')
    for name, values in rates.items():
        ratio = statistics.median(v / s for v, s in zip(values, rates['store']))
        print(f'{name:<28}{statistics.median(values):>12,.0f}{ratio:>10.3f}')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Measure the reading of stored teacher outputs')
    parser.add_argument('store', nargs='?', help='an existing store; default: random numbers')
    parser.add_argument('--folder', help='where the temporary store is written', default='.')
    parser.add_argument('--teachers', type=int, default=4, help='number of random teachers')
    parser.add_argument('--samples', type=int, default=16384, help='number of random samples')
    parser.add_argument('--part-size', type=int, default=2048, help='samples per file')
    parser.add_argument('--logits', type=int, default=1000, help='number of random logits')
    parser.add_argument('--embedding', type=int, default=2048, help='size of the embedding')
    parser.add_argument('--batch-size', type=int, default=64, help='samples per call')
    parser.add_argument('--count', type=int, default=4096, help='samples per round')
    parser.add_argument('--rounds', type=int, default=5, help='number of interleaved rounds')
    parser.add_argument('--out', help='also write all numbers to this JSON file')
    args = parser.parse_args()
    for name in (
        'teachers',
        'samples',
        'part_size',
        'logits',
        'embedding',
        'batch_size',
        'count',
        'rounds',
    ):
        check_number(f'--{name.replace("_", "-")}', getattr(args, name), minimum=1)
    check_output_file('--out', args.out)
    return args


def run(root: str, args: argparse.Namespace) -> None:
    """Measure and print both tables for a store."""
    teachers = list_teachers(root)
    if not teachers:
        raise InputError(f'The store "{root}" holds no teacher. Set the folder of a store.')
    reader = StoreReader(root, teachers)
    reader.check_complete([0])
    print(
        f'{len(teachers)} teachers, {reader.layout.nbytes} bytes per sample, '
        f'{reader.num_samples} samples, batch {args.batch_size}, {args.rounds} interleaved rounds '
        f'of {min(args.count, reader.num_samples)} samples, one process'
    )
    results = {}
    for key, title, cold in (('warm', 'Warm page cache', False), ('cold', 'Cold page cache', True)):
        rates = measure(root, teachers, cold, args.count, args.batch_size, args.rounds)
        report(title, rates)
        results[key] = rates
    if args.out:
        # Samples per second, round by round.
        write_json(dict(bytes_per_sample=reader.layout.nbytes, **results), args.out)


def main() -> None:
    args = parse_args()
    if args.store:
        run(args.store, args)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as root:
        rate = write_random_store(
            root, args.teachers, args.samples, args.part_size, args.logits, args.embedding
        )
        print(f'Written with {rate:.0f} MiB/s')
        run(root, args)


if __name__ == '__main__':
    run_tool(main)
