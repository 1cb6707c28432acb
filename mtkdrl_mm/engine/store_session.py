# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Describe, write and check a store, with a progress bar and log lines."""

import os.path as osp
import shutil
import sys
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.logging import MMLogger
from tqdm import tqdm

from mtkdrl_mm.datasets.sample_outputs import changed_pixels_cause
from mtkdrl_mm.evaluation import PredictionCounts
from mtkdrl_mm.evaluation.teacher_report import minimum_accuracy
from mtkdrl_mm.teacher_outputs import StoreReader, format_bytes
from mtkdrl_mm.utils.distributed import UnevenWork
from mtkdrl_mm.utils.errors import InputError

from .output_writer import OutputWriter
from .teacher_runner import ComputedBatch


def describe_store(writer: OutputWriter, store: str) -> str:
    """Say what will be written, and how much disk it will take.

    Args:
        writer (OutputWriter): The writer.
        store (str): Folder of the store, for the message and the free space.

    Returns:
        str: A table of all teachers, and totals.
    """
    dataset = writer.inputs.manifest.dataset
    needed = writer.bytes_needed()
    rows = [('teacher', 'per image and view', 'on disk', 'to write', 'contents')]
    for name, one in [*writer.writers.items(), ('inputs', writer.inputs)]:
        manifest = one.manifest
        contents = ', '.join(
            ' '.join([spec.name, 'x'.join(map(str, spec.shape))]).strip()
            for spec in manifest.tensors
        )
        rows.append(
            (
                '(pixels)' if manifest.teacher is None else name,
                format_bytes(manifest.row_bytes),
                format_bytes(one.bytes_total()),
                format_bytes(needed[name]),
                f'{contents} ({manifest.tensors[0].dtype})',
            )
        )
    free = shutil.disk_usage(existing_folder(store)).free
    return (
        f'Outputs of {count(len(writer.names), "teacher")} on {dataset.num_samples:,} images x '
        f'{count(writer.num_views, "view")}, in parts of {writer.part_size:,} images\n\n'
        f'{table(rows, "<>>><")}\n\n'
        f'To write: {format_bytes(sum(needed.values()))}. Free on the disk of "{store}": '
        f'{format_bytes(free)}.'
    )


def estimate_store(writer: OutputWriter, store: str, logger: MMLogger) -> None:
    """Log what writing will take, with the time of a few batches.

    Args:
        writer (OutputWriter): The writer; nothing is written.
        store (str): Folder of the store.
        logger (MMLogger): Logger.
    """
    logger.info(describe_store(writer, store))
    per_image = writer.runner.seconds_per_image()
    logger.info(
        f'{1000 * per_image:.2f} ms per augmented image: about '
        f'{duration(per_image * writer.num_missing_images())} on {processes()}. Nothing was '
        'written.'
    )


def write_store(writer: OutputWriter, logger: MMLogger) -> None:
    """Write all that is missing, with a progress bar; all processes together.

    Args:
        writer (OutputWriter): The writer.
        logger (MMLogger): Gets the expected time before, the teachers'
            accuracy after it.
    """
    mine = torch.tensor(writer.num_missing_images(), device=get_device())
    total = mine.clone()
    all_reduce(total)
    if int(total) == 0:
        logger.info('The store is complete.')
        return
    per_image = writer.runner.seconds_per_image()
    logger.info(
        f'{int(total):,} augmented images, {1000 * per_image:.2f} ms each: about '
        f'{duration(per_image * int(mine))} on {processes()}.'
    )
    predictions = StoredPredictions(list(writer.names), writer.runner.pool.spec.num_classes)
    bar = tqdm(
        total=int(mine),
        unit='image',
        unit_scale=True,
        dynamic_ncols=True,
        disable=not is_main_process(),
        # In a log file a line per half minute.
        mininterval=0.1 if sys.stderr.isatty() else 30,
        desc='storing' if get_world_size() == 1 else 'storing (process 0)',
    )
    work = UnevenWork()

    def progress(images: int) -> None:
        bar.update(images)
        work.go_on()

    with bar:
        writer.write_missing(progress, inspect=None if writer.blends else predictions.add)
    work.wait()
    # Parts that processes of other jobs have not finished, or have given up.
    writer.write_missing(lambda images: work.go_on())
    work.wait()
    saturated = torch.tensor(writer.codec.saturated, device=get_device())
    all_reduce(saturated)
    if int(saturated):
        logger.warning(
            'Beyond the range of float16, and replaced by its largest number, 65504: '
            f'{count(int(saturated), "value")}. --logits float32 keeps them.'
        )
    predictions.report(logger)
    logger.info('The store is complete.')


