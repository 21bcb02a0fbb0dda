"""Every loop of a node is supervised: one that dies is started again; too often, and the node ends."""

import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

import trio

from trioqueue.errors import LoopDied, StoreUnavailable
from trioqueue.events import Events, LoopFailed, StoreFailed, StoreRecovered
from trioqueue.health import Health
from trioqueue.jobs.job import NodeId
from trioqueue.runtime.rest import Rest

T = TypeVar("T")

BUDGET = 5
"""So many failures of one loop within a minute are survived."""

WINDOW_SECONDS = 60.0
OUTAGE_SECONDS = 5.0
"""While the store is away, loops try again at most this often."""


class Supervisor:
    """Runs loops and chores, and tells health and events how they fare."""

    def __init__(self, node: NodeId, health: Health, events: Events, random: Random, rest: Rest) -> None:
        self._node = node
        self._health = health
        self._events = events
        self._random = random
        self._rest = rest

    async def keep(self, name: str, loop: Callable[[], Awaitable[object]]) -> None:
        """Run `loop` until it returns; start it again when it raises, within the budget.

        Raises `LoopDied` when the budget is spent. What supervises then is the process's host.
        """
        failures: deque[float] = deque()
        while True:
            try:
                await loop()
                return
            except Exception as error:  # whatever broke the loop; it is reported and started again
                now = trio.current_time()
                failures.append(now)
                while failures[0] < now - WINDOW_SECONDS:
                    failures.popleft()
                text = "".join(traceback.format_exception(error))
                self._events.publish(LoopFailed(node=self._node, loop=name, error=text))
                if len(failures) > BUDGET:
                    raise LoopDied(name, len(failures)) from error
            await trio.sleep(0.1 * 2 ** len(failures) * (1 + self._random.random()))

    async def every(self, seconds: float, name: str, chore: Callable[[], Awaitable[float | None]]) -> None:
        """Run `chore` now and then each `seconds` with a tenth of jitter, for ever; outages are survived.

        It returns in how many seconds it will have something to do if nothing happens, None for
        never: where nobody waits in real time, that is when it runs.
        """

        async def loop() -> None:
            while True:
                due_in = await self.reach(name, chore)
                self._health.turn(name)
                await self._rest.wait(name, seconds * (0.9 + 0.2 * self._random.random()), due_in=due_in)

        await self.keep(name, loop)

    async def reach(
        self,
        call: str,
        function: Callable[[], Awaitable[T]],
        *,
        longest_wait_seconds: float = OUTAGE_SECONDS,
    ) -> T:
        """Call the store until it answers, waiting a little longer each time."""
        failed_at: float | None = None
        wait = 0.1
        while True:
            try:
                answer = await function()
            except StoreUnavailable as error:
                if failed_at is None:
                    failed_at = trio.current_time()
                    self._events.publish(StoreFailed(node=self._node, call=call, reason=error.reason))
                self._health.store_failed(error.reason)
                self._health.turn(call)
                await trio.sleep(wait * (0.75 + 0.5 * self._random.random()))
                wait = min(wait * 2, longest_wait_seconds)
            else:
                if failed_at is not None:
                    seconds = trio.current_time() - failed_at
                    self._events.publish(StoreRecovered(node=self._node, call=call, after_seconds=seconds))
                return answer
