# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What checks find."""

import argparse
import multiprocessing
import os.path as osp
from dataclasses import asdict, dataclass, field
from typing import Any

from mtkdrl_mm.utils.files import write_json

PASSED, FAILED, MEASURED = 'passed', 'FAILED', 'measured'
NEEDS_GPU, NOT_RUN = 'needs a GPU', 'not run'
#: All states, the worst first.
STATES = (FAILED, NOT_RUN, NEEDS_GPU, PASSED, MEASURED)


@dataclass
class Finding:
    """One number or fact of a check.

    Attributes:
        name (str): What was measured.
        state (str): "passed", "FAILED", "measured" (without a limit), "needs a
            GPU" or "not run".
        value (float | str | None): The number, or a fact. Defaults to None.
        limit (float, optional): What the number must not exceed. Defaults to
            None.
        unit (str): Its unit. Defaults to none.
    """

    name: str
    state: str
    value: float | str | None = None
    limit: float | None = None
    unit: str = ''


@dataclass
class Result:
    """What a check has found.

    Attributes:
        check (str): Its name.
        title (str): What it checks.
        state (str): The worst state of its findings.
        seconds (float): Its duration.
        problem (str): Why it ended early. Defaults to none.
        findings (list[Finding]): The findings.
        texts (dict[str, str]): Tables that tools printed, by title.
    """

    check: str
    title: str
    state: str = NOT_RUN
    seconds: float = 0.0
    problem: str = ''
    findings: list[Finding] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)


class Reporter:
    """Collects the findings of a check, and writes each at once.

    Attributes:
        args (argparse.Namespace): The command line.
        device (str): "cuda" or "cpu".
        full (bool): Whether the check runs in its full form, on a GPU.
        folder (str): Folder for the check's files.
    """

    def __init__(self, args: argparse.Namespace, name: str) -> None:
        self.args = args
        self.device = args.device
        self.full = args.device.startswith('cuda')
        self.context: Any = multiprocessing.get_context(args.start_method)
        self.folder = osp.join(args.out, 'files', name)
        self.path = osp.join(args.out, 'files', f'{name}.json')
        self.findings: list[Finding] = []
        self.texts: dict[str, str] = {}

    def limit(self, name: str, value: float, limit: float, unit: str = '') -> None:
        """A number that must not exceed its limit; NaN fails."""
        state = PASSED if value <= limit else FAILED
        self._add(Finding(name, state, value, limit, unit))

    def expect(self, name: str, value: Any, expected: Any) -> None:
        """A fact that must be as expected."""
        state = PASSED if value == expected else FAILED
        text = str(value) if value == expected else f'{value}, not {expected}'
        self._add(Finding(name, state, text))

    def measure(self, name: str, value: float | str, unit: str = '') -> None:
        """A number without a limit, or a fact."""
        self._add(Finding(name, MEASURED, value, unit=unit))

    def needs_gpu(self, *names: str) -> None:
        """What a CPU cannot show."""
        for name in names:
            self._add(Finding(name, NEEDS_GPU))

    def not_run(self, name: str, reason: str) -> None:
        """What could not be checked here."""
        self._add(Finding(name, NOT_RUN, reason))

    def text(self, title: str, text: str) -> None:
        """What a tool printed."""
        self.texts[title] = text
        self._write()

    def _add(self, finding: Finding) -> None:
        self.findings.append(finding)
        self._write()

    def _write(self) -> None:
        write_json(dict(findings=[asdict(f) for f in self.findings], texts=self.texts), self.path)
