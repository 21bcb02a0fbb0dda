"""What can be done with jobs: enqueue, get, list, cancel, redrive.

Each verb validates, asks the store, and publishes what has become a fact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random

import trio

from trioqueue.clock import Clock
from trioqueue.errors import (
    Draining,
    InvalidFilter,
    InvalidJob,
    JobNotFound,
    PayloadTooLarge,
    RedriveRefused,
    WrongStatus,
)
from trioqueue.events import AttemptEnded, Event, Events, JobCancelled, JobEnqueued, JobRedriven
from trioqueue.jobs import codec
from trioqueue.jobs.handlers import Handlers
from trioqueue.jobs.job import Attempt, Job, JobId, NewJob, NodeId, Status, new_job_id
from trioqueue.jobs.lifecycle import REDRIVABLE
from trioqueue.service.asking import Asking
from trioqueue.store.protocol import Count, Enqueued, JobFilter, NodeSeen, Page, Redriven, Refusal, Store
from trioqueue.wire.common import LATEST, parse_job_id
from trioqueue.wire.jobs import JobRequest

CANCEL_POLL_SECONDS = 0.1
"""How often a waiting cancel looks at a job that another process runs; this node's own jobs wake it."""


REDRIVEN_AT_ONCE = 500
"""So many jobs share a transaction when many are redriven."""

REFUSALS = {
    Refusal.DEADLINE: "its deadline has passed; enqueue it again with another one",
    Refusal.UNIQUE_KEY: "a pending or processing job has its unique_key; wait until that one has ended",
}


@dataclass(frozen=True, slots=True)
class CancelReceipt:
    """What a request to cancel came to. Confirmed: nothing of the job runs any more."""

    job: Job
    confirmed: bool
    after_seconds: float


@dataclass(frozen=True, slots=True)
class RedriveReceipt:
    """What redriving many jobs came to."""

    matched: int
    redriven: int
    skipped: int
    """They match, and cannot be redriven: a key that is in use, or a deadline that has passed."""


