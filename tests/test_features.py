"""The table of features is true and complete."""

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache

import pytest
from cyclopts import App

from tests.conftest import ROOT
from trioqueue.app import app
from trioqueue.cli.main import cli
from trioqueue.client import Client

PAGE = (ROOT / "docs" / "features.md").read_text()
ROW = re.compile(r"^\| (?!what |---)(.+) \|$", re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")
VARIABLE, IN_BRACES = re.compile(r"<(?:[^:>]+:)?([^>]+)>"), r"{\1}"

ROWS = [tuple(cell.strip() for cell in row.split(" | ")) for row in ROW.findall(PAGE)]
OUTSIDE = set(CODE.findall(ROW.sub("", PAGE)))
"""What the text between the tables names."""


def named(column: int) -> set[str]:
    return {name for row in ROWS if len(row) == 5 for name in CODE.findall(row[column])}


def routes() -> set[str]:
    return {
        f"{method} {VARIABLE.sub(IN_BRACES, rule.rule)}"
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in ("HEAD", "OPTIONS")
    }


def commands(group: App = cli, words: tuple[str, ...] = ("trioqueue",)) -> Iterator[str]:
    for name in group:
        if not name.startswith("-"):
            command, path = group[name], (*words, name)
            if command.default_command is not None:
                yield " ".join(path)
            yield from commands(command, path)


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text())
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row[0]))
def test_no_row_lacks_anything(row: tuple[str, ...]) -> None:
    assert len(row) in (3, 5)
    assert all(CODE.findall(cell) for cell in row[1:])
    for test in CODE.findall(row[-1]):
        file, _, name = test.partition("::")
        assert (name in names_in(file)) if name else names_in(file)


def test_every_route_is_there_once() -> None:
    assert named(1) | {name for name in OUTSIDE if name.startswith("GET ")} == routes()


def test_every_method_of_the_client_is_there() -> None:
    methods = {
        f"client.{name}" for name, _ in inspect.getmembers(Client, inspect.isfunction) if name[0] != "_"
    }
    assert named(2) == methods


def test_every_command_is_there() -> None:
    assert named(3) | {name for name in OUTSIDE if name.startswith("trioqueue ")} == set(commands())
