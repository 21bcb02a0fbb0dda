"""What commands print: tables for people, columns for pipes, the service's own JSON for programs."""

import sys
from collections.abc import Sequence
from datetime import datetime, timedelta

LONGEST_CELL = 60


def print_json(text: bytes) -> None:
    """Exactly what the service said, one document."""
    sys.stdout.write(text.decode().rstrip("\n") + "\n")


def print_line(words: str) -> None:
    """A line on stdout, without anything that would steer a terminal."""
    sys.stdout.write(harmless(words) + "\n")


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table at a terminal; aligned columns without colours or lines anywhere else."""
    from rich.cells import cell_len

    shown = [[harmless(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*titles)
        for row in shown:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    lines = [[title.upper() for title in titles], *shown]
    widths = [max(cell_len(line[column]) for line in lines) for column in range(len(titles))]
    for line in lines:
        cells = [cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def harmless(text: str) -> str:
    """Control characters spelt out: a payload or an error must not steer the reader's terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shorten(text: str) -> str:
    """For lists, where a long payload would hide everything else."""
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def relative(instant: datetime | None, now: datetime) -> str:
    """`3 s ago`, `in 5 m`; nothing when there is no instant."""
    if instant is None:
        return ""
    seconds = (now - instant).total_seconds()
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"


def duration(seconds: float) -> str:
    """In its largest unit, cut."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def absolute(instant: datetime | None) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    if instant is None:
        return ""
    cut = instant - timedelta(microseconds=instant.microsecond % 1000)
    return cut.isoformat(timespec="milliseconds").replace("+00:00", "Z")
