# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Comparison of methods on several pools of teachers."""

import csv
import glob
import math
import os
import os.path as osp
import shlex
from collections.abc import Mapping, Sequence
from itertools import combinations

from torch import Tensor

from mtkdrl_mm.engine.work_dir_lock import WorkDirLock
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.files import atomic_write, write_json
from mtkdrl_mm.utils.json_files import read_json_object
from mtkdrl_mm.utils.markdown import markdown_table

from .logs import with_metric
from .record import PLAN_NAME, Plan
from .results import Run, Runs, result_path
from .rows import last_options, training_folder
from .settings import ComparisonSettings
from .summary import Difference, MethodSummary, mean_weights, paired_difference, summarize

#: What a method is compared with that claims to weigh teachers well.
RIVALS = ('aver', 'camkd')
#: How the rows with one teacher end; what is in front is the teacher's name.
SINGLE_SUFFIX = '_alone'
_NOTE_NAME = 'pool.json'


def best_subset(
    names: Sequence[str], logits: Tensor, labels: Tensor, sizes: Sequence[int]
) -> tuple[str, ...]:
    """The teachers whose equally weighted mixture makes the labels most likely.

    Args:
        names (Sequence[str]): The M teachers.
        logits (Tensor): Their logits on images that they were not trained on,
            shape (N, M, C).
        labels (Tensor): Shape (N,), int64.
        sizes (Sequence[int]): How many teachers there may be.

    Returns:
        tuple[str, ...]: Their names, in the order of the pool.

    Raises:
        ValueError: If no subset has one of the sizes.
    """
    index = labels[:, None, None].expand(-1, len(names), 1)
    of_label = logits.double().log_softmax(dim=2).gather(2, index)[..., 0]
    likelihoods = {
        chosen: float(of_label[:, chosen].logsumexp(dim=1).mean()) - math.log(size)
        for size in sizes
        for chosen in combinations(range(len(names)), size)
    }
    if not likelihoods:
        raise ValueError(f'No subset of {len(names)} teachers has {list(sizes)} of them.')
    best = max(likelihoods, key=lambda chosen: likelihoods[chosen])
    return tuple(names[m] for m in best)


def pool_settings(
    cfg_options: Sequence[str], views: int, variables: Mapping[str, str]
) -> dict[str, str]:
    """What all results of a pool must have been trained with.

    Args:
        cfg_options (Sequence[str]): Options of all rows.
        views (int): Number of stored views of every image.
        variables (Mapping[str, str]): Environment variables that the configs read, and that
            are set.

    Returns:
        dict[str, str]: Value by flag or variable, of those that are given.
    """
    return {'--views': str(views), **_options(cfg_options), **variables}


def _options(cfg_options: Sequence[str]) -> dict[str, str]:
    options = shlex.join(sorted(last_options(cfg_options)))
    return {'--cfg-options': options} if options else {}


def check_settings(work_dir: str, settings: Mapping[str, str]) -> None:
    """Refuse settings with which the results of a pool were not trained.

    Rows of several commands are in one table, and a difference of settings would be taken for
    one of methods.

    Args:
        work_dir (str): The work dir of the pool's comparison.
        settings (Mapping[str, str]): Those of this command, from :func:`pool_settings`.

    Raises:
        InputError: If the results, or a comparison that runs there, have others.
    """
    # What was only begun is in no table, and whoever mistyped an option may mend it.
    if not _result_paths(work_dir) and not WorkDirLock(work_dir).is_held_elsewhere():
        return
    before = _noted_settings(work_dir, settings)
    for name in {**before, **settings}:
        if before.get(name) != settings.get(name):
            raise InputError(
                f'The results in "{work_dir}" are trained {_with(name, before.get(name))}, and '
                f'this command trains {_with(name, settings.get(name))}: in one table, that would '
                'look like a difference of methods. Give the same, or another --work-dir.'
            )


