# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Write one HTML page about a training, or a comparison: results, curves, weights, cost.

The page is a single file that needs no network. It is made from the work dir of
any training of this project, also one that was resumed or is not finished.

    python tools/analysis_tools/report.py work_dirs/demo/mtkdrl/seed_0

For the images, student and teachers are run on some of them (``--images``), with
the last checkpoint; of teachers whose outputs the training read from a store,
they are read. ``--no-images`` makes the page from the logs alone. Paths in the
config that are no longer right are given as for training:

    python tools/analysis_tools/report.py WORK_DIR --cfg-options data_root=/data/digits

The work dir of ``compare_methods.py`` gives the page of the comparison, from what there is so
far. No network is run for it, and ``--reference`` compares with another method:

    python tools/analysis_tools/report.py work_dirs/compare --reference mtkdrl
"""

import argparse
import os.path as osp

from mmengine.config import Config
from mmengine.logging import MMLogger
from tqdm import tqdm

from mtkdrl_mm.comparison import PAGE_NAME, is_comparison, read_comparison
from mtkdrl_mm.report import (
    Page,
    RunRecord,
    make_comparison_page,
    make_run_page,
    read_run,
    write_page,
)
from mtkdrl_mm.report.image_outputs import FoundImages, look_at_images
from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.cli import OptionsAction
from mtkdrl_mm.utils.files import check_output_file
from mtkdrl_mm.utils.launch import check_data, load_config, run_tool

DEFAULT_IMAGES = 500


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('work_dir', help='work dir of the training, or comparison')
    parser.add_argument('--out', help='file to write; by default report.html in the work dir')
    parser.add_argument(
        '--images',
        type=int,
        help='greatest number of images that student and teachers are run on; by default '
        f'{DEFAULT_IMAGES}',
    )
    parser.add_argument(
        '--no-images', action='store_true', help='run no networks: only what is in the logs'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        help="changes to the run's config for running the networks, such as paths",
    )
    parser.add_argument(
        '--reference', help='of a comparison: the method that the others are compared with'
    )
    return parser.parse_args()


def checked_config(path: str, args: argparse.Namespace) -> Config:
    """The config of the training, for running its networks."""
    flags = dict(launcher='none', local_rank=0, no_pin_memory=False)
    cfg = load_config(
        argparse.Namespace(
            config=path, work_dir=args.work_dir, cfg_options=args.cfg_options, **flags
        )
    )
    check_data(cfg, ('train_dataloader', 'val_dataloader'))
    return cfg


def look_with_progress(record: RunRecord, args: argparse.Namespace) -> FoundImages:
    """Run the networks of the training on images, with a progress bar."""
    MMLogger.get_current_instance().setLevel('WARNING')
    bars: dict[str, tqdm] = {}

    def show(what: str, done: int, total: int) -> None:
        if what not in bars:
            for bar in bars.values():
                bar.close()
            bars[what] = tqdm(desc=f'{what} images', total=total)
        bars[what].update(done - bars[what].n)

    try:
        return look_at_images(record, lambda path: checked_config(path, args), args.images, show)
    finally:
        for bar in bars.values():
            bar.close()


def comparison_page(args: argparse.Namespace, out: str) -> Page:
    for flag, value in (('--images', args.images), ('--cfg-options', args.cfg_options)):
        if value is not None:
            raise InputError(
                f'{flag} is for the page of one training, but "{args.work_dir}" holds a '
                'comparison, for whose page no network is run.'
            )
    return make_comparison_page(read_comparison(args.work_dir, args.reference), out)


def run_page(args: argparse.Namespace) -> Page:
    if args.images is None:
        args.images = DEFAULT_IMAGES
    check_number('--images', args.images, minimum=1)
    record = read_run(args.work_dir)
    if args.reference is not None:
        raise InputError(
            f'--reference is for the page of a comparison, but "{args.work_dir}" holds one '
            'training.'
        )
    if args.no_images:
        return make_run_page(record, *['Left out by --no-images.'] * 2)
    found = look_with_progress(record, args)
    return make_run_page(record, found.weighted, found.evaluated, found.class_names)


def main() -> None:
    args = parse_args()
    out = args.out or osp.join(args.work_dir, PAGE_NAME)
    if args.out or osp.isdir(args.work_dir):
        check_output_file('--out', out)
    page = comparison_page(args, out) if is_comparison(args.work_dir) else run_page(args)
    size = write_page(page, out)
    for name, reason in page.left_out:
        print(f'Left out: {name}. {reason}')
    print(f'The report is in {out} ({size / 1024:.0f} KiB).')


if __name__ == '__main__':
    run_tool(main)
