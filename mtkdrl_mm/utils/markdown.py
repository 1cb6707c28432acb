# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Tables in Markdown."""

from collections.abc import Sequence


def escape_cell(text: str) -> str:
    r"""Escape what would end a cell of a table.

    Args:
        text (str): The contents of the cell.

    Example:
        >>> from mtkdrl_mm.utils.markdown import escape_cell
        >>> print(escape_cell('a|b'))
        a\|b
    """
    return text.replace('|', r'\|')


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table in Markdown; all columns but the first are aligned to the right.

    Args:
        head (Sequence[str]): Titles of the columns.
        rows (Sequence[Sequence[str]]): The cells.

    Returns:
        str: Padded, so that it can be read as it is.

    Example:
        >>> from mtkdrl_mm.utils.markdown import markdown_table
        >>> print(markdown_table(['', 'seconds'], [['plain', '0.1'], ['stored', '0.11']]))
        |        | seconds |
        | ------ | ------: |
        | plain  |     0.1 |
        | stored |    0.11 |
    """
    head, *rows = [[escape_cell(cell) for cell in row] for row in [head, *rows]]
    widths = [max(3, *(len(row[i]) for row in [head, *rows])) for i in range(len(head))]
    lines = [
        ' | '.join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in [head, *rows]
    ]
    rule = ' | '.join('-' * w if i == 0 else '-' * (w - 1) + ':' for i, w in enumerate(widths))
    return '\n'.join(f'| {line} |' for line in [lines[0], rule, *lines[1:]])
