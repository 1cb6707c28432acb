# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The page of one training."""

import os.path as osp
from collections.abc import Sequence

from mtkdrl_mm.engine.run_record import WEIGHT_KEYS, RunRecord
from mtkdrl_mm.evaluation import reliability_bins
from mtkdrl_mm.evaluation.teacher_report import TeacherReport
from mtkdrl_mm.rl.memorised_share import MEMORISED_KEY
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.hook_configs import find_hook, kind_of
from mtkdrl_mm.version import __version__

from .charts import LineChart, Series, format_duration
from .gallery import extreme_images, make_pictures
from .image_outputs import ImageOutputs
from .page import Block, Charts, Facts, Fold, Gallery, Notes, Page, Section, Table, Text
from .run_overview import config_part, describe_model, make_overview
from .weight_tables import class_labels, class_tables

#: Pictures in each row of the gallery.
PICTURES = 6
_BINS = 10
# A bin of fewer images says little.
_BIN_IMAGES = 10
_COSTS = ('time', 'data_time', 'memory')
_NOT_DRAWN = ('epoch', 'iter', 'step')
_NO_NETWORKS = 'No images were looked at.'


def make_run_page(
    record: RunRecord,
    weighted: ImageOutputs | str = _NO_NETWORKS,
    evaluated: ImageOutputs | str = _NO_NETWORKS,
    classes: Sequence[str] | None = None,
) -> Page:
    """Make the page of a training.

    Args:
        record (RunRecord): What its work dir holds.
        weighted (ImageOutputs | str): Outputs with weights, for the gallery; or
            the reason why there are none, as a sentence.
        evaluated (ImageOutputs | str): Outputs for accuracy, calibration and
            agreement, or likewise a reason.
        classes (Sequence[str], optional): Class names. Defaults to None: the
            config's, else numbers.

    Returns:
        Page: The page.
    """
    classes = classes or record.class_names
    model = config_part(record.config, 'model')
    page = Page(
        title=f'Training {_run_name(record)}',
        subtitle=describe_model(model),
        footer=f'Written by mtkdrl_mm {__version__} from the work dir {record.work_dir}.',
    )
    page.sections.append(make_overview(record))
    curves = _curves(record)
    if curves:
        page.sections.append(Section('curves', 'Curves', curves))
    else:
        reason = 'No training step has been logged so far.'
        page.left_out.append(('Curves', reason))
    if model and not model.get('teachers') and not record.teachers:
        reason = f'This training has no teachers: its model is {kind_of(model)}.'
        page.left_out.append(('Weights, gallery, calibration', reason))
    else:
        _add_weights(page, record)
        _add_class_weights(page, record, classes)
        _add_evaluation(page, evaluated, find_hook(record.config, 'EMAHook') is not None)
        _add_gallery(page, weighted, classes)
    if record.train:
        page.sections.append(_cost(record))
    _add_config(page, record)
    return page


def _run_name(record: RunRecord) -> str:
    """The last two folders: the method's and the seed's in a comparison."""
    parts = osp.abspath(record.work_dir).split(osp.sep)
    return '/'.join(parts[-2:]).strip('/')


def _curves(record: RunRecord) -> list[Block]:
    """Loss, terms, metrics and learning rate; the rest is folded."""
    keys = [k for k in record.keys if k not in (*_COSTS, *_NOT_DRAWN) and record.curve(k)]
    if record.teachers:  # else there is no section of the weights
        keys = [k for k in keys if not k.startswith((*WEIGHT_KEYS.values(), MEMORISED_KEY))]
    terms = [k for k in keys if k != 'loss' and k.split('.')[-1].startswith('loss')]
    rates = [k for k in keys if k in ('lr', 'base_lr') or k.startswith('lr/')]
    rest = [k for k in keys if k not in (*terms, *rates, 'loss')]
    charts = []
    if 'loss' in keys:
        charts.append(LineChart('Loss', [Series('loss', record.curve('loss'))], 'iteration'))
    if len(terms) > 1:
        series = [Series(key, record.curve(key)) for key in terms]
        note = 'As they are added to the loss, with their weights.'
        charts.append(LineChart('Terms of the loss', series, 'iteration', note=note))
    for prefix, group in _groups(record.metrics).items():
        series = [Series(key, record.metric(key)) for key in group]
        if max((len(one.points) for one in series), default=0) > 1:
            title = f'Validation: {prefix}' if prefix else 'Validation'
            charts.append(LineChart(title, series, record.unit))
    if rates:
        series = [Series(key, record.curve(key)) for key in rates]
        charts.append(LineChart('Learning rate', series, 'iteration'))
    others = [
        LineChart(prefix or group[0], [Series(k, record.curve(k)) for k in group], 'iteration')
        for prefix, group in _groups(rest, alone=True).items()
    ]
    blocks: list[Block] = [Charts(charts)] if charts else []
    if others:
        count = len(others)
        title = f'{count} more chart{"s" * (count != 1)}: everything else that was logged'
        blocks.append(Fold(title, [Charts(others)]))
    return blocks


