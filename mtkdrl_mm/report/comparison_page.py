# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The page of a comparison of methods over seeds."""

import math
import os.path as osp
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from urllib.parse import quote

from mtkdrl_mm.comparison import (
    PAGE_NAME,
    ComparisonRecord,
    Difference,
    MethodSummary,
    Run,
    join_known,
    summarize,
)
from mtkdrl_mm.comparison.results import OUTPUT_NAME
from mtkdrl_mm.comparison.summary import mean_class_table, mean_curve, metric_digits
from mtkdrl_mm.engine.run_record import (
    CLASS_WEIGHTS_NAME,
    WEIGHT_KEYS,
    ClassWeights,
    RunRecord,
    read_run,
)
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.version import __version__

from .charts import DotChart, LineChart, Series, format_duration, ticks
from .page import Block, Cell, Charts, Facts, Fold, Notes, Page, Section, Table, Text
from .weight_tables import class_tables

# Of more methods, the chart of each is hidden until the reader opens them.
_MOST_OPEN = 6
_CURVES = 'Results over the training'
_WEIGHTS = 'Weights of the teachers'
_CLASSES = 'Weights per class'


@dataclass(frozen=True)
class _Logs:
    """The logs of a comparison.

    Attributes:
        finished (dict[str, list[RunRecord]]): By method, those of the trainings
            with a result.
        started (dict[tuple[str, int], RunRecord]): By method and seed, those of
            the others.
        problems (list[tuple[str, str]]): Trainings whose logs cannot be read,
            with the reason.
    """

    finished: dict[str, list[RunRecord]]
    started: dict[tuple[str, int], RunRecord]
    problems: list[tuple[str, str]]

    @property
    def records(self) -> list[RunRecord]:
        """All that could be read."""
        return [one for some in self.finished.values() for one in some] + [*self.started.values()]

    def of_method(self, method: str) -> list[RunRecord]:
        """Its finished trainings; if there are none, those that have started."""
        started = [one for (name, _), one in self.started.items() if name == method]
        return self.finished.get(method) or started


def make_comparison_page(
    record: ComparisonRecord, out: str | None = None, links: bool = True
) -> Page:
    """Make the page of a comparison.

    Args:
        record (ComparisonRecord): What its work dir holds.
        out (str, optional): The file that the page is written to, for its
            links. Defaults to None: ``report.html`` in the work dir.
        links (bool): Whether to link to files in the work dir. A page that is
            published without the work dir must not. Defaults to True.

    Returns:
        Page: The page.
    """
    folder = None
    if links:
        folder = osp.dirname(osp.abspath(out or osp.join(record.work_dir, PAGE_NAME)))
    plan = record.plan
    logs = _read_logs(record)
    names = [row.name for row in plan.rows]
    count = sum(map(len, record.runs.values()))
    total = count + len(record.missing)
    failed = sum(one.failed for one in record.missing)
    page = Page(
        title=f'Comparison {osp.basename(osp.abspath(record.work_dir))}',
        subtitle=f'{_plural(len(names), "method")}, {_plural(len(plan.seeds), "seed")}: '
        f'{count} of {_plural(total, "training")} finished{f", {failed} failed" * (failed > 0)}.',
        footer=f'Written by mtkdrl_mm {__version__} from the work dir {record.work_dir}.',
    )
    page.left_out += logs.problems
    summaries = summarize(record.runs, plan.reference)
    if record.missing:
        page.sections.append(_missing_section(record, logs, folder))
    if record.runs:
        page.sections.insert(0, _results_section(record, summaries, folder))
        if plan.reference not in record.runs:
            reason = (
                f'No training of "{plan.reference}" has finished.'
                if plan.reference in names
                else f'No row is named "{plan.reference}": name another one with `--reference`.'
            )
            page.left_out.append(('Differences', reason))
    else:
        page.left_out.append(('Results', 'No training has finished so far.'))
    _add_curves(page, record, logs, summaries)
    _add_weights(page, record, logs, summaries)
    _add_class_weights(page, logs, names)
    if record.runs:
        page.sections.append(_cost_section(record, summaries))
    _add_rows(page, record, logs)
    _add_environment(page, record, logs)
    return page


def _plural(count: int, word: str) -> str:
    return f'{count} {word}{"s" * (count != 1)}'


