# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Reads what a training has left in its work dir, as plain data."""

import glob
import math
import os
import os.path as osp
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.class_names import class_names
from mtkdrl_mm.utils.data_settings import innermost_datasets
from mtkdrl_mm.utils.json_files import read_json_lines, read_json_object
from mtkdrl_mm.utils.literal_config import parse_literal_config
from mtkdrl_mm.weights.local_files import last_checkpoint

from .checkpoint_files import holds_earlier_training

Record = dict[str, Any]
#: File of the teachers' mean weights per class, in the work dir; see ``TeacherWeightHook``.
CLASS_WEIGHTS_NAME = 'class_weights.json'
#: Prefixes of the logged weights of the teachers, see ``TeacherWeightHook``.
WEIGHT_KEYS = {'logit': 'teacher_weight/logit/', 'feature': 'teacher_weight/feature/'}
# Lines of a log's "System environment" that say with what a training ran.
_VERSIONS = {
    'Python': 'Python',
    'PyTorch': 'PyTorch',
    'TorchVision': 'torchvision',
    'OpenCV': 'OpenCV',
    'MMEngine': 'mmengine',
    'CUDA_HOME': 'CUDA',
    'NVCC': 'nvcc',
}
# mmengine's number of GPUs is that of the processes, also on a CPU.
_RUNTIME = {
    'seed': 'seed',
    'deterministic': 'deterministic',
    'Distributed launcher': 'launcher',
    'GPU number': 'processes',
}
# Of "Epoch(train)  [2][ 50/70]": the iterations of the epoch.
_EPOCH_LENGTH = re.compile(r'Epoch\(train\)\s*\[\d+\]\[\s*\d+/(\d+)\]')


@dataclass
class ClassWeights:
    """The teachers' mean weights per class.

    Attributes:
        teachers (list[str]): The M teachers.
        logit (np.ndarray): Mean logit weights, shape (C, M); NaN for classes without
            an image.
        feature (np.ndarray): Mean feature weights, likewise.
    """

    teachers: list[str]
    logit: np.ndarray
    feature: np.ndarray


