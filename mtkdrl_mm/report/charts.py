# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Charts as small SVG drawings, whose colours are those of the page."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import ClassVar

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
_ROW = 40  # height of a row of dots, with its name


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
        spread (Sequence[float]): For every point half the height of a band
            around the line, such as a standard deviation. Defaults to (): no
            band.
    """

    name: str
    points: Sequence[Point]
    reference: bool = False
    spread: Sequence[float] = ()

    @property
    def last(self) -> float:
        """The last value."""
        return self.points[-1][1]

    @property
    def finite(self) -> list[Point]:
        """The points that can be drawn."""
        return [(x, y) for x, y in self.points if math.isfinite(y)]

    @property
    def edges(self) -> tuple[list[Point], list[Point]]:
        """Upper and lower edge of the band; both empty without one."""
        pairs = [(x, y, s) for (x, y), s in zip(self.points, self.spread) if math.isfinite(y + s)]
        return [(x, y + s) for x, y, s in pairs], [(x, y - s) for x, y, s in pairs]


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
        found.append(describe_missing(bad, 'the line'))
        return ' '.join(filter(None, found))

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
        bands = [[average(edge, MAX_POINTS) for edge in one.edges] for one in self.shown]
        drawn = [*lines, *(edge for band in bands for edge in band)]
        finite = [(x, y) for line in drawn for x, y in line if math.isfinite(y)]
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
        for index, (upper, lower) in enumerate(bands):
            around = [place(x, y) for x, y in [*upper, *reversed(lower)]]
            if around:
                path = 'L'.join(f'{x:g} {y:g}' for x, y in around)
                parts.append(f'<path class="band c{index % NUM_COLORS}" d="M{path}Z"/>')
        for index, line in enumerate(lines):
            places = [place(x, y) if math.isfinite(y) else None for x, y in line]
            parts += self._line(index, self.shown[index].reference, places)
        return _drawing(HEIGHT, self.description, parts)

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
                _key(f'<path {line_style(index, one.reference)} d="M0 4H24"/>'),
                one.name,
                self._last(one) if self.show_last else '',
            )
            for index, one in enumerate(self.shown)
        ]

    def _last(self, series: Series) -> str:
        text = self._number(series.last)
        return f'{text} ± {self._number(series.spread[-1])}' if series.spread else text

    def _number(self, value: float) -> str:
        return format_number(value) if self.decimals is None else f'{value:.{self.decimals}f}'


@dataclass(frozen=True)
class DotChart:
    """Numbers of several rows as dots on one scale, with mean and standard deviation.

    Attributes:
        title (str): What is drawn.
        rows (Mapping[str, Mapping[str, float]]): By the rows' names, at least
            one value for each, by a name that tells it apart in its row, such
            as that of a seed. Equal names have the same colour; of more than
            eight, none has. Values that are not finite are not drawn.
        x_label (str): What the values are.
        reference (str): The row whose mean is drawn through all rows. Defaults
            to none.
        decimals (int, optional): Decimals of mean and deviation. Defaults to
            None: four significant digits.
        note (str): A sentence below the title. Defaults to none.
    """

    title: str
    rows: Mapping[str, Mapping[str, float]]
    x_label: str
    reference: str = ''
    decimals: int | None = None
    note: str = ''
    show_last: ClassVar[bool] = False

    @property
    def names(self) -> list[str]:
        """Names of the values."""
        return list(dict.fromkeys(name for values in self.rows.values() for name in values))

    @property
    def remarks(self) -> str:
        """What a reader must know about the dots: values that are not finite."""
        bad = sum(not math.isfinite(v) for values in self.rows.values() for v in values.values())
        return describe_missing(bad, 'the picture')

    @property
    def description(self) -> str:
        """The chart in words, for those who cannot see it."""
        rows = [f'{row}: {self.summary(row)}' for row in self.rows]
        return f'Chart of {self.title} on a scale of {self.x_label}. {"; ".join(rows)}.'

    def summary(self, row: str) -> str:
        """Mean and standard deviation of a row in words.

        Args:
            row (str): Its name.
        """
        mean, deviation = self._statistics(row)
        texts = [
            format_number(value) if self.decimals is None else f'{value:.{self.decimals}f}'
            for value in (mean, deviation)
            if value is not None
        ]
        return ' ± '.join(texts) or 'no finite value'

    def _statistics(self, row: str) -> tuple[float | None, float | None]:
        """Mean and standard deviation; None where there are too few values."""
        values = [value for value in self.rows[row].values() if math.isfinite(value)]
        return (
            statistics.mean(values) if values else None,
            statistics.stdev(values) if len(values) > 1 else None,
        )

    def svg(self) -> Markup:
        """The drawing, as an ``svg`` element."""
        reach = []
        for row, values in self.rows.items():
            mean, deviation = self._statistics(row)
            reach += [value for value in values.values() if math.isfinite(value)]
            if mean is not None and deviation is not None:
                reach += [mean - deviation, mean + deviation]
        reach = reach or [0.0]
        marks = ticks(min(reach), max(reach), 5)
        low, high = marks[0], marks[-1]
        if low == high:
            margin = abs(low) / 2 or 0.5
            low, high = low - margin, low + margin
        labels = tick_labels(marks)
        # Half of the outermost labels is beside the scale.
        side = max(_RIGHT, _LETTER * max(map(len, labels)) / 2 + 2)
        height = _TOP + _ROW * len(self.rows) + _BOTTOM

        def place(value: float) -> float:
            return round(side + (value - low) / (high - low) * (WIDTH - 2 * side), 1)

        parts = []
        for mark, label in zip(marks, labels):
            x = place(mark)
            parts.append(f'<path class="grid" d="M{x} {_TOP}V{height - _BOTTOM}"/>')
            parts.append(f'<text x="{x}" y="{height - 22}" class="middle">{label}</text>')
        parts.append(
            f'<text x="{WIDTH / 2:g}" y="{height - 5}" class="middle">{escape(self.x_label)}</text>'
        )
        compared = self._statistics(self.reference)[0] if self.reference in self.rows else None
        if compared is not None:
            path = f'M{place(compared)} {_TOP}V{height - _BOTTOM}'
            parts.append(f'<path {line_style(0, True)} d="{path}"/>')
        for number, row in enumerate(self.rows):
            parts += self._row(row, _TOP + _ROW * number, place)
        return _drawing(height, self.description, parts)

    def _row(self, row: str, top: float, place: Callable[[float], float]) -> list[str]:
        """The elements of a row: its name, its dots, and its mean."""
        summary = self.summary(row)
        # Name and summary share a line.
        room = int((WIDTH - 20) / _LETTER) - len(summary)
        name = row if len(row) <= room else row[: room - 1] + '…'
        y = top + 25
        parts = [
            f'<path class="grid" d="M0 {top}H{WIDTH}"/>',
            f'<text x="2" y="{top + 13}" class="name">{escape(name)}</text>',
            f'<text x="{WIDTH - 2}" y="{top + 13}" class="end">{summary}</text>',
        ]
        for key, value in self.rows[row].items():
            if math.isfinite(value):
                color = self._color(key)
                parts.append(f'<circle class="dot {color}" cx="{place(value)}" cy="{y}" r="3.5"/>')
        mean, deviation = self._statistics(row)
        if mean is not None and deviation is not None:
            ends = place(mean - deviation), place(mean + deviation)
            path = f'M{place(mean)} {y - 7}V{y + 7}M{ends[0]} {y}H{ends[1]}'
            parts.append(f'<path class="mean" d="{path}"/>')
        return parts

    def _color(self, name: str) -> str:
        names = self.names
        return f'c{names.index(name)}' if len(names) <= NUM_COLORS else ''

    @property
    def legend(self) -> list[tuple[Markup, str, str]]:
        """Key and name of the dots, of mean and deviation, and of the reference."""
        dot = '<circle class="dot {}" cx="12" cy="4" r="3.5"/>'
        names = self.names
        colored = len(names) <= NUM_COLORS
        keys = {name: dot.format(self._color(name)) for name in names if colored}
        if not colored:
            keys[f'{len(names)} values'] = dot.format('')
        if any(self._statistics(row)[1] is not None for row in self.rows):
            keys['mean and standard deviation'] = '<path class="mean" d="M2 4H22M12 0V8"/>'
        if self.reference in self.rows:
            keys[f'mean of {self.reference}'] = f'<path {line_style(0, True)} d="M0 4H24"/>'
        return [(_key(content), name, '') for name, content in keys.items()]


def _drawing(height: float, description: str, parts: Sequence[str]) -> Markup:
    """An ``svg`` element of the charts' width."""
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" '
        f'aria-label="{escape(description)}">{"".join(parts)}</svg>'
    )


def _key(content: str) -> Markup:
    """The sign of a legend's entry."""
    return Markup(f'<svg class="key" viewBox="0 0 24 8" aria-hidden="true">{content}</svg>')


def describe_missing(count: int, where: str) -> str:
    """A sentence about values that cannot be drawn; empty if there are none.

    Args:
        count (int): Their number.
        where (str): Where they are missing.
    """
    values = '1 value is' if count == 1 else f'{count} values are'
    return f'{values} not finite and missing in {where}.' if count else ''


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


def format_duration(seconds: float) -> str:
    """A time in words: "34 s", "12 min", "3.2 h".

    Args:
        seconds (float): The time.
    """
    if seconds < 120:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 7200 else f'{seconds / 3600:.1f} h'


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