def _read_logs(record: ComparisonRecord) -> _Logs:
    logs = _Logs({}, {}, [])
    for method, runs in record.runs.items():
        for run in runs:
            found = _read_log(record, method, run.seed, logs)
            if found is not None:
                logs.finished.setdefault(method, []).append(found)
    for one in record.missing:
        if one.state != 'not started':
            found = _read_log(record, one.method, one.seed, logs)
            if found is not None:
                logs.started[one.method, one.seed] = found
    return logs


def _read_log(record: ComparisonRecord, method: str, seed: int, logs: _Logs) -> RunRecord | None:
    """The logs of a training; None if there are none that can be read."""
    folder = record.folder(method, seed)
    try:
        return read_run(folder)
    except InputError as error:
        # What failed before it logged anything is named among the trainings without a result.
        if not any(one.folder == folder for one in record.missing):
            logs.problems.append((f'Logs of {method}, seed {seed}', str(error)))
        return None


def _link(target: str, folder: str | None) -> str:
    """Address of a file, relative to the page's folder; empty without one or without the file."""
    if folder is None:
        return ''
    path = osp.relpath(osp.abspath(target), folder)
    return quote(path.replace(osp.sep, '/')) if osp.isfile(target) else ''


def _results_section(
    record: ComparisonRecord, summaries: Sequence[MethodSummary], folder: str | None
) -> Section:
    plan, digits = record.plan, metric_digits(summaries)
    reference = plan.reference
    compared = [one.difference for one in summaries if one.difference is not None]
    rows: list[list[str | Cell]] = []
    for one in summaries:
        deviation = '' if one.std is None else f' ± {one.std:.{digits}f}'
        row: list[str | Cell] = [one.method, f'{one.mean:.{digits}f}{deviation}']
        if compared:
            row.append(_difference_cell(one, reference, digits))
        rows.append([*row, str(one.num_runs)])
    head = ['method', f'{plan.metric} ± std', 'seeds']
    note = 'Means over the seeds with their standard deviation.'
    if compared:
        head.insert(2, f'minus {reference} ± 95 % interval')
        note += (
            f' Differences are taken from {reference} seed by seed, with the 95 % interval of '
            'their mean. Blue is above 0 and orange below, where the interval does not contain 0; '
            'which of them is better depends on the metric. Without colour, the seeds do not tell '
            'the two apart. Of 20 equal methods, about one is coloured by chance.'
        )
    blocks: list[Block] = [Table(f'{plan.metric} of the methods', head, rows, note)]
    chart = DotChart(
        f'{plan.metric} of every training',
        {name: {f'seed {r.seed}': r.metric for r in runs} for name, runs in record.runs.items()},
        plan.metric,
        reference=reference,
        decimals=digits,
        note='Dots of one colour are of one seed.' if len(plan.seeds) > 1 else '',
    )
    blocks += [Charts([chart]), _runs_table(record, folder, digits)]
    return Section('results', 'Results', blocks)


def _difference_cell(summary: MethodSummary, reference: str, digits: int) -> Cell:
    """Difference from the reference, with half the width of its interval."""
    gap = summary.difference
    if gap is None:
        return Cell('reference' if summary.method == reference else 'no common seed')
    if gap.half_width is None:
        return Cell(f'{gap.mean:+.{digits}f} (one seed)')
    text = f'{gap.mean:+.{digits}f} ± {gap.half_width:.{digits}f}'
    # Where the reference lacks seeds of the method.
    common = f' ({gap.count} common seeds)' if gap.count < summary.num_runs else ''
    return Cell(text + common, tone=_tone(gap))


def _tone(gap: Difference) -> str:
    """On which side of 0 the interval is; empty if it contains 0."""
    if gap.half_width is None or not abs(gap.mean) > gap.half_width:
        return ''
    return 'above' if gap.mean > 0 else 'below'


def _runs_table(record: ComparisonRecord, folder: str | None, digits: int) -> Table:
    """The metric of every training, with links to the pages that exist."""
    seeds = record.plan.seeds
    missing = {(one.method, one.seed): one.state for one in record.missing}
    rows: list[list[str | Cell]] = []
    linked = False
    for row in record.plan.rows:
        found = {run.seed: run for run in record.runs.get(row.name, [])}
        cells: list[str | Cell] = [row.name]
        for seed in seeds:
            page = osp.join(record.folder(row.name, seed), PAGE_NAME)
            href = _link(page, folder)
            state = missing.get((row.name, seed), '')
            text = f'{found[seed].metric:.{digits}f}' if seed in found else state
            cells.append(Cell(text, href=href))
            linked = linked or bool(href)
        rows.append(cells)
    if folder is None:
        note = ''
    elif linked:
        note = 'A link leads to the page of that training.'
    else:
        example = record.folder(record.plan.rows[0].name, seeds[0])
        note = (
            'Pages about single trainings are linked here, once they exist and this page is '
            f'written again: python tools/analysis_tools/report.py {example}'
        )
    head = ['method', *(f'seed {seed}' for seed in seeds)]
    return Table('The same in numbers', head, rows, note)


