# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What is in the work dir of a comparison: its plan, results, and trainings without one."""

import csv
import glob
import os.path as osp
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.files import write_json
from mtkdrl_mm.utils.json_files import read_json_object
from mtkdrl_mm.utils.tool_output import find_error, last_lines

from .logs import with_metric
from .results import OUTPUT_NAME, Run, failure_path, result_path
from .rows import Row, training_folder
from .settings import ComparisonSettings

#: File name of the page of a training, and of a comparison, in its work dir.
PAGE_NAME = 'report.html'
#: File name of the plan of a comparison, in its work dir.
PLAN_NAME = 'comparison.json'
_DEFAULT_REFERENCE = 'aver'


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a comparison compares.

    Attributes:
        rows (list[Row]): Its methods.
        seeds (list[int]): The seeds of every row.
        metric (str): Name of the metric.
        reference (str): Name of the row that the others are compared with;
            there may be no such row.
        cfg_options (list[str]): Options of all rows. Defaults to [].
        command (str): The command line. Defaults to '': not known.
        device (str): What the command ran on; what the trainings did, see :class:`Run`.
            Defaults to '': not known.
    """

    rows: list[Row]
    seeds: list[int]
    metric: str = ComparisonSettings.metric
    reference: str = _DEFAULT_REFERENCE
    cfg_options: list[str] = field(default_factory=list)
    command: str = ''
    device: str = ''

    def write(self, work_dir: str) -> None:
        """Write the plan to ``comparison.json``.

        Args:
            work_dir (str): Folder of the file.
        """
        write_json(asdict(self), osp.join(work_dir, PLAN_NAME), indent=1)

    @classmethod
    def read(cls, path: str) -> 'Plan':
        """Read a plan.

        Args:
            path (str): The JSON file.

        Returns:
            Plan: The plan.

        Raises:
            InputError: If the file is damaged.
        """
        texts = ('metric', 'reference', 'command', 'device')
        lists = ('rows', 'seeds', 'cfg_options')
        contents = read_json_object(
            path, {**dict.fromkeys(texts, str), **dict.fromkeys(lists, list)}
        )
        try:
            rows = [
                Row(
                    _text(row['name']),
                    _text(row['config']),
                    tuple(map(_text, row['options'])),
                    tuple((_text(key), _text(value)) for key, value in row['variables']),
                )
                for row in contents['rows']
            ]
            return cls(
                rows=rows,
                seeds=[int(seed) for seed in contents['seeds']],
                cfg_options=[_text(option) for option in contents['cfg_options']],
                **{key: contents[key] for key in texts},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f'"{path}" is damaged: {error!r}. Remove it, and start compare_methods.py with '
                '--report-only to write it again.'
            ) from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f'{str(value)[:40]!r} is no text')
    return value


@dataclass(frozen=True)
class Missing:
    """A training without a result.

    Attributes:
        method (str): Name of its row.
        seed (int): Its seed.
        folder (str): Its work dir, which may not exist.
        state (str): "failed", "not finished" or "not started".
        reason (str): The end of its output. Defaults to none.
        exit_code (int, optional): Of a failed training. Defaults to None.
    """

    method: str
    seed: int
    folder: str
    state: str
    reason: str = ''
    exit_code: int | None = None

    @property
    def failed(self) -> bool:
        """Whether it failed."""
        return self.exit_code is not None


@dataclass(frozen=True)
class ComparisonRecord:
    """What the work dir of a comparison holds.

    Attributes:
        work_dir (str): The folder.
        plan (Plan): What is compared.
        runs (dict[str, list[Run]]): The results, of rows that have some.
        missing (list[Missing]): The trainings without a result.
    """

    work_dir: str
    plan: Plan
    runs: dict[str, list[Run]]
    missing: list[Missing]

    def folder(self, method: str, seed: int) -> str:
        """The work dir of a training.

        Args:
            method (str): Name of the row.
            seed (int): The seed.
        """
        return training_folder(self.work_dir, method, seed)


def is_comparison(work_dir: str) -> bool:
    """Whether a folder is the work dir of a comparison.

    Args:
        work_dir (str): The folder.
    """
    return osp.isfile(osp.join(work_dir, PLAN_NAME)) or any(
        osp.isfile(result_path(training_folder(work_dir, *one))) for one in _trainings(work_dir)
    )


def read_comparison(
    work_dir: str, reference: str | None = None, plan: Plan | None = None
) -> ComparisonRecord:
    """Read the work dir of a comparison, finished or not.

    All results are of the plan's metric: from its logs, if a result was written for another one.

    Args:
        work_dir (str): The folder given to ``compare_methods.py`` as ``--work-dir``.
        reference (str, optional): Name of the row that the others are compared
            with. Defaults to None: as they were compared.
        plan (Plan, optional): What is compared. Defaults to None: what the folder says,
            which is the plan of the latest command.

    Returns:
        ComparisonRecord: What is there.

    Raises:
        InputError: If the folder is no such work dir, a file is damaged, a result is of
            another metric that its logs do not hold, or no row has the name of the reference.
    """
    if plan is None:
        plan = _read_plan(work_dir)
    if reference is not None:
        names = [row.name for row in plan.rows]
        if reference not in names:
            raise InputError(f'No row is named "{reference}": the rows are {", ".join(names)}.')
        plan = replace(plan, reference=reference)
    record = ComparisonRecord(work_dir, plan, {}, [])
    for row in plan.rows:
        for seed in plan.seeds:
            folder = record.folder(row.name, seed)
            if osp.isfile(result_path(folder)):
                run = with_metric(Run.read(result_path(folder)), folder, plan.metric)
                record.runs.setdefault(row.name, []).append(run)
            elif row.config or osp.isdir(folder):
                record.missing.append(_describe_missing(row.name, seed, folder))
    return record


def _trainings(work_dir: str) -> list[tuple[str, int]]:
    """Method and seed of every folder in which ``compare_methods.py`` has started a training."""
    found = []
    for path in glob.glob(osp.join(glob.escape(work_dir), '*', 'seed_*')):
        seed = osp.basename(path).removeprefix('seed_')
        traces = (result_path(path), osp.join(path, OUTPUT_NAME))
        if re.fullmatch('[0-9]+', seed) and any(map(osp.isfile, traces)):
            found.append((osp.basename(osp.dirname(path)), int(seed)))
    return sorted(found)


def _read_plan(work_dir: str) -> Plan:
    if not is_comparison(work_dir):
        raise InputError(
            f'"{work_dir}" is no work dir of a comparison: it has neither a comparison.json nor '
            'folders METHOD/seed_N with a result.json.'
        )
    path = osp.join(work_dir, PLAN_NAME)
    return Plan.read(path) if osp.isfile(path) else _guess_plan(work_dir)


def _guess_plan(work_dir: str) -> Plan:
    """The plan of a comparison of a version that wrote none."""
    trainings = _trainings(work_dir)
    names = list(dict.fromkeys(name for name, _ in trainings))
    metric, reference = _metric_of_results(work_dir, trainings), _DEFAULT_REFERENCE
    table = osp.join(work_dir, 'table.csv')
    if osp.isfile(table):
        with open(table, encoding='utf-8', newline='') as file:
            head, *rows = [row for row in csv.reader(file) if len(row) > 4] or [[]]
        if head[:2] == ['method', 'runs'] and head[4].startswith('minus '):
            metric, reference = head[2], head[4].removeprefix('minus ')
            order = [row[0] for row in rows if row[0] in names]
            names = order + [name for name in names if name not in order]
    return Plan(
        rows=[Row(name, '') for name in names],
        seeds=sorted({seed for _, seed in trainings}),
        metric=metric,
        reference=reference,
    )


def _metric_of_results(work_dir: str, trainings: Sequence[tuple[str, int]]) -> str:
    """The metric that results name; the default one if none does."""
    paths = [result_path(training_folder(work_dir, *one)) for one in trainings]
    metrics = (Run.read(path).metric_name for path in paths if osp.isfile(path))
    return next((metric for metric in metrics if metric), ComparisonSettings.metric)


def _describe_missing(method: str, seed: int, folder: str) -> Missing:
    if not osp.isdir(folder):
        return Missing(method, seed, folder, 'not started')
    lines = last_lines(osp.join(folder, OUTPUT_NAME))
    path = failure_path(folder)
    if not osp.isfile(path):
        return Missing(method, seed, folder, 'not finished', lines[-1] if lines else '')
    failure = read_json_object(path, dict(exit_code=int))
    reason = failure.get('reason') or find_error(lines)
    return Missing(method, seed, folder, 'failed', reason, failure['exit_code'])
