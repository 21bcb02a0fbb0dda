"""Handlers that do real work: read a file, hash it, compress it with gzip, count its lines.

TRIOQUEUE_HANDLERS=library_files:handlers hypercorn trioqueue.app:app
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import trio

from trioqueue import Context, Handlers

handlers = Handlers()


@dataclass
class Description:
    """What is known of a file afterwards. Any dataclass can be a result."""

    sha256: str
    gzip_bytes: int
    lines: int


@handlers.handler("describe_file", timeout_seconds=60, max_attempts=3)
async def describe_file(ctx: Context, path: str) -> Description:
    """The two halves run side by side; a cancel, a timeout or an error in one ends both."""
    content = await trio.Path(path).read_bytes()
    description = Description(sha256="", gzip_bytes=0, lines=0)

    async def read() -> None:
        description.sha256 = hashlib.sha256(content).hexdigest()
        description.lines = content.count(b"\n")

    async def compress() -> None:
        done = await ctx.run_process(["gzip", "-nc"], stdin=content)
        description.gzip_bytes = len(done.stdout)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(compress)
    return description


@handlers.handler("count_lines")
def count_lines(ctx: Context, path: str) -> int:
    """A plain function runs in a thread; `check_cancelled` is where it can be stopped."""
    lines = 0
    with Path(path).open("rb") as file:
        for _ in file:
            lines += 1
            if lines % 10_000 == 0:
                ctx.check_cancelled()
                ctx.report(lines, message="counting")
    return lines