@dataclass
class RunRecord:
    """What a training has left in its work dir.

    Attributes:
        work_dir (str): The folder.
        sessions (list[str]): Folders of the starts that logged training steps,
            the oldest first; more than one if the training was resumed.
        train (list[dict]): The log lines of training steps, by ``step``. What a
            resumed training repeated counts once, as it was repeated.
        val (list[dict]): The log lines of validations, likewise.
        config_path (str, optional): The config file of the latest start.
        config (dict): Its contents; empty if there is none.
        config_text (str): Its text.
        config_problem (str): Why ``config`` is empty, if it is.
        environment (dict[str, str]): Versions and settings of the latest start,
            from its log; empty if there is none.
        checkpoint (str, optional): The latest checkpoint.
    """

    work_dir: str
    sessions: list[str]
    train: list[Record]
    val: list[Record]
    config_path: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ''
    config_problem: str = 'The work dir holds no config file.'
    environment: dict[str, str] = field(default_factory=dict)
    checkpoint: str | None = None

    @property
    def by_epoch(self) -> bool:
        """Whether the training counts epochs."""
        length = self.config.get('train_cfg')
        if isinstance(length, dict) and 'max_iters' in length:
            return False  # whatever the log counts
        return any('epoch' in record for record in self.train)

    @property
    def unit(self) -> str:
        """What the training counts: "epoch" or "iteration"."""
        return 'epoch' if self.by_epoch else 'iteration'

    @property
    def weight_kinds(self) -> list[str]:
        """Which weights had an effect: those of features only with a feature loss."""
        model = self.config.get('model')
        unused = isinstance(model, dict) and model.get('feature_loss_weight') == 0
        return ['logit'] if unused else ['logit', 'feature']

    @property
    def teachers(self) -> list[str]:
        """Names of the teachers whose weights were logged."""
        prefix = WEIGHT_KEYS['logit']
        keys = dict.fromkeys(key for record in self.train for key in record)
        return [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]

    @property
    def keys(self) -> list[str]:
        """Names of all values that training steps logged, in the order of the log."""
        return list(dict.fromkeys(key for record in self.train for key in record))

    def curve(self, key: str) -> list[tuple[float, float]]:
        """The values of a key over the iterations.

        Args:
            key (str): For example "loss".
        """
        return _points(self.train, key)

    def metric(self, key: str) -> list[tuple[float, float]]:
        """The values of a metric over epochs, or iterations.

        Args:
            key (str): For example "accuracy/top1".
        """
        return _points(self.val, key)

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in the order of the log."""
        keys = dict.fromkeys(key for record in self.val for key in record)
        return [key for key in keys if key not in ('step', 'time', 'data_time')]

    @property
    def position(self) -> tuple[int, int | None]:
        """What is done, and the planned length; epochs, or iterations; None if not known."""
        length = self.config.get('train_cfg')
        last = self.train[-1] if self.train else {}
        key = 'max_epochs' if self.by_epoch else 'max_iters'
        planned = length.get(key) if isinstance(length, dict) else None
        if not self.by_epoch:
            # Log lines, validations and checkpoints have intervals of their own.
            validated = [int(record['step']) for record in self.val[-1:]]
            done = max([int(last.get('step', 0)), *validated, *self._saved('iter')])
        else:
            # An epoch whose steps are logged may still run; its validation or checkpoint ends it.
            running = int(last.get('epoch', 0))
            ended = [int(record['step']) for record in self.val]
            ended += self._saved('epoch')
            done = running if running in ended else max(running - 1, 0)
        return done, planned if isinstance(planned, int) else None

    def _saved(self, unit: str) -> list[int]:
        """Epochs at whose end a checkpoint was saved, or iterations after which one was."""
        if holds_earlier_training(self.work_dir):
            return []
        files = glob.glob(osp.join(glob.escape(self.work_dir), f'*{unit}_*.pth'))
        found = (re.search(rf'{unit}_(\d+)\.pth$', path) for path in files)
        return [int(match[1]) for match in found if match]

    @property
    def seconds(self) -> float:
        """Time of all training steps, from the mean times of the log lines."""
        total, before = 0.0, 0
        for record in self.train:
            total += (record['step'] - before) * record.get('time', 0.0)
            before = record['step']
        return total

    @property
    def epoch_length(self) -> int | None:
        """Iterations of a whole epoch; None if there are no epochs, or nothing says it.

        The last line of an epoch is rarely at its end: log lines have an interval.
        """
        if not self.by_epoch:
            return None
        for session in reversed(self.sessions):
            for line in _lines_of_log(session):
                if match := _EPOCH_LENGTH.search(line):
                    return int(match[1])
        # Without the text, as it was logged: the first lines of two epochs are one epoch apart.
        first: dict[int, int] = {}
        for record in self.train:
            if 'epoch' in record:
                first.setdefault(int(record['epoch']), int(record['step']))
        lengths = [first[epoch + 1] - first[epoch] for epoch in first if epoch + 1 in first]
        return round(float(np.median(lengths))) if lengths else None

    def median(self, key: str) -> float | None:
        """Median of a logged value; None if it was not logged."""
        values = [y for _, y in self.curve(key) if np.isfinite(y)]
        return float(np.median(values)) if values else None

    def read_class_weights(self) -> ClassWeights:
        """Read the weights per class.

        Raises:
            InputError: If there is no such file, or it is damaged.
        """
        path = osp.join(self.work_dir, CLASS_WEIGHTS_NAME)
        if not osp.isfile(path):
            raise InputError(
                f'There is no {CLASS_WEIGHTS_NAME}, which is written when training ends.'
            )
        contents = read_json_object(path, dict(teachers=list, logit=list, feature=list))
        names = [str(name) for name in contents['teachers']]
        tables = []
        for key in ('logit', 'feature'):
            try:
                table = np.asarray(contents[key], dtype=float)
            except (ValueError, TypeError):
                table = np.empty(0)
            if table.ndim != 2 or table.shape[1] != len(names) or not _is_known(table):
                raise InputError(f'"{path}" is damaged: its "{key}" is no table of numbers.')
            table[(table == 0).all(axis=1)] = np.nan  # as earlier versions wrote it
            tables.append(table)
        if tables[0].shape != tables[1].shape:
            raise InputError(f'"{path}" is damaged: its two tables differ in size.')
        return ClassWeights(names, *tables)

    @property
    def class_names(self) -> list[str] | None:
        """Class names in the config's data sets; None if they name none."""
        for loader in ('train_dataloader', 'val_dataloader'):
            value = self.config.get(loader)
            dataset = value.get('dataset') if isinstance(value, dict) else None
            for _, part in innermost_datasets(dataset, loader):
                names = class_names(part.get('metainfo'))
                if names:
                    return names
        return None


def _is_known(table: np.ndarray) -> bool:
    """Whether all numbers of the classes with an image are known."""
    return bool(np.isfinite(table[~np.isnan(table).all(axis=1)]).all())


def set_class_weights_aside(work_dir: str) -> None:
    """Rename the weights per class that an earlier training has left in a work dir.

    Args:
        work_dir (str): The work dir of a training that begins.
    """
    with suppress(FileNotFoundError):
        os.replace(
            osp.join(work_dir, CLASS_WEIGHTS_NAME),
            osp.join(work_dir, f'earlier_{CLASS_WEIGHTS_NAME}'),
        )


def _points(records: list[Record], key: str) -> list[tuple[float, float]]:
    return [
        (float(record['step']), float(record[key]))
        for record in records
        if isinstance(record.get(key), (int, float)) and 'step' in record
    ]


