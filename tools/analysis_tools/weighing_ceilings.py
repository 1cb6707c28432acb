# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""How much there is to gain from weighing the teachers of a config, without training a student.

From the stored outputs of the config's held-out images (see tools/store_teacher_outputs.py), it
fits weights of the teachers that are the same for all images, and weights per image by an agent
that sees the teachers' logits, and compares by cross-validation how likely the labels are under the
weighted teachers. Where weights per image gain nothing over the same weights for all images, no
agent can choose better targets for the student. A second table is about their features: the same,
with what a linear probe on each teacher's embedding makes of an image in place of its logits.

    python tools/analysis_tools/weighing_ceilings.py configs/cifar10/student_aver.py STORE
"""

import argparse

import torch

from mtkdrl_mm.evaluation.held_out_outputs import read_held_out
from mtkdrl_mm.evaluation.mixtures import Mixture, compare_mixtures
from mtkdrl_mm.rl import probe_log_probs
from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.launch import add_common_arguments, load_config, run_tool
from mtkdrl_mm.utils.markdown import markdown_table


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='distillation config with `held_out_dataloader`')
    parser.add_argument('store', help='store of the teachers, with the held-out images')
    parser.add_argument('--folds', type=int, default=5, help='folds of the cross-validation')
    parser.add_argument('--passes', type=int, default=20, help='passes over the images of a fit')
    parser.add_argument('--seed', type=int, default=0, help='seed of folds and fits')
    add_common_arguments(parser)
    return parser.parse_args()


def describe(mixtures: list[Mixture], names: list[str], images: torch.Tensor) -> str:
    """The table, and what it means."""
    by_name = {one.name: one for one in mixtures}
    rows = [
        [
            one.name,
            f'{one.cross_entropy:.3f}',
            f'{100 * one.accuracy:.1f}',
            ', '.join(f'{name} {float(w):.2f}' for name, w in zip(names, one.weights)),
        ]
        for one in mixtures
    ]
    table = markdown_table(['weights', 'cross entropy', 'accuracy', 'mean weights'], rows)
    static, free = by_name['static weights'], by_name['weights per image']
    lines = [
        _sentence('Static weights', static, by_name['equal weights'], 'equal weights', images),
        _sentence('Weights per image', free, static, 'static ones', images),
    ]
    return '\n'.join([table, '', *lines])


def _sentence(what: str, mixture: Mixture, other: Mixture, than: str, images: torch.Tensor) -> str:
    gain, half = mixture.gain(other, images)
    verdict = 'gain' if gain > half else 'lose' if gain < -half else 'gain or lose nothing clear:'
    return (
        f'{what} {verdict} {gain:+.3f} ± {half:.3f} nats of log likelihood over {than} (95 %), and '
        f'{100 * (mixture.accuracy - other.accuracy):+.1f} points of accuracy.'
    )


def main() -> None:
    args = parse_args()
    for name in ('folds', 'passes'):
        check_number(f'--{name}', getattr(args, name), minimum=2 if name == 'folds' else 1)
    names, logits, embeddings, labels = read_held_out(load_config(args), args.store)
    if args.folds > len(labels):
        raise InputError(f'--folds is {args.folds}, but there are {len(labels)} images.')
    # Of every view by itself: a probe must not have seen another view of the image.
    probes = [
        torch.stack([probe_log_probs(view, labels, logits.shape[-1]) for view in views])
        for views in embeddings
    ]
    images = torch.arange(len(labels)).repeat(len(logits))
    print(
        f'{len(labels):,} held-out images in {len(logits)} views, {args.folds} folds. Cross '
        'entropy in nats and accuracy in percent.'
    )
    for title, outputs in (
        ('The weighted teachers, by their logits', logits),
        ('The weighted teachers, by linear probes on their embeddings', torch.stack(probes, 2)),
    ):
        mixtures = compare_mixtures(
            names,
            outputs.flatten(0, 1),
            labels.repeat(len(logits)),
            images,
            folds=args.folds,
            passes=args.passes,
            seed=args.seed,
        )
        print(f'\n{title}:\n\n{describe(mixtures, names, images)}')
    print(
        '\nThis is a limit for the targets: better ones need not make a better student. '
        'tools/analysis_tools/compare_methods.py compares students; check_teachers.py finds '
        'classes in another order, which look as if teachers had to be weighed image by image.'
    )


if __name__ == '__main__':
    run_tool(main)
