"""What a memory store keeps, and how it is found and changed: plain dictionaries, one clock.

The law of this file: nothing waits. Whoever calls it has let others run before.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import Random

from trioqueue.clock import Clock
from trioqueue.errors import JobNotFound, LeaseLost
from trioqueue.jobs.job import Attempt, Claim, Job, JobId, NodeId, Status
from trioqueue.jobs.lifecycle import after_attempt
from trioqueue.jobs.outcome import Outcome
from trioqueue.store import changes
from trioqueue.store.protocol import (
    Bell,
    Hint,
    NodeFacts,
)

LIVE = (Status.PENDING, Status.PROCESSING)


@dataclass(frozen=True, slots=True)
class Beats:
    """What a node has said of itself, and when."""

    facts: NodeFacts
    first_at: datetime
    last_at: datetime
    stopping: bool = False


class Shelf:
    """The jobs, their ledgers, the nodes, and who listens."""

    def __init__(self, clock: Clock, random: Random) -> None:
        self.clock = clock
        self.random = random
        self.jobs: dict[JobId, Job] = {}
        """In the order in which they were accepted."""
        self.accepted: dict[JobId, int] = {}
        """Each job's place in that order."""
        self.attempts: dict[JobId, list[Attempt]] = {}
        self.nodes: dict[NodeId, Beats] = {}
        self.bells: list[Bell] = []
        self.next_place = 1
        self.serves_handlers = False

    def __repr__(self) -> str:
        return f"<Shelf {len(self.jobs)} jobs>"

    def live_with(self, unique_key: str | None) -> Job | None:
        if unique_key is None:
            return None
        live = (job for job in self.jobs.values() if job.status in LIVE)
        return next((job for job in live if job.unique_key == unique_key), None)

    def find(self, job_id: JobId) -> Job:
        try:
            return self.jobs[job_id]
        except KeyError:
            raise JobNotFound(job_id) from None

    def held(self, claim: Claim) -> Job | None:
        job = self.jobs.get(claim.job.id)
        return job if job is not None and changes.holds(claim, job) else None

    def held_or_lost(self, claim: Claim) -> Job:
        job = self.held(claim)
        if job is None:
            raise LeaseLost(claim.job.id, claim.epoch)
        return job

    def with_status(self, status: Status) -> Sequence[Job]:
        return [job for job in self.jobs.values() if job.status is status]

    def pending(self, types: frozenset[str] | None) -> Sequence[Job]:
        return [job for job in self.with_status(Status.PENDING) if types is None or job.type in types]

    def holders(self) -> set[NodeId]:
        return {job.node for job in self.with_status(Status.PROCESSING) if job.node is not None}

    def keep(self, job: Job) -> Job:
        self.jobs[job.id] = job
        return job

    def end_attempt(self, job: Job, outcome: Outcome, worker: int | None, now: datetime) -> Job:
        self.attempts[job.id].append(changes.ended(job, outcome, worker, now))
        transition = after_attempt(job, outcome, self.random.random())
        return self.keep(changes.settled(job, transition, now))

    def ring_if_due(self, jobs: Iterable[Job], now: datetime) -> None:
        if any(job.status is Status.PENDING and job.run_at <= now for job in jobs):
            self.ring(Hint.WORK)

    def ring(self, hint: Hint) -> None:
        for bell in self.bells:
            bell(hint)
