# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Store the outputs of a config's teachers on several augmented views of its training data.

    python tools/store_teacher_outputs.py configs/mtkdrl/r18_imagenet.py STORE --views 8
    python tools/train.py configs/mtkdrl/r18_imagenet.py \\
        --cfg-options model.teacher_outputs=STORE

Any number of processes, on any number of machines, may write one store. It may be killed at any
moment: the same command goes on with the parts that are missing.
"""

import argparse
import atexit
import os
import os.path as osp
import shutil
import sys
import tempfile
from dataclasses import replace

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import (
    all_reduce,
    barrier,
    get_world_size,
    init_dist,
    is_distributed,
    is_main_process,
)
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from tqdm import tqdm

from mtkdrl_mm.engine.build_dataloader import build_dataloader, seeded_dataloader
from mtkdrl_mm.engine.output_writer import ComputedBatch, OutputWriter
from mtkdrl_mm.engine.teacher_outputs import report_warnings, writing_session
from mtkdrl_mm.evaluation.teacher_report import minimum_accuracy
from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.teacher_outputs import (
    Manifest,
    StoreReader,
    TeacherOutputsSettings,
    format_bytes,
    inputs_folder,
    list_teachers,
)
from mtkdrl_mm.teacher_outputs.settings import DTYPES, MAPS
from mtkdrl_mm.utils import InputError, check_number, near_matches
from mtkdrl_mm.utils.distributed import broadcast_from_main
from mtkdrl_mm.utils.launch import add_common_arguments, check_data, load_config, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='distillation config')
    parser.add_argument('store', help='folder of the store')
    parser.add_argument(
        '--views',
        type=int,
        help='number of augmented views per image; by default that of an existing store',
    )
    parser.add_argument(
        '--seed',
        type=int,
        help='seed of the augmentations; by default that of an existing store, else 0',
    )
    parser.add_argument(
        '--teachers', nargs='+', metavar='NAME', help='names of teachers to store, by default all'
    )
    parser.add_argument(
        '--logits',
        choices=DTYPES,
        default='float16',
        help='data type of logits, embeddings and maps; float32 loses nothing',
    )
    parser.add_argument(
        '--maps',
        choices=MAPS,
        default='none',
        help='feature maps: none (logits and embeddings only), averaged over positions, full, or '
        'projected onto their leading principal components',
    )
    parser.add_argument(
        '--map-channels', type=int, default=64, help='number of components of projected maps'
    )
    parser.add_argument(
        '--dry-run', action='store_true', help='print what it will take, and write nothing'
    )
    parser.add_argument(
        '--check',
        nargs='?',
        type=int,
        const=256,
        metavar='IMAGES',
        help='run the teachers again on random images of the store (256) and print the largest '
        'deviations, instead of writing',
    )
    add_common_arguments(parser)
    return parser.parse_args()


def build_model(cfg: Config) -> MultiTeacherDistiller:
    """Build the config's distiller with its teachers, without their weights."""
    if not str(cfg.model.get('type')).endswith('MultiTeacherDistiller'):
        raise InputError(
            f"The config's model is a {cfg.model.get('type')}, which has no teachers: give a "
            'config whose model is a MultiTeacherDistiller.'
        )
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    # Losses and weightings may need files, and have no effect here.
    cfg.model.pop('extra_losses', None)
    cfg.model.pop('teacher_outputs', None)
    return MODELS.build(cfg.model)


def read_settings(args: argparse.Namespace) -> TeacherOutputsSettings:
    """The settings of the command line, completed by those of an existing store."""
    views, seed = args.views, args.seed
    if osp.isdir(inputs_folder(args.store)):
        stored = Manifest.read(inputs_folder(args.store)).views
        views = stored.num_views if views is None else views
        seed = stored.seed if seed is None else seed
    if views is None:
        raise InputError(
            f'"{args.store}" is no store yet: give --views, the number of augmented views of every '
            'image, for example 8.'
        )
    return TeacherOutputsSettings(
        root=args.store,
        views=views,
        seed=seed or 0,
        write=True,
        logits=args.logits,
        maps=args.maps,
        map_channels=args.map_channels,
    )


def check_stored(store: str, names: list[str]) -> None:
    """Make sure that teachers are in a store, complete or not."""
    stored = list_teachers(store)
    missing = [name for name in names if name not in stored]
    if missing:
        raise InputError(
            f'"{store}" holds no outputs of {", ".join(missing)}: there is nothing to check.'
        )


