"""What can go wrong with a store, on demand: calls that fail, are slow, or find their lease gone.

A node of a test reaches its store through a `FaultyStore`. Who tests looks at the store directly.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import trio

from trioqueue.errors import LeaseLost, StoreUnavailable
from trioqueue.jobs.job import Attempt, Claim, Job, JobId, Json, NewJob, NodeId, Status
from trioqueue.store.protocol import (
    Bell,
    Completion,
    Count,
    Enqueued,
    Hint,
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
from trioqueue.testing.clock import Duration, seconds_of

T = TypeVar("T")

COMMITS = ("enqueue", "claim", "settle", "progress", "transaction", "release", "cancel", "redrive")
"""The calls that change a job because somebody asked for it. Together they are called "commit"."""

CHORES = ("renew", "rescue", "expire", "prune", "beat", "dedicate")
READS = ("get", "attempts", "list", "next_due_in", "next_upkeep_in", "counts", "nodes")
CALLS = (*COMMITS, *CHORES, *READS)


@dataclass(slots=True, eq=False)
class Fault:
    """What is to happen to the next `times` calls. One is not another, though they be alike."""

    calls: tuple[str, ...]
    times: float
    delay_seconds: float = 0.0
    fails: bool = False
    after_commit: bool = False


NO_FAULT = Fault((), 0)


class Faults:
    """The faults that a test has asked for. They reach every node of the test."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def __repr__(self) -> str:
        return f"<Faults {self._faults}>"

    def fail_next(self, call: str, times: int = 1, *, after_commit: bool = False) -> None:
        """The next calls of this kind raise `StoreUnavailable`, as if the store could not be reached.

        `call` is a method of the store ("claim", "settle", "renew" …) or "commit": any that changes a
        job. With `after_commit` it happens, and only the answer is lost.
        """
        self._faults.append(Fault(_known(call), times, fails=True, after_commit=after_commit))

    def delay(self, call: str, duration: Duration, times: int = 1) -> None:
        """The next calls of this kind take so much longer before they begin."""
        self._faults.append(Fault(_known(call), times, delay_seconds=seconds_of(duration)))

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Inside of the block the store cannot be reached at all."""
        fault = Fault(CALLS, math.inf, fails=True)
        self._faults.insert(0, fault)
        try:
            yield
        finally:
            if fault in self._faults:  # or else the test has cleared it
                self._faults.remove(fault)

    def clear(self) -> None:
        """Whatever was asked for and has not happened yet will not happen; an outage ends."""
        self._faults.clear()

    def take(self, call: str) -> Fault:
        """What is to happen to this call."""
        for fault in self._faults:
            if call in fault.calls:
                fault.times -= 1
                if fault.times <= 0:
                    self._faults.remove(fault)
                return fault
        return NO_FAULT


class FaultyStore:
    """The store of one node, through which the faults of a test come. Keeps the contract otherwise."""

    def __init__(self, store: Store, faults: Faults, node: NodeId) -> None:
        self.node = node
        self.is_dead = False
        """The node was killed: nothing of it reaches the store any more."""
        self._store = store
        self._faults = faults
        self._bells: list[Bell] = []
        self._lost: set[tuple[JobId, int]] = set()
        self._unanswered: dict[tuple[JobId, int], Job] = {}
        """Settled jobs whose node does not know it. A store that is asked again answers with the job."""

    def __repr__(self) -> str:
        return f"<FaultyStore of {self.node}{', dead' if self.is_dead else ''}>"

    def ring(self, hint: Hint) -> None:
        """Let the node look."""
        for bell in self._bells:
            bell(hint)

    def lose(self, job: Job) -> None:
        """Refuse whatever comes with the current claim of `job`, as if another node had rescued it."""
        self._lost.add((job.id, job.epoch))
        self.ring(Hint.CANCEL)

    def _is_lost(self, claim: Claim) -> bool:
        return (claim.job.id, claim.epoch) in self._lost

    async def _begin(self, call: str) -> Fault:
        """Whatever goes wrong before the store is asked."""
        self._check_alive()
        fault = self._faults.take(call)
        if fault.delay_seconds:
            await trio.sleep(fault.delay_seconds)
        if fault.fails and not fault.after_commit:
            raise StoreUnavailable(f"the test let {call} fail")
        self._check_alive()
        return fault

    def _end(self, fault: Fault) -> None:
        """Whatever goes wrong once the store has done what it was asked for."""
        self._check_alive()
        if fault.fails:
            raise StoreUnavailable("the test lost the answer; the call has succeeded")

    def _check_alive(self) -> None:
        if self.is_dead:
            raise StoreUnavailable(f"{self.node} was killed")

    async def _pass(self, call: str, function: Callable[[], Awaitable[T]]) -> T:
        fault = await self._begin(call)
        answer = await function()
        self._end(fault)
        return answer

    # The contract, in its own order.

    @property
    def url(self) -> str:
        return self._store.url

    def listen(self, bell: Bell) -> None:
        def ring_if_alive(hint: Hint) -> None:
            if not self.is_dead:
                bell(hint)

        self._bells.append(ring_if_alive)
        self._store.listen(ring_if_alive)

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        return await self._pass("enqueue", lambda: self._store.enqueue(jobs))

    async def get(self, job_id: JobId) -> Job:
        return await self._pass("get", lambda: self._store.get(job_id))

    async def attempts(self, job_id: JobId) -> list[Attempt]:
        return await self._pass("attempts", lambda: self._store.attempts(job_id))

    async def list(self, filter: JobFilter, *, limit: int, cursor: str | None = None) -> Page:
        return await self._pass("list", lambda: self._store.list(filter, limit=limit, cursor=cursor))

    async def claim(
        self, *, node: NodeId, types: frozenset[str] | None, limit: int, lease_seconds: float
    ) -> Sequence[Claim]:
        return await self._pass(
            "claim",
            lambda: self._store.claim(node=node, types=types, limit=limit, lease_seconds=lease_seconds),
        )

    async def next_due_in(self, types: frozenset[str] | None) -> float | None:
        return await self._pass("next_due_in", lambda: self._store.next_due_in(types))

    async def renew(self, claims: Sequence[Claim], *, lease_seconds: float) -> Sequence[Renewal]:
        ours = [claim for claim in claims if not self._is_lost(claim)]
        renewals = await self._pass("renew", lambda: self._store.renew(ours, lease_seconds=lease_seconds))
        answers = iter(renewals)
        return [Renewal(claim, renewed=False) if self._is_lost(claim) else next(answers) for claim in claims]

    async def progress(self, claim: Claim, progress: Json) -> None:
        fault = await self._begin("progress")
        if self._is_lost(claim):
            raise LeaseLost(claim.job.id, claim.epoch)
        await self._store.progress(claim, progress)
        self._end(fault)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Job | None]:
        fault = await self._begin("settle")
        keys = [(item.claim.job.id, item.claim.epoch) for item in settlements]
        pairs = list(zip(keys, settlements, strict=True))
        known = {**dict.fromkeys(self._lost), **self._unanswered}
        settled = iter(await self._store.settle([item for key, item in pairs if key not in known]))
        answers = [known[key] if key in known else next(settled) for key in keys]
        for key, job in zip(keys, answers, strict=True):
            self._unanswered.pop(key, None)
            if fault.fails and job is not None:
                self._unanswered[key] = job
        self._end(fault)
        return answers

    @asynccontextmanager
    async def transaction(self, claim: Claim, *, worker: int | None) -> AsyncIterator[Completion]:
        fault = await self._begin("transaction")
        async with self._store.transaction(claim, worker=worker) as completion:
            yield completion
            self._check_alive()
            if self._is_lost(claim):
                raise LeaseLost(claim.job.id, claim.epoch)
        self._end(fault)

    async def release(self, claims: Sequence[Claim]) -> int:
        ours = [claim for claim in claims if not self._is_lost(claim)]
        return await self._pass("release", lambda: self._store.release(ours))

    async def cancel(self, job_id: JobId) -> Job:
        return await self._pass("cancel", lambda: self._store.cancel(job_id))

    async def redrive(self, job_ids: Sequence[JobId]) -> Sequence[Redriven]:
        return await self._pass("redrive", lambda: self._store.redrive(job_ids))

    async def rescue(self, *, limit: int) -> Sequence[Job]:
        return await self._pass("rescue", lambda: self._store.rescue(limit=limit))

    async def expire(self, *, limit: int) -> Sequence[Job]:
        return await self._pass("expire", lambda: self._store.expire(limit=limit))

    async def prune(self, retention: Mapping[Status, timedelta], *, limit: int) -> int:
        return await self._pass("prune", lambda: self._store.prune(retention, limit=limit))

    async def next_upkeep_in(self, retention: Mapping[Status, timedelta]) -> NextUpkeep:
        return await self._pass("next_upkeep_in", lambda: self._store.next_upkeep_in(retention))

    async def counts(self) -> Sequence[Count]:
        return await self._pass("counts", self._store.counts)

    async def dedicate(self, *, demo: bool) -> bool:
        return await self._pass("dedicate", lambda: self._store.dedicate(demo=demo))

    async def beat(self, node: NodeId, *, facts: NodeFacts | None = None, stopping: bool = False) -> None:
        await self._pass("beat", lambda: self._store.beat(node, facts=facts, stopping=stopping))

    async def nodes(self) -> Sequence[NodeSeen]:
        return await self._pass("nodes", self._store.nodes)


def _known(call: str) -> tuple[str, ...]:
    if call == "commit":
        return COMMITS
    if call not in CALLS:
        raise ValueError(f"{call!r} is no call of a store; use commit, {', '.join(CALLS)}")
    return (call,)
