# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""How much following each teacher helps a student, against the weight that it gets.

From the state of every given checkpoint, the student is trained for some steps with each teacher
alone, with equal weights, and with the training's own weights, always on the same batches and with
the same random numbers. The usefulness is the decrease of its cross entropy on the validation
images, on which nothing was trained. Keep the checkpoints of all epochs
(``default_hooks.checkpoint.interval=1``, ``default_hooks.checkpoint.max_keep_ckpts=-1``) to see how
it changes over a training.

    python tools/analysis_tools/teacher_usefulness.py CONFIG work_dirs/NAME/epoch_2.pth \\
        work_dirs/NAME/epoch_6.pth --steps 30
"""

import argparse
import csv
import itertools
import os.path as osp

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from tqdm import tqdm

from mtkdrl_mm.engine.build_dataloader import build_dataloader, seeded_dataloader
from mtkdrl_mm.engine.seeded_views import seeded_parts
from mtkdrl_mm.engine.teacher_outputs import connect_teacher_outputs
from mtkdrl_mm.evaluation.usefulness import Usefulness, measure_usefulness
from mtkdrl_mm.models import AVER, StaticWeights
from mtkdrl_mm.models.labels import hard_labels
from mtkdrl_mm.report.image_outputs import TrainedNetworks, load_networks
from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.files import atomic_write, check_output_file
from mtkdrl_mm.utils.launch import add_common_arguments, check_data, load_config, run_tool
from mtkdrl_mm.utils.markdown import markdown_table
from mtkdrl_mm.weights.checkpoint import read_checkpoint

EQUAL, OWN = 'equal weights', "the training's weights"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='config of the distillation')
    parser.add_argument('checkpoints', nargs='+', help='its checkpoints, with their optimizer')
    parser.add_argument(
        '--steps',
        type=int,
        default=30,
        help='training steps with each weighting, each of one batch; with gradient accumulation, a '
        'multiple of `optim_wrapper.accumulative_counts`',
    )
    parser.add_argument('--repeats', type=int, default=3, help='measurements on other batches')
    parser.add_argument('--images', type=int, default=2000, help='validation images, at most')
    parser.add_argument('--out', help='CSV file for the gains per class')
    add_common_arguments(parser)
    return parser.parse_args()


def load_student(config: Config, checkpoint: str) -> tuple[TrainedNetworks, OptimWrapper]:
    """The networks of a checkpoint, and the student's optimiser in its state."""
    networks = load_networks(config, checkpoint, extra_losses=True)
    optim_wrapper = build_optim_wrapper(networks.model, networks.config.optim_wrapper)
    state = read_checkpoint(checkpoint, 'checkpoint').get('optimizer')
    if state is None:
        raise InputError(
            f'"{checkpoint}" holds no state of the optimizer: it was saved with '
            '`default_hooks.checkpoint.save_optimizer=False`, or it is an exported student.'
        )
    try:
        optim_wrapper.load_state_dict(state)
    except (ValueError, KeyError) as error:
        raise InputError(f'The optimizer of "{checkpoint}" does not fit: {error}') from error
    return networks, optim_wrapper


def training_batches(
    networks: TrainedNetworks, args: argparse.Namespace
) -> tuple[list[list], list[int]]:
    """The batches of every repeat, and the number of its first iteration.

    They are the first ones of the epochs after the checkpoint.
    """
    loader = build_dataloader(
        seeded_dataloader(networks.config.train_dataloader), networks.seed, model=networks.model
    )
    if not networks.has_teacher_networks:
        connect_teacher_outputs(networks.model, loader)
    repeats, iterations = [], []
    for epoch in range(networks.epoch, networks.epoch + args.repeats):
        seeded_parts(loader)[1].set_position(networks.seed, epoch)
        batches = list(itertools.islice(loader, args.steps))
        if len(batches) < args.steps:
            raise InputError(f'--steps is {args.steps}, but an epoch has {len(batches)} steps.')
        repeats.append(batches)
        iterations.append(epoch * len(loader))
    return repeats, iterations