def note_settings(work_dir: str, settings: Mapping[str, str]) -> None:
    """Note with which settings the results of a pool are trained, in ``pool.json``.

    Args:
        work_dir (str): The work dir of the pool's comparison, which is made.
        settings (Mapping[str, str]): As for :func:`check_settings`.

    Raises:
        InputError: As :func:`check_settings`.
    """
    check_settings(work_dir, settings)
    os.makedirs(work_dir, exist_ok=True)
    write_json(dict(settings=dict(settings)), osp.join(work_dir, _NOTE_NAME))


def _noted_settings(work_dir: str, settings: Mapping[str, str]) -> dict[str, str]:
    """The settings of a pool's results; those that are not known are taken for the given ones."""
    note, plan = osp.join(work_dir, _NOTE_NAME), osp.join(work_dir, PLAN_NAME)
    if osp.isfile(note):
        return read_json_object(note, dict(settings=dict))['settings']
    before = dict(settings)
    if osp.isfile(plan):  # Of the settings, earlier versions noted only the options.
        before.pop('--cfg-options', None)
        before.update(_options(Plan.read(plan).cfg_options))
    return before


def _with(name: str, value: str | None) -> str:
    if value is None:
        return f'without {name}'
    return f'with {name}{" " if name.startswith("--") else "="}{value}'


def _result_paths(work_dir: str) -> list[str]:
    return glob.glob(result_path(osp.join(glob.escape(work_dir), '*', 'seed_*')))


def read_pool(
    work_dir: str, order: Sequence[str] = (), metric: str = ComparisonSettings.metric
) -> dict[str, list[Run]]:
    """Read all results of a pool, of the latest command and of earlier ones.

    Args:
        work_dir (str): The work dir of the pool's comparison.
        order (Sequence[str]): Names of rows, in the order of the tables. Others
            follow by name. Defaults to ().
        metric (str): The metric of all of them; of a result of another one, it is read from
            the logs. Defaults to 'accuracy/top1'.

    Returns:
        dict[str, list[Run]]: The results of every row that has some, by seed;
        empty without the folder.

    Raises:
        InputError: If a file is damaged, or a result is of another metric, and its logs do not
            hold this one.
    """
    read = {path: Run.read(path) for path in _result_paths(work_dir)}
    found: dict[str, list[Run]] = {}
    for path, run in sorted(read.items(), key=lambda item: item[1].seed):
        if path == result_path(training_folder(work_dir, run.method, run.seed)):  # no copy of it
            found.setdefault(run.method, []).append(_of_metric(run, osp.dirname(path), metric))
    places = {name: place for place, name in enumerate(order)}
    names = sorted(found, key=lambda name: (places.get(name, len(places)), name))
    return {name: found[name] for name in names}


def _of_metric(run: Run, folder: str, metric: str) -> Run:
    try:
        return with_metric(run, folder, metric)
    except InputError as error:
        raise InputError(
            f'The result in "{folder}" is of "{run.metric_name}", and its logs hold no "{metric}", '
            'of which the tables are. Move that folder away, or give another --work-dir.'
        ) from error


def _seeds(runs: Sequence[Run]) -> set[int]:
    return {run.seed for run in runs}


def _trained(runs: Runs) -> dict[str, list[Run]]:
    """The rows with results."""
    return {name: found for name, found in runs.items() if found}


def _singles(runs: Runs) -> dict[str, list[Run]]:
    """The rows with one teacher."""
    return {name: of for name, of in _trained(runs).items() if name.endswith(SINGLE_SUFFIX)}


def common_seeds(runs: Runs) -> set[int]:
    """The seeds that all single teachers of a pool have.

    Args:
        runs (Runs): The results of the pool.
    """
    return set.intersection(*map(_seeds, found)) if (found := _singles(runs).values()) else set()


def best_single(runs: Runs) -> str | None:
    """The single teacher whose students are best on average over the seeds that all of them have.

    Args:
        runs (Runs): The results of a pool.

    Returns:
        str | None: Its row; None if no teacher was alone, or they have no seed
        in common.
    """
    seeds = common_seeds(runs)
    if not seeds:
        return None
    shared = {name: [run for run in of if run.seed in seeds] for name, of in _singles(runs).items()}
    return max(summarize(shared, ''), key=lambda one: one.mean).method


