"""What time it is. The only caller of `datetime.now`; everything else is handed a Clock.

Waiting comes from Trio, wall time from here. Under Trio's virtual clock (`autojump_clock`)
wall time is derived from Trio's, so that due times and sleeps jump together.
"""

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

import trio
from trio.testing import MockClock

T = TypeVar("T")


class Clock(Protocol):
    """Tells the wall time. Instants are aware datetimes in UTC."""

    def now(self) -> datetime: ...


class WallClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class TrioClock:
    """Wall time that moves with Trio's clock: virtual time in tests.

    `start` is the wall time at Trio's time zero.
    """

    def __init__(self, start: datetime) -> None:
        self._start = start

    def now(self) -> datetime:
        return self._start + timedelta(seconds=trio.current_time())


EPOCH_OF_TESTS = datetime(2030, 1, 1, tzinfo=UTC)
"""Where virtual time begins unless a test says otherwise."""


def is_virtual() -> bool:
    """Whether the current Trio run keeps virtual time."""
    return isinstance(trio.lowlevel.current_clock(), MockClock)


def current_clock() -> Clock:
    """The clock that fits the current Trio run: real, or derived from virtual time."""
    return TrioClock(EPOCH_OF_TESTS) if is_virtual() else WallClock()


@contextmanager
def held_clock() -> Iterator[None]:
    """Keep virtual time still while a thread or a subprocess works.

    Trio counts a task that waits for a thread as idle, so an autojump clock would jump past
    every deadline in the meantime. Nests; does nothing on the real clock.
    """
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, MockClock):
        yield
        return
    holds: int = getattr(clock, "_trioqueue_holds", 0)
    if holds == 0:
        clock._trioqueue_threshold = clock.autojump_threshold  # type: ignore[attr-defined]
        clock.autojump_threshold = math.inf
    clock._trioqueue_holds = holds + 1  # type: ignore[attr-defined]
    try:
        yield
    finally:
        clock._trioqueue_holds -= 1  # type: ignore[attr-defined]
        if clock._trioqueue_holds == 0:  # type: ignore[attr-defined]
            clock.autojump_threshold = clock._trioqueue_threshold  # type: ignore[attr-defined]


RunSync = Callable[..., Awaitable[T]]


async def run_inline(function: Callable[[], T]) -> T:
    """Call a blocking function right here. For virtual time: no thread, one order of events."""
    await trio.lowlevel.checkpoint()
    return function()


async def run_in_thread(function: Callable[[], T], *, limiter: trio.CapacityLimiter | None = None) -> T:
    """Call a blocking function in a thread, so that the loop goes on; not cancellable.

    Whoever must not wait behind other people's threads brings a `limiter` of their own.
    """
    with held_clock():
        return await trio.to_thread.run_sync(function, limiter=limiter)
