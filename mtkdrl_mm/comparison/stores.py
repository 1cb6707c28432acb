# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Which trainings read the outputs of their teachers from one store, and the filling of stores."""

import hashlib
import os
import os.path as osp
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mtkdrl_mm.engine.resume_checks import teacher_name
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.child_processes import run_child

from .named_files import stored_outputs
from .rows import Combination, parse_options, read_config, stored_folders, teachers_of
from .settings import ComparisonSettings


@dataclass
class Store:
    """A store of teacher outputs for the trainings with the same data.

    Attributes:
        path (str): Its folder.
        data (str): Hash of training data and preprocessing.
        teachers (dict[str, str]): Config of every teacher, as text.
        sources (list[Combination]): The trainings whose teachers it holds; one
            for each choice of teachers.
    """

    path: str
    data: str
    teachers: dict[str, str]
    sources: list[Combination]


def plan_stores(
    combinations: Sequence[Combination], settings: ComparisonSettings
) -> tuple[list[Store], list[Combination]]:
    """Find which trainings can read from one store.

    They have the same training data, and no two different teachers of one name.

    Args:
        combinations (Sequence[Combination]): The trainings.
        settings (ComparisonSettings): With ``store`` and ``cfg_options``.

    Returns:
        tuple[list[Store], list[Combination]]: The stores, and the trainings,
        those with teachers with the folder of their store, and what it holds of them now.

    Raises:
        InputError: If a config cannot be read or has no training data, or trainings cannot be
            told the folder.
    """
    assert settings.store is not None
    _check_path(settings.store)
    stores: list[Store] = []
    planned: list[Combination] = []
    for combination in combinations:
        config = read_config(combination.row, combination.seed, settings.cfg_options)
        teachers = teachers_of(config)
        if not teachers:
            planned.append(combination)
            continue
        names = {teacher_name(teacher): str(teacher) for teacher in teachers}
        # mmengine gives the model the second one where it has none of its own.
        preprocessor = config.model.get('data_preprocessor', config.get('data_preprocessor'))
        loader = config.get('train_dataloader')
        if not isinstance(loader, dict) or 'dataset' not in loader:
            raise InputError(
                f'{combination.row.config} has no `train_dataloader.dataset`, of which --store '
                'could keep what the teachers say.'
            )
        parts = [loader['dataset'], preprocessor]
        data = hashlib.sha256(repr(parts).encode()).hexdigest()
        store = next((one for one in stores if _fits(one, data, names)), None)
        if store is None:
            store = Store(_folder(settings.store, data, names), data, {}, [])
            stores.append(store)
        if not names.keys() <= store.teachers.keys():
            store.teachers.update(names)
            store.sources.append(combination)
        planned.append(replace(combination, store=store.path, stored=stored_folders(config)))
    return stores, add_stored(planned)


def add_stored(combinations: Sequence[Combination]) -> list[Combination]:
    """Add what trainings read from their stores to their files.

    Args:
        combinations (Sequence[Combination]): Trainings from :func:`plan_stores`; again once the
            stores are filled.

    Returns:
        list[Combination]: The same, with what the stores hold now.
    """
    found = []
    for one in combinations:
        if one.store is not None:
            now = stored_outputs(one.store, one.stored, name='--store')
            one = replace(one, files=tuple({**dict(one.files), **now}.items()))
        found.append(one)
    return found


def _fits(store: Store, data: str, teachers: dict[str, str]) -> bool:
    """Whether a store can hold these teachers too."""
    return store.data == data and all(
        store.teachers.get(name, text) == text for name, text in teachers.items()
    )


def _check_path(path: str) -> None:
    """Refuse a folder that is another one, or several, as a value of ``--cfg-options``."""
    try:
        read = parse_options([f'model.teacher_outputs={path}'])['model.teacher_outputs']
    except InputError:
        read = None
    if read != path:
        raise InputError(
            f'--store "{path}" cannot be passed to the trainings as an option: use a folder '
            'without commas, brackets and quotation marks, which is no number.'
        )


def _folder(root: str, data: str, teachers: dict[str, str]) -> str:
    """The folder of a new store; the given one, if it is a store itself."""
    if osp.isdir(osp.join(root, 'inputs')):
        return root
    return osp.join(
        root, hashlib.sha256(f'{data} {sorted(teachers.items())}'.encode()).hexdigest()[:8]
    )


def fill_stores(stores: Sequence[Store], settings: ComparisonSettings) -> None:
    """Run the teachers of all rows, where their outputs are not stored yet.

    Args:
        stores (Sequence[Store]): The stores.
        settings (ComparisonSettings): With the settings of the store's tool.

    Raises:
        InputError: If one fails.
    """
    os.makedirs(settings.work_dir, exist_ok=True)
    log_path = osp.join(settings.work_dir, 'store_output.txt')
    for store in stores:
        start = time.time()
        for source in store.sources:
            row = source.row
            flags = shlex.split(settings.store_flags)
            if settings.views is not None:
                flags += ['--views', str(settings.views)]
            start_tool = settings
            if settings.job is not None:
                # A job is one process; --store-flags may give another number of jobs.
                start_tool = replace(settings, launch='')
                flags = [*settings.job.flags(), '--work-dir', settings.work_dir, *flags]
            command = start_tool.command('store_teacher_outputs.py', row.config, store.path, *flags)
            options = [*settings.cfg_options, *row.options]
            command += ['--cfg-options', *options] if options else []
            with open(log_path, 'a') as log:
                # The progress bar is on stderr.
                code, _ = run_child(command, env=row.environment(source.seed), stdout=log)
            if code != 0:
                raise InputError(
                    f'The outputs of the teachers of {row.name} could not be stored in '
                    f'"{store.path}"; see above and {log_path}.'
                )
        names, seconds = ', '.join(store.teachers), time.time() - start
        print(f'  teachers {names}: stored in {store.path}, {seconds:.0f} s', flush=True)
