# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Line charts as small SVG drawings, whose colours are those of the page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

Point = tuple[float, float]

# Units of the drawing, which is about as many CSS pixels wide on a phone: letters keep their size.
WIDTH, HEIGHT = 360, 210
_TOP, _RIGHT, _BOTTOM = 10, 14, 38
_LETTER = 6.8  # width of a digit of 12 px
# The style sheet has as many colours; from there on, lines are dashed as well.
NUM_COLORS = 8
_DASHES = ('', '7 3', '2 3')
#: Longer series are averaged to this number of points.
MAX_POINTS = 240
# Up to this number, the points are marked.
_MARKED = 24


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name (str): Its name in the legend.
        points (Sequence[tuple[float, float]]): Pairs (x, y) with increasing x.
            Values that are not finite interrupt the line.
        reference (bool): Whether the line is there to compare the others with,
            and drawn without a colour of its own; it comes last. Defaults to
            False.
    """

    name: str
    points: Sequence[Point]
    reference: bool = False

    @property
    def last(self) -> float:
        """The last value."""
        return self.points[-1][1]

    @property
    def finite(self) -> list[Point]:
        """The points that can be drawn."""
        return [(x, y) for x, y in self.points if math.isfinite(y)]


@dataclass(frozen=True)
class LineChart:
    """A line chart with its legend.

    Attributes:
        title (str): What is drawn.
        series (Sequence[Series]): The lines; those without points are left out.
        x_label (str): What x is, for example "iteration".
        limits (tuple[float, float], optional): Range of y. Defaults to None:
            that of the values.
        x_limits (tuple[float, float], optional): Range of x. Defaults to None:
            that of the values, which are whole numbers such as iterations.
        decimals (int, optional): Decimals of the last values in the legend.
            Defaults to None: four significant digits.
        show_last (bool): Whether the legend has the last values. Defaults to
            True.
        note (str): A sentence below the title. Defaults to none.
    """

    title: str
    series: Sequence[Series]
    x_label: str
    limits: tuple[float, float] | None = None
    x_limits: tuple[float, float] | None = None
    decimals: int | None = None
    show_last: bool = True
    note: str = ''

    @property
    def shown(self) -> list[Series]:
        """The series that have points."""
        return [one for one in self.series if one.points]

    @property
    def remarks(self) -> str:
        """What a reader must know about the points: averaging, values that are not finite."""
        found = []
        longest = max((len(one.points) for one in self.shown), default=0)
        if longest > MAX_POINTS:
            group = -(-longest // MAX_POINTS)
            found.append(f'Every point is the mean of {group} log lines.')
        bad = sum(len(one.points) - len(one.finite) for one in self.shown)
        if bad:
            values = '1 value is' if bad == 1 else f'{bad} values are'
            found.append(f'{values} not finite and missing in the line.')
        return ' '.join(found)

    @property
    def description(self) -> str:
        """The chart in words, for those who cannot see it."""
        lines = []
        for one in self.shown:
            values = [y for _, y in one.finite]
            if not values:
                lines.append(f'{one.name}: no finite value')
            elif len(values) == 1:
                lines.append(f'{one.name}: {format_number(values[0])}')
            else:
                lines.append(
                    f'{one.name}: from {format_number(values[0])} to {format_number(values[-1])}, '
                    f'lowest {format_number(min(values))}, highest {format_number(max(values))}'
                )
        return f'Line chart of {self.title} by {self.x_label}. ' + '; '.join(lines) + '.'

    def svg(self) -> Markup:
        """The drawing, as an ``svg`` element."""
        lines = [average(one.points, MAX_POINTS) for one in self.shown]
        finite = [(x, y) for line in lines for x, y in line if math.isfinite(y)]
        xs, ys = [x for x, _ in finite] or [0.0], [y for _, y in finite] or [0.0]
        low, high = self.limits or (min(ys), max(ys))
        y_ticks = ticks(low, high, 5)
        if self.limits is None:
            low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])
        if len(y_ticks) == 1:
            margin = abs(low) / 2 or 0.5
            low, high = low - margin, low + margin
        x_low, x_high = self.x_limits or (min(xs), max(xs))
        x_ticks = ticks(x_low, x_high, 5, whole=self.x_limits is None)
        if x_low == x_high:
            x_low, x_high = x_low - 0.5, x_high + 0.5
        y_labels = tick_labels(y_ticks)
        left = 10 + _LETTER * max(map(len, y_labels))

        def place(x: float, y: float) -> tuple[float, float]:
            return (
                round(left + (x - x_low) / (x_high - x_low) * (WIDTH - _RIGHT - left), 1),
                round(HEIGHT - _BOTTOM - (y - low) / (high - low) * (HEIGHT - _BOTTOM - _TOP), 1),
            )

        parts = []
        for tick, label in zip(y_ticks, y_labels):
            _, y = place(x_low, tick)
            parts.append(f'<path class="grid" d="M{left:.1f} {y}H{WIDTH - _RIGHT}"/>')
            parts.append(f'<text x="{left - 5:.1f}" y="{y + 4:.1f}" class="end">{label}</text>')
        for tick, label in zip(x_ticks, tick_labels(x_ticks)):
            x, _ = place(tick, low)
            parts.append(f'<text x="{x}" y="{HEIGHT - 22}" class="middle">{label}</text>')
        middle = (left + WIDTH - _RIGHT) / 2
        parts.append(
            f'<text x="{middle:.1f}" y="{HEIGHT - 5}" class="middle">{escape(self.x_label)}</text>'
        )
        for index, line in enumerate(lines):
            places = [place(x, y) if math.isfinite(y) else None for x, y in line]
            parts += self._line(index, self.shown[index].reference, places)
        return Markup(
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(self.description)}">{"".join(parts)}</svg>'
        )

    @staticmethod
    def _line(
        index: int, reference: bool, places: Sequence[tuple[float, float] | None]
    ) -> list[str]:
        """The elements of a series, which is interrupted where a place is None."""
        pieces: list[list[str]] = [[]]
        for place in places:
            if place is None:
                pieces.append([])
            else:
                pieces[-1].append(f'{place[0]:g} {place[1]:g}')
        path = ''.join('M' + 'L'.join(piece) for piece in pieces if len(piece) > 1)
        parts = [f'<path {line_style(index, reference)} d="{path}"/>'] if path else []
        marked = len(places) <= _MARKED and not reference
        for piece in pieces:
            if marked or len(piece) == 1:  # a single point is no line
                for point in piece:
                    x, y = point.split()
                    color = f'dot c{index % NUM_COLORS}'
                    parts.append(f'<circle class="{color}" cx="{x}" cy="{y}" r="2.5"/>')
        return parts

    @property
    def legend(self) -> list[tuple[Markup, str, str]]:
        """Key, name and last value of every series."""
        return [
            (
                Markup(
                    '<svg class="key" viewBox="0 0 24 8" aria-hidden="true">'
                    f'<path {line_style(index, one.reference)} d="M0 4H24"/></svg>'
                ),
                one.name,
                self._last(one) if self.show_last else '',
            )
            for index, one in enumerate(self.shown)
        ]

    def _last(self, series: Series) -> str:
        if self.decimals is None:
            return format_number(series.last)
        return f'{series.last:.{self.decimals}f}'


def line_style(index: int, reference: bool = False) -> str:
    """Attributes of the line of series number ``index``."""
    if reference:
        return 'class="line reference" stroke-dasharray="4 4"'
    dash = _DASHES[index // NUM_COLORS % len(_DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ''
    return f'class="line c{index % NUM_COLORS}"{dashed}'


def format_number(value: float) -> str:
    """A number with at most four significant digits: "0.9274", "1348", "1.2e-05".

    Args:
        value (float): Also a number that is not finite.
    """
    whole = math.isfinite(value) and value == int(value) and abs(value) < 1e6
    return str(int(value)) if whole else f'{value:.4g}'


def ticks(low: float, high: float, count: int, whole: bool = False) -> list[float]:
    """Round numbers that cover a range.

    Args:
        low (float): Least value.
        high (float): Greatest value.
        count (int): About how many numbers.
        whole (bool): Whether all are integers inside the range, as for
            iterations. Defaults to False: the range is covered.

    Returns:
        list[float]: At least one number, increasing.
    """
    span = high - low
    # Means of equal numbers differ in their last bits.
    if span <= 1e-12 * max(abs(low), abs(high)) or not math.isfinite(span):
        return [low]
    raw = span / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw * 0.999)
    if whole:
        step = max(1.0, step)
    slack = 1e-9 * span / step
    first = math.ceil(low / step - slack) if whole else math.floor(low / step + slack)
    last = math.floor(high / step + slack) if whole else math.ceil(high / step - slack)
    # Rounded: 3 * 0.1 is 0.30000000000000004.
    digits = max(0, 2 - math.floor(math.log10(step)))
    return [round(i * step, digits) for i in range(first, last + 1)] or [low]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Ticks as text, with as many digits as it takes to tell them apart.

    Args:
        values (Sequence[float]): Different numbers.
    """
    labels = [format_number(value) for value in values]
    for digits in range(5, 17):
        if len(set(labels)) == len(labels):
            break
        labels = [f'{value:.{digits}g}' for value in values]
    return labels


def average(points: Sequence[Point], most: int) -> list[Point]:
    """Average groups of consecutive points, so that at most ``most`` are left.

    Args:
        points (Sequence[tuple[float, float]]): The points.
        most (int): Greatest number of points.

    Returns:
        list[tuple[float, float]]: The points themselves if there are few enough.
    """
    group = -(-len(points) // most)
    if group <= 1:
        return list(points)
    result = []
    for start in range(0, len(points), group):
        part = points[start : start + group]
        # One value that is not finite must not hide the others.
        kept = [(x, y) for x, y in part if math.isfinite(y)] or part
        result.append((sum(x for x, _ in kept) / len(kept), sum(y for _, y in kept) / len(kept)))
    return result