def check_store(writer: OutputWriter, images: int, seed: int, logger: MMLogger) -> None:
    """Run the teachers again on random images, and log how far the store is from that.

    Args:
        writer (OutputWriter): The writer of a store, of which nothing is written.
        images (int): Number of augmented images.
        seed (int): Seed by which they are drawn.
        logger (MMLogger): Logger.

    Raises:
        InputError: If no view is complete, or pixels are not those that were
            stored.
    """
    reader = StoreReader(writer.root, writer.names)
    complete = [view for view in range(reader.num_views) if not reader.missing(view)]
    if not complete:
        raise InputError(f'No view in "{writer.root}" is complete: finish it before --check.')
    total = reader.num_samples * len(complete)
    images = min(images, total)
    chosen = np.random.default_rng(seed).choice(total, images, replace=False).tolist()
    keys = [(number // len(complete), complete[number % len(complete)]) for number in chosen]
    worst: dict[tuple[str, str], tuple[float, float]] = {}
    pixels = 0
    for batch in writer.runner.compute(keys):
        rows = reader.read_rows(batch.samples, batch.views)
        sums = reader.read_checksums(batch.samples, batch.views)
        pixels += int((sums != np.array(batch.crc32, np.uint32)).sum())
        for name, output in batch.outputs.items():
            for key, value in writer.codec.to_tensors(name, output).items():
                fresh = value.float().cpu().numpy()
                gap = float(np.abs(rows[name][key].astype(np.float32) - fresh).max())
                scale = float(fresh.std()) or 1.0
                before = worst.get((name, key), (0.0, 0.0))
                worst[name, key] = max(before[0], gap), max(before[1], gap / scale)
    lines = [('teacher', 'tensor', 'deviation', 'in standard deviations')]
    lines += [
        (name, key, f'{gap:.2g}', f'{relative:.2g}')
        for (name, key), (gap, relative) in worst.items()
    ]
    logger.info(
        f'Largest deviations on {count(images, "random augmented image")} of '
        f'{count(len(complete), "complete view")}:\n\n{table(lines, "<<>>")}\n'
    )
    if pixels:
        raise InputError(
            f'The pixels of {pixels} of these {images} images are not those that were stored. '
            f'{changed_pixels_cause(reader.inputs)}, or store the outputs again in another folder.'
        )
    logger.info('The pixels of all these images are those that were stored.')


class StoredPredictions:
    """How often the teachers are right on the images that are stored.

    Args:
        names (list[str]): The teachers.
        num_classes (int): C.
    """

    def __init__(self, names: list[str], num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = {name: PredictionCounts(num_classes, get_device()) for name in names}

    def add(self, batch: ComputedBatch) -> None:
        """Count a batch; images without a single label are left out."""
        kept = [i for i, label in enumerate(batch.labels) if label is not None and len(label) == 1]
        if not kept:
            return
        labels = torch.cat([batch.labels[i] for i in kept])
        images = torch.tensor([batch.samples[i] for i in kept])
        for name, output in batch.outputs.items():
            self.counts[name].add(labels, output.logits[kept].argmax(dim=1), images)

    def report(self, logger: MMLogger) -> None:
        """Log the accuracies of all processes together; warn of what is wrong."""
        for name, counts in self.counts.items():
            counts.all_reduce()
            if counts.num_images == 0:
                continue
            logger.info(
                f'Teacher "{name}" is right on {100 * counts.accuracy:.1f} % of '
                f'{counts.num_images:,} augmented images.'
            )
            warning = counts.warning(name, minimum_accuracy(self.num_classes))
            if warning:
                logger.warning(f'{warning} Mend this before training from the store.')


def existing_folder(path: str) -> str:
    """The folder itself, or the innermost one above it that exists."""
    path = osp.abspath(path)
    while not osp.isdir(path):
        path = osp.dirname(path)
    return path


def processes() -> str:
    """Their number, for messages."""
    return count(get_world_size(), 'process', 'processes')


def count(number: int, what: str, plural: str = '') -> str:
    """A number of things: "1 view", "2 views"."""
    return f'{number:,} {what if number == 1 else plural or what + "s"}'


def duration(seconds: float) -> str:
    """A time in words: "3.2 h"."""
    if seconds < 120:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 7200 else f'{seconds / 3600:.1f} h'


def table(rows: Sequence[Sequence[str]], alignment: str) -> str:
    """Format rows of text in columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = (
        '  '.join(f'{cell:{side}{width}}' for cell, side, width in zip(row, alignment, widths))
        for row in rows
    )
    return '\n'.join(line.rstrip() for line in lines)
