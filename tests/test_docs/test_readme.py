# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The README is short, its links lead somewhere, and its config can be built."""

import re

import pytest
from mmengine.config import Config

from mtkdrl_mm.registry import MODELS

from .pages import README, ROOT, code_lines

TEXT = README.read_text()


def slugs_of(page):
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r'^#+ (.+)$', page.read_text(), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def test_length():
    assert len(TEXT.split()) <= 1300


def test_relative_links_resolve():
    links = re.findall(r'\]\(([^)\s]+)\)', TEXT)
    relative = [link for link in links if '://' not in link]
    dead = []
    for link in relative:
        path, _, anchor = link.partition('#')
        target = ROOT / path if path else README
        if not target.exists() or (anchor and anchor not in slugs_of(target)):
            dead.append(link)
    assert dead == []
    assert len(relative) > 20


def test_every_page_of_documentation_is_linked():
    """Apart from the site's own index and the pages about results."""
    pages = {f'docs/{page.name}' for page in (ROOT / 'docs').glob('*.md')} - {'docs/index.md'}
    assert pages - set(re.findall(r'\]\(([^)#\s]+)', TEXT)) == set()


def test_command_of_ci():
    """CI runs the tests by the command that the README gives."""
    ci = (ROOT / '.ci' / 'run').read_text().splitlines()
    readme = [line.split('#')[0].strip() for line in code_lines(TEXT)]
    assert 'make test' in ci and 'make test' in readme


@pytest.fixture(scope='module')
def config():
    """The config of the README, as if it were in a folder beside the other configs."""
    block = re.search(r'```python\n(.+?)```', TEXT, re.DOTALL)[1]
    assert len(block.strip().splitlines()) <= 14
    base, rest = block.split('\n', 1)
    path = ROOT / 'configs' / re.fullmatch(r"_base_ = '\.\./(.+)'", base)[1]
    return Config.fromstring(f'_base_ = {str(path)!r}\n{rest}', '.py')


def test_config_reads_its_own_data(config):
    for split in ('train', 'val', 'test'):
        assert config[f'{split}_dataloader'].dataset.data_root == 'data/pets'


def test_config_builds(config):
    distiller = MODELS.build(config.model)
    names = ('resnet50_8xb32_in1k', 'deit-small_4xb256_in1k', 'convnext_tiny')
    assert distiller.teachers.names == names
    assert distiller.teachers.spec.num_classes == 37
    assert distiller.student.head.num_classes == 37
    assert type(distiller.weighting).__name__ == 'MTKDRL'
