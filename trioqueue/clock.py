"""What time it is. The only caller of `datetime.now`; everything else is handed a Clock.

Waiting comes from Trio, wall time from here. Under Trio's virtual clock (`autojump_clock`)
wall time is derived from Trio's, so that due times and sleeps jump together.
"""

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(slots=True)
class Jumps:
    """Whether the virtual time of a Trio run jumps when every task waits, which several people decide."""

    clock: MockClock
    threshold: float = math.inf
    """What the clock itself was told, by whoever has made it: infinite, and it does not jump by itself."""
    holds: int = 0
    wishes: int = 0

    def decide(self) -> None:
        """Whoever holds time is stronger than who wants it to jump; without either the clock decides."""
        jumps_at = 0.0 if self.wishes and self.threshold == math.inf else self.threshold
        if self.holds:
            jumps_at = math.inf
        if self.clock.autojump_threshold != jumps_at:
            self.clock.autojump_threshold = jumps_at


_JUMPS: trio.lowlevel.RunVar[Jumps] = trio.lowlevel.RunVar("trioqueue_jumps")


def _jumps() -> Jumps | None:
    """Those of the current Trio run; None when it keeps real time."""
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, MockClock):
        return None
    try:
        jumps = _JUMPS.get()
    except LookupError:
        jumps = Jumps(clock)
        _JUMPS.set(jumps)
    if not (jumps.holds or jumps.wishes):
        jumps.threshold = clock.autojump_threshold
    return jumps


def is_held() -> bool:
    """Whether virtual time stands still, because a thread or a database is at work."""
    jumps = _jumps()
    return jumps is not None and jumps.holds > 0


@contextmanager
def jumping_clock() -> Iterator[None]:
    """Let virtual time jump while every task waits, also where the clock does not by itself.

    Time that is held does not jump before it is let go. Nests; does nothing on the real clock.
    """
    jumps = _jumps()
    if jumps is None:
        yield
        return
    jumps.wishes += 1
    jumps.decide()
    try:
        yield
    finally:
        jumps.wishes -= 1
        jumps.decide()


@contextmanager
def held_clock() -> Iterator[None]:
    """Keep virtual time still while a thread or a subprocess works.

    Trio counts a task that waits for a thread as idle, so an autojump clock would jump past
    every deadline in the meantime. Nests; does nothing on the real clock.
    """
    jumps = _jumps()
    if jumps is None:
        yield
        return
    jumps.holds += 1
    jumps.decide()
    try:
        yield
    finally:
        jumps.holds -= 1
        jumps.decide()


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