def shadow(store: str) -> str:
    """A temporary folder that shows what is in a store, and takes what is not.

    All processes get the same one; it is removed at exit.
    """
    folder = broadcast_from_main(tempfile.mkdtemp() if is_main_process() else None)
    if is_main_process():
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        for name in os.listdir(store) if osp.isdir(store) else ():
            os.symlink(osp.abspath(osp.join(store, name)), osp.join(folder, name))
    barrier()
    return folder


def chosen_teachers(model: MultiTeacherDistiller, names: list[str] | None) -> list[str]:
    """The teachers to store, in the order of the pool."""
    known = list(model.teachers.names)
    for name in names or ():
        if name not in known:
            raise InputError(
                f'--teachers: the config has no teacher "{name}". {near_matches(name, known)}'
            )
    return [name for name in known if names is None or name in names]


def describe(writer: OutputWriter, args: argparse.Namespace) -> str:
    """What will be written, and what it will take."""
    dataset = writer.inputs.manifest.dataset
    needed = writer.bytes_needed()
    lines = [
        f'Outputs of {len(writer.names)} teachers on {dataset.num_samples:,} images x '
        f'{writer.num_views} views, in parts of {writer.part_size:,} images',
        '',
        f'{"teacher":<24} {"per image and view":>18} {"all":>10} {"to write":>10}  contents',
    ]
    for name, one in writer.writers.items():
        manifest = one.manifest
        total = manifest.row_bytes * dataset.num_samples * writer.num_views
        contents = ', '.join(
            f'{spec.name} {"x".join(map(str, spec.shape))}' for spec in manifest.tensors
        )
        lines.append(
            f'{name:<24} {format_bytes(manifest.row_bytes):>18} {format_bytes(total):>10} '
            f'{format_bytes(needed[name]):>10}  {contents} ({manifest.tensors[0].dtype})'
        )
    free = shutil.disk_usage(existing_folder(args.store)).free
    lines += [
        '',
        f'To write: {format_bytes(sum(needed.values()))}. Free on the disk of "{args.store}": '
        f'{format_bytes(free)}.',
    ]
    return '\n'.join(lines)


def existing_folder(path: str) -> str:
    """The folder itself, or the innermost one above it that exists."""
    path = osp.abspath(path)
    while not osp.isdir(path):
        path = osp.dirname(path)
    return path


def duration(seconds: float) -> str:
    """A time in words: "3.2 h"."""
    if seconds < 120:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 7200 else f'{seconds / 3600:.1f} h'


class Accuracy:
    """The teachers' accuracy on the images that are stored."""

    def __init__(self, names: list[str]) -> None:
        self.correct = dict.fromkeys(names, 0)
        self.total = dict.fromkeys(names, 0)

    def add(self, batch: ComputedBatch) -> None:
        """Count a batch; images without a single label are left out."""
        kept = [i for i, label in enumerate(batch.labels) if label is not None and len(label) == 1]
        if not kept:
            return
        labels = torch.cat([batch.labels[i] for i in kept])
        for name, output in batch.outputs.items():
            predicted = output.logits[kept].argmax(dim=1)
            self.correct[name] += int((predicted == labels.to(predicted.device)).sum())
            self.total[name] += len(kept)

    def report(self, logger: MMLogger, num_classes: int) -> None:
        """Log the accuracies of all processes together; warn of those near chance."""
        counts = torch.tensor(
            [[self.correct[name], self.total[name]] for name in self.correct],
            dtype=torch.float64,
            device=get_device(),
        )
        all_reduce(counts)
        for name, (correct, total) in zip(self.correct, counts.tolist()):
            if total == 0:
                continue
            accuracy = 100 * correct / total
            logger.info(f'  {name}: {accuracy:.1f} % of {int(total):,} training images correct')
            if accuracy < minimum_accuracy(num_classes):
                logger.warning(
                    f'Teacher "{name}" has an accuracy of only {accuracy:.1f} % on the augmented '
                    'training images. Check its checkpoint and preprocessing with '
                    'tools/analysis_tools/check_teachers.py before training from this store.'
                )