def _missing_section(record: ComparisonRecord, logs: _Logs, folder: str | None) -> Section:
    rows: list[list[str | Cell]] = []
    waiting: dict[str, list[str]] = {}
    for one in sorted(record.missing, key=lambda one: not one.failed):
        if one.state == 'not started':
            waiting.setdefault(one.method, []).append(str(one.seed))
            continue
        log = logs.started.get((one.method, one.seed))
        done = ''
        if log is not None and log.train:
            position, planned = log.position
            done = f'{position} of {planned}' if planned is not None else str(position)
            done += f' {log.unit}s'
        href = _link(osp.join(one.folder, OUTPUT_NAME), folder)
        link = Cell(OUTPUT_NAME, href=href) if href else ''
        name = f'{one.method}, seed {one.seed}'
        state = one.state if one.exit_code is None else f'{one.state}, exit code {one.exit_code}'
        rows.append([name, state, done, Cell(one.reason, wrap=True), link])
    head = ['training', 'state', 'done', 'end of its output', 'output']
    blocks: list[Block] = []
    if rows:
        blocks.append(Table('Failed, or not finished', head, rows))
    if waiting:
        lines = [f'{name}: seed{"s" * (len(s) > 1)} {", ".join(s)}' for name, s in waiting.items()]
        blocks.append(Notes([f'Not started: {line}' for line in lines]))
    intro = (
        'They are no part of the results, and go on when the comparison is started again. '
        'Trainings that run are among those that are not finished.'
    )
    return Section('missing', 'Trainings without a result', blocks, intro)


