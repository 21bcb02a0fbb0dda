"""The time of a test: move it, let its wall clock step, hold it still."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import trio
from trio.testing import wait_all_tasks_blocked

from trioqueue.clock import Clock, current_clock, held_clock, is_held, is_virtual, jumping_clock
from trioqueue.config import parse_duration
from trioqueue.testing.errors import NoVirtualTime, not_running

Duration = str | float | timedelta
"""`90`, `"90s"`, `"5m"`, `"12h"`, `"3d"`, `"1w"` or a timedelta."""

THREADS_LOOK_SECONDS = 0.002
"""Of real time, between two looks whether a thread or a server has answered."""


def seconds_of(duration: Duration) -> float:
    """The length of `duration`; raises ValueError for what is none."""
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    try:
        return float(str(parse_duration(duration)))
    except ValueError:
        raise ValueError(
            f"{duration!r} is no duration; write a number of seconds, 30s, 5m, 12h, 3d, 1w or a timedelta"
        ) from None


class TestClock:
    """What time it is for the nodes of a test, and how to change that."""

    __test__ = False  # not a class of tests

    def __init__(self) -> None:
        self._step = timedelta(0)
        self._moved: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<TestClock {self.now().isoformat()}>" if trio.lowlevel.in_trio_run() else "<TestClock>"

    def now(self) -> datetime:
        """The wall time that the nodes see. Virtual time begins at 2030-01-01T00:00:00Z."""
        return current_clock().now() + self._step

    async def advance(self, duration: Duration) -> None:
        """Let time pass, and everything happen that it brings, in order: retries, timeouts, leases.

        What is due at the very end of `duration` has begun when this returns. With an `autojump_clock`
        it is `trio.sleep` and a little more; it works as well with one that does not jump by itself.

        Raises `NoVirtualTime` in real time, ValueError for a text that is no duration or a negative one.
        """
        self._need_virtual_time("tq.clock.advance()")
        seconds = seconds_of(duration)
        self._moved()
        with jumping_clock():
            await trio.sleep(seconds)
        await quiet()

    def jump(self, duration: Duration) -> None:
        """Step the wall clock, as NTP or an operator does, forward or, with a negative number, back.

        Trio's own time goes on as if nothing had happened, and so do sleeps and timeouts; what is due
        and which lease has expired is for the wall clock to say.

        Raises `NoVirtualTime` in real time, ValueError for a text that is no duration.
        """
        self._need_virtual_time("tq.clock.jump()")
        self._step += timedelta(seconds=seconds_of(duration))
        self._moved()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep virtual time still inside of the block: for threads and sockets of your own.

        Trio takes a task that waits for one of them to be idle, so time would jump meanwhile.
        """
        with held_clock():
            yield

    def of_nodes(self) -> Clock | None:
        """What nodes and stores are given as their clock. None, in real time: the machine's own."""
        return self if is_virtual() else None

    def when_moved(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever somebody begins to move the time."""
        self._moved = listener

    def _need_virtual_time(self, wish: str) -> None:
        if not trio.lowlevel.in_trio_run():
            raise not_running(wish)
        if not is_virtual():
            raise NoVirtualTime(wish)


async def quiet() -> None:
    """Wait until nothing happens any more unless time passes."""
    await wait_all_tasks_blocked()
    while is_held():
        await wait_all_tasks_blocked(THREADS_LOOK_SECONDS)
