# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Draws docs/method.svg and docs/method.png.

python docs/draw_method.py
"""

import os.path as osp

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

HERE = osp.dirname(osp.abspath(__file__))
INK, SOFT = '#1f2937', '#64748b'
# fill and edge
STUDENT = '#dbeafe', '#2563eb'
TEACHER = '#e5e7eb', '#6b7280'
TERM = '#fef3c7', '#d97706'
WEIGHT = '#ede9fe', '#7c3aed'
AGENT = '#dcfce7', '#16a34a'
LOSS = '#fee2e2', '#dc2626'
PLAIN = '#ffffff', '#94a3b8'

plt.rcParams.update({'font.family': 'DejaVu Sans', 'mathtext.fontset': 'dejavusans'})
# The same file on every run.
plt.rcParams['svg.hashsalt'] = 'mtkdrl_mm'


def box(
    ax: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    title: str,
    colours: tuple,
    note: str = '',
    size: float = 12,
    dashed: bool = False,
) -> None:
    """A rounded box with a title and a smaller note under it."""
    patch = FancyBboxPatch(
        (x, y),
        width,
        height,
        boxstyle='round,pad=0,rounding_size=1.4',
        facecolor=colours[0],
        edgecolor=colours[1],
        linewidth=1.6,
        linestyle='--' if dashed else '-',
        zorder=2,
    )
    ax.add_patch(patch)
    middle = x + width / 2
    centre = dict(ha='center', va='center', zorder=3, linespacing=1.35)
    lift = 1.75 + 0.95 * note.count('\n') if note else 0
    ax.text(middle, y + height / 2 + lift, title, fontsize=size, color=INK, **centre)
    if note:
        drop = 1.75 - 0.15 * note.count('\n')
        ax.text(middle, y + height / 2 - drop, note, fontsize=9.5, color=SOFT, **centre)


def arrow(ax: Axes, *points: tuple, colour: str = SOFT, dashed: bool = False) -> None:
    """A line through points, with a head at the last."""
    style = dict(color=colour, linewidth=1.7, zorder=1, linestyle='--' if dashed else '-')
    if len(points) > 2:
        xs, ys = zip(*points[:-1])
        ax.plot(xs, ys, solid_capstyle='round', solid_joinstyle='round', **style)
    head = FancyArrowPatch(
        points[-2], points[-1], arrowstyle='-|>', mutation_scale=14, shrinkA=0, shrinkB=0, **style
    )
    ax.add_patch(head)


def label(ax: Axes, x: float, y: float, text: str, colour: str = SOFT, **style: object) -> None:
    ax.text(x, y, text, fontsize=9.5, color=colour, zorder=3, **{'va': 'center', **style})


def draw(ax: Axes) -> None:
    # The lane of the agent.
    ax.add_patch(
        FancyBboxPatch(
            (31, 1.5),
            107.5,
            23.5,
            boxstyle='round,pad=0,rounding_size=2',
            facecolor='#f5fbf7',
            edgecolor='#bbe5c8',
            linewidth=1.2,
            zorder=0,
        )
    )
    lane = dict(fontweight='bold', fontsize=10.5, color=AGENT[1], zorder=3)
    ax.text(33, 3.1, 'Reinforcement learning: no gradient into the student', va='bottom', **lane)

    # What goes in, and who looks at it.
    box(ax, 1.5, 44.5, 16, 10, 'image', PLAIN, 'and its label $y$')
    box(ax, 27, 55.5, 22, 11, 'student', STUDENT, 'learns')
    for shift in (2.4, 1.2, 0):
        box(ax, 27 + shift, 33 + shift, 22, 11, '', TEACHER)
    ax.text(38, 40.2, 'teachers 1 … M', fontsize=12, color=INK, ha='center', va='center', zorder=3)
    label(ax, 38, 36.4, 'frozen, each with its\nown preprocessing', ha='center')
    arrow(ax, (17.5, 49.5), (22, 49.5), (22, 61), (27, 61))
    arrow(ax, (17.5, 49.5), (22, 49.5), (22, 38.5), (27, 38.5))

    # The terms, image by image.
    ax.text(
        70, 70.2, 'per image, once per step', fontsize=10, color=TERM[1], ha='center', va='center'
    )
    box(ax, 58, 58.5, 24, 9, r'$CE_i$', TERM, 'student against label')
    box(ax, 58, 46.5, 24, 9, r'$KL_i^m$', TERM, 'logits, softened')
    box(ax, 58, 34.5, 24, 9, r'$D_i^m$', TERM, 'features, via connector')
    arrow(ax, (49, 63), (58, 63), colour=STUDENT[1])
    arrow(ax, (49, 61), (53.6, 61), (53.6, 52.2), (58, 52.2), colour=STUDENT[1])
    arrow(ax, (53.6, 61), (53.6, 40.2), (58, 40.2), colour=STUDENT[1])
    arrow(ax, (51.4, 42), (55.5, 42), (55.5, 49.6), (58, 49.6))
    arrow(ax, (51.4, 37.6), (58, 37.6))

    # The weighting.
    ax.add_patch(
        FancyBboxPatch(
            (91, 31.5),
            21,
            37.5,
            boxstyle='round,pad=0,rounding_size=1.6',
            facecolor='#faf8ff',
            edgecolor=WEIGHT[1],
            linewidth=1.6,
            zorder=1,
        )
    )
    ax.text(101.5, 66.3, 'weighting', fontsize=12, color=INK, ha='center', va='center')
    label(ax, 101.5, 63.3, '$w$ = mean of three parts', ha='center')
    box(ax, 93, 53.2, 17, 8, 'divergence', WEIGHT, 'prefers difference', size=11)
    box(ax, 93, 43.4, 17, 8, 'confidence', WEIGHT, 'prefers correctness', size=11)
    box(ax, 93, 33.6, 17, 8, 'policy $\\pi$', AGENT, 'of the agent', size=11)
    arrow(ax, (82, 51), (91, 51))
    arrow(ax, (82, 39), (91, 39))

    # The loss.
    box(ax, 119.5, 41.5, 19, 19, '', LOSS)
    centre = dict(ha='center', va='center', color=INK, zorder=3)
    ax.text(129, 57.4, 'loss', fontsize=12, **centre)
    terms = (
        '$CE_i$',
        r'$+\ \alpha\,\Sigma_m\, w_i^m KL_i^m$',
        r'$+\ \beta\,\Sigma_m\, w_i^m D_i^m$',
    )
    for line, text in enumerate(terms):
        ax.text(129, 53.3 - 4 * line, text, fontsize=11.5, **centre)
    arrow(ax, (112, 51), (119.5, 51), colour=WEIGHT[1])
    arrow(ax, (82, 63), (86.5, 63), (86.5, 71), (125, 71), (125, 60.5))
    arrow(ax, (133, 60.5), (133, 73.6), (38, 73.6), (38, 66.5), colour=LOSS[1])
    label(ax, 84, 75.3, 'gradient: the student learns in every step', LOSS[1], ha='center')

    # The agent's own way.
    box(ax, 35, 10, 22, 10, 'state', AGENT, 'teacher performance,\ngap to the student')
    box(ax, 61, 10, 19, 10, 'reward', AGENT, 'how good following\na teacher is')
    box(ax, 85, 10, 20, 10, 'rollout buffer', AGENT, 'bounded memory,\nsampled evenly')
    box(ax, 114, 10, 22, 10, 'agent update', AGENT, 'policy gradient,\nbetween epochs', dashed=True)
    arrow(ax, (38, 33), (38, 20), colour=AGENT[1])
    arrow(ax, (70.5, 34.5), (70.5, 20), colour=AGENT[1])
    arrow(ax, (66, 34.5), (66, 28), (46, 28), (46, 20), colour=AGENT[1])
    arrow(ax, (80, 15), (85, 15), colour=AGENT[1])
    arrow(ax, (46, 10), (46, 7.4), (95, 7.4), (95, 10), colour=AGENT[1])
    arrow(ax, (105, 15), (114, 15), colour=AGENT[1], dashed=True)
    arrow(ax, (125, 20), (125, 28), (104.5, 28), (104.5, 33.6), colour=AGENT[1], dashed=True)
    arrow(ax, (52, 20), (52, 22.6), (98, 22.6), (98, 33.6), colour=AGENT[1])
    label(ax, 115, 29.5, 'a better agent', AGENT[1], ha='center')


def main() -> None:
    figure = plt.figure(figsize=(14, 7.7))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_xlim(0, 140)
    ax.set_ylim(0, 77)
    ax.axis('off')
    draw(ax)
    figure.savefig(osp.join(HERE, 'method.svg'), facecolor='white', metadata={'Date': None})
    figure.savefig(osp.join(HERE, 'method.png'), facecolor='white', dpi=110)


if __name__ == '__main__':
    main()