def _groups(keys: Sequence[str], alone: bool = False) -> dict[str, list[str]]:
    """Group names by what is before the last "/".

    Args:
        keys (Sequence[str]): The names.
        alone (bool): Whether names without "/" are groups of their own.
            A name that is the prefix of others is in their group. Defaults to
            False.
    """
    prefixes = {key.rpartition('/')[0] for key in keys}
    groups: dict[str, list[str]] = {}
    for key in keys:
        prefix = key if key in prefixes else key.rpartition('/')[0]
        groups.setdefault(prefix or (key if alone else ''), []).append(key)
    return groups


def _add_weights(page: Page, record: RunRecord) -> None:
    teachers = record.teachers
    title = 'Weights of the teachers'
    if not teachers:
        reason = (
            'The log holds no weights of teachers: `TeacherWeightHook` was not among the '
            '`default_hooks`, or no step has been logged so far.'
        )
        page.left_out.append((title, reason))
        return
    charts = [
        LineChart(
            f'{kind.capitalize()} weights',
            [Series(name, record.curve(WEIGHT_KEYS[kind] + name)) for name in teachers],
            'iteration',
            limits=(0.0, 1.0),
            decimals=3,
        )
        for kind in record.weight_kinds
    ]
    memorised = [Series(name, record.curve(MEMORISED_KEY + name)) for name in teachers]
    if any(series.points for series in memorised):
        charts.append(
            LineChart(
                'Memorised',
                memorised,
                'iteration',
                limits=(0.0, 1.0),
                decimals=3,
                note="How much of what a teacher says about the student's images repeats their "
                'labels by heart, as of the last update of the agent, which gives nothing for it.',
            )
        )
    intro = (
        'Every image has one weight per teacher, and they sum to 1. Their lines are means over the '
        f'images of a log line; with equal weights, each would be at {1 / len(teachers):.2f}. '
        'Logit weights multiply the distances between the predictions of student and teachers, '
        'feature weights those between their features.'
    )
    page.sections.append(Section('weights', title, [Charts(charts)], intro))


def _add_class_weights(page: Page, record: RunRecord, classes: Sequence[str] | None) -> None:
    title = 'Weights per class'
    try:
        weights = record.read_class_weights()
    except InputError as error:
        page.left_out.append((title, str(error)))
        return
    tables, intro = class_tables(weights, record.weight_kinds, classes)
    span = 'last epoch' if record.by_epoch else 'whole training'
    page.sections.append(
        Section(
            'classes',
            title,
            tables,
            f'Mean weights of the images of each class over the {span}.{intro}',
        )
    )


def _add_evaluation(page: Page, outputs: ImageOutputs | str, averaged: bool) -> None:
    title = 'Accuracy, calibration and agreement'
    if isinstance(outputs, str):
        page.left_out.append((title, outputs))
        return
    if outputs.blended:
        reason = 'The stored outputs belong to images that were blended by mixup or cutmix.'
        page.left_out.append((title, reason))
        return
    labels = outputs.labels.argmax(dim=1)
    logits = [*outputs.teacher_logits.unbind(dim=1), outputs.student_logits]
    names = [*outputs.names, 'student']
    report = TeacherReport.from_logits(names, logits, labels)
    rows = []
    for row in report.rows():
        rows.append(
            [
                row['teacher'],
                f'{row["accuracy"]:.1f} ± {row["accuracy_error"]:.1f}',
                f'{row["confidence"]:.1f}',
                f'{row["calibration_error"]:.1f}',
                f'{row["log_likelihood"]:.2f}',
            ]
        )
    table = Table(
        f'On {len(outputs)} {outputs.source}',
        ['network', 'accuracy %', 'confidence %', 'calibration error %', 'log-likelihood'],
        rows,
        note='Accuracy with its standard error. Confidence is the mean probability of the '
        'predicted class, and the calibration error (ECE) how far it is from the accuracy, on '
        'average over 15 groups of images of similar confidence: 0 is best. The log-likelihood is '
        'that of the labels, in nats: higher is better.',
    )
    curves = []
    for name, z in zip(names, logits):
        bins = reliability_bins(z, labels, _BINS)
        points = [
            (float(c), float(a))
            for c, a, n in zip(bins.confidence, bins.accuracy, bins.count)
            if n >= _BIN_IMAGES
        ]
        curves.append(Series(name, points))
    curves.append(Series('perfect calibration', [(0.0, 0.0), (1.0, 1.0)], reference=True))
    chart = LineChart(
        'Accuracy by confidence',
        curves,
        'confidence',
        limits=(0.0, 1.0),
        x_limits=(0.0, 1.0),
        show_last=False,
        note='Below the dashed line a network is over-confident, above it too cautious. '
        f'Points are groups of at least {_BIN_IMAGES} images.',
    )
    blocks: list[Block] = [table, _agreement_table(report), Charts([chart])]
    intro = ''
    if outputs.training:
        intro = (
            'Measured on training images, by the labels that the student was trained with, right '
            'or wrong: what the teachers say about other images is not in the store that the '
            'training read. The results in the overview are those of the validation images. '
            'Whether something is wrong with a teacher, tools/analysis_tools/check_teachers.py '
            'says, from validation images.'
        )
    else:
        # Those of the student are no problem of the pool.
        pool = TeacherReport.from_logits(names[:-1], logits[:-1], labels)
        if pool.warnings():
            blocks.append(Notes([f'Warning: {line}' for line in pool.warnings()]))
    if averaged:
        intro = (
            'The training averages the weights of the student (EMAHook). Validations, whose '
            'results are in the overview, have the averaged weights, and so has what is exported; '
            f'here the student has those that the training goes on with. {intro}'
        ).strip()
    page.sections.append(Section('teachers', title, blocks, intro))


