"""What a handler under trial has instead of a node's machine: its context, threads and commands."""

import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, TypeVar

import structlog
import trio
from trio.testing import MockClock

from trioqueue.runtime.context import Context

T = TypeVar("T")


class QuietContext(Context):
    """The real one, without its log; each `check_cancelled` is a step, so that a cut can fall there."""

    __slots__ = ()

    def __init__(self, *arguments: Any, **options: Any) -> None:  # those of Context
        super().__init__(*arguments, **options)
        self._log = structlog.wrap_logger(None, [_drop], structlog.stdlib.BoundLogger)

    def check_cancelled(self) -> None:
        trio.from_thread.run(trio.lowlevel.checkpoint)


class Machine:
    """Threads, while virtual time stands still, and commands, each of them as one step of its handler."""

    def __init__(self, clock: MockClock) -> None:
        self.thread: int | None = None
        """The thread that the handler runs in, while it does."""
        self._clock = clock

    def hold_clock(self, held: bool) -> None:
        self._clock.autojump_threshold = inf if held else 0

    async def run_in_thread(self, call: Callable[[], T], *, limiter: trio.CapacityLimiter) -> T:
        self.hold_clock(True)
        self.thread = 0
        try:
            return await trio.to_thread.run_sync(partial(self._noted, call), limiter=limiter)
        finally:
            self.thread = None
            self.hold_clock(False)

    def _noted(self, call: Callable[[], T]) -> T:
        self.thread = threading.get_ident()
        return call()

    async def run_process(
        self,
        command: Sequence[Any],
        *,
        stdin: bytes,
        check: bool,
        cwd: Any,
        env: Mapping[str, str] | None,
        in_a_hurry: Callable[[], bool],
    ) -> subprocess.CompletedProcess[bytes]:
        await trio.lowlevel.checkpoint()
        done = subprocess.run(command, input=stdin, capture_output=True, check=check, cwd=cwd, env=env)  # noqa: ASYNC221
        await trio.lowlevel.checkpoint()
        return done

    def kill_orphans(self) -> None:
        """There are none."""


def _drop(*_: object) -> Any:
    raise structlog.DropEvent
