# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Rows of a comparison, and the configs that they train."""

import argparse
import hashlib
import os
import os.path as osp
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pprint import pformat
from typing import Any, NoReturn

from mmengine.config import Config

from mtkdrl_mm.engine.resume_checks import teacher_name
from mtkdrl_mm.teacher_outputs import (
    TeacherOutputsSettings,
    held_out_root,
    inputs_folder,
    teacher_folder,
)
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.cli import add_common_arguments
from mtkdrl_mm.utils.config_keys import without_variables
from mtkdrl_mm.utils.errors import check_config_file, near_matches
from mtkdrl_mm.utils.launch import merge_options, read_config_file

from .named_files import named_files, read_variables, stored_outputs
from .settings import ComparisonSettings


@dataclass(frozen=True)
class Row:
    """One row of the tables: a method.

    Attributes:
        name (str): The method's name in tables, and its folder in the work dir.
        config (str): The config file.
        options (tuple[str, ...]): Options of this row, as ``--cfg-options``.
        variables (tuple[tuple[str, str], ...]): Environment variables of this
            row.
    """

    name: str
    config: str
    options: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, words: Sequence[str]) -> 'Row':
        """Read the words that follow ``--row``.

        Args:
            words (Sequence[str]): Name, config, and ``KEY=VALUE`` pairs. A key in
                capitals is an environment variable.

        Returns:
            Row: The row.

        Raises:
            InputError: If they are no name, config and ``KEY=VALUE``.
        """
        if len(words) < 2 or any('=' not in word for word in words[2:]):
            raise InputError(f'--row takes NAME CONFIG KEY=VALUE ..., but got "{" ".join(words)}".')
        settings = [word.partition('=') for word in words[2:]]
        return cls(
            words[0],
            words[1],
            tuple(f'{key}={value}' for key, _, value in settings if not key.isupper()),
            tuple((key, value) for key, _, value in settings if key.isupper()),
        )

    def environment(self, seed: int) -> dict[str, str]:
        """The environment variables of a training.

        Args:
            seed (int): Its seed, for configs that read ``RUN_SEED``.

        Returns:
            dict[str, str]: Those of this process, and those of the row.
        """
        return {**os.environ, **dict(self.variables), 'RUN_SEED': str(seed)}


@dataclass(frozen=True)
class Combination:
    """A row with a seed: one training.

    Attributes:
        row (Row): The row.
        seed (int): The seed.
        description (str): What :func:`describe` returns for the row and seed.
        files (tuple[tuple[str, str], ...]): The files that the config names, and
            their digests, see :func:`named_files`, and those of what it reads from a store, see
            :func:`stored_outputs`. Defaults to none.
        store (str, optional): Folder of the stored outputs of its teachers, of ``--store``.
            Defaults to None: they run, or the config names a store.
        stored (tuple[str, ...]): The folders in the store that it reads. Defaults to none.
        reads (frozenset[str]): The environment variables that the config reads, see
            :func:`read_variables`. Defaults to none.
        settings (str): Digest of what is trained: the settings of the config with the options,
            and the files that they name. Defaults to '', which is not known.
    """

    row: Row
    seed: int
    description: str
    files: tuple[tuple[str, str], ...] = ()
    store: str | None = None
    stored: tuple[str, ...] = ()
    reads: frozenset[str] = frozenset()
    settings: str = ''

    @property
    def label(self) -> str:
        """What messages call the training: "aver, seed 0"."""
        return f'{self.row.name}, seed {self.seed}'

    def folder(self, work_dir: str) -> str:
        """The folder of the training in a work dir."""
        return training_folder(work_dir, self.row.name, self.seed)


def training_folder(work_dir: str, method: str, seed: int) -> str:
    """The folder of a training in the work dir of a comparison.

    Args:
        work_dir (str): The work dir.
        method (str): Name of the training's row.
        seed (int): Its seed.
    """
    return osp.join(work_dir, method, f'seed_{seed}')


def list_rows(configs: Sequence[str], rows: Sequence[Sequence[str]] = ()) -> list[Row]:
    """List the rows of a command line.

    Args:
        configs (Sequence[str]): One config file per method.
        rows (Sequence[Sequence[str]]): The words of every ``--row``. Defaults to
            ().

    Returns:
        list[Row]: The rows, with different names.

    Raises:
        InputError: If there are none, a config does not exist, a name cannot be that of a
            folder, or two have the same name.
    """
    found = [Row(method_name(config), config) for config in configs]
    found += [Row.parse(words) for words in rows]
    if not found:
        raise InputError('Nothing to compare: name configs, or add rows with --row.')
    for row in found:
        check_config_file(row.config)
        _check_name(row.name)
    names = [row.name for row in found]
    if len(set(names)) < len(names):
        raise InputError(f'Two rows have the same name: {sorted(names)}. Name them with --row.')
    return found


def _check_name(name: str) -> None:
    """Check that the name of a row can be that of its folder in the work dir."""
    if name in ('', '.', '..', 'jobs', 'store') or not name.isprintable() or set(name) & {*'/\\'}:
        raise InputError(
            f'A row cannot be named "{name}": that is its folder in the work dir, beside "jobs" '
            'and "store". Give another name with --row.'
        )


