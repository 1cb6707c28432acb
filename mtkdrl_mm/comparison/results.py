# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Results of finished trainings, as plain data."""

import os.path as osp
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.files import write_json
from mtkdrl_mm.utils.json_files import read_json_object

#: File name of what a training printed, in its work dir.
OUTPUT_NAME = 'output.txt'
#: File name of the number of the job that trains, in its work dir.
JOB_NOTE_NAME = 'job.json'
_KEYS: dict[str, type | tuple[type, ...]] = dict(
    method=str,
    seed=int,
    metric=(int, float),
    seconds=(int, float),
    seconds_per_epoch=(int, float, type(None)),
    peak_mib=(int, float),
    curves=dict,
    class_weights=(dict, type(None)),
)


@dataclass(frozen=True, kw_only=True)
class TrainingLog:
    """What the logs of a training hold.

    Attributes:
        metric (float): The metric, at the last validation.
        metric_name (str, optional): Its name in the logs. Defaults to None: not
            known.
        seconds_per_epoch (float, optional): Median time of an iteration, times
            the iterations of a whole epoch; None if the training counts no epochs, or its
            logs do not say how long one is.
        peak_mib (float): Peak memory of the device; 0 if it was not logged.
        curves (dict[str, list[tuple[int, float]]]): The teachers' mean weights
            as pairs of iteration and weight, under
            ``teacher_weight/{logit,feature}/NAME``.
        class_weights (dict, optional): ``logit``, a table of C classes and M
            teachers, and the names of the ``teachers``. Defaults to None.
    """

    metric: float
    metric_name: str | None = None
    seconds_per_epoch: float | None
    peak_mib: float
    curves: dict[str, list[tuple[int, float]]]
    class_weights: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Run(TrainingLog):
    """The result of one training.

    Attributes:
        method (str): Name of its row.
        seed (int): Its seed.
        commit (str, optional): The code's commit. Defaults to None: not known.
        device (str, optional): What it ran on. Defaults to None: not known.
        versions (str, optional): Those of Python, torch and numpy. Defaults to None: not known.
        config (str, optional): Description of its config. Defaults to None: not
            known.
        files (dict[str, str]): Digests of the files that its config names, by
            their paths. Defaults to {}: not known.
        seconds (float): Duration, of all its starts together.
        peak_mib (float): Peak memory of the device, or of the host without one.
    """

    method: str
    seed: int
    commit: str | None = None
    device: str | None = None
    versions: str | None = None
    config: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    seconds: float

    @classmethod
    def read(cls, path: str) -> 'Run':
        """Read the result of a training.

        Args:
            path (str): The JSON file.

        Returns:
            Run: The result.

        Raises:
            InputError: If the file is damaged.
        """
        contents = read_json_object(path, _KEYS)
        _check_tables(contents, path)
        names = {one.name for one in fields(cls)}
        return cls(**{key: value for key, value in contents.items() if key in names})

    def write(self, path: str) -> None:
        """Write the result to a JSON file.

        Args:
            path (str): The file.
        """
        write_json(asdict(self), path)


#: The finished trainings of every row, by its name.
Runs = Mapping[str, list[Run]]


def result_path(folder: str) -> str:
    """The file with the result of a training.

    Args:
        folder (str): The training's work dir.

    Returns:
        str: Its path.
    """
    return osp.join(folder, 'result.json')


def failure_path(folder: str) -> str:
    """The file that says that a training failed.

    Args:
        folder (str): The training's work dir.

    Returns:
        str: Its path. The file is removed when the training is started again.
    """
    return osp.join(folder, 'failure.json')


def _check_tables(contents: dict[str, Any], path: str) -> None:
    """Check the parts of a result that are tables."""
    try:
        for points in contents['curves'].values():
            if points and np.asarray(points, dtype=float).shape != (len(points), 2):
                raise ValueError('its "curves" are no pairs of iteration and weight')
        classes = contents['class_weights']
        if classes is not None:
            shape = np.asarray(classes['logit'], dtype=float).shape
            if len(shape) != 2 or shape[1] != len(classes['teachers']):
                raise ValueError('its "class_weights" are no table of classes and teachers')
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f'"{path}" is damaged: {error}. Remove it to train that run again.') from (
            error
        )
