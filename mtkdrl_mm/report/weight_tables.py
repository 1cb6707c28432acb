# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Tables of the teachers' weights per class."""

from collections.abc import Sequence

import numpy as np

from mtkdrl_mm.engine.run_record import ClassWeights

from .page import Table

# Of more classes, those are shown whose weights differ most from the mean of all classes.
_MOST_CLASSES = 30


def class_tables(
    weights: ClassWeights, kinds: Sequence[str], classes: Sequence[str] | None
) -> tuple[list[Table], str]:
    """Make the tables of the weights per class.

    Args:
        weights (ClassWeights): The weights.
        kinds (Sequence[str]): Which ones are shown: "logit", "feature".
        classes (Sequence[str], optional): Names of the classes, if they are
            known.

    Returns:
        tuple[list[Table], str]: A table for each kind, and a sentence that
        says which classes are shown, with a blank before it; empty if all are.
    """
    total = len(weights.logit)
    shown = list(range(total))
    remark = ''
    if total > _MOST_CLASSES:
        # Largest first.
        away = sum(_distance(getattr(weights, kind)) for kind in kinds)
        shown = np.argsort(-away, kind='stable')[:_MOST_CLASSES].tolist()
        remark = (
            f' Of {total} classes, these are the {_MOST_CLASSES} whose weights differ most from '
            'the mean of all classes.'
        )
    names = class_labels(classes, total)
    return [_class_table(kind, weights, shown, names) for kind in kinds], remark


def _distance(table: np.ndarray) -> np.ndarray:
    """How far the weights of each class are from the mean, shape (C,); -1 without an image."""
    away = np.ma.masked_invalid(table)
    return np.abs(away - away.mean(axis=0)).sum(axis=1).filled(-1)


def class_labels(classes: Sequence[str] | None, count: int) -> list[str]:
    """Names of classes, or their numbers.

    Args:
        classes (Sequence[str], optional): The names, if they are known.
        count (int): Number of classes.
    """
    if classes is not None and len(classes) == count:
        return list(classes)
    return [f'class {index}' for index in range(count)]


def _class_table(
    kind: str, weights: ClassWeights, shown: Sequence[int], names: Sequence[str]
) -> Table:
    table = getattr(weights, kind)
    rows = [[names[c], *('' if np.isnan(v) else f'{v:.2f}' for v in table[c])] for c in shown]
    shades = [np.nan_to_num(table[c]).tolist() for c in shown]
    head = ['class', *weights.teachers]
    return Table(f'{kind.capitalize()} weights per class', head, rows, shades=shades)
