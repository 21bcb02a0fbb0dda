"""The contract in plain Python: for tests, and for reading. What is kept ends with the process.

The law of this file: the simplest true account. Every method first lets others run, then does
all its work without a pause, so that nothing can come between.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random

import trio

from trioqueue.clock import Clock
from trioqueue.errors import NotSupported
from trioqueue.jobs.job import FINAL, Attempt, Claim, Job, JobId, Json, NewJob, NodeId, Status
from trioqueue.jobs.lifecycle import after_deadline
from trioqueue.store import changes
from trioqueue.store.cursors import cursor_of, place_of
from trioqueue.store.memory.shelf import Beats, Shelf
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


class MemoryStore:
    """Keeps jobs in a dict."""

    def __init__(self, clock: Clock, random: Random) -> None:
        self.shelf = Shelf(clock, random)
        """What is kept. A subclass may use it; a caller keeps to the contract."""

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self.shelf.jobs)} jobs>"

    @property
    def url(self) -> str:
        return "memory:"

    def listen(self, bell: Bell) -> None:
        self.shelf.bells.append(bell)

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        await trio.lowlevel.checkpoint()
        now = self.shelf.clock.now()
        answers = [self._accept(new, now) for new in jobs]
        if any(answer.created and answer.job.run_at <= now for answer in answers):
            self.shelf.ring(Hint.WORK)
        return answers

    def _accept(self, new: NewJob, now: datetime) -> Enqueued:
        there = self.shelf.jobs.get(new.id) or self.shelf.live_with(new.unique_key)
        if there is not None:
            return Enqueued(there, created=False)
        job = changes.accepted(new, now)
        self.shelf.jobs[job.id] = job
        self.shelf.attempts[job.id] = []
        self.shelf.accepted[job.id] = self.shelf.next_place
        self.shelf.next_place += 1
        return Enqueued(job, created=True)

    async def get(self, job_id: JobId) -> Job:
        await trio.lowlevel.checkpoint()
        return self.shelf.find(job_id)

    async def attempts(self, job_id: JobId) -> list[Attempt]:
        await trio.lowlevel.checkpoint()
        return list(self.shelf.attempts[self.shelf.find(job_id).id])

    async def list(self, filter: JobFilter, *, limit: int, cursor: str | None = None) -> Page:
        await trio.lowlevel.checkpoint()
        before = self.shelf.next_place if cursor is None else place_of(cursor)
        matching = [
            job
            for job in reversed(self.shelf.jobs.values())
            if self.shelf.accepted[job.id] < before
            and filter.status in (None, job.status)
            and filter.type in (None, job.type)
            and filter.queue in (None, job.queue)
            and (filter.tag is None or filter.tag in job.tags)
        ]
        page = matching[:limit]
        return Page(page, cursor_of(self.shelf.accepted[page[-1].id]) if len(matching) > limit else None)

    async def claim(
        self, *, node: NodeId, types: frozenset[str] | None, limit: int, lease_seconds: float
    ) -> Sequence[Claim]:
        await trio.lowlevel.checkpoint()
        now = self.shelf.clock.now()
        lease_until = now + timedelta(seconds=lease_seconds)
        if types is None and self.shelf.serves_handlers:
            return []
        due = [
            job for job in self.shelf.pending(types) if job.run_at <= now and not changes.is_late(job, now)
        ]
        due.sort(key=lambda job: (job.priority, job.run_at, self.shelf.accepted[job.id]))
        mine = [self.shelf.keep(changes.claimed(job, node, now, lease_until)) for job in due[:limit]]
        return [Claim(job=job, node=node) for job in mine]

    async def next_due_in(self, types: frozenset[str] | None) -> float | None:
        await trio.lowlevel.checkpoint()
        now = self.shelf.clock.now()
        return min(((job.run_at - now).total_seconds() for job in self.shelf.pending(types)), default=None)

    async def renew(self, claims: Sequence[Claim], *, lease_seconds: float) -> Sequence[Renewal]:
        await trio.lowlevel.checkpoint()
        lease_until = self.shelf.clock.now() + timedelta(seconds=lease_seconds)
        answers: list[Renewal] = []
        for claim in claims:
            job = self.shelf.held(claim)
            if job is None:
                answers.append(Renewal(claim, renewed=False))
            else:
                self.shelf.keep(changes.renewed(job, lease_until))
                answers.append(
                    Renewal(claim, renewed=True, cancel_requested=job.cancel_requested_at is not None)
                )
        return answers

    async def progress(self, claim: Claim, progress: Json) -> None:
        await trio.lowlevel.checkpoint()
        self.shelf.keep(changes.progressed(self.shelf.held_or_lost(claim), progress))

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Job | None]:
        await trio.lowlevel.checkpoint()
        now = self.shelf.clock.now()
        settled: list[Job | None] = []
        for settlement in settlements:
            job = self.shelf.held(settlement.claim)
            if job is not None:
                job = self.shelf.end_attempt(job, settlement.outcome, settlement.worker, now)
            settled.append(job)
        self.shelf.ring_if_due([job for job in settled if job is not None], now)
        return settled

    def transaction(self, claim: Claim, *, worker: int | None) -> AbstractAsyncContextManager[Completion]:
        raise NotSupported("transactions", needs="a PostgreSQL store")

    async def release(self, claims: Sequence[Claim]) -> int:
        await trio.lowlevel.checkpoint()
        now = self.shelf.clock.now()
        released = 0
        for claim in claims:
            job = self.shelf.held(claim)
            if job is not None:
                ledger = self.shelf.attempts[job.id]
                self.shelf.keep(changes.released(job, ledger[-1].started_at if ledger else None, now))
                released += 1
        if released:
            self.shelf.ring(Hint.WORK)
        return released

    async def cancel(self, job_id: JobId) -> Job:
        await trio.lowlevel.checkpoint()
        job = self.shelf.keep(changes.cancelled(self.shelf.find(job_id), self.shelf.clock.now()))
        if job.status is Status.PROCESSING:
            self.shelf.ring(Hint.CANCEL)
        return job

    async def redrive(self, job_ids: Sequence[JobId]) -> Sequence[Redriven]:
        await trio.lowlevel.checkpoint()
        now = self.shelf.clock.now()
        answers = [self._redrive(job_id, now) for job_id in job_ids]
        self.shelf.ring_if_due([answer.job for answer in answers if answer.job and not answer.refusal], now)
        return answers

    def _redrive(self, job_id: JobId, now: datetime) -> Redriven:
        job = self.shelf.jobs.get(job_id)
        if job is None:
            return Redriven(None, Refusal.NOT_FOUND)
        if refusal := changes.refusal(job, now):
            return Redriven(job, refusal)
        if self.shelf.live_with(job.unique_key) is not None:
            return Redriven(job, Refusal.UNIQUE_KEY)
        return Redriven(self.shelf.keep(changes.redriven(job, now)))

    async def rescue(self, *, limit: int) -> Sequence[Job]:
        await trio.lowlevel.checkpoint()
        now = self.shelf.clock.now()
        expired = [
            job for job in self.shelf.jobs.values() if job.lease_until is not None and job.lease_until <= now
        ]
        expired.sort(key=lambda job: (job.lease_until, self.shelf.accepted[job.id]))
        stopping = {node for node, beats in self.shelf.nodes.items() if beats.stopping}
        rescued = [
            self.shelf.end_attempt(job, changes.left_behind(job, stopping=job.node in stopping), None, now)
            for job in expired[:limit]
        ]
        self._forget_silent_nodes(now)
        self.shelf.ring_if_due(rescued, now)
        return rescued

    async def expire(self, *, limit: int) -> Sequence[Job]:
        await trio.lowlevel.checkpoint()
        now = self.shelf.clock.now()
        late = [job for job in self.shelf.pending(None) if changes.is_late(job, now)]
        late.sort(key=lambda job: (job.deadline_at, self.shelf.accepted[job.id]))
        return [self.shelf.keep(changes.settled(job, after_deadline(job), now)) for job in late[:limit]]

    async def prune(self, retention: Mapping[Status, timedelta], *, limit: int) -> int:
        await trio.lowlevel.checkpoint()
        now = self.shelf.clock.now()
        old = [
            job.id
            for status, kept_for in retention.items()
            for job in sorted(self.shelf.with_status(status), key=lambda job: job.finished_at or now)
            if status in FINAL and job.finished_at is not None and job.finished_at + kept_for <= now
        ]
        for job_id in old[:limit]:
            del self.shelf.jobs[job_id], self.shelf.accepted[job_id], self.shelf.attempts[job_id]
        return len(old[:limit])

    async def next_upkeep_in(self, retention: Mapping[Status, timedelta]) -> NextUpkeep:
        await trio.lowlevel.checkpoint()
        now = self.shelf.clock.now()
        kept = [(job, retention[job.status]) for job in self.shelf.jobs.values() if job.status in retention]
        return NextUpkeep(
            rescue=seconds_until_first(
                (job.lease_until for job in self.shelf.with_status(Status.PROCESSING)), now
            ),
            expire=seconds_until_first((job.deadline_at for job in self.shelf.pending(None)), now),
            prune=seconds_until_first(
                (job.finished_at + kept_for for job, kept_for in kept if job.finished_at is not None), now
            ),
        )

    async def counts(self) -> Sequence[Count]:
        await trio.lowlevel.checkpoint()
        jobs = Counter((job.queue, job.type, job.status) for job in self.shelf.jobs.values())
        return [Count(queue, type, status, number) for (queue, type, status), number in jobs.items()]

    async def dedicate(self, *, demo: bool) -> bool:
        await trio.lowlevel.checkpoint()
        if demo and self.shelf.serves_handlers:
            return False
        self.shelf.serves_handlers = not demo
        return True

    async def beat(self, node: NodeId, *, facts: NodeFacts | None = None, stopping: bool = False) -> None:
        await trio.lowlevel.checkpoint()
        now = self.shelf.clock.now()
        before = self.shelf.nodes.get(node, Beats(NodeFacts(), first_at=now, last_at=now))
        self.shelf.nodes[node] = replace(
            before, facts=facts or before.facts, last_at=now, stopping=stopping or before.stopping
        )

    async def nodes(self) -> Sequence[NodeSeen]:
        await trio.lowlevel.checkpoint()
        now = self.shelf.clock.now()
        nodes = [self._look_at(node, now) for node in self.shelf.nodes.keys() | self.shelf.holders()]
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
            for job in self.shelf.with_status(Status.PROCESSING)
            if job.node == node and job.started_at is not None and job.lease_until is not None
        ]
        running.sort(key=lambda job: (job.started_at, self.shelf.accepted[job.job_id]))
        beats = self.shelf.nodes.get(node) or Beats(
            NodeFacts(), running[0].started_at, running[-1].started_at
        )
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
        holders = self.shelf.holders()
        for node, beats in list(self.shelf.nodes.items()):
            if now - beats.last_at > timedelta(seconds=SILENT_SECONDS) and node not in holders:
                del self.shelf.nodes[node]
