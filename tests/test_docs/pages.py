# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What the README and the pages under docs/ contain: links, paths, commands and Python."""

import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

ROOT = Path(__file__).parents[2]
README = ROOT / 'README.md'
# The tables of results are output of a tool.
PAGES = sorted(
    page
    for page in [
        README,
        ROOT / 'CONTRIBUTING.md',
        *(ROOT / 'docs').rglob('*.md'),
        *(ROOT / 'configs').rglob('*.md'),
    ]
    if page.name != 'table.md'
)
FOLDERS = ('configs', 'docs', 'mtkdrl_mm', 'requirements', 'tests', 'tools')
# What a page calls a file of the reader's own.
READERS_OWN = ('configs/mine/',)


def name_of(page: Path) -> str:
    """The page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def paths_in(text: str) -> list[str]:
    """Paths of this repository that a text names; they may have wildcards and braces."""
    found = re.findall(rf'(?<![\w./$~-])(?:{"|".join(FOLDERS)})/[\w./*,{{}}-]*[\w*/}}]', text)
    return [path for path in found if not path.startswith(READERS_OWN)]


def expand_braces(path: str) -> list[str]:
    """All spellings of ``a_{b,c}``."""
    match = re.search(r'\{([^{}]*)\}', path)
    if match is None:
        return [path]
    choices = match[1].split(',')
    return [
        spelling
        for choice in choices
        for spelling in expand_braces(path[: match.start()] + choice + path[match.end() :])
    ]


def code_lines(text: str) -> list[str]:
    """Lines of indented and fenced blocks that are no Python; continued lines are joined."""
    lines: list[str] = []
    fence: str | None = None
    for line in text.splitlines():
        if match := re.match(r' *```(\w*)', line):
            fence = match[1] if fence is None else None
        elif fence in ('', 'sh', 'bash') or (fence is None and line.startswith('    ')):
            lines.append(line.strip())
    return '\n'.join(lines).replace('\\\n', ' ').splitlines()


def code_spans(text: str) -> list[str]:
    """Inline code outside of blocks."""
    return re.findall(r'`([^`\n]+)`', re.sub(r'```.*?```', '', text, flags=re.DOTALL))


def commands_in(text: str) -> Iterator[tuple[str, list[str]]]:
    """The tools that a page runs, with their arguments.

    Yields:
        tuple[str, list[str]]: Path of the tool, and what follows it.
    """
    spans = [span for span in code_spans(text) if re.search(r'(python|bash|sbatch) tools/', span)]
    for line in [*code_lines(text), *spans]:
        if 'tools/' not in line:
            continue
        words = shlex.split(line, comments=True)
        for index, word in enumerate(words):
            if re.fullmatch(r'tools/[\w/]+\.(py|sh)', word):
                yield word, words[index + 1 :]
                break


def python_call(tool: str, arguments: list[str]) -> tuple[str, list[str]]:
    """The Python tool that a shell script runs, and what it passes on."""
    if tool == 'tools/dist_train.sh':
        config, _, *flags = arguments
        return 'tools/train.py', [config, *flags]
    if tool == 'tools/dist_test.sh':
        config, checkpoint, _, *flags = arguments
        return 'tools/test.py', [config, checkpoint, *flags]
    if tool == 'tools/slurm_train.sh':
        _, _, config, work_dir, *flags = arguments
        return 'tools/train.py', [config, f'--work-dir={work_dir}', *flags]
    if tool == 'tools/slurm_test.sh':
        _, _, config, checkpoint, *flags = arguments
        return 'tools/test.py', [config, checkpoint, *flags]
    if tool == 'tools/dist_store_teacher_outputs.sh':
        config, store, _, *flags = arguments
        return 'tools/store_teacher_outputs.py', [config, store, *flags]
    if tool == 'tools/slurm_store_teacher_outputs.sh':
        _, _, config, store, *flags = arguments
        return 'tools/store_teacher_outputs.py', [config, store, *flags]
    if tool == 'tools/dev/gpu_check.sh':
        return 'tools/dev/gpu_check/__main__.py', arguments
    if tool == 'tools/cifar100.sh':
        return 'tools/train.py', ['CONFIG', *arguments[1:]]
    return tool, arguments


@cache
def load_tool(tool: str) -> ModuleType:
    """Import a Python tool, for its flags alone: mmdet's needs may be missing."""
    name = 'tool_' + re.sub(r'\W', '_', tool)
    spec = spec_from_file_location(name, ROOT / tool)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    if Path(tool).name == '__main__.py':
        # `python -m` finds the tool's package there.
        sys.path.append(str((ROOT / tool).parents[1]))
    absent = [package for package in ('pycocotools',) if find_spec(package) is None]
    sys.modules.update({package: MagicMock() for package in absent})
    try:
        spec.loader.exec_module(module)
    finally:
        for package in absent:
            del sys.modules[package]
    return module
