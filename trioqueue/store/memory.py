"""The contract in plain Python: for tests, and for reading. What is kept ends with the process.

The law of this file: the simplest true account. Every method first lets others run, then does
all its work without a pause, so that nothing can come between.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random

import trio

from trioqueue.clock import Clock
from trioqueue.errors import JobNotFound, LeaseLost, NotSupported
from trioqueue.jobs.job import FINAL, Attempt, Claim, Job, JobId, Json, NewJob, NodeId, Status
from trioqueue.jobs.lifecycle import after_attempt, after_deadline
from trioqueue.jobs.outcome import Outcome
from trioqueue.store import changes
from trioqueue.store.cursors import cursor_of, place_of
from trioqueue.store.protocol import (
    SILENT_SECONDS,
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
    Refusal,
    Renewal,
    Running,
    Settlement,
    seconds_until_first,
)

LIVE = (Status.PENDING, Status.PROCESSING)


@dataclass(frozen=True, slots=True)
class Beats:
    """What a node has said of itself, and when."""

    facts: NodeFacts
    first_at: datetime
    last_at: datetime
    stopping: bool = False


class MemoryStore:
    """Keeps jobs in a dict."""

    def __init__(self, clock: Clock, random: Random) -> None:
        self._clock = clock
        self._random = random
        self._jobs: dict[JobId, Job] = {}
        """In the order in which they were accepted."""
        self._accepted: dict[JobId, int] = {}
        """Each job's place in that order."""
        self._attempts: dict[JobId, list[Attempt]] = {}
        self._nodes: dict[NodeId, Beats] = {}
        self._bells: list[Bell] = []
        self._next_place = 1
        self._serves_handlers = False

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self._jobs)} jobs>"

    @property
    def url(self) -> str:
        return "memory:"

    def listen(self, bell: Bell) -> None:
        self._bells.append(bell)

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        await trio.lowlevel.checkpoint()
        now = self._clock.now()
        answers = [self._accept(new, now) for new in jobs]
        if any(answer.created and answer.job.run_at <= now for answer in answers):
            self._ring(Hint.WORK)
        return answers

    def _accept(self, new: NewJob, now: datetime) -> Enqueued:
        there = self._jobs.get(new.id) or self._live_with(new.unique_key)
        if there is not None:
            return Enqueued(there, created=False)
        job = changes.accepted(new, now)
        self._jobs[job.id] = job
        self._attempts[job.id] = []
        self._accepted[job.id] = self._next_place
        self._next_place += 1
        return Enqueued(job, created=True)

    def _live_with(self, unique_key: str | None) -> Job | None:
        if unique_key is None:
            return None
        live = (job for job in self._jobs.values() if job.status in LIVE)
        return next((job for job in live if job.unique_key == unique_key), None)

    async def get(self, job_id: JobId) -> Job:
        await trio.lowlevel.checkpoint()
        return self._find(job_id)

    async def attempts(self, job_id: JobId) -> list[Attempt]:
        await trio.lowlevel.checkpoint()
        return list(self._attempts[self._find(job_id).id])

    async def list(self, filter: JobFilter, *, limit: int, cursor: str | None = None) -> Page:
        await trio.lowlevel.checkpoint()
        before = self._next_place if cursor is None else place_of(cursor)
        matching = [
            job
            for job in reversed(self._jobs.values())
            if self._accepted[job.id] < before
            and filter.status in (None, job.status)
            and filter.type in (None, job.type)
            and filter.queue in (None, job.queue)
            and (filter.tag is None or filter.tag in job.tags)
        ]
        page = matching[:limit]
        return Page(page, cursor_of(self._accepted[page[-1].id]) if len(matching) > limit else None)

    async def claim(
        self, *, node: NodeId, types: frozenset[str] | None, limit: int, lease_seconds: float
    ) -> Sequence[Claim]:
        await trio.lowlevel.checkpoint()
        now = self._clock.now()
        lease_until = now + timedelta(seconds=lease_seconds)
        if types is None and self._serves_handlers:
            return []
        due = [job for job in self._pending(types) if job.run_at <= now and not changes.is_late(job, now)]
        due.sort(key=lambda job: (job.priority, job.run_at, self._accepted[job.id]))
        mine = [self._keep(changes.claimed(job, node, now, lease_until)) for job in due[:limit]]
        return [Claim(job=job, node=node) for job in mine]

    async def next_due_in(self, types: frozenset[str] | None) -> float | None:
        await trio.lowlevel.checkpoint()
        now = self._clock.now()
        return min(((job.run_at - now).total_seconds() for job in self._pending(types)), default=None)

    async def renew(self, claims: Sequence[Claim], *, lease_seconds: float) -> Sequence[Renewal]:
        await trio.lowlevel.checkpoint()
        lease_until = self._clock.now() + timedelta(seconds=lease_seconds)
        answers: list[Renewal] = []
        for claim in claims:
            job = self._held(claim)
            if job is None:
                answers.append(Renewal(claim, renewed=False))
            else:
                self._keep(changes.renewed(job, lease_until))
                answers.append(
                    Renewal(claim, renewed=True, cancel_requested=job.cancel_requested_at is not None)
                )
        return answers

    async def progress(self, claim: Claim, progress: Json) -> None:
        await trio.lowlevel.checkpoint()
        self._keep(changes.progressed(self._held_or_lost(claim), progress))

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Job | None]:
        await trio.lowlevel.checkpoint()
        now = self._clock.now()
        settled: list[Job | None] = []
        for settlement in settlements:
            job = self._held(settlement.claim)
            if job is not None:
                job = self._end_attempt(job, settlement.outcome, settlement.worker, now)
            settled.append(job)
        self._ring_if_due([job for job in settled if job is not None], now)
        return settled

    def transaction(self, claim: Claim, *, worker: int | None) -> AbstractAsyncContextManager[Completion]:
        raise NotSupported("transactions", needs="a PostgreSQL store")

    async def release(self, claims: Sequence[Claim]) -> int:
        await trio.lowlevel.checkpoint()
        now = self._clock.now()
        released = 0
        for claim in claims:
            job = self._held(claim)
            if job is not None:
                ledger = self._attempts[job.id]
                self._keep(changes.released(job, ledger[-1].started_at if ledger else None, now))
                released += 1
        if released:
            self._ring(Hint.WORK)
        return released

    async def cancel(self, job_id: JobId) -> Job:
        await trio.lowlevel.checkpoint()
        job = self._keep(changes.cancelled(self._find(job_id), self._clock.now()))
        if job.status is Status.PROCESSING:
            self._ring(Hint.CANCEL)
        return job

    async def redrive(self, job_ids: Sequence[JobId]) -> Sequence[Redriven]:
        await trio.lowlevel.checkpoint()
        now = self._clock.now()
        answers = [self._redrive(job_id, now) for job_id in job_ids]
        self._ring_if_due([answer.job for answer in answers if answer.job and not answer.refusal], now)
        return answers

    def _redrive(self, job_id: JobId, now: datetime) -> Redriven:
        job = self._jobs.get(job_id)
        if job is None:
            return Redriven(None, Refusal.NOT_FOUND)
        if refusal := changes.refusal(job, now):
            return Redriven(job, refusal)
        if self._live_with(job.unique_key) is not None:
            return Redriven(job, Refusal.UNIQUE_KEY)
        return Redriven(self._keep(changes.redriven(job, now)))

    async def rescue(self, *, limit: int) -> Sequence[Job]:
        await trio.lowlevel.checkpoint()
        now = self._clock.now()
        expired = [
            job for job in self._jobs.values() if job.lease_until is not None and job.lease_until <= now
        ]
        expired.sort(key=lambda job: (job.lease_until, self._accepted[job.id]))
        stopping = {node for node, beats in self._nodes.items() if beats.stopping}
        rescued = [
            self._end_attempt(job, changes.left_behind(job, stopping=job.node in stopping), None, now)
            for job in expired[:limit]
        ]
        self._forget_silent_nodes(now)
        self._ring_if_due(rescued, now)
        return rescued

    async def expire(self, *, limit: int) -> Sequence[Job]:
        await trio.lowlevel.checkpoint()
        now = self._clock.now()
        late = [job for job in self._pending(None) if changes.is_late(job, now)]
        late.sort(key=lambda job: (job.deadline_at, self._accepted[job.id]))
        return [self._keep(changes.settled(job, after_deadline(job), now)) for job in late[:limit]]

    async def prune(self, retention: Mapping[Status, timedelta], *, limit: int) -> int:
        await trio.lowlevel.checkpoint()
        now = self._clock.now()
        old = [
            job.id
            for status, kept_for in retention.items()
            for job in sorted(self._with_status(status), key=lambda job: job.finished_at or now)
            if status in FINAL and job.finished_at is not None and job.finished_at + kept_for <= now
        ]
        for job_id in old[:limit]:
            del self._jobs[job_id], self._accepted[job_id], self._attempts[job_id]
        return len(old[:limit])

    async def next_upkeep_in(self, retention: Mapping[Status, timedelta]) -> NextUpkeep:
        await trio.lowlevel.checkpoint()
        now = self._clock.now()
        kept = [(job, retention[job.status]) for job in self._jobs.values() if job.status in retention]
        return NextUpkeep(
            rescue=seconds_until_first(
                (job.lease_until for job in self._with_status(Status.PROCESSING)), now
            ),
            expire=seconds_until_first((job.deadline_at for job in self._pending(None)), now),
            prune=seconds_until_first(
                (job.finished_at + kept_for for job, kept_for in kept if job.finished_at is not None), now
            ),
        )

    async def counts(self) -> Sequence[Count]:
        await trio.lowlevel.checkpoint()
        jobs = Counter((job.queue, job.type, job.status) for job in self._jobs.values())
        return [Count(queue, type, status, number) for (queue, type, status), number in jobs.items()]

    async def dedicate(self, *, demo: bool) -> bool:
        await trio.lowlevel.checkpoint()
        if demo and self._serves_handlers:
            return False
        self._serves_handlers = not demo
        return True

    async def beat(self, node: NodeId, *, facts: NodeFacts | None = None, stopping: bool = False) -> None:
        await trio.lowlevel.checkpoint()
        now = self._clock.now()
        before = self._nodes.get(node, Beats(NodeFacts(), first_at=now, last_at=now))
        self._nodes[node] = replace(
            before, facts=facts or before.facts, last_at=now, stopping=stopping or before.stopping
        )

    async def nodes(self) -> Sequence[NodeSeen]:
        await trio.lowlevel.checkpoint()
        now = self._clock.now()
        nodes = [self._look_at(node, now) for node in self._nodes.keys() | self._holders()]
        return sorted(nodes, key=lambda node: (node.started_at, node.node))

    def _look_at(self, node: NodeId, now: datetime) -> NodeSeen:
        running = [
            Running(
                job_id=job.id,
                type=job.type,
                queue=job.queue,
                epoch=job.epoch,
                started_at=job.started_at,
                lease_until=job.lease_until,
                cancel_requested=job.cancel_requested_at is not None,
            )
            for job in self._with_status(Status.PROCESSING)
            if job.node == node and job.started_at is not None and job.lease_until is not None
        ]
        running.sort(key=lambda job: (job.started_at, self._accepted[job.job_id]))
        beats = self._nodes.get(node) or Beats(NodeFacts(), running[0].started_at, running[-1].started_at)
        return NodeSeen(
            node=node,
            workers=beats.facts.workers,
            types=beats.facts.types,
            started_at=beats.first_at,
            seen_at=beats.last_at,
            silent_seconds=(now - beats.last_at).total_seconds(),
            stopping=beats.stopping,
            running=running,
        )

    def _forget_silent_nodes(self, now: datetime) -> None:
        holders = self._holders()
        for node, beats in list(self._nodes.items()):
            if now - beats.last_at > timedelta(seconds=SILENT_SECONDS) and node not in holders:
                del self._nodes[node]

    def _holders(self) -> set[NodeId]:
        return {job.node for job in self._with_status(Status.PROCESSING) if job.node is not None}

    def _find(self, job_id: JobId) -> Job:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise JobNotFound(job_id) from None

    def _held(self, claim: Claim) -> Job | None:
        job = self._jobs.get(claim.job.id)
        return job if job is not None and changes.holds(claim, job) else None

    def _held_or_lost(self, claim: Claim) -> Job:
        job = self._held(claim)
        if job is None:
            raise LeaseLost(claim.job.id, claim.epoch)
        return job

    def _with_status(self, status: Status) -> Sequence[Job]:
        return [job for job in self._jobs.values() if job.status is status]

    def _pending(self, types: frozenset[str] | None) -> Sequence[Job]:
        return [job for job in self._with_status(Status.PENDING) if types is None or job.type in types]

    def _keep(self, job: Job) -> Job:
        self._jobs[job.id] = job
        return job

    def _end_attempt(self, job: Job, outcome: Outcome, worker: int | None, now: datetime) -> Job:
        self._attempts[job.id].append(changes.ended(job, outcome, worker, now))
        transition = after_attempt(job, outcome, self._random.random())
        return self._keep(changes.settled(job, transition, now))

    def _ring_if_due(self, jobs: Iterable[Job], now: datetime) -> None:
        if any(job.status is Status.PENDING and job.run_at <= now for job in jobs):
            self._ring(Hint.WORK)

    def _ring(self, hint: Hint) -> None:
        for bell in self._bells:
            bell(hint)
