# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Measured numbers beside their limits, as tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mtkdrl_mm.utils.markdown import markdown_table


@dataclass(frozen=True)
class Measure:
    """A measured number with the limit that it must keep, and its aim.

    Attributes:
        name (str): What was measured.
        limit (float): What it must not exceed.
        aim (float): What it should not exceed.
        value (float, optional): The number; None if it was not measured.
        loading (float, optional): The same with the loading of the data.
            Defaults to None.
        higher (bool): Whether limit and aim must be reached and not kept, as
            those of a speed. Defaults to False.

    Example:
        >>> from mtkdrl_mm.benchmark import Measure
        >>> Measure('time', limit=1.15, aim=1.05, value=1.1).verdict
        'within the limit'
        >>> Measure('speed', limit=5000, aim=20000, value=4000, higher=True).verdict
        'misses the limit'
    """

    name: str
    limit: float
    aim: float
    value: float | None
    loading: float | None = None
    higher: bool = False

    @property
    def verdict(self) -> str:
        """In words, for the worse of the two numbers."""
        found = [number for number in (self.value, self.loading) if number is not None]
        if not found:
            return 'not measured'
        worst = min(found) if self.higher else max(found)
        sign = -1 if self.higher else 1
        if sign * worst <= sign * self.aim:
            return 'reaches the aim'
        return 'within the limit' if sign * worst <= sign * self.limit else 'misses the limit'

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**vars(self), 'verdict': self.verdict}


def measures_table(measures: Sequence[Measure]) -> str:
    """Format measures in Markdown.

    Args:
        measures (Sequence[Measure]): The rows.

    Returns:
        str: With limits and aims beside the numbers.
    """
    rows = [
        [
            measure.name,
            _number(measure.limit),
            _number(measure.aim),
            _number(measure.value),
            _number(measure.loading),
            measure.verdict,
        ]
        for measure in measures
    ]
    head = ['measure', 'limit', 'aim', 'measured', 'with data loading', '']
    return markdown_table(head, rows)


def _number(value: float | None) -> str:
    if value is None:
        return ''
    return f'{value:,.0f}' if abs(value) >= 100 else f'{value:.3f}'