def _scale(values: Iterable[float]) -> tuple[float, float] | None:
    """A common range for charts that are compared with each other."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    marks = ticks(min(finite), max(finite), 5)
    return (marks[0], marks[-1]) if len(marks) > 1 else None


def _add_curves(
    page: Page, record: ComparisonRecord, logs: _Logs, summaries: Sequence[MethodSummary]
) -> None:
    metric, reference = record.plan.metric, record.plan.reference
    series: list[Series] = []
    units: set[str] = set()
    for row in record.plan.rows:
        records = [one for one in logs.of_method(row.name) if one.metric(metric)]
        points, spread = mean_curve([one.metric(metric) for one in records])
        name = row.name if row.name in logs.finished else f'{row.name} (not finished)'
        series.append(Series(name, points, spread=spread))
        units.update(one.unit for one in records)
    drawn = [one for one in series if len(one.points) > 1]
    if not drawn:
        reason = f'No training has logged "{metric}" more than once.'
        page.left_out.append((_CURVES, reason))
        return
    digits = metric_digits(summaries) if summaries else None
    unit = ' or '.join(sorted(units))
    means = LineChart(
        f'{metric}: means over the seeds',
        [Series(one.name, one.points) for one in series],
        unit,
        decimals=digits,
    )
    blocks: list[Block] = [Charts([means])]
    compared = next((one for one in drawn if one.name == reference), None)
    limits = _scale(y for one in drawn for edge in (*one.edges, one.points) for _, y in edge)
    panels = []
    for one in drawn:
        lines = [one]
        if compared is not None and one is not compared:
            lines.append(Series(reference, compared.points, reference=True))
        panels.append(LineChart(one.name, lines, unit, limits=limits, decimals=digits))
    if len(panels) > 1 or drawn[0].spread:
        blocks.append(_panels('Each method with its standard deviation', panels))
    intro = (
        f'Means of {metric} over the trainings of each method. In the charts of single methods, '
        'the band is the standard deviation over the seeds'
    )
    intro += '.' if compared is None else f', and the dashed line is {reference}.'
    page.sections.append(Section('curves', _CURVES, blocks, intro))


def _panels(title: str, charts: Sequence[LineChart]) -> Block:
    """Charts, hidden if they are many."""
    return Charts(charts) if len(charts) <= _MOST_OPEN else Fold(title, [Charts(charts)])


def _weight_table(kind: str, weights: Mapping[str, Mapping[str, float]]) -> Table:
    """Mean weights of the teachers (columns) by method (rows)."""
    teachers = list(dict.fromkeys(name for one in weights.values() for name in one))
    rows, shades = [], []
    for method, one in weights.items():
        rows.append([method, *(f'{one[t]:.2f}' if t in one else '' for t in teachers)])
        shades.append([one.get(t, 0.0) for t in teachers])
    return Table(f'Mean {kind} weights', ['method', *teachers], rows, shades=shades)


def _add_weights(
    page: Page, record: ComparisonRecord, logs: _Logs, summaries: Sequence[MethodSummary]
) -> None:
    used = {row.name: _weight_kinds(logs, row.name) for row in record.plan.rows}
    blocks: list[Block] = []
    for kind in WEIGHT_KEYS:
        weights = {
            one.method: getattr(one, f'{kind}_weights')
            for one in summaries
            if getattr(one, f'{kind}_weights') and kind in used[one.method]
        }
        if weights:
            blocks.append(_weight_table(kind, weights))
    for kind, prefix in WEIGHT_KEYS.items():
        panels = []
        for row in record.plan.rows:
            if kind not in used[row.name]:
                continue
            records = [one for one in logs.of_method(row.name) if one.teachers]
            lines = []
            for teacher in dict.fromkeys(name for one in records for name in one.teachers):
                points, spread = mean_curve([one.curve(prefix + teacher) for one in records])
                lines.append(Series(teacher, points, spread=spread))
            if any(one.points for one in lines):
                chart = LineChart(row.name, lines, 'iteration', limits=(0.0, 1.0), decimals=2)
                panels.append(chart)
        if panels:
            title = f'{kind.capitalize()} weights over the training, of each method'
            blocks.append(Fold(title, [Charts(panels)]))
    if not blocks:
        reason = 'No training has logged weights of teachers: see `TeacherWeightHook`.'
        page.left_out.append((_WEIGHTS, reason))
        return
    intro = (
        'Every image has one weight per teacher, and they sum to 1. Means over images, seeds and '
        'training, without its first tenth. Logit weights multiply the distances between the '
        'predictions of student and teachers, feature weights those between their features.'
    )
    page.sections.append(Section('weights', _WEIGHTS, blocks, intro))


def _weight_kinds(logs: _Logs, method: str) -> list[str]:
    """Which weights had an effect in a method."""
    records = logs.of_method(method)
    return records[0].weight_kinds if records else list(WEIGHT_KEYS)


def _add_class_weights(page: Page, logs: _Logs, methods: Sequence[str]) -> None:
    folds: list[Block] = []
    remarks: dict[str, None] = {}
    differ = []
    for method in methods:
        tables = []
        for one in logs.finished.get(method, []):
            if osp.isfile(osp.join(one.work_dir, CLASS_WEIGHTS_NAME)):
                try:
                    tables.append((one, one.read_class_weights()))
                except InputError as error:
                    page.left_out.append((f'{_CLASSES} of {method}', str(error)))
        if not tables:
            continue
        first, weights = tables[0]
        teachers = [one.teachers for _, one in tables]
        logit = mean_class_table(teachers, [one.logit for _, one in tables])
        feature = mean_class_table(teachers, [one.feature for _, one in tables])
        if logit is None or feature is None:
            differ.append(method)
            continue
        mean = ClassWeights(weights.teachers, logit, feature)
        shown, remark = class_tables(mean, first.weight_kinds, first.class_names)
        remarks.setdefault(remark)
        folds.append(Fold(f'{method}, {_plural(len(tables), "seed")}', shown))
    for method in differ:
        reason = 'Its trainings differ in their teachers or classes.'
        page.left_out.append((f'{_CLASSES} of {method}', reason))
    if folds:
        span = 'last epoch' if first.by_epoch else 'training'
        intro = f'Mean weights of the images of each class over the {span}, and over the seeds.'
        intro += ''.join(remarks)
        page.sections.append(Section('classes', _CLASSES, folds, intro))
    elif not differ:
        reason = 'They are written when a training with teachers ends.'
        page.left_out.append((_CLASSES, reason))


def _cost_section(record: ComparisonRecord, summaries: Sequence[MethodSummary]) -> Section:
    reference = record.plan.reference
    base = next((one.seconds_per_epoch for one in summaries if one.method == reference), None)
    by_epoch = any(one.seconds_per_epoch is not None for one in summaries)
    rows: list[list[str | Cell]] = []
    for one in summaries:
        row: list[str | Cell] = [one.method]
        seconds = one.seconds_per_epoch
        if by_epoch:
            row.append('' if seconds is None else f'{seconds:.2f}')
        if base:
            row.append('' if seconds is None else f'{seconds / base:.2f}')
        whole = format_duration(_mean_seconds(record.runs[one.method]))
        rows.append([*row, f'{one.peak_mib:.0f}', whole])
    head = ['method', 'peak memory, MiB', 'whole training']
    if by_epoch:
        head.insert(1, 'seconds per epoch')
    if base:
        head.insert(2, f'relative to {reference}')
    table = Table(
        'Cost of a training',
        head,
        rows,
        note=('Seconds per epoch are those of training steps, medians over the trainings. ')
        * by_epoch
        + 'Memory is the greatest peak of the GPU, or of the process without one. The whole '
        'training is the mean, with start and validation. What else ran on the machine is in all '
        'times.',
    )
    return Section('cost', 'Cost', [table])


def _mean_seconds(runs: Sequence[Run]) -> float:
    return sum(run.seconds for run in runs) / len(runs)


def _add_rows(page: Page, record: ComparisonRecord, logs: _Logs) -> None:
    plan = record.plan
    facts = [('metric', plan.metric), ('reference', plan.reference)]
    facts.append(('seeds', ', '.join(map(str, plan.seeds))))
    if plan.cfg_options:
        facts.append(('options of all rows', ' '.join(plan.cfg_options)))
    blocks: list[Block] = [Facts(facts)]
    if any(row.config for row in plan.rows):
        rows: list[list[str | Cell]] = []
        for row in plan.rows:
            settings = [*(f'{key}={value}' for key, value in row.variables), *row.options]
            config = Cell(row.config, wrap=True)
            rows.append([row.name, config, Cell('\n'.join(settings), wrap=True)])
        blocks.append(Table('Rows', ['method', 'config', 'options of the row'], rows))
    else:
        reason = 'The version that trained this comparison wrote no comparison.json.'
        page.left_out.append(('Options of the rows', reason))
    texts = _configs(record, logs)
    if texts:
        blocks.append(Fold('The configs', texts))
    page.sections.append(Section('rows', 'Rows and options', blocks))


def _configs(record: ComparisonRecord, logs: _Logs) -> list[Text]:
    """The config of the reference, and in what those of the other rows differ from it."""
    configs: dict[str, tuple[str, str]] = {}
    for row in record.plan.rows:
        log = next(iter(logs.of_method(row.name)), None)
        if log is not None and log.config_text:
            configs[row.name] = f'{row.name} ({osp.basename(log.work_dir)})', log.config_text
    if not configs:
        return []
    reference = record.plan.reference if record.plan.reference in configs else next(iter(configs))
    title, whole = configs.pop(reference)
    texts = [Text(f'{title}, the whole config', whole)]
    for other, text in configs.values():
        lines = unified_diff(whole.splitlines(), text.splitlines(), title, other, lineterm='')
        texts.append(Text(f'{other}, lines that differ from {reference}', '\n'.join(lines)))
    return texts


def _add_environment(page: Page, record: ComparisonRecord, logs: _Logs) -> None:
    facts = []
    if record.plan.command:
        facts.append(('command', record.plan.command))
    commits = {run.commit or 'unknown' for runs in record.runs.values() for run in runs}
    if commits:
        facts.append(('commit', ', '.join(sorted(commits))))
    devices = [run.device for runs in record.runs.values() for run in runs]
    # Results of earlier versions have none.
    device = join_known(devices) if any(devices) else record.plan.device
    if device:
        facts.append(('device', device))
    values: dict[str, dict[str, None]] = {}
    for one in logs.records:
        for key, value in one.environment.items():
            if key != 'seed':
                values.setdefault(key, {})[value] = None
    # Trainings on different machines have different versions.
    facts += [(key, '; '.join(found)) for key, found in values.items()]
    if facts:
        page.sections.append(Section('environment', 'Environment and versions', [Facts(facts)]))
    else:
        reason = 'The logs of the trainings are not in the work dir.'
        page.left_out.append(('Environment and versions', reason))
