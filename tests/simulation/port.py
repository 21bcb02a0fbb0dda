"""A node's way to the store, with everything that can happen on such a way.

A call fails before anything happened, or after it was committed; hangs, and then fails either way;
is slow; finds the way cut off; is the last that its machine makes. What the contract allows, no more.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, TypeVar

import trio

from tests.simulation.plan import Plan
from trioqueue.errors import LeaseLost, StoreBusy, StoreUnavailable
from trioqueue.jobs.job import Attempt, Claim, Job, JobId, Json, NewJob, NodeId, Status
from trioqueue.store.protocol import (
    Bell,
    Completion,
    Count,
    Enqueued,
    JobFilter,
    NextUpkeep,
    NodeFacts,
    NodeSeen,
    Page,
    Redriven,
    Renewal,
    Settlement,
    Store,
)

if TYPE_CHECKING:
    from tests.simulation.machine import Machine
    from tests.simulation.world import World

T = TypeVar("T")

LONGEST_HANG_SECONDS = 10.0
"""Every call has a deadline on the client's side."""

DISTURBING_SECONDS = 1.0
"""A call that takes longer is an excuse."""


Fates = Sequence[tuple[float, str]]


def _table(chances: Mapping[str, float]) -> Fates:
    """What may befall a call, with growing bounds for one random number."""
    table, bound = [], 0.0
    for name, chance in chances.items():
        if chance:
            bound += chance
            table.append((bound, name))
    return table


