"""Queries as files: one query each, named after what it does. Every SQL store reads its own directory."""

from collections.abc import Mapping
from importlib.resources.abc import Traversable

Queries = dict[str, str]
"""SQL by the name of its file."""


def read_queries(directory: Traversable, parts: Mapping[str, str]) -> Queries:
    """The `.sql` files of `directory`, without comments, and with `parts` put where their names stand."""
    return {
        file.name.removesuffix(".sql"): _fill_in(file.read_text("utf-8"), parts)
        for file in directory.iterdir()
        if file.name.endswith(".sql")
    }


def _fill_in(text: str, parts: Mapping[str, str]) -> str:
    sql = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
    for name, part in parts.items():
        sql = sql.replace(name, part)
    return sql
