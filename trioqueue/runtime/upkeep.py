"""What a node does besides running jobs: says that it is alive, rescues, expires, prunes, and watches.

Every chore is supervised. None of them is needed for what runs on this node; all nodes share them.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from functools import partial
from operator import attrgetter
from random import Random
from typing import Never

import trio

from trioqueue.errors import StoreUnavailable
from trioqueue.events import Events, JobsExpired, JobsPruned, JobsRescued
from trioqueue.health import Health
from trioqueue.jobs.job import NodeId, Status
from trioqueue.runtime.rest import Rest
from trioqueue.runtime.spawner import Spawner
from trioqueue.runtime.supervise import Supervisor
from trioqueue.store.protocol import NextUpkeep, NodeFacts, Store

BEAT_SECONDS = 5.0
RESCUE_SECONDS = 1.0
EXPIRE_SECONDS = 1.0
PRUNE_SECONDS = 20.0
WATCH_SECONDS = 5.0

RECOVERY_SECONDS = 1.0
"""So long after the store failed, and then this often, a beat shows whether it is back."""

A_MOMENT = 0.001
"""Of virtual time, which goes on only when every task has had its turn."""

RESCUE_BATCH = 500
EXPIRE_BATCH = 500
PRUNE_BATCH = 1000


class Upkeep:
    """The chores of one node."""

    def __init__(
        self,
        store: Store,
        node: NodeId,
        facts: NodeFacts,
        *,
        retention: Mapping[Status, timedelta],
        health: Health,
        events: Events,
        random: Random,
        rest: Rest,
        spawner: Spawner,
    ) -> None:
        self._store = store
        self._node = node
        self._facts = facts
        self._retention = retention
        self._health = health
        self._events = events
        self._random = random
        self._rest = rest
        self._spawner = spawner

    def __repr__(self) -> str:
        return f"<Upkeep of {self._node}>"

    async def run(self, supervisor: Supervisor, *, stopping: trio.Event) -> None:
        """Do the chores until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.keep, "beat", partial(self._beats, supervisor))
            # Rescuing forgets silent nodes, too, of which nobody knows beforehand.
            rescue = self._when_due(self._rescue, attrgetter("rescue"), always=True)
            expire = self._when_due(self._expire, attrgetter("expire"))
            prune = self._when_due(self._prune, attrgetter("prune"))
            nursery.start_soon(supervisor.every, RESCUE_SECONDS, "rescue", rescue)
            nursery.start_soon(supervisor.every, EXPIRE_SECONDS, "expire", expire)
            nursery.start_soon(supervisor.every, PRUNE_SECONDS, "prune", prune)
            nursery.start_soon(supervisor.every, WATCH_SECONDS, "watch", self._look)
            nursery.start_soon(self._say_that_it_stops, supervisor, stopping)

    async def beat(self) -> None:
        """Say that the node is alive, and who it is; shows that the store can be written."""
        await self._store.beat(self._node, facts=self._facts)
        self._health.store_written()

    async def _beats(self, supervisor: Supervisor) -> Never:
        """Every five seconds; soon after any call has failed, so that health sees at once when it is over."""
        while True:
            await supervisor.reach("beat", self.beat, longest_wait_seconds=RECOVERY_SECONDS)
            self._health.turn("beat")
            await self._rest.wait(
                "beat", self._about(BEAT_SECONDS), until=self._look_soon_after_a_failure, at_once=True
            )

    async def _look_soon_after_a_failure(self) -> None:
        await self._health.store_away.wait()
        await trio.sleep(self._about(RECOVERY_SECONDS))

    async def _say_that_it_stops(self, supervisor: Supervisor, stopping: trio.Event) -> None:
        """What a stopped node must leave behind, because a handler would not end, is no crash."""
        await stopping.wait()
        await supervisor.reach("beat", partial(self._store.beat, self._node, stopping=True))

    async def _rescue(self) -> None:
        """As many batches as there are: a node that died may have held many.

        Not at once after an outage that was longer than a lease: all leases have expired then, those
        of living nodes, too, which come to renew and to settle as soon as they can.
        """
        if self._health.store_error is not None:
            raise StoreUnavailable(self._health.store_error)
        if self._health.is_recovering:
            return
        while jobs := await self._store.rescue(limit=RESCUE_BATCH):
            self._health.turn("rescue")
            self._spawner.kill_orphans()
            self._events.publish(JobsRescued(node=self._node, jobs=list(jobs)))
            if len(jobs) < RESCUE_BATCH:
                break

    async def _expire(self) -> None:
        """End what can no longer be in time; as many batches as there are."""
        while jobs := await self._store.expire(limit=EXPIRE_BATCH):
            self._health.turn("expire")
            self._events.publish(JobsExpired(node=self._node, jobs=list(jobs)))
            if len(jobs) < EXPIRE_BATCH:
                break

    async def _prune(self) -> None:
        pruned = await self._store.prune(self._retention, limit=PRUNE_BATCH)
        if pruned:
            self._events.publish(JobsPruned(node=self._node, pruned=pruned))
        while pruned == PRUNE_BATCH:
            self._health.turn("prune")
            pruned = await self._store.prune(self._retention, limit=PRUNE_BATCH)

    def _when_due(
        self,
        chore: Callable[[], Awaitable[None]],
        due_in: Callable[[NextUpkeep], float | None],
        *,
        always: bool = False,
    ) -> Callable[[], Awaitable[float | None]]:
        """`chore`; but where loops may rest, only when the store says that it will find something.

        `always`: also at other times, but then, too, it tells when it will be due.
        """

        async def look() -> float | None:
            if not self._rest.lazy:
                await chore()
                return None
            seconds = due_in(await self._store.next_upkeep_in(self._retention))
            if seconds is not None and seconds <= 0:
                self._rest.stir()
                await trio.sleep(A_MOMENT)  # nodes that rest beat first: they are not silent
            elif not always:
                return seconds
            await chore()
            return due_in(await self._store.next_upkeep_in(self._retention))

        return look

    async def _look(self) -> float | None:
        """How long the first due job has waited: health tells whether that is too long."""
        due_in = await self._store.next_due_in(self._types)
        self._health.work_waits(0.0 if due_in is None else max(-due_in, 0.0))
        return due_in if due_in is not None and due_in > 0 else None

    @property
    def _types(self) -> frozenset[str] | None:
        return None if self._facts.types is None else frozenset(self._facts.types)

    def _about(self, seconds: float) -> float:
        return seconds * (0.9 + 0.2 * self._random.random())