class Service:
    """What can be asked of trioqueue, whoever asks."""

    def __init__(
        self,
        store: Store,
        handlers: Handlers,
        *,
        node: NodeId,
        events: Events,
        clock: Clock,
        random: Random,
        draining: trio.Event,
        max_payload_bytes: int,
    ) -> None:
        self.handlers = handlers
        self._store = store
        self._asking = Asking(node, events)
        self._events = events
        self._clock = clock
        self._random = random
        self._draining = draining
        self._max_payload_bytes = max_payload_bytes
        self._ended: dict[JobId, trio.Event] = {}
        events.listen(self._notice_end)

    async def enqueue(self, request: JobRequest) -> Enqueued:
        """Check a job at the door and keep it. Committed and flushed when this returns.

        Raises `UnknownType`, `InvalidJob` (the payload does not fit the handler), `PayloadTooLarge`,
        `Draining`, `StoreUnavailable`. Once it has begun to store, cancelling the caller no longer
        undoes it.
        """
        if self._draining.is_set():
            raise Draining
        with self._asking("enqueue"):
            job = await self._new_job(request)
            [enqueued] = await self._store.enqueue([job])
        if enqueued.created:
            self._events.publish(JobEnqueued(job=enqueued.job))
        return enqueued

    async def get(self, job_id: str) -> tuple[Job, Sequence[Attempt]]:
        """The job and its ended attempts, or `JobNotFound`."""
        known = self._parse_id(job_id)
        with self._asking("get"):
            return await self._store.get(known), await self._store.attempts(known)

    async def list(
        self,
        *,
        status: Status | None = None,
        type: str | None = None,
        queue: str | None = None,
        tag: str | None = None,
        limit: int,
        cursor: str | None = None,
    ) -> Page:
        """Up to `limit` jobs that match every filter, newest first; `InvalidFilter` for a foreign cursor."""
        wanted = JobFilter(status=status, type=type, queue=queue, tag=tag)
        with self._asking("list"):
            return await self._store.list(wanted, limit=limit, cursor=cursor)

    async def counts(self) -> Sequence[Count]:
        """How many jobs there are, by queue, type and status."""
        with self._asking("counts"):
            return await self._store.counts()

    async def nodes(self) -> Sequence[NodeSeen]:
        """The nodes on this store, the one that started first first, and what each of them runs."""
        with self._asking("nodes"):
            return await self._store.nodes()

    async def cancel(self, job_id: str, *, wait_seconds: float) -> CancelReceipt:
        """Stop a job for good; wait up to `wait_seconds` until it has really ended.

        Asking twice is no mistake. Whichever was committed first wins when it ends by itself
        meanwhile: look at the receipt's job. Raises `WrongStatus` when it had already ended in
        another way, `JobNotFound`, `StoreUnavailable`.
        """
        known = self._parse_id(job_id)
        with self._asking("cancel"):
            return await self._cancel(known, wait_seconds)

    async def _cancel(self, known: JobId, wait_seconds: float) -> CancelReceipt:
        started = trio.current_time()
        self._ended.setdefault(known, trio.Event())
        try:
            before = await self._store.get(known)
            job = await self._store.cancel(known)
            if job.is_final and job.status is not Status.CANCELLED:
                raise WrongStatus(known, job.status, "cancelled")
            if before.cancel_requested_at is None and job.cancel_requested_at is not None:
                self._events.publish(JobCancelled(job=job, confirmed=job.is_final))
            with trio.move_on_after(wait_seconds):
                while not job.is_final:
                    with trio.move_on_after(CANCEL_POLL_SECONDS):
                        await self._ended.setdefault(known, trio.Event()).wait()
                    job = await self._store.get(known)
        finally:
            self._ended.pop(known, None)
        return CancelReceipt(job, confirmed=job.is_final, after_seconds=trio.current_time() - started)

    async def redrive(self, job_id: str) -> Job:
        """Put a dead or cancelled job back: due at once, with a full budget of attempts.

        Its history stays. Raises `WrongStatus` when it is neither dead nor cancelled; `RedriveRefused`
        when its deadline has passed, or when a live job has its unique key; `JobNotFound`,
        `StoreUnavailable`.
        """
        known = self._parse_id(job_id)
        with self._asking("redrive"):
            [answer] = await self._redrive([known])
        if answer.job is None:
            raise JobNotFound(known)
        if answer.refusal is Refusal.STATUS:
            raise WrongStatus(known, answer.job.status, "redriven")
        if answer.refusal is not None:
            raise RedriveRefused(known, REFUSALS[answer.refusal])
        return answer.job

    async def redrive_matching(
        self,
        *,
        status: Status,
        type: str | None = None,
        queue: str | None = None,
        tag: str | None = None,
        dry_run: bool = False,
    ) -> RedriveReceipt:
        """Put back every dead or cancelled job that matches; with `dry_run` only count them.

        In batches, the job that was accepted last first. When it is cancelled or fails on the way,
        the batches before are redriven; ask again for the rest. Raises `StoreUnavailable`, and
        `InvalidFilter` for any other status.
        """
        if status not in REDRIVABLE:
            raise InvalidFilter("status", f"only dead and cancelled jobs can be redriven, not {status} ones")
        wanted = JobFilter(status=status, type=type, queue=queue, tag=tag)
        matched = redriven = skipped = 0
        cursor: str | None = None
        with self._asking("redrive"):
            while True:
                page = await self._store.list(wanted, limit=REDRIVEN_AT_ONCE, cursor=cursor)
                matched += len(page.jobs)
                if page.jobs and not dry_run:
                    answers = await self._redrive([job.id for job in page.jobs])
                    back = sum(answer.refusal is None for answer in answers)
                    redriven += back
                    skipped += len(answers) - back
                if page.next_cursor is None:
                    return RedriveReceipt(matched, redriven, skipped)
                cursor = page.next_cursor

    async def _redrive(self, job_ids: Sequence[JobId]) -> Sequence[Redriven]:
        answers = await self._store.redrive(job_ids)
        for answer in answers:
            if answer.job is not None and answer.refusal is None:
                self._events.publish(JobRedriven(job=answer.job))
        return answers

    async def _new_job(self, request: JobRequest) -> NewJob:
        handler = self.handlers.find(request.type)
        handler.parse(request.payload)
        payload = codec.encode(request.payload)
        if len(payload) > self._max_payload_bytes:
            raise PayloadTooLarge(self._max_payload_bytes)
        now = self._clock.now()
        due_at = request.run_at or now + timedelta(seconds=request.delay_seconds or 0)
        if due_at > LATEST:
            raise InvalidJob("/delay_seconds", "the year must be from 2000 to 2199")
        if request.deadline_at is not None and request.deadline_at <= max(now, due_at):
            raise InvalidJob("/deadline_at", "the deadline must come after run_at, and after now")
        parent = await self._parent(request.parent_id)
        return NewJob(
            id=new_job_id(self._clock.now(), self._random),
            type=request.type,
            payload=payload,
            queue=request.queue,
            priority=request.priority,
            run_at=_utc(request.run_at),
            delay_seconds=request.delay_seconds,
            max_attempts=request.max_attempts or handler.max_attempts,
            timeout_seconds=_float(request.timeout_seconds or handler.timeout_seconds),
            deadline_at=_utc(request.deadline_at),
            unique_key=request.unique_key,
            tags=tuple(dict.fromkeys(request.tags)),
            parent_id=parent.id if parent else None,
            root_id=parent.root_id if parent else None,
            traceparent=request.traceparent,
        )

    async def _parent(self, parent_id: str | None) -> Job | None:
        if parent_id is None:
            return None
        try:
            return await self._store.get(JobId(parent_id))
        except JobNotFound:
            raise InvalidJob("/parent_id", f"there is no job {parent_id}") from None

    def _parse_id(self, text: str) -> JobId:
        job_id = parse_job_id(text)
        if job_id is None:
            raise JobNotFound(text[:100])
        return job_id

    def _notice_end(self, event: Event) -> None:
        if isinstance(event, AttemptEnded) and event.job.id in self._ended:
            self._ended.pop(event.job.id).set()


def _utc(instant: datetime | None) -> datetime | None:
    """As stores keep it. Some of them cannot read every offset that RFC 3339 allows."""
    return None if instant is None else instant.astimezone(UTC)


def _float(seconds: float | None) -> float | None:
    """JSON's 600 and 600.0 are one number, and shown as one."""
    return None if seconds is None else float(seconds)
