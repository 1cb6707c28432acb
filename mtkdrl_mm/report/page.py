# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Self-contained HTML pages: sections of tables, charts, galleries and text."""

import os
import os.path as osp
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import jinja2

from mtkdrl_mm.utils.files import atomic_write

from .charts import DotChart, LineChart
from .gallery import Picture

_TEMPLATES = osp.join(osp.dirname(__file__), 'templates')


@dataclass
class Facts:
    """Names and values, one per line.

    Attributes:
        rows (Sequence[tuple[str, str]]): Pairs of name and value.
    """

    kind: ClassVar[str] = 'facts'
    rows: Sequence[tuple[str, str]]


@dataclass
class Charts:
    """Charts beside and below each other.

    Attributes:
        charts (Sequence[LineChart | DotChart]): The charts.
    """

    kind: ClassVar[str] = 'charts'
    charts: Sequence[LineChart | DotChart]


@dataclass(frozen=True)
class Cell:
    """A cell of a table that is more than text.

    Attributes:
        text (str): What it says.
        tone (str): "above" or "below" for a number that is certainly greater,
            or smaller, than another. Defaults to none.
        href (str): Address of the page that it links to, relative to this
            page. Defaults to none.
        wrap (bool): Whether a long text is broken into lines. Defaults to
            False.
    """

    text: str
    tone: str = ''
    href: str = ''
    wrap: bool = False


@dataclass
class Table:
    """A table, whose first column names its rows.

    Attributes:
        caption (str): What it shows.
        head (Sequence[str]): Titles of the columns.
        rows (Sequence[Sequence[str | Cell]]): The cells.
        note (str): A sentence below it. Defaults to none.
        shades (Sequence[Sequence[float]], optional): For every cell but the
            first of its row, a number from 0 to 1 that colours it. Defaults to
            None.
    """

    kind: ClassVar[str] = 'table'
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    note: str = ''
    shades: Sequence[Sequence[float]] | None = None

    @property
    def cells(self) -> list[list[Cell]]:
        """The cells of every row."""
        return [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in self.rows]

    @property
    def texts(self) -> set[int]:
        """The columns whose cells are texts of several lines, from 0 on."""
        return {column for row in self.cells for column, cell in enumerate(row) if cell.wrap}

    def shade(self, row: int, column: int) -> str:
        """Colour of a cell in percent; empty for none."""
        if self.shades is None or column == 0:
            return ''
        return f'{100 * min(1.0, max(0.0, self.shades[row][column - 1])):.0f}'


@dataclass
class Gallery:
    """Pictures with a title.

    Attributes:
        title (str): What they are.
        groups (Sequence[tuple[str, Sequence[Picture]]]): Titled rows of
            pictures.
    """

    kind: ClassVar[str] = 'gallery'
    title: str
    groups: Sequence[tuple[str, Sequence[Picture]]]


@dataclass
class Text:
    """A long text, hidden until the reader opens it.

    Attributes:
        title (str): The line that opens it.
        text (str): The text, which keeps its lines.
    """

    kind: ClassVar[str] = 'text'
    title: str
    text: str


@dataclass
class Notes:
    """Sentences, one per line.

    Attributes:
        lines (Sequence[str]): The sentences.
    """

    kind: ClassVar[str] = 'notes'
    lines: Sequence[str]


@dataclass
class Fold:
    """Blocks that are hidden until the reader opens them.

    Attributes:
        title (str): The line that opens them.
        blocks (Sequence[Block]): What it hides.
    """

    kind: ClassVar[str] = 'fold'
    title: str
    blocks: Sequence['Block']


Block = Facts | Charts | Table | Gallery | Text | Notes | Fold


@dataclass
class Section:
    """A part of a page.

    Attributes:
        anchor (str): Its name in links.
        title (str): Its heading.
        blocks (Sequence[Block]): What it shows.
        intro (str): What a reader must know to read it. Defaults to none.
    """

    anchor: str
    title: str
    blocks: Sequence[Block]
    intro: str = ''


@dataclass
class Page:
    """A page.

    Attributes:
        title (str): Its title.
        subtitle (str): A line below it.
        sections (list[Section]): Its parts.
        left_out (list[tuple[str, str]]): What could be there and is not, with
            the reason, as a sentence.
        footer (str): The last line.
    """

    title: str
    subtitle: str = ''
    sections: list[Section] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    footer: str = ''


def render(page: Page) -> str:
    """Make the HTML of a page, which refers to no other file.

    Args:
        page (Page): The page.

    Returns:
        str: The whole file.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    with open(osp.join(_TEMPLATES, 'style.css'), encoding='utf-8') as file:
        style = file.read()
    return environment.get_template('page.html').render(page=page, style=style)


def write_page(page: Page, path: str) -> int:
    """Write the HTML of a page to a file.

    Args:
        page (Page): The page.
        path (str): The file, whose folder is created where it is missing.

    Returns:
        int: Its size in bytes.
    """
    content = render(page).encode()
    os.makedirs(osp.dirname(osp.abspath(path)), exist_ok=True)
    with atomic_write(path, 'wb') as file:
        file.write(content)
    return len(content)
