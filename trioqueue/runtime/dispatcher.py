"""Claims due jobs, just enough of them, and sends them into the channel."""

from random import Random
from typing import Never

import trio

from trioqueue.errors import StoreUnavailable
from trioqueue.health import Health
from trioqueue.jobs.job import Claim, NodeId
from trioqueue.runtime.leases import Leases
from trioqueue.runtime.rest import Rest
from trioqueue.runtime.wakeup import Wakeup
from trioqueue.store.protocol import Store

PATIENCE_SECONDS = 1.0
"""A claim that waited in the channel for so long, behind longer jobs than expected, is given back."""

SHORTEST_WAIT_SECONDS = 0.02
"""Between two claims that found nothing."""

LONGEST_WAIT_SECONDS = 1.0
"""Between two claims while the store is away."""

SMOOTHING = 0.3
"""The weight of the newest measurement in a moving average."""


class Dispatcher:
    """Claims what free workers can start now, and a measured look-ahead for very short jobs.

    The look-ahead is what the workers finish during one claim's round trip, at most the channel's
    capacity. So short jobs flow without a pause, while of long ones none is held back here that
    another node could start.
    """

    def __init__(
        self,
        *,
        node: NodeId,
        store: Store,
        leases: Leases,
        types: frozenset[str] | None,
        workers: int,
        capacity: int,
        poll_seconds: float,
        health: Health,
        random: Random,
        rest: Rest,
    ) -> None:
        self.work = Wakeup()
        """Ring it when there may be a due job."""
        self._node = node
        self._store = store
        self._leases = leases
        self._types = types
        self._workers = workers
        self._capacity = capacity
        self._poll_seconds = poll_seconds
        self._health = health
        self._random = random
        self._rest = rest
        self._round_trip_seconds = 0.0
        self._pace = 0.0
        self._measured_at = 0.0
        self._measured_finished = 0

    def __repr__(self) -> str:
        return f"<Dispatcher look-ahead {self.look_ahead}, {self._leases!r}>"

    @property
    def look_ahead(self) -> int:
        """How many claims beyond the free workers are worth holding."""
        return min(self._capacity, int(self._pace * self._round_trip_seconds * 2))

    async def run(self, channel: trio.MemorySendChannel[Claim]) -> Never:
        """Claim and send, for ever."""
        while True:
            self._health.turn("dispatcher")
            room = self._workers + self.look_ahead - self._leases.running - self._leases.waiting
            if self._leases.settling > self._workers + self._capacity:
                room = 0  # outcomes pile up: the store claims but does not settle
            if room <= self.look_ahead // 2:
                await self._wait_for_room()
                continue
            try:
                claims = await self._claim(room)
                for claim in claims:
                    await channel.send(claim)
                if len(claims) < room:
                    await self._wait_for_work()
            except StoreUnavailable as error:
                self._health.store_failed(error.reason)
                wait = min(self._poll_seconds, LONGEST_WAIT_SECONDS)
                await trio.sleep(wait * (0.5 + self._random.random()))

    async def _claim(self, room: int) -> list[Claim]:
        asked_at = trio.current_time()
        claims = list(
            await self._store.claim(
                node=self._node, types=self._types, limit=room, lease_seconds=self._leases.lease_seconds
            )
        )
        if claims:
            self._leases.hold(claims, asked_at=asked_at)
            self._health.claimed()
            self._health.store_written()
            self._measure(asked_at)
        return claims

    def _measure(self, asked_at: float) -> None:
        """Moving averages of a claim's round trip and of the attempts that end in a second."""
        now = trio.current_time()
        finished = self._leases.finished
        elapsed = now - self._measured_at
        if elapsed > 0:
            pace = (finished - self._measured_finished) / elapsed
            self._pace += SMOOTHING * (pace - self._pace)
            self._round_trip_seconds += SMOOTHING * (now - asked_at - self._round_trip_seconds)
            self._measured_at, self._measured_finished = now, finished

    async def _wait_for_room(self) -> None:
        patience = PATIENCE_SECONDS if self._leases.waiting else None
        ended = self._leases.ended.wait
        rang = await self._rest.wait("dispatcher", PATIENCE_SECONDS, due_in=patience, until=ended)
        if not rang and self._leases.waiting:
            # Jobs turned out longer than the look-ahead assumed: let others start these.
            self._pace = 0.0
            await self._leases.release_waiting(older_than=PATIENCE_SECONDS)

    async def _wait_for_work(self) -> None:
        """Until a hint, until the next job is due, and never longer than the polling interval."""
        wait = self._poll_seconds * (0.8 + 0.4 * self._random.random())
        due_in = await self._store.next_due_in(self._types)
        if due_in is not None:
            # Due already, and yet not claimed: another node is at it, or it came just now and rings.
            due_in = max(due_in, SHORTEST_WAIT_SECONDS)
        await self._rest.wait("dispatcher", wait, due_in=due_in, until=self.work.wait)