def gains_over_rivals(runs: Runs, method: str) -> dict[str, Difference | None]:
    """What a method gains over the best single teacher and over every rival, seed by seed.

    Args:
        runs (Runs): The results of a pool.
        method (str): The method.

    Returns:
        dict[str, Difference | None]: By rival; None without a seed that both have.
    """
    rivals = {'best single teacher': best_single(runs) or '', **{r: r for r in RIVALS}}
    ours = runs.get(method, [])
    return {name: paired_difference(ours, runs.get(row, [])) for name, row in rivals.items()}


def write_pools(pools: Mapping[str, Runs], method: str, out: str) -> str:
    """Write ``pools.md`` and ``pools.csv``: a row per pool, a column per method.

    Of the rows with one teacher, whose names end in :data:`SINGLE_SUFFIX`, the
    best is shown. What has fewer seeds than others of its pool has their number.

    Args:
        pools (Mapping[str, Runs]): The results of every pool, some of each.
        method (str): The row whose gains are shown.
        out (str): Folder of the files.

    Returns:
        str: The tables in Markdown.
    """
    named = dict.fromkeys(
        name for runs in pools.values() for name in _trained(runs) if name not in _singles(runs)
    )
    header = ['pool', 'best single teacher', *named]
    rows, gains, notes = [], [], []
    for pool, runs in pools.items():
        summaries = {one.method: one for one in summarize(_trained(runs), '')}
        most = max(one.num_runs for one in summaries.values())
        best = best_single(runs)
        row = [pool, '' if best is None else _cell(summaries[best], most, best)]
        row += [_cell(summaries[name], most) if name in summaries else '' for name in named]
        rows.append(row)
        ours = runs.get(method, [])
        weights = mean_weights(ours, 'logit').items()
        gains.append(
            [
                pool,
                *(_gain(gap, len(ours)) for gap in gains_over_rivals(runs, method).values()),
                ', '.join(f'{name} {weight:.2f}' for name, weight in weights),
            ]
        )
        notes += _note(pool, runs)
    with atomic_write(osp.join(out, 'pools.csv'), newline='') as file:
        csv.writer(file).writerows([header, *rows])
    titles = ['pool', 'minus best single teacher', *(f'minus {one}' for one in RIVALS), 'weights']
    parts = [markdown_table(header, rows), *notes]
    parts += [f'`{method}`, paired by seed, with 95 % intervals:', markdown_table(titles, gains)]
    text = '\n\n'.join(parts)
    with atomic_write(osp.join(out, 'pools.md')) as file:
        file.write(text + '\n')
    return text


def _cell(summary: MethodSummary, most: int, *remarks: str) -> str:
    """Mean and deviation; with the number of seeds if other rows of the pool have more."""
    spread = '' if summary.std is None else f' ± {summary.std:.2f}'
    remarks += _fewer(summary.num_runs, most)
    return f'{summary.mean:.2f}{spread}' + f' ({", ".join(remarks)})' * bool(remarks)


def _note(pool: str, runs: Runs) -> list[str]:
    """On which seeds the single teachers are ranked, where some have more."""
    singles, seeds = _singles(runs), common_seeds(runs)
    if all(_seeds(found) == seeds for found in singles.values()):
        return []
    reason = 'have no seed in common, and no best one'
    if seeds:
        listed = ', '.join(map(str, sorted(seeds)))
        reason = f'are ranked by what all of them have: seed{"s" * (len(seeds) > 1)} {listed}'
    return [f'The single teachers of `{pool}` {reason}.']


def _gain(gap: Difference | None, runs: int) -> str:
    if gap is None:
        return ''
    half = '' if gap.half_width is None else f' ± {gap.half_width:.2f}'
    return f'{gap.mean:+.2f}{half}' + ''.join(f' ({one})' for one in _fewer(gap.count, runs))


def _fewer(count: int, most: int) -> tuple[str, ...]:
    return (f'{count} seed{"s" * (count != 1)}',) if count < most else ()
