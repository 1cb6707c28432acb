# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Estimate disk, network and hours of stored teacher outputs for a large data set.

All follows from three figures of one GPU: the time that the teachers take for an image, the images
per second of plain training, and the time of a step from the store relative to a plain one. They
are measured by benchmark_training.py, whose JSON file ``--figures`` reads, or given by hand.

    bytes per image and view    b = 2 sum_m (C + d_m + k_m)
    disk                        N V b
    hours to fill the store     N V t / G
    hours of a training         N E s / G from the store, N E (t + s) / G with running teachers
    bytes read per second       G b / s in a training from the store
    bytes written per second    G b / t while it is filled

for N images, V views, E epochs, G GPUs, C classes, embeddings of d_m and maps of k_m numbers, and
the seconds per image t of the teachers and s of a step from the store. With less than b / (t + s)
bytes per second and GPU, reading takes longer than running the teachers. It is assumed that GPUs
add up, and that files are read while the GPU computes.

    python tools/analysis_tools/estimate_store.py --figures work_dirs/benchmark.json
    python tools/analysis_tools/estimate_store.py --teacher-ms 1.85 --images-per-second 2750 \\
        --step-ratio 1.1
"""

import argparse
import re
from dataclasses import dataclass

from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.json_files import read_json_object
from mtkdrl_mm.utils.launch import run_tool
from mtkdrl_mm.utils.markdown import markdown_table

#: Name, number of training images and of classes.
DATASETS = {
    'imagenet1k': ('ImageNet-1k', 1_281_167, 1000),
    'imagenet21k': ('ImageNet-21k', 14_197_122, 21_841),
}
#: What a number takes in half precision.
ITEM_BYTES = 2


@dataclass(frozen=True)
class Figures:
    """What was measured on one GPU.

    Attributes:
        teacher_seconds (float): Seconds that the teachers take for an image.
        plain_seconds (float): Seconds per image of plain training.
        step_ratio (float): A step from the store, relative to a plain one.
    """

    teacher_seconds: float
    plain_seconds: float
    step_ratio: float

    @property
    def stored_seconds(self) -> float:
        """Seconds per image of a training from the store."""
        return self.plain_seconds * self.step_ratio

    @property
    def running_seconds(self) -> float:
        """Seconds per image of a training with running teachers."""
        return self.teacher_seconds + self.stored_seconds


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--figures', help='JSON file of benchmark_training.py')
    parser.add_argument('--teacher-ms', type=float, help='ms per image of all teachers together')
    parser.add_argument(
        '--images-per-second', type=float, help='images per second of plain training on one GPU'
    )
    parser.add_argument(
        '--step-ratio', type=float, help='time of a step from the store, relative to a plain one'
    )
    parser.add_argument(
        '--embeddings',
        type=int,
        nargs='+',
        default=[256] * 4,
        help='stored numbers of the embedding of every teacher',
    )
    parser.add_argument(
        '--maps',
        nargs='*',
        default=['64x7x7', '2048x7x7'],
        metavar='CxHxW',
        help='sizes of a teacher\'s map, each of which is estimated besides "none"',
    )
    parser.add_argument(
        '--datasets', nargs='+', choices=DATASETS, default=list(DATASETS), help='data sets'
    )
    parser.add_argument('--views', type=int, default=8, help='augmented views per image')
    parser.add_argument('--epochs', type=int, default=100, help='epochs of a training')
    parser.add_argument('--gpus', type=int, nargs='+', default=[1, 8, 64], help='numbers of GPUs')
    parser.add_argument(
        '--trainings', type=int, nargs='+', default=[1, 3, 10, 30], help='numbers of trainings'
    )
    return parser.parse_args()


def read_figures(args: argparse.Namespace) -> Figures:
    """The figures of the command line, completed by those of the file."""
    found: dict[str, float] = {}
    if args.figures:
        content = read_json_object(args.figures, dict(figures=dict))['figures']
        try:
            found = dict(
                teacher_ms=float(content['teacher_ms']),
                images_per_second=float(content['plain_images_per_second']),
                step_ratio=float(content['step_ratio']),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f'"{args.figures}" lacks figures of benchmark_training.py ({error}): write it '
                'anew by --out of that tool.'
            ) from error
    for name in ('teacher_ms', 'images_per_second', 'step_ratio'):
        value = getattr(args, name)
        flag = f'--{name.replace("_", "-")}'
        if value is None and name not in found:
            raise InputError(f'Give {flag}, or --figures, a file of benchmark_training.py.')
        found[name] = check_number(
            flag, found.get(name) if value is None else value, exclusive=True
        )
    return Figures(found['teacher_ms'] / 1000, 1 / found['images_per_second'], found['step_ratio'])


def map_values(size: str) -> int:
    """Numbers of a map, of its size in text.

    Example:
        >>> map_values('64x7x7')
        3136
    """
    match = re.fullmatch(r'(\d+)x(\d+)x(\d+)', size)
    if match is None:
        raise InputError(f'--maps: "{size}" is no size: give channels, height and width as 64x7x7.')
    channels, height, width = map(int, match.groups())
    return channels * height * width


def bytes_per_image(embeddings: list[int], classes: int, values: int) -> int:
    """Bytes per image and view of all teachers: logits, embeddings and maps.

    Args:
        embeddings (list[int]): Size of every teacher's embedding.
        classes (int): C.
        values (int): Numbers of a teacher's map.
    """
    return sum(ITEM_BYTES * (classes + size + values) for size in embeddings)


def hours(seconds: float) -> str:
    """Seconds as hours, with two digits."""
    return significant(seconds / 3600)


def significant(number: float) -> str:
    """A number with two digits, or as a whole number."""
    if number >= 100:
        return f'{number:,.0f}'
    return f'{float(f"{number:.2g}"):g}'


def size(count: float) -> str:
    """A number of bytes in decimal units, as disks and networks are sold."""
    for unit, factor in (('PB', 1e15), ('TB', 1e12), ('GB', 1e9), ('MB', 1e6)):
        if count >= factor:
            return f'{significant(count / factor)} {unit}'
    return f'{significant(count / 1e3)} kB'


def disk_table(args: argparse.Namespace, figures: Figures) -> str:
    """Bytes, disk, and bytes per second, for every data set and kind of maps."""
    head = ['data set, maps', 'image and view', 'one view', f'{args.views} views']
    head += [f'read by {count}' for count in args.gpus]
    head += ['written per GPU', 'least per GPU']
    rows = []
    for key in args.datasets:
        title, images, classes = DATASETS[key]
        for kind, values in [('none', 0), *((one, map_values(one)) for one in args.maps)]:
            count = bytes_per_image(args.embeddings, classes, values)
            row = [f'{title}, {kind}', size(count), size(count * images)]
            row.append(size(count * images * args.views))
            row += [size(count * gpus / figures.stored_seconds) for gpus in args.gpus]
            row.append(size(count / figures.teacher_seconds))
            row.append(size(count / figures.running_seconds))
            rows.append(row)
    return markdown_table(head, rows)


def hours_table(args: argparse.Namespace, figures: Figures) -> str:
    """Hours of filling and training for every data set and number of GPUs."""
    head = ['data set, GPUs', f'filling {args.views} views']
    head += [f'{args.epochs} epochs: {kind}' for kind in ('running', 'stored', 'plain')]
    rows = []
    for key in args.datasets:
        title, images, _ = DATASETS[key]
        for gpus in args.gpus:
            share, epochs = images / gpus, args.epochs * images / gpus
            rows.append(
                [
                    f'{title}, {gpus}',
                    hours(share * args.views * figures.teacher_seconds),
                    hours(epochs * figures.running_seconds),
                    hours(epochs * figures.stored_seconds),
                    hours(epochs * figures.plain_seconds),
                ]
            )
    return markdown_table(head, rows)


def trainings_table(args: argparse.Namespace, figures: Figures) -> str:
    """GPU time of several trainings, relative to running teachers; the store is filled once."""
    views = sorted({1, args.views, 4 * args.views, args.epochs, 4 * args.epochs})
    rows = []
    for count in args.trainings:
        epochs = count * args.epochs
        row = [str(count)]
        for number in views:
            # The teachers run in at most as many epochs as there are.
            filling = min(number, epochs) * figures.teacher_seconds
            stored = filling + epochs * figures.stored_seconds
            row.append(f'{stored / (epochs * figures.running_seconds):.2f}')
        rows.append(row)
    return markdown_table(['trainings', *(f'{number} views' for number in views)], rows)


def main() -> None:
    args = parse_args()
    for name in ('views', 'epochs', 'gpus', 'trainings', 'embeddings'):
        values = getattr(args, name)
        for value in values if isinstance(values, list) else [values]:
            check_number(f'--{name}', value, minimum=1)
    figures = read_figures(args)
    print(
        f'Estimate from {1000 * figures.teacher_seconds:.3g} ms per image of the teachers, '
        f'{1 / figures.plain_seconds:,.4g} images per second of plain training on one GPU, and '
        f'{figures.step_ratio:.3g} plain steps per step from the store; logits and embeddings of '
        f'{len(args.embeddings)} teachers in half precision.'
    )
    for title, table in (
        ('Disk, and bytes per second', disk_table(args, figures)),
        ('Hours', hours_table(args, figures)),
        (
            f'GPU time of trainings of {args.epochs} epochs with one store, relative to running '
            'teachers',
            trainings_table(args, figures),
        ),
    ):
        print(f'\n{title}:\n\n{table}')


if __name__ == '__main__':
    run_tool(main)
