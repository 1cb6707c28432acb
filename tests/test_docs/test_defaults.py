# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What docstrings call the default of an argument is its default."""

import ast
import re
from collections.abc import Iterator

from .pages import ROOT

FILES = sorted((ROOT / 'mtkdrl_mm').rglob('*.py'))
# In a section of arguments: "name (type): text", up to the next one.
ARGUMENT = re.compile(r'^ {4}(\w+) \(.*?\):(.*?)(?=^ {0,4}\S|\Z)', re.MULTILINE | re.DOTALL)
DEFAULT = re.compile(r'Defaults\s+to\s+(?:`{1,2}(.+?)`{1,2}|(\(.*?\)|\'.*?\'|[-\w.]*\w))')


def literal(text):
    """The value of an expression, and whether it is a literal at all."""
    try:
        return ast.literal_eval(text), True
    except (ValueError, SyntaxError):
        return None, False


def defaults_of(function) -> dict[str, ast.expr]:
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    given = zip(positional[len(positional) - len(arguments.defaults) :], arguments.defaults)
    named = zip(arguments.kwonlyargs, arguments.kw_defaults)
    return {arg.arg: value for arg, value in [*given, *named] if value is not None}


def signatures(tree) -> Iterator[tuple[str, str, dict[str, ast.expr]]]:
    """Name, docstring and defaults of functions, and of classes with their `__init__` or fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node.name, ast.get_docstring(node) or '', defaults_of(node)
        elif isinstance(node, ast.ClassDef):
            fields = {
                one.target.id: one.value
                for one in node.body
                if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and one.value
            }
            for one in node.body:
                if isinstance(one, ast.FunctionDef) and one.name == '__init__':
                    fields = defaults_of(one)
            yield node.name, ast.get_docstring(node) or '', fields


def documented(docstring: str) -> Iterator[tuple[str, object]]:
    """Arguments and their defaults, where these are literals."""
    for name, text in ARGUMENT.findall(docstring):
        found = DEFAULT.search(text)
        if found:
            value, is_literal = literal(found[1] or found[2])
            if is_literal:
                yield name, value


def compare(source: str) -> tuple[list[str], int]:
    """What differs, and how many defaults were compared."""
    wrong, count = [], 0
    for name, docstring, defaults in signatures(ast.parse(source)):
        for argument, value in documented(docstring):
            if argument not in defaults:
                continue  # of a base class
            actual, is_literal = literal(ast.unparse(defaults[argument]))
            if is_literal:
                count += 1
                if actual != value:
                    wrong.append(f'{name}.{argument} defaults to {actual!r}, not {value!r}')
    return wrong, count


def test_defaults():
    compared = 0
    for path in FILES:
        wrong, count = compare(path.read_text())
        assert wrong == [], path
        compared += count
    assert compared > 300  # and the others are no literals


def test_a_wrong_default_is_found():
    source = '''
class Loss:
    """A loss.

    Args:
        temperature (float): T,
            above 0. Defaults
            to 4.
        eps (float): Defaults to 1e-7.
    """

    def __init__(self, temperature=4.0, eps=1e-6): ...
'''
    assert compare(source) == (['Loss.eps defaults to 1e-06, not 1e-07'], 2)
