"""The records: Job, NewJob, Attempt, and the claim that binds a job to a node.

A job's `payload`, `result` and `progress` are kept as JSON text (bytes) from the codec; whoever
needs the value decodes it. Instants are aware datetimes in UTC with microseconds.
"""

from datetime import datetime
from enum import StrEnum
from random import Random
from typing import NewType

import msgspec

JobId = NewType("JobId", str)
"""A UUIDv7 in its usual text form. Made before the first try to store it, so that storing may be repeated."""

NodeId = NewType("NodeId", str)
"""One start of one process. Never reused: a restart has a new one."""

Json = NewType("Json", bytes)
"""JSON text that the codec has accepted."""


class Status(StrEnum):
    """Where a job is. *Scheduled* and *retrying* are questions about a pending job, not statuses."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    DEAD = "dead"


FINAL = frozenset({Status.COMPLETED, Status.CANCELLED, Status.DEAD})
"""A job with one of these has ended; only an operator can bring it back."""


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it is asked for: what the store needs in order to keep it."""

    id: JobId
    type: str
    payload: Json
    queue: str = "default"
    priority: int = 0
    """Lower runs first."""
    run_at: datetime | None = None
    """Not before this time. None means at once, by the store's clock."""
    delay_seconds: float | None = None
    """Due so long after it was accepted, by the store's clock. Not together with `run_at`."""
    max_attempts: int = 5
    timeout_seconds: float | None = None
    """How long one attempt may take. None: no limit."""
    deadline_at: datetime | None = None
    """No attempt goes on after this time, and a job that has not begun by then never does."""
    unique_key: str | None = None
    """At most one pending or processing job has this key."""
    tags: tuple[str, ...] = ()
    parent_id: JobId | None = None
    root_id: JobId | None = None
    """The first ancestor; the job itself when it has no parent."""
    schedule: str | None = None
    traceparent: str | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One unit of work, as the store knows it."""

    id: JobId
    type: str
    """Which handler runs it."""
    payload: Json
    queue: str
    priority: int
    status: Status
    run_at: datetime
    """Not before this time. A retry and a snooze move it into the future."""
    attempt: int
    """Attempts begun that count. A snoozed, released, lost or cancelled attempt is taken off again."""
    max_attempts: int
    timeout_seconds: float | None
    deadline_at: datetime | None
    unique_key: str | None
    tags: tuple[str, ...]
    progress: Json | None
    """What the handler last said with `ctx.progress()`."""
    result: Json | None
    reason: str | None
    """Why the job is where it is, in a few words: the last error, or why it is dead."""
    epoch: int
    """The fencing token: one higher at every claim, never reset."""
    node: NodeId | None
    """Who holds the lease, while the job is processing."""
    lease_until: datetime | None
    crash_count: int
    """How many nodes went silent while they held this job."""
    cancel_requested_at: datetime | None
    parent_id: JobId | None
    root_id: JobId
    schedule: str | None
    traceparent: str | None
    created_at: datetime
    started_at: datetime | None
    """When the latest attempt was claimed."""
    finished_at: datetime | None
    version: int
    """One higher at every change that a reader can see; an ETag."""

    @property
    def is_final(self) -> bool:
        return self.status in FINAL


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The right to run one attempt: the job and the lease on it.

    `job.epoch` is the fence. Every write under the claim carries it.
    """

    job: Job
    node: NodeId

    @property
    def epoch(self) -> int:
        return self.job.epoch


class AttemptOutcome(StrEnum):
    """What an attempt came to. Only `failed` and `timed_out` spend `max_attempts`."""

    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    SNOOZED = "snoozed"
    RELEASED = "released"
    LOST = "lost"


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a job, in the ledger. Written when it has ended."""

    number: int
    """The job's `attempt` while it ran; not unique, because some attempts do not count."""
    epoch: int
    node: NodeId
    worker: int | None
    """Which of the node's workers ran it; None when the node is gone and cannot say."""
    started_at: datetime
    ended_at: datetime
    outcome: AttemptOutcome
    error: str | None = None


def new_job_id(now: datetime, random: Random) -> JobId:
    """A UUIDv7 (RFC 9562, section 5.7): 48 bits of milliseconds, then 74 random bits."""
    milliseconds = int(now.timestamp() * 1000) & 0xFFFF_FFFF_FFFF
    noise = random.getrandbits(74)
    value = (
        (milliseconds << 80) | (0x7 << 76) | ((noise >> 62) << 64) | (0b10 << 62) | (noise & (1 << 62) - 1)
    )
    text = f"{value:032x}"
    return JobId(f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}")