def method_name(config: str) -> str:
    """The name of a method without a name.

    Args:
        config (str): Path of its config.

    Returns:
        str: The file name, without its suffix and the prefix ``student_``.
    """
    return osp.splitext(osp.basename(config))[0].removeprefix('student_')


def read_config(row: Row, seed: int, options: Sequence[str] = ()) -> Config:
    """Read a row's config as it is trained with a seed, but for the seed itself.

    mmengine cannot read configs in several threads at once.

    Args:
        row (Row): The row, whose environment variables are set meanwhile.
        seed (int): The seed.
        options (Sequence[str]): ``--cfg-options`` of all rows, which precede the row's own.
            Defaults to ().

    Returns:
        Config: The config.

    Raises:
        InputError: If the file does not exist or cannot be read, or an option does not fit it.
    """
    with _environment(row, seed):
        config = read_config_file(row.config)
        _merge(config, row, options)
        return config


def _merge(config: Config, row: Row, options: Sequence[str]) -> None:
    """Merge the options of all rows, and of a row, into its config."""
    try:
        merge_options(config, parse_options(last_options([*options, *row.options])))
    except InputError as error:
        raise InputError(f'The row "{row.name}" cannot be trained. {error}') from error


@contextmanager
def _environment(row: Row, seed: int) -> Iterator[None]:
    """Set the environment variables of a training."""
    before = dict(os.environ)
    os.environ.update(row.environment(seed))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def teachers_of(config: Config) -> list[Any]:
    """The configs of a config's teachers; none without a model that has some."""
    model = config.get('model')
    return (model.get('teachers') or []) if isinstance(model, dict) else []


def stored_folders(config: Config) -> tuple[str, ...]:
    """The folders in a store that the training of a config reads.

    Args:
        config (Config): The config.

    Returns:
        tuple[str, ...]: Those of the inputs and of its teachers, and the same of the agent's
        held-out images, if there are some. Relative to the store.
    """
    roots = [''] if config.get('held_out_dataloader') is None else ['', held_out_root('')]
    names = [teacher_name(teacher) for teacher in teachers_of(config)]
    return tuple(
        folder
        for root in roots
        for folder in (inputs_folder(root), *(teacher_folder(root, name) for name in names))
    )


