# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The main job on real handwritten digits, in minutes, on a CPU.

The student's labels are as from a crowd: 40 % of them are wrong. It has four
teachers, and each of them confuses some digits, since its own training labels do:
three of them 3 with 8 and 5 with 6, the fourth 1 with 7 and 4 with 9. The agent of
mtkdrl_stacking, the variant of this project, learns from 50 other images with right
labels whom to believe. It is compared with the student without teachers, the best
teacher alone, equal weights (AVER), MTKD-RL as published, and weights that are
learned as the agent's but are the same for all images; all with several seeds, and
all trained on the 50 images, too. Then a small detector is trained on scenes of
digits with three frozen backbones: random, the student without teachers, and ours.

Every training goes through ``tools/train.py`` and a config under
``configs/demo/``; the outputs of the teachers are computed once. What is there
already is not trained again. Without mmdet it ends with the students.
"""

import argparse
import os
import os.path as osp
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from mtkdrl_mm.comparison import (
    ComparisonSettings,
    Difference,
    MethodSummary,
    Row,
    Run,
    Runs,
    add_stored,
    fill_stores,
    finished,
    list_combinations,
    plan_stores,
    summarize,
    train_all,
)
from mtkdrl_mm.comparison.rows import read_config
from mtkdrl_mm.comparison.summary import paired_difference
from mtkdrl_mm.engine.work_dir_lock import WorkDirLock
from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.child_processes import interruptible, run_child
from mtkdrl_mm.utils.files import check_output_folder
from mtkdrl_mm.utils.json_files import read_json_object
from mtkdrl_mm.utils.launch import run_tool

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
WORK = osp.join('work_dirs', 'demo')
TEACHERS = {
    'resnet': 'taught to confuse 3 with 8, 5 with 6',
    'densenet': 'taught to confuse 3 with 8, 5 with 6',
    'repvgg': 'taught to confuse 3 with 8, 5 with 6',
    'wide_resnet': 'taught to confuse 1 with 7, 4 with 9',
}
STUDENTS = {
    'baseline': 'no teachers',
    'best_teacher': 'the best teacher alone',
    'aver': 'equal weights (AVER)',
    'mtkdrl': 'MTKD-RL, as published',
    'mtkdrl_static': 'one set of learned weights',
    'mtkdrl_stacking': 'mtkdrl_stacking (ours)',
}
REFERENCE, OURS = 'aver', 'mtkdrl_stacking'
BACKBONES = {
    'random': 'random',
    'baseline': 'student without teachers',
    OURS: 'student by mtkdrl_stacking',
}
# Augmented views of every image in the store of the teachers' outputs.
VIEWS = 6
# Digits in the picture; all but 0 and 2 are confused by some teacher.
SHOWN = (3, 8, 5, 6, 1, 7, 4, 9)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--epochs', type=int, default=25, help='epochs of the classifiers; fewer for a quick test'
    )
    parser.add_argument('--task-epochs', type=int, default=5, help='epochs of the detectors')
    parser.add_argument(
        '--task-images',
        type=int,
        help='images that detectors are trained and tested on; few for a quick test',
    )
    parser.add_argument(
        '--seeds', type=int, nargs='+', default=[0, 1, 2], help="the students' seeds"
    )
    parser.add_argument(
        '--task-seeds',
        type=int,
        nargs='+',
        help='those of them whose backbones detectors are trained from; by default the first one',
    )
    parser.add_argument('--work-dir', default=WORK, help='folder for logs and checkpoints')
    args = parser.parse_args()
    check_number('--epochs', args.epochs, minimum=1)
    check_number('--task-epochs', args.task_epochs, minimum=1)
    if args.task_images is not None:
        check_number('--task-images', args.task_images, minimum=1)
    for option in ('seeds', 'task_seeds'):
        seeds = getattr(args, option) or []
        if len(set(seeds)) < len(seeds):
            raise InputError(f'--{option.replace("_", "-")} names a seed twice: {seeds}.')
    if args.task_seeds is None:
        args.task_seeds = args.seeds[:1]
    unknown = [seed for seed in args.task_seeds if seed not in args.seeds]
    if unknown:
        raise InputError(f'--task-seeds names {unknown[0]}, which is not among --seeds.')
    return args


def comparison_settings(
    args: argparse.Namespace, epochs: int, folder: str = '', **kwargs: object
) -> ComparisonSettings:
    """How trainings are started: as many as there are cores, and at most four at a time."""
    options = [f'train_cfg.max_epochs={epochs}', f'train_cfg.val_interval={epochs}']
    options += [f'param_scheduler.T_max={epochs}', f'default_hooks.checkpoint.interval={epochs}']
    return ComparisonSettings(
        work_dir=osp.join(args.work_dir, folder) if folder else args.work_dir,
        root=ROOT,
        cfg_options=tuple(options),
        jobs=max(1, min(4, os.cpu_count() or 1)),
        warm=True,  # a quarter of such a training would be imports
        **kwargs,  # type: ignore[arg-type]
    )


def checkpoint_of(row: str, seed: int, args: argparse.Namespace) -> str:
    """The checkpoint at the end of a teacher's or student's training."""
    return osp.join(args.work_dir, row, f'seed_{seed}', f'epoch_{args.epochs}.pth')


def write_data_sets(converters: Sequence[str]) -> None:
    """Write data sets that do not exist yet, all at once.

    Args:
        converters (Sequence[str]): Tools in ``tools/dataset_converters``.

    Raises:
        InputError: If one of them fails; it has said why.
    """
    commands = [[sys.executable, f'tools/dataset_converters/{name}.py'] for name in converters]
    with interruptible(), ThreadPoolExecutor() as threads:
        codes = list(threads.map(lambda command: run_child(command)[0], commands))
    failed = [name for name, code in zip(converters, codes) if code]
    if failed:
        raise InputError(f'{failed[0]}.py failed; see above.')


def teacher_rows() -> list[Row]:
    return [Row(f'teacher_{name}', f'configs/demo/teacher_{name}.py') for name in TEACHERS]


def student_rows(best: str, args: argparse.Namespace) -> list[Row]:
    """The methods.

    Args:
        best (str): The best teacher.
        args (argparse.Namespace): The command line.
    """
    checkpoints = tuple(
        f'model.teachers.{i}.checkpoint={checkpoint_of(f"teacher_{name}", 0, args)}'
        for i, name in enumerate(TEACHERS)
    )
    alone = ('model.weighting.type=StaticWeights', f'model.weighting.logit.{best}=1')
    options = {
        'baseline': ('baseline',),
        'best_teacher': ('aver', *checkpoints, *alone),
    }
    # All methods have the labels that the agent learns from.
    labels = (('STUDENT_LABELS', 'student_and_held_out'),)
    rows = []
    for name in STUDENTS:
        config, *rest = options.get(name, (name, *checkpoints))
        rows.append(Row(name, f'configs/demo/student_{config}.py', tuple(rest), labels))
    return rows


def detector_rows(args: argparse.Namespace) -> list[Row]:
    images = (
        ()
        if args.task_images is None
        else tuple(
            f'{split}_dataloader.dataset.indices={args.task_images}' for split in ('train', 'val')
        )
    )
    # Fine-tuned for so short a time, they would differ by chance more than by their backbones.
    frozen = ('model.backbone.frozen_stages=3', 'model.backbone.norm_eval=True')
    rows = []
    for name in BACKBONES:
        if name == 'random':
            options: tuple[str, ...] = (*images, *frozen, 'model.backbone.init_cfg=None')
            variables: dict[str, str] = {}
        else:
            options = (*images, *frozen)
            variables = dict(
                BACKBONE=name, DEMO_STUDENTS=args.work_dir, STUDENT_EPOCHS=str(args.epochs)
            )
        rows.append(Row(name, 'configs/demo/detector.py', options, tuple(variables.items())))
    return rows


def train_rows(rows: Sequence[Row], seeds: Sequence[int], settings: ComparisonSettings) -> Runs:
    """Train all rows with all seeds, unless their results exist.

    Args:
        rows (Sequence[Row]): The rows.
        seeds (Sequence[int]): The seeds.
        settings (ComparisonSettings): How the trainings are started.

    Returns:
        Runs: One result per row and seed.

    Raises:
        InputError: If a result is of another config, a training fails, or another process trains
            there.
    """
    combinations = list_combinations(rows, seeds, settings)
    os.makedirs(settings.work_dir, exist_ok=True)
    with WorkDirLock(settings.work_dir, 'comparison'):
        if settings.store:
            stores, combinations = plan_stores(combinations, settings)
        known = sum(finished(one, settings) is not None for one in combinations)
        if known:
            print(f'  {known} of {len(combinations)} exist', flush=True)
        with interruptible():
            if settings.store and known < len(combinations):
                fill_stores(stores, settings)
                combinations = add_stored(combinations)
            results = train_all(combinations, settings)
    failed = sum(run is None for run in results)
    if failed:
        raise InputError(f'{failed} of {len(results)} trainings failed; see above.')
    runs: dict[str, list[Run]] = {row.name: [] for row in rows}
    for combination, run in zip(combinations, results):
        assert run is not None
        runs[combination.row.name].append(run)
    return runs


def with_interval(gap: Difference | None, scale: float = 1.0) -> str:
    """A difference as text, with half the width of its 95 % interval."""
    if gap is None:
        return '-'
    half = '' if gap.half_width is None else f' ± {scale * gap.half_width:.1f}'
    return f'{scale * gap.mean:+.1f}{half}'


def print_students(summaries: Sequence[MethodSummary], best: str) -> None:
    """Print a line per method.

    Args:
        summaries (Sequence[MethodSummary]): Of all methods.
        best (str): The best teacher.
    """
    print(f'\n{"student":<30}{"accuracy %":>12}{"minus AVER":>14}   mean weight of {_names()}')
    for one in summaries:
        spread = '' if one.std is None else f' ± {one.std:.1f}'
        weights = list(one.logit_weights.values())
        if one.method == 'best_teacher':
            weights = [float(name == best) for name in TEACHERS]
        elif one.method == REFERENCE:
            weights = [1 / len(TEACHERS)] * len(TEACHERS)
        print(
            f'{STUDENTS[one.method]:<30}{f"{one.mean:.1f}{spread}":>12}'
            f'{with_interval(one.difference):>14}   '
            + ('  '.join(f'{weight:.2f}' for weight in weights) or '-')
        )
    runs = summaries[0].num_runs
    print(
        f'\nMean and standard deviation of {runs} {"seed" if runs == 1 else "seeds"} on 1,447 '
        'test images; differences are paired\nby seed, with 95 % confidence intervals.'
    )


def _names() -> str:
    return ', '.join(TEACHERS)


def verdict(label: str, gap: Difference, rival: str) -> str:
    """Say in a sentence whether a method beats another one.

    Args:
        label (str): The method.
        gap (Difference): What it gains over the other one.
        rival (str): The other one.
    """
    points = f'{with_interval(gap)} points'
    if gap.half_width is None:
        return f'{label}: {points} against {rival}, with one seed, which proves nothing.'
    if gap.mean > gap.half_width:
        return f'{label} beats {rival}: {points}.'
    if gap.mean < -gap.half_width:
        return f'{label} loses against {rival}: {points}.'
    return f'{label} does not win: it cannot be told apart from {rival} ({points}).'


def print_verdicts(runs: Runs) -> None:
    """Print whether the variants of MTKD-RL win.

    Args:
        runs (Runs): The students.
    """
    print()
    rivals = {
        REFERENCE: 'equal weights',
        'baseline': 'the student without teachers',
        'mtkdrl_static': 'one set of learned weights',
    }
    for method, rival in (('mtkdrl', REFERENCE), *((OURS, rival) for rival in rivals)):
        gap = paired_difference(runs[method], runs[rival])
        assert gap is not None
        print(verdict(STUDENTS[method], gap, rivals[rival]))
    first = max(summarize(runs, REFERENCE), key=lambda one: one.mean)
    if first.method != OURS:
        print(f'The highest mean is that of another method: {STUDENTS[first.method]}.')
    print(
        'The teachers were made for this: most of them are wrong about the same digits. Where all '
        'teachers\nare decent, equal weights are as good (docs/results).'
    )


def count_scenes(args: argparse.Namespace) -> int:
    """How many scenes the detectors are tested on.

    Args:
        args (argparse.Namespace): The command line.
    """
    dataset = read_config(detector_rows(args)[0], 0).val_dataloader.dataset
    path = osp.join(dataset.data_root, dataset.ann_file)
    count = len(read_json_object(path, dict(images=list))['images'])
    return count if args.task_images is None else min(args.task_images, count)


def print_detectors(runs: Runs, args: argparse.Namespace) -> None:
    """Print a line per backbone.

    Args:
        runs (Runs): The detectors.
        args (argparse.Namespace): The command line.
    """
    print(f'\n{"backbone of the detector":<32}{"mAP %":>12}{"minus random":>16}')
    for one in summarize(runs, 'random'):
        spread = '' if one.std is None else f' ± {100 * one.std:.1f}'
        print(
            f'{BACKBONES[one.method]:<32}{f"{100 * one.mean:.1f}{spread}":>12}'
            f'{with_interval(one.difference, 100):>16}'
        )
    scenes = f'{count_scenes(args)} test scenes of digits that training never saw'
    if len(args.task_seeds) > 1:
        print(f'\nMean and standard deviation of {len(args.task_seeds)} seeds on {scenes}.')
    else:
        print(
            f'\nOne run each, on {scenes}.\nOther seeds give several points more or less: '
            '--task-seeds 0 1 2 trains with three.'
        )
    print(
        'The backbones are frozen, so that the detectors show what is in them. Fine-tuned for so '
        'short a time,\nthe two students could not be told apart (docs/getting_started.md).'
    )


def draw(runs: Runs, args: argparse.Namespace) -> str:
    """Draw the results on one page.

    Args:
        runs (Runs): The students.
        args (argparse.Namespace): The command line.

    Returns:
        str: The path of the picture.
    """
    # matplotlib, which nothing else needs
    from mtkdrl_mm.comparison.plots import plot_overview, save_figure

    labelled = {STUDENTS[name]: results for name, results in runs.items()}
    images = weigh_images(args)
    figure = plot_overview(labelled, 'accuracy in percent', STUDENTS[OURS], images, 'Test images')
    path = osp.join(args.work_dir, 'demo.png')
    save_figure(figure, path)
    return path


@torch.no_grad()
def weigh_images(args: argparse.Namespace) -> list:
    """Run the teachers and our agent, with the first seed, on a test image of every shown digit.

    Args:
        args (argparse.Namespace): The command line.

    Returns:
        list[WeighedImage]: In the order of ``SHOWN``.
    """
    from mtkdrl_mm.comparison.plots import WeighedImage
    from mtkdrl_mm.engine.build_dataloader import build_dataloader
    from mtkdrl_mm.models.labels import hard_labels
    from mtkdrl_mm.report.image_outputs import load_networks

    seed = args.seeds[0]
    config = Config.fromfile(f'configs/demo/student_{OURS}.py')
    for teacher in config.model.teachers:
        teacher.checkpoint = checkpoint_of(f'teacher_{teacher.name}', 0, args)
    networks = load_networks(config, checkpoint_of(OURS, seed, args))
    found: dict[int, WeighedImage] = {}
    for batch in build_dataloader(config.val_dataloader, seed):
        data = networks.model.data_preprocessor(batch, False)
        terms, weights = networks.model.weigh(data['inputs'], data['data_samples'])
        for i, label in enumerate(hard_labels(data['data_samples']).tolist()):
            if label in SHOWN and label not in found:
                found[label] = WeighedImage(
                    # Grey, so the order of the channels does not matter.
                    pixels=batch['inputs'][i].permute(1, 2, 0).numpy(),
                    label=str(label),
                    answers=[str(one) for one in terms.teacher_logits[i].argmax(dim=1).tolist()],
                    weights=weights.logit[i].tolist(),
                )
        if len(found) == len(SHOWN):
            break
    return [found[label] for label in SHOWN]


def main() -> None:
    args = parse_args()
    os.chdir(ROOT)
    check_output_folder('--work-dir', args.work_dir)
    MMLogger.get_current_instance().setLevel('WARNING')
    start = time.time()
    missing = [name for name in ('mmdet', 'pycocotools') if not find_spec(name)]
    write_data_sets(('digits',) if missing else ('digits', 'make_scenes'))
    print('Training four teachers, each of which is taught to confuse some digits:', flush=True)
    teachers = train_rows(teacher_rows(), [0], comparison_settings(args, args.epochs))
    accuracy = {name: teachers[f'teacher_{name}'][0].metric for name in TEACHERS}
    print(f'\n{"teacher":<14}{"accuracy %":>10}')
    for name, label in TEACHERS.items():
        print(f'{name:<14}{accuracy[name]:>10.1f}   {label}')
    best = max(TEACHERS, key=lambda name: accuracy[name])
    print(
        f'\nTraining the student, by {len(STUDENTS)} methods and with {len(args.seeds)} seeds. Of '
        '300 labels 40 % are wrong,\nand 50 more, from which the agent learns, are right:',
        flush=True,
    )
    store = dict(store=osp.join(args.work_dir, 'store'), views=VIEWS)
    settings = comparison_settings(args, args.epochs, **store)
    students = train_rows(student_rows(best, args), args.seeds, settings)
    summaries = summarize(students, REFERENCE)
    print_students(summaries, best)
    print_verdicts(students)
    if missing:
        print(f'\nNo detectors: not installed: {", ".join(missing)}.')
    else:
        print('\nTraining detectors on scenes of digits, with three frozen backbones:', flush=True)
        settings = comparison_settings(args, args.task_epochs, 'detector', metric='coco/bbox_mAP')
        # Two after each other would leave one of two cores idle at the end.
        settings = replace(settings, jobs=max(settings.jobs, len(BACKBONES)))
        print_detectors(train_rows(detector_rows(args), args.task_seeds, settings), args)
    in_environment = sys.prefix != sys.base_prefix  # `make demo` does not activate its own
    activate = f'  source {osp.relpath(sys.prefix)}/bin/activate\n' if in_environment else ''
    print(
        f'\nDone in {time.time() - start:.0f} s. Under {args.work_dir}: checkpoints (epoch_*.pth), '
        'logs (output.txt), curves\n(*/vis_data/scalars.json). The same for ImageNet and COCO:\n'
        f'{activate}  python tools/train.py configs/mtkdrl/r18_imagenet.py\n'
        '  python tools/train.py configs/detection/retinanet_r18_fpn_1x_coco.py\n'
        f'The picture of it all: {osp.abspath(draw(students, args))}'
    )


if __name__ == '__main__':
    run_tool(main)