class Port:
    """The store, as one machine reaches it."""

    def __init__(self, store: Store, machine: "Machine", world: "World") -> None:
        self._store = store
        self._machine = machine
        self._world = world
        self._trace = world.trace
        plan: Plan = world.plan
        self._busy = plan.busy
        self._slow = plan.slow
        self._slow_seconds = plan.slow_seconds
        self._random = Random(f"port {plan.seed} {machine.id}")
        reading = {"fails before": plan.fails_before, "hangs before": plan.hangs}
        self._fates_of_reads = _table(reading)
        self._fates_of_writes = _table(
            {
                **reading,
                "fails after": plan.fails_after,
                "hangs after": plan.hangs,
                "dies before": plan.dies_before,
                "dies after": plan.dies_after,
                "breaks before": plan.breaks,
                "breaks after": plan.breaks,
            }
        )

    @property
    def url(self) -> str:
        return self._store.url

    def listen(self, bell: Bell) -> None:
        self._store.listen(bell)

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        if any(job.unique_key for job in jobs) and self._is_busy("enqueue"):
            raise StoreBusy("simulated: a key is held")
        answers = await self._write("enqueue", lambda: self._store.enqueue(jobs))
        self._world.check_enqueued(jobs, answers)
        return answers

    async def get(self, job_id: JobId) -> Job:
        return await self._read("get", lambda: self._store.get(job_id))

    async def attempts(self, job_id: JobId) -> list[Attempt]:
        return await self._read("attempts", lambda: self._store.attempts(job_id))

    async def list(self, filter: JobFilter, *, limit: int, cursor: str | None = None) -> Page:
        return await self._read("list", lambda: self._store.list(filter, limit=limit, cursor=cursor))

    async def claim(
        self, *, node: NodeId, types: frozenset[str] | None, limit: int, lease_seconds: float
    ) -> Sequence[Claim]:
        claims = await self._write(
            "claim",
            lambda: self._store.claim(node=node, types=types, limit=limit, lease_seconds=lease_seconds),
        )
        if len(claims) > limit:
            self._world.violate("claims are limited", f"{len(claims)} claims for a limit of {limit}")
        return claims

    async def next_due_in(self, types: frozenset[str] | None) -> float | None:
        return await self._read("next_due_in", lambda: self._store.next_due_in(types))

    async def renew(self, claims: Sequence[Claim], *, lease_seconds: float) -> Sequence[Renewal]:
        free = [claim for claim in claims if not self._is_busy("renew")]
        renewed = await self._write("renew", lambda: self._store.renew(free, lease_seconds=lease_seconds))
        answers = {(renewal.claim.job.id, renewal.claim.epoch): renewal for renewal in renewed}
        if any(renewal.cancel_requested for renewal in renewed):
            self._trace.mark("renewal said cancel")
        if any(not renewal.renewed for renewal in renewed):
            self._trace.mark("renewal said lost")
        return [
            answers.get((claim.job.id, claim.epoch)) or Renewal(claim, renewed=False, busy=True)
            for claim in claims
        ]

    async def progress(self, claim: Claim, progress: Json) -> None:
        try:
            await self._write("progress", lambda: self._store.progress(claim, progress))
        except LeaseLost:
            self._trace.mark("progress of a lost lease")
            raise

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Job | None]:
        if self._is_busy("settle"):
            raise StoreBusy("simulated: a row is held")
        jobs = await self._write("settle", lambda: self._store.settle(settlements))
        if None in jobs:
            self._trace.mark("settled too late")
        return jobs

    def transaction(self, claim: Claim, *, worker: int | None) -> AbstractAsyncContextManager[Completion]:
        return self._store.transaction(claim, worker=worker)

    async def release(self, claims: Sequence[Claim]) -> int:
        return await self._write("release", lambda: self._store.release(claims))

    async def cancel(self, job_id: JobId) -> Job:
        if self._is_busy("cancel"):
            raise StoreBusy("simulated: a row is held")
        return await self._write("cancel", lambda: self._store.cancel(job_id))

    async def redrive(self, job_ids: Sequence[JobId]) -> Sequence[Redriven]:
        return await self._write("redrive", lambda: self._store.redrive(job_ids))

    async def rescue(self, *, limit: int) -> Sequence[Job]:
        return await self._write("rescue", lambda: self._store.rescue(limit=limit))

    async def expire(self, *, limit: int) -> Sequence[Job]:
        return await self._write("expire", lambda: self._store.expire(limit=limit))

    async def prune(self, retention: Mapping[Status, timedelta], *, limit: int) -> int:
        return await self._write("prune", lambda: self._store.prune(retention, limit=limit))

    async def next_upkeep_in(self, retention: Mapping[Status, timedelta]) -> NextUpkeep:
        return await self._read("next_upkeep_in", lambda: self._store.next_upkeep_in(retention))

    async def counts(self) -> Sequence[Count]:
        return await self._read("counts", self._store.counts)

    async def dedicate(self, *, demo: bool) -> bool:
        return await self._write("dedicate", lambda: self._store.dedicate(demo=demo))

    async def beat(self, node: NodeId, *, facts: NodeFacts | None = None, stopping: bool = False) -> None:
        await self._write("beat", lambda: self._store.beat(node, facts=facts, stopping=stopping))

    async def nodes(self) -> Sequence[NodeSeen]:
        return await self._read("nodes", self._store.nodes)

    def _is_busy(self, name: str) -> bool:
        if not self._busy or self._world.healed or self._random.random() >= self._busy:
            return False
        self._machine.disturb()
        self._trace.mark(f"busy {name}")
        return True

    async def _read(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        return await self._go(name, call, self._fates_of_reads)

    async def _write(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        return await self._go(name, call, self._fates_of_writes)

    async def _go(self, name: str, call: Callable[[], Awaitable[T]], fates: Fates) -> T:
        """One call, and what befalls it. Before it happened it may be cancelled; afterwards it completes."""
        world, machine = self._world, self._machine
        machine.check()
        world.called()
        if world.healed:
            return await call()
        if world.is_out or machine.is_cut_off:
            await self._knock_in_vain(name)
        late = await self._dawdle() if self._slow and self._random.random() < self._slow else 0.0
        chance = self._random.random()
        for bound, fate in fates:
            if chance < bound:
                return await self._befall(name, fate, call)
        answer = await call()
        if late:
            with trio.CancelScope(shield=True):
                await trio.sleep(late)
        return answer

    async def _befall(self, name: str, fate: str, call: Callable[[], Awaitable[T]]) -> T:
        machine, trace = self._machine, self._trace
        machine.disturb()
        trace.add(f"{machine.id} {name} {fate}")
        if fate.startswith(("dies", "breaks")):
            machine.fate_at_commit = fate
            try:
                return await call()
            except StoreUnavailable:
                self._world.report.count_fault(name, fate)
                raise
        if fate == "hangs before":
            await trio.sleep(self._random.uniform(0.5, LONGEST_HANG_SECONDS))
        if fate.endswith("after"):
            await call()
            with trio.CancelScope(shield=True):
                await trio.sleep(self._random.uniform(0.5, LONGEST_HANG_SECONDS) if fate[0] == "h" else 0.0)
        machine.disturb()
        self._world.report.count_fault(name, fate)
        trace.mark(f"{name} {fate}")
        raise StoreUnavailable(f"simulated: {fate}")

    async def _knock_in_vain(self, name: str) -> None:
        self._machine.disturb()
        self._trace.mark(f"{name} out of reach")
        if self._random.random() < 0.2:
            await trio.sleep(self._random.uniform(0.5, LONGEST_HANG_SECONDS))
            self._machine.disturb()
        raise StoreUnavailable("simulated: out of reach")

    async def _dawdle(self) -> float:
        """Be slow now, and return how slow to be on the way back."""
        seconds = self._random.expovariate(1 / self._slow_seconds)
        if self._random.random() < 0.005:
            seconds = min(seconds * 100, LONGEST_HANG_SECONDS)
            self._trace.mark("very slow")
        if seconds > DISTURBING_SECONDS:
            self._machine.disturb()
        self._trace.mark("slow")
        await trio.sleep(seconds)
        if seconds > DISTURBING_SECONDS:
            self._machine.disturb()
        self._machine.check()
        return seconds