def _named_store(config: Config) -> dict[str, str]:
    """What a training reads from the store of ``model.teacher_outputs``."""
    if not teachers_of(config):
        return {}
    try:
        stored = TeacherOutputsSettings.from_config(config.model.get('teacher_outputs'))
    except InputError:  # which the training will say
        return {}
    if stored is None or stored.root is None or not stored.reads:
        return {}  # of a store that trainings write, the config says all
    return stored_outputs(stored.root, stored_folders(config), stored.first_views)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are those of the tool's command line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f'{message[:1].upper()}{message[1:]}')


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` options as ``--cfg-options`` does.

    Args:
        options (Sequence[str]): The options.

    Returns:
        dict[str, Any]: Values by key.

    Raises:
        InputError: If one cannot be parsed.
    """
    parser = _Parser()
    add_common_arguments(parser)
    return parser.parse_args(['--cfg-options', *options]).cfg_options if options else {}


def last_options(options: Iterable[str]) -> list[str]:
    """Leave out the options that a later one replaces.

    Args:
        options (Iterable[str]): ``KEY=VALUE`` options.

    Returns:
        list[str]: Those that have an effect, by the order of their keys' last occurrence.

    Example:
        >>> from mtkdrl_mm.comparison.rows import last_options
        >>> last_options(['a.b=1', 'c=2', 'a.b=3'])
        ['c=2', 'a.b=3']
        >>> last_options(['a.b=1', 'a=None'])
        ['a=None']
    """
    found: dict[str, str] = {}
    for option in options:
        key = option.partition('=')[0]
        for before in list(found):
            if f'{before}.'.startswith(f'{key}.'):  # the key itself, or one below it
                del found[before]
        found[key] = option
    return list(found.values())


def _check_seeds(rows: Sequence[Row], settings: ComparisonSettings) -> None:
    """Refuse settings that would give the trainings of all seeds the same one."""
    places: list[tuple[str, Sequence[str], Sequence[tuple[str, str]]]]
    places = [('--cfg-options', settings.cfg_options, ())]
    places += [(f'--row {row.name}', row.options, row.variables) for row in rows]
    for place, options, variables in places:
        keys = [option.partition('=')[0] for option in options]
        keys += [name for name, _ in variables]
        for key in ('randomness', 'randomness.seed', 'RUN_SEED'):
            if key in keys:
                raise InputError(
                    f'{place} sets `{key}`, but the seed of every training is one of --seeds: '
                    'name it there.'
                )


def list_combinations(
    rows: Sequence[Row], seeds: Sequence[int], settings: ComparisonSettings
) -> list[Combination]:
    """List the trainings of a comparison, seed by seed.

    Args:
        rows (Sequence[Row]): The rows.
        seeds (Sequence[int]): The seeds of every row.
        settings (ComparisonSettings): The comparison's settings.

    Returns:
        list[Combination]: One entry per seed and row.

    Raises:
        InputError: If a config cannot be read, an option does not fit it, none reads a
            variable of a row, options set the seed, or two rows are the same training.
    """
    _check_seeds(rows, settings)
    found: dict[tuple[str, int], Combination] = {}
    for row in rows:
        read = None
        for seed in seeds:
            # Reading takes longer than all the rest: with many seeds, only if it is needed.
            if read is None or read.reads_seed:
                read = _read_row(row, settings, seed)
            one = _describe(read, settings, seed)
            if 'RUN_SEED' not in one.reads:
                found.update({(row.name, other): replace(one, seed=other) for other in seeds})
                break
            found[row.name, seed] = one
    combinations = [found[row.name, seed] for seed in seeds for row in rows]
    _check_variables(combinations)
    _check_different(combinations)
    return combinations


def outer_variables(combinations: Iterable[Combination]) -> dict[str, str]:
    """The variables of this process's environment on which trainings depend.

    Args:
        combinations (Iterable[Combination]): The trainings.

    Returns:
        dict[str, str]: Value by name, sorted: of those that a config reads and its row does not
        set itself.
    """
    read = {
        name
        for one in combinations
        for name in one.reads - dict(one.row.variables).keys() - {'RUN_SEED'}
    }
    return {name: os.environ[name] for name in sorted(read) if name in os.environ}


def _check_variables(combinations: Sequence[Combination]) -> None:
    """Refuse variables of rows that no config reads.

    A variable of which only other rows know is fine: pools of teachers are chosen for all rows,
    and one of them has none.
    """
    known = {name for one in combinations for name in one.reads} - {'RUN_SEED'}
    for one in combinations:
        for name, _ in one.row.variables:
            if name not in known:
                raise InputError(
                    f'The row "{one.row.name}" sets {name}, which {one.row.config} does not '
                    f'read. {near_matches(name, known)}'
                )


def _check_different(combinations: Sequence[Combination]) -> None:
    """Refuse rows that are the same training."""
    names: dict[tuple[int, str], str] = {}
    for one in combinations:
        other = names.setdefault((one.seed, one.settings), one.row.name)
        if other != one.row.name:
            raise InputError(
                f'The rows "{other}" and "{one.row.name}" are the same training: with their '
                'options and variables, their configs do not differ. Leave one out.'
            )


def describe(row: Row, settings: ComparisonSettings, seed: int = 0) -> str:
    """Hash the config of a row as it is trained, but for the seed itself.

    How teachers are stored, and how many processes train it, belong to
    it. Contents of the files and stores that it names do not: they may be gone later.

    Args:
        row (Row): The row.
        settings (ComparisonSettings): With the options of all rows.
        seed (int): The seed, for configs that read ``RUN_SEED``. Defaults to 0.

    Returns:
        str: Twelve hexadecimal digits.

    Raises:
        InputError: If the config cannot be read.
    """
    return _describe(_read_row(row, settings, seed), settings, seed).description


@dataclass(frozen=True)
class _ReadRow:
    """The config of a row as it was read with a seed.

    Attributes:
        row (Row): The row.
        content (str): The contents of its file.
        config (Config): Those with all options.
        reads_seed (bool): Whether the file or its bases read ``RUN_SEED``; also if that is not
            known, because it imports them.
    """

    row: Row
    content: str
    config: Config
    reads_seed: bool


def _read_row(row: Row, settings: ComparisonSettings, seed: int) -> _ReadRow:
    with _environment(row, seed):
        config = read_config_file(row.config)
        content = repr(config.to_dict())
        reads = read_variables(config, ['RUN_SEED'], behind_paths=False)
        _merge(config, row, settings.cfg_options)
    return _ReadRow(row, content, config, 'RUN_SEED' in reads)


def _describe(read: _ReadRow, settings: ComparisonSettings, seed: int) -> Combination:
    """The training with a seed, that of all seeds if it does not read ``RUN_SEED``."""
    row, config = read.row, read.config
    options = last_options([*settings.cfg_options, *row.options])
    with _environment(row, seed):
        files = named_files(config)
        if not settings.store:  # which would be read instead
            files.update(_named_store(config))
        reads = read_variables(config, ['RUN_SEED', *(name for name, _ in row.variables)])
        # Without variables of the files, which change nothing where the settings are the same.
        settled = Config(without_variables(config))
        # An environment variable may be read behind `cfg_path` only, which is among the files.
        contents = [pformat(settled.to_dict()), repr(named_files(settled))]
    words = [read.content, *sorted(options)]
    if settings.store and teachers_of(config):
        words.append(f'{settings.views} views {settings.store_flags}')
    if settings.launch:
        words.append(settings.launch)
    return Combination(
        row,
        seed,
        _digest(words),
        tuple(files.items()),
        reads=frozenset(reads),
        settings=_digest(contents),
    )


def _digest(words: Sequence[str]) -> str:
    return hashlib.sha256('\n'.join(words).encode()).hexdigest()[:12]
