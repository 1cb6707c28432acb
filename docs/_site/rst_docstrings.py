# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Docstrings of this package, as Markdown for the documentation site.

Docstrings follow OpenMMLab: Google sections with reStructuredText inside. The
site is written in Markdown. This extension of griffe, which reads the sources
for mkdocstrings, translates the few constructs that the package uses.
"""

import re
from textwrap import dedent, indent
from typing import Any

import griffe

MATH_BLOCK = re.compile(r'^( *)\.\. math::\n((?:\n*\1 +[^\n]*\n?)+)', re.MULTILINE)
MATH_ROLE = re.compile(r':math:`([^`]+)`')
ROLE = re.compile(r':(?:class|meth|func|attr|mod|exc|obj):`~?([^`]+)`')
LITERAL_BLOCK = re.compile(r'::$', re.MULTILINE)
EXAMPLE = re.compile(r'^( *)Example:$', re.MULTILINE)


def to_markdown(text: str) -> str:
    """Translate a docstring.

    Args:
        text (str): The docstring, as ``inspect.cleandoc`` returns it.

    Returns:
        str: Display equations as ``$$``, inline equations as ``$``, roles as
        code, literal blocks as the indented blocks that Markdown knows, and
        a section ``Example`` under the only name that griffe knows.
    """

    def block(match: re.Match[str]) -> str:
        margin, body = match.groups()
        # An empty line would end the equation.
        lines = [line for line in dedent(body).splitlines() if line.strip()]
        equation = '\n'.join(['$$', *lines, '$$'])
        return indent(equation, margin) + '\n'

    text = MATH_BLOCK.sub(block, text if text.endswith('\n') else text + '\n')
    text = MATH_ROLE.sub(r'$\1$', text)
    text = ROLE.sub(r'`\1`', text)
    text = EXAMPLE.sub(r'\1Examples:', text)
    return LITERAL_BLOCK.sub(':', text).rstrip('\n')


class RstDocstrings(griffe.Extension):
    """Translate the docstrings of every object of the package."""

    def on_object(self, *, obj: griffe.Object, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Rewrite the docstring of an object that has been loaded."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