def _agreement_table(report: TeacherReport) -> Table:
    names = [one.name for one in report.teachers]
    rows, shades = [], []
    for a, name in enumerate(names):
        cells, shade = [], []
        for b in range(len(names)):
            pair = report.agreements.get((min(a, b), max(a, b)))
            cells.append(f'{100 * pair.observed:.1f} ({pair.kappa:.2f})' if pair else '')
            shade.append(pair.observed if pair else 0.0)
        rows.append([name, *cells])
        shades.append(shade)
    return Table(
        'Agreement: same predicted class, in % of the images',
        ['', *names],
        rows,
        note='In brackets kappa: 0 where two networks agree as often as their accuracies alone '
        'explain, 1 where they always agree.',
        shades=shades,
    )


def _add_gallery(page: Page, outputs: ImageOutputs | str, classes: Sequence[str] | None) -> None:
    title = 'Images by weight'
    if isinstance(outputs, str):
        page.left_out.append((title, outputs))
        return
    assert outputs.logit_weights is not None
    names = class_labels(classes, outputs.labels.shape[1])
    blocks: list[Block] = []
    equal = []
    for m, teacher in enumerate(outputs.names):
        high, low = extreme_images(outputs.logit_weights[:, m], PICTURES)
        if not high:
            equal.append(teacher)
            continue
        groups = [
            (f'{which} weight', make_pictures(outputs, m, indices, names))
            for which, indices in (('Highest', high), ('Lowest', low))
        ]
        blocks.append(Gallery(f'Teacher {teacher}', groups))
    if not blocks:
        page.left_out.append((title, 'Each teacher has the same weight on all images.'))
        return
    if equal:
        lines = [f'Teacher {name} has the same weight on all of these images.' for name in equal]
        blocks.append(Notes(lines))
    intro = (
        f'For each teacher, the images with the highest and the lowest logit weight among '
        f'{len(outputs)} {outputs.source}. Below every image: its label, the weight of that '
        'teacher, and the class that each network predicts, with its probability.'
    )
    page.sections.append(Section('gallery', title, blocks, intro))


def _cost(record: RunRecord) -> Section:
    rows = []
    time, waiting = record.median('time'), record.median('data_time')
    batch = config_part(record.config, 'train_dataloader').get('batch_size')
    if time:
        text = f'{time:.4g} (median)'
        if isinstance(batch, int):
            text += f'; {batch / time:.4g} images per second and process'
        rows.append(('Seconds per iteration', text))
        if waiting is not None:
            rows.append(
                ('Waiting for data', f'{waiting:.4g} s of it ({100 * waiting / time:.0f} %)')
            )
        rows.append(
            ('All training steps', f'{format_duration(record.seconds)}, without validation')
        )
    memory = [y for _, y in record.curve('memory')]
    rows.append(
        (
            'GPU memory',
            f'{max(memory):.0f} MiB at most' if memory else 'not logged, as for every CPU run',
        )
    )
    blocks: list[Block] = [Facts(rows)]
    series = [Series(key, record.curve(key)) for key in ('time', 'data_time')]
    if any(one.points for one in series):
        blocks.append(Charts([LineChart('Seconds per iteration', series, 'iteration')]))
    return Section('cost', 'Cost', blocks)


def _add_config(page: Page, record: RunRecord) -> None:
    blocks: list[Block] = []
    if record.environment:
        blocks.append(Facts(list(record.environment.items())))
    else:
        page.left_out.append(('Versions', 'The log of the latest start is not in the work dir.'))
    if record.config_text:
        blocks.append(Text('The whole config', record.config_text))
    if not record.config:
        page.left_out.append(('Config', record.config_problem))
    if blocks:
        page.sections.append(Section('config', 'Config and versions', blocks))