def validation_images(networks: TrainedNetworks, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Validation images in random order, preprocessed, and their classes."""
    settings = networks.config.get('val_dataloader')
    if settings is None:
        raise InputError('The config has no `val_dataloader`, on whose images gains are measured.')
    settings.sampler = dict(type='DefaultSampler', shuffle=True)
    model = networks.model
    images, labels = [], []
    for batch in build_dataloader(settings, networks.seed):
        data = model.data_preprocessor(batch, False)
        images.append(model.format_inputs(data['inputs']))
        labels.append(hard_labels(data['data_samples']))
        if sum(map(len, labels)) >= count:
            break
    joined = torch.cat(images)[:count]
    return joined, torch.cat(labels)[:count].to(joined.device)


def measure(config: Config, checkpoint: str, args: argparse.Namespace) -> dict[str, Usefulness]:
    """Measure all teachers from the state of one checkpoint."""
    networks, optim_wrapper = load_student(config, checkpoint)
    model = networks.model
    pool = model.weighting.pool
    weightings = {
        **{name: StaticWeights(pool, {name: 1.0}) for name in pool.names},
        EQUAL: AVER(pool),
        OWN: model.weighting,
    }
    for weighting in weightings.values():
        weighting.to(next(model.parameters()).device)
    images, labels = validation_images(networks, args.images)
    repeats, iterations = training_batches(networks, args)
    return measure_usefulness(
        model, optim_wrapper, weightings, repeats, images, labels, networks.seed, iterations
    )


def describe(found: dict[str, Usefulness]) -> str:
    """The table of one checkpoint."""
    names = list(found)[: len(found[OWN].weights)]
    weights = dict(zip(names, found[OWN].weights.tolist()))
    rows = []
    for name, one in found.items():
        cells = []
        for gain, half in (one.gain(), one.gain(found[EQUAL])):
            interval = '' if half is None else f' ± {1000 * half:.1f}'
            cells.append(f'{1000 * gain:+.1f}{interval}')
        if name == EQUAL:
            cells[1] = ''
        rows.append([name, *cells, f'{weights[name]:.2f}' if name in weights else ''])
    header = ['followed', 'gain', 'minus equal weights', 'its weight in the training']
    return markdown_table(header, rows)


def write_classes(path: str, results: dict[str, dict[str, Usefulness]]) -> None:
    """Write the gains per class, as means over the repeats."""
    first = next(iter(next(iter(results.values())).values()))
    header = ['checkpoint', 'followed', *range(len(first.counts))]
    with atomic_write(path, newline='') as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for checkpoint, found in results.items():
            for name, one in found.items():
                gains = one.gains.mean(dim=0).tolist()
                writer.writerow([checkpoint, name, *(f'{gain:.5f}' for gain in gains)])


def main() -> None:
    args = parse_args()
    for name in ('steps', 'repeats', 'images'):
        check_number(f'--{name}', getattr(args, name), minimum=1)
    check_output_file('--out', args.out)
    results = {}
    for checkpoint in tqdm(args.checkpoints, desc='checkpoints', disable=None):
        config = load_config(args)
        check_data(config, ('train_dataloader', 'val_dataloader'))
        results[checkpoint] = measure(config, checkpoint, args)
    images = int(results[args.checkpoints[0]][EQUAL].counts.sum())
    print(
        f'Decrease of the cross entropy on {images:,} validation images by {args.steps} steps, in '
        f'thousandths of a nat; {args.repeats} repeats on other batches, 95 % intervals:'
    )
    short = [osp.basename(checkpoint) for checkpoint in results]
    distinct = len(set(short)) == len(short)
    for checkpoint, name, found in zip(results, short, results.values()):
        print(f'\n{name if distinct else checkpoint}\n\n{describe(found)}')
    if args.out:
        write_classes(args.out, results)
        print(f'\nThe gains per class are in {args.out}.')


if __name__ == '__main__':
    run_tool(main)
