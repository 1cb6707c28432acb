# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What the pages name exists: paths, flags, make targets and configs of other packages."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from .pages import (
    PAGES,
    ROOT,
    code_lines,
    code_spans,
    commands_in,
    expand_braces,
    load_tool,
    name_of,
    paths_in,
    python_call,
)

COMMANDS = [
    pytest.param(tool, arguments, id=f'{name_of(page)}-{number}')
    for page in PAGES
    for number, (tool, arguments) in enumerate(commands_in(page.read_text()))
]
# Flags of other programs, which pages mention in a sentence.
FOREIGN_FLAGS = {'--signal', '--strict', '--nproc_per_node', '--nproc'}
every_page = pytest.mark.parametrize('page', PAGES, ids=name_of)


@every_page
def test_paths_exist(page):
    missing = [
        path
        for path in paths_in(page.read_text())
        for spelling in expand_braces(path)
        if not any(ROOT.glob(spelling.rstrip('/')))
    ]
    assert missing == []


@every_page
def test_relative_links_resolve(page):
    text = re.sub(r'```.*?```', '', page.read_text(), flags=re.DOTALL)
    links = [link.partition('#')[0] for link in re.findall(r'\]\(([^)\s]+)\)', text)]
    relative = [link for link in links if link and '://' not in link]
    assert [link for link in relative if not (page.parent / link).exists()] == []


@every_page
def test_bases_exist(page):
    """Bases are relative to a folder of configs, such as the reader's own `configs/mine`."""
    bases = re.findall(r"_base_ = '\.\./([^':]+)'", page.read_text())
    assert [base for base in bases if not (ROOT / 'configs' / base).is_file()] == []


@every_page
def test_configs_of_mmpretrain_exist(page):
    spec = importlib.util.find_spec('mmpretrain')
    configs = Path(spec.origin).parent / '.mim' / 'configs'
    named = re.findall(r'mmpretrain::([\w./-]+\.py)', page.read_text())
    assert [name for name in named if not (configs / name).is_file()] == []


@pytest.mark.parametrize('tool, arguments', COMMANDS)
def test_commands_are_accepted(tool, arguments, monkeypatch, capsys):
    assert (ROOT / tool).is_file()
    tool, arguments = python_call(tool, arguments)
    monkeypatch.setattr(sys, 'argv', [tool, *arguments])
    try:
        load_tool(tool).parse_args()
    except SystemExit:
        pytest.fail(capsys.readouterr().err)


def test_commands_are_found():
    """The test above sees the commands of blocks, of continued lines and of sentences."""
    text = (
        'Run `python tools/dataset_converters/digits.py`:\n\n'
        '    GPUS=2 bash tools/slurm_train.sh P J configs/a.py w --amp  # half precision\n'
        '    python tools/train.py configs/a.py \\\n        --resume\n'
    )
    assert sorted(commands_in(text)) == [
        ('tools/dataset_converters/digits.py', []),
        ('tools/slurm_train.sh', ['P', 'J', 'configs/a.py', 'w', '--amp']),
        ('tools/train.py', ['configs/a.py', '--resume']),
    ]
    assert len(COMMANDS) > 40


@pytest.fixture(scope='module')
def known_flags():
    """All flags of all Python tools."""
    flags = set()
    for path in (ROOT / 'tools').rglob('*.py'):
        source = path.read_text()
        flags.update(re.findall(r"add_argument\(\s*'(--[\w-]+)'", source))
    for path in ('utils/cli.py', 'jobs/settings.py'):
        source = (ROOT / 'mtkdrl_mm' / path).read_text()
        flags.update(re.findall(r"'(--[\w-]+)'", source))
    assert {'--cfg-options', '--resume', '--seeds'} <= flags
    return flags


@every_page
def test_flags_in_sentences_exist(page, known_flags):
    spans = [span for span in code_spans(page.read_text()) if 'pip ' not in span]
    flags = {flag for span in spans for flag in re.findall(r'(?<![\w-])--[a-z][\w-]*', span)}
    assert flags - known_flags - FOREIGN_FLAGS == set()


@every_page
def test_make_targets_exist(page):
    targets = set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    text = page.read_text()
    named = {
        target
        for code in [*code_lines(text), *code_spans(text)]
        for target in re.findall(r'^make ([a-z-]+)', code)
    }
    assert named - targets == set()


def test_architecture_names_files_that_exist():
    text = (ROOT / 'docs' / 'architecture.md').read_text()
    named = [
        span for span in code_spans(text) if re.fullmatch(r'[\w/]+(\.py|/)', span) and '/' in span
    ]
    folders = (ROOT, ROOT / 'mtkdrl_mm')
    missing = [name for name in named if not any((folder / name).exists() for folder in folders)]
    assert missing == []
    assert len(named) > 10
