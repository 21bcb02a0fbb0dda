"""Append-only files of what was promised and what was run: they survive what the service does not."""

import os
from collections.abc import Iterator
from pathlib import Path


class Ledger:
    """One line for each fact. A line is on the disk when `write` returns; processes may share the file."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, *words: str) -> None:
        os.write(self._descriptor, (" ".join(words) + "\n").encode())  # one write: lines never mix
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def read_ledger(path: Path) -> Iterator[list[str]]:
    """The facts in the order in which they were written, as words."""
    if path.exists():
        with path.open() as file:
            for line in file:
                yield line.split()
