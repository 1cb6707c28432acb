# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Docstrings become Markdown that the site renders."""

import importlib.util
import sys
import types

import pytest

from .pages import ROOT


@pytest.fixture
def to_markdown(monkeypatch):
    """The translation; griffe is in the site's own environment only."""
    griffe = types.SimpleNamespace(Extension=object, Object=object, GriffeLoader=object)
    monkeypatch.setitem(sys.modules, 'griffe', griffe)
    path = ROOT / 'docs' / '_site' / 'rst_docstrings.py'
    spec = importlib.util.spec_from_file_location('rst_docstrings', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.to_markdown


def test_display_equation(to_markdown):
    text = 'First line.\n\n.. math::\n    a = b\n\n        + c\n\nwith *b*.'
    assert to_markdown(text) == 'First line.\n\n$$\na = b\n    + c\n$$\n\nwith *b*.'


def test_equation_inside_a_section(to_markdown):
    text = 'Args:\n    a (int): As in\n        .. math::\n            a\n'
    assert to_markdown(text) == 'Args:\n    a (int): As in\n        $$\n        a\n        $$'


def test_equation_at_the_end(to_markdown):
    assert to_markdown('Line.\n\n.. math::\n    x') == 'Line.\n\n$$\nx\n$$'


def test_roles(to_markdown):
    text = 'See :class:`Agent`, :meth:`~Agent.forward` and :math:`x_i`.'
    assert to_markdown(text) == 'See `Agent`, `Agent.forward` and $x_i$.'


def test_literal_blocks_and_examples(to_markdown):
    text = 'For use as::\n\n    a\n\nExample:\n    >>> 1\n    1'
    assert to_markdown(text) == 'For use as:\n\n    a\n\nExamples:\n    >>> 1\n    1'


def test_plain_text_is_kept(to_markdown):
    text = 'Line with ``code``.\n\nArgs:\n    a (int): A number. Defaults to 1.'
    assert to_markdown(text) == text