def read_run(work_dir: str) -> RunRecord:
    """Read the work dir of a training, finished or not.

    Args:
        work_dir (str): The folder given to ``tools/train.py`` as ``--work-dir``.

    Returns:
        RunRecord: What is there.

    Raises:
        InputError: If the folder does not exist or is no work dir, or a log is
            damaged.
    """
    if not osp.isdir(work_dir):
        raise InputError(f'The work dir "{work_dir}" does not exist.')
    folders = sorted(glob.glob(osp.join(glob.escape(work_dir), '*', 'vis_data')))
    if not folders:
        raise InputError(
            f'"{work_dir}" is no work dir of a training: it has no folder */vis_data. Give the '
            'folder that holds the last_checkpoint and the folders named after times, or that of '
            'a comparison, with folders METHOD/seed_N.'
        )
    logs = []
    for folder in folders:
        path = osp.join(folder, 'scalars.json')
        lines = read_json_lines(path) if osp.isfile(path) else []
        logs.append([line for line in lines if 'step' in line])
    sessions = [
        osp.dirname(folder)
        for folder, lines in zip(folders, logs)
        if any(_is_training_step(line) for line in lines)
    ]
    latest = sessions[-1] if sessions else osp.dirname(folders[-1])
    record = RunRecord(work_dir, sessions, [], [])
    _read_config(record, latest)
    record.train = [line for lines in logs for line in lines if _is_training_step(line)]
    by_epoch = record.by_epoch
    record.train = []
    for lines in logs:
        _add_session(record, lines, by_epoch)
    record.environment = _read_environment(latest)
    if not holds_earlier_training(work_dir):
        record.checkpoint = last_checkpoint(work_dir)
    return record


def _is_training_step(line: Record) -> bool:
    return 'iter' in line


def _read_config(record: RunRecord, latest: str) -> None:
    # tools/test.py writes a config into the work dir as well, so that of the start comes first.
    written = [osp.join(latest, 'vis_data', 'config.py')]
    others = glob.glob(osp.join(glob.escape(record.work_dir), '*.py'))
    written += sorted(others, key=osp.getmtime, reverse=True)
    record.config_path = next((path for path in written if osp.isfile(path)), None)
    if record.config_path is None:
        return
    with open(record.config_path, encoding='utf-8') as file:
        record.config_text = file.read()
    try:
        record.config = parse_literal_config(record.config_text, f'"{record.config_path}"')
    except InputError as error:
        record.config_problem = str(error)


def _add_session(record: RunRecord, lines: list[Record], by_epoch: bool) -> None:
    """Add the log of one start, in place of what it repeats of earlier ones."""
    steps: list[Record] = []
    validations: list[Record] = []
    for line in lines:
        if _is_training_step(line):
            steps.append(line)
            continue
        if not by_epoch:
            # By default mmengine numbers validations by epochs, also where there are none.
            logged = (steps or record.train)[-1:]
            after = max([line['step'], *(one['step'] for one in logged)])
            before = [one['step'] for one in validations[-1:]]
            line = {**line, 'step': _validated_iteration(record.config, after, *before)}
        validations.append(line)
    if steps:
        record.train = _without_repeated(record.train, steps[0]['step']) + steps
        # A validation is numbered by the epochs, or iterations, that are done.
        first = steps[0]['epoch' if by_epoch else 'step']
        record.val = _without_repeated(record.val, first)
    if validations:
        first = min(line['step'] for line in validations)
        record.val = _without_repeated(record.val, first) + validations


def _validated_iteration(config: dict[str, Any], logged: int, before: int = 0) -> int:
    """The iteration of a validation, which comes after the last that was logged.

    Args:
        config (dict): That of the training.
        logged (int): The last iteration that was logged before it.
        before (int): Iteration of the validation before it. Defaults to 0.
    """
    loop = config.get('train_cfg')
    loop = loop if isinstance(loop, dict) else {}
    interval = loop.get('val_interval')
    if not isinstance(interval, int) or interval < 1:
        return logged
    iteration = math.ceil(max(logged, before + 1) / interval) * interval
    return min(iteration, loop.get('max_iters', iteration))  # the last one may come earlier


def _without_repeated(records: list[Record], first: float) -> list[Record]:
    """The records of the steps before ``first``."""
    return [record for record in records if record['step'] < first]


def _lines_of_log(session: str) -> Iterator[str]:
    """The lines of the text that a start has logged; none if it is not there."""
    path = osp.join(session, f'{osp.basename(session)}.log')
    with suppress(OSError), open(path, encoding='utf-8', errors='replace') as file:
        yield from file


def _read_environment(session: str) -> dict[str, str]:
    """Versions and settings that mmengine writes at the head of a log."""
    path = osp.join(session, f'{osp.basename(session)}.log')
    found: dict[str, str] = {}
    try:
        with open(path, encoding='utf-8', errors='replace') as file:
            head = file.read(20_000)
    except OSError:
        return found
    gpus = re.findall(r'^    GPU [\d,]+: (.+)$', head, re.MULTILINE)
    if gpus:
        found['GPU'] = ', '.join(gpus)
    lines = dict(re.findall(r'^    ([\w ]+): (.*)$', head, re.MULTILINE))
    for key, name in _VERSIONS.items():
        if key in lines:
            found[name] = lines[key].split(' (')[0]
    for key, name in _RUNTIME.items():
        if key in lines:
            found[name] = lines[key]
    return found