def write(writer: OutputWriter, logger: MMLogger) -> None:
    """Write all that is missing, with a progress bar."""
    mine = torch.tensor(writer.num_missing_images(), device=get_device())
    total = mine.clone()
    all_reduce(total)
    if int(total) == 0:
        logger.info('The store is complete.')
        return
    per_image = writer.seconds_per_image() if int(mine) else 0.0
    logger.info(
        f'{1000 * per_image:.2f} ms per image: about {duration(per_image * int(mine))} for '
        f'{int(total):,} images and views on {get_world_size()} '
        f'{"process" if get_world_size() == 1 else "processes"}'
    )
    accuracy = Accuracy(list(writer.names))
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
    with bar:
        writer.write_missing(bar.update, inspect=None if writer.blends else accuracy.add)
    barrier()
    # Parts that processes of other jobs have not finished, or have given up.
    writer.write_missing()
    barrier()
    if writer.codec.saturated:
        logger.warning(
            f'{writer.codec.saturated} values were beyond the range of float16 and were replaced '
            'by its largest number, 65504. --logits float32 keeps them.'
        )
    accuracy.report(logger, writer.pool.spec.num_classes)
    logger.info(
        f'The store is complete. Train from it with --cfg-options '
        f'model.teacher_outputs={writer.root}'
    )


def check(writer: OutputWriter, images: int, seed: int, logger: MMLogger) -> None:
    """Run the teachers again on random images, and print how far the store is from that."""
    check_number('--check', images, minimum=1)
    reader = StoreReader(writer.root, writer.names)
    complete = [view for view in range(reader.num_views) if not reader.missing(view)]
    if not complete:
        raise InputError(f'No view in "{writer.root}" is complete: finish it before --check.')
    generator = np.random.default_rng(seed)
    samples = generator.integers(reader.num_samples, size=images).tolist()
    views = generator.choice(complete, size=images).tolist()
    worst: dict[tuple[str, str], tuple[float, float]] = {}
    pixels = 0
    for batch in writer.compute(zip(samples, views)):
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
    lines = [f'{"teacher":<24} {"tensor":<16} {"deviation":>10} {"of a std":>10}']
    lines += [
        f'{name:<24} {key:<16} {gap:>10.2g} {relative:>10.2g}'
        for (name, key), (gap, relative) in worst.items()
    ]
    logger.info(
        f'Largest deviations on {images} random images of views {_ranges(complete)}:\n'
        + '\n'.join(lines)
    )
    if pixels:
        raise InputError(
            f'The pixels of {pixels} of {images} images are not those that were stored: the image '
            'files, the pipeline or the libraries that decode images have changed.'
        )
    logger.info('The pixels of all of them are those that were stored.')


def _ranges(numbers: list[int]) -> str:
    return f'{numbers[0]} to {numbers[-1]}' if len(numbers) > 1 else str(numbers[0])


def main() -> None:
    args = parse_args()
    settings = read_settings(args)
    cfg = load_config(args)
    if cfg.launcher != 'none' and not is_distributed():
        init_dist(cfg.launcher, **cfg.env_cfg.dist_cfg)
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    logger = MMLogger.get_instance('mtkdrl_mm', logger_name='mtkdrl_mm')
    check_data(cfg, ('train_dataloader',))
    model = build_model(cfg)
    names = chosen_teachers(model, args.teachers)
    model.teachers.load_weights()
    model.to(get_device()).eval()
    loader = build_dataloader(seeded_dataloader(cfg.train_dataloader), seed=0)
    if args.check is not None:
        check_stored(args.store, names)
    if args.dry_run:
        settings = replace(settings, root=shadow(args.store))
    try:
        writer = writing_session(model, loader, settings, names)
    except InputError as error:
        raise InputError(str(error).replace(str(settings.root), args.store)) from error
    report_warnings(writer.warnings, '--check compares the outputs.')
    if args.check is not None:
        check(writer, args.check, settings.seed or 0, logger)
        return
    logger.info(describe(writer, args))
    if args.dry_run:
        per_image = writer.seconds_per_image()
        logger.info(
            f'{1000 * per_image:.2f} ms per image: about '
            f'{duration(per_image * writer.num_missing_images())} on {get_world_size()} '
            f'{"process" if get_world_size() == 1 else "processes"}. Nothing was written.'
        )
        barrier()  # before the main process removes the folder
        return
    writer.check_free_space()
    try:
        write(writer, logger)
    except KeyboardInterrupt:
        print('\nInterrupted: complete parts are kept, and the same command goes on.')
        sys.stdout.flush()
        os._exit(130)


if __name__ == '__main__':
    run_tool(main)
