# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The results of all checks, as JSON and as a page."""

import os.path as osp
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mtkdrl_mm.report.page import Cell, Facts, Page, Section, Table, Text, write_page
from mtkdrl_mm.utils.files import write_json

from .findings import FAILED, PASSED, STATES, Result


def write_results(results: Sequence[Result], out: str, seconds: float) -> None:
    """Write all results so far, as JSON and as a page."""
    device = 'cpu'
    for result in results:
        device = next(
            (str(f.value) for f in result.findings if f.name == 'GPU' and f.value), device
        )
    counts = {state: sum(one.state == state for one in results) for state in STATES}
    summary = dict(device=device, seconds=round(seconds, 1), counts=counts)
    write_json(
        dict(**summary, checks=[asdict(result) for result in results]),
        osp.join(out, 'gpu_check.json'),
        indent=1,
    )
    page = Page(
        title='Checks on a GPU',
        subtitle=f'{describe(counts)} Device: {device}. {seconds:.0f} s.',
        sections=[overview(results), *(section(result) for result in results)],
    )
    write_page(page, osp.join(out, 'gpu_check.html'))


def describe(counts: Mapping[str, int]) -> str:
    """How many checks are in each state: "10 passed, 1 not run."."""
    return ', '.join(f'{number} {state}' for state, number in counts.items() if number) + '.'


def overview(results: Sequence[Result]) -> Section:
    """All checks, one per line."""
    rows = [
        [
            Cell(result.check, href=f'#{result.check}'),
            Cell(result.title, wrap=True),
            tinted(result.state),
            f'{result.seconds:.0f}',
            Cell(result.problem, wrap=True),
        ]
        for result in results
    ]
    head = ['check', 'what', 'state', 'seconds', '']
    return Section('checks', 'Checks', [Table('All checks', head, rows)])


def section(result: Result) -> Section:
    """The findings of a check."""
    rows = [
        [
            Cell(finding.name, wrap=True),
            Cell(number(finding.value), wrap=True),
            finding.unit,
            number(finding.limit),
            tinted(finding.state),
        ]
        for finding in result.findings
    ]
    blocks: list[Any] = []
    if rows:
        head = ['what', 'value', 'unit', 'at most', 'state']
        blocks.append(Table(result.title, head, rows, note=result.problem))
    else:
        blocks.append(Facts([('state', result.problem or result.state)]))
    blocks += [Text(title, text) for title, text in result.texts.items()]
    return Section(result.check, result.title, blocks)


def tinted(state: str) -> Cell:
    """A state in its colour."""
    return Cell(state, tone={PASSED: 'above', FAILED: 'below'}.get(state, ''))


def number(value: float | str | None) -> str:
    """A number with four digits; other texts as they are."""
    return f'{value:.4g}' if isinstance(value, (int, float)) else value or ''
