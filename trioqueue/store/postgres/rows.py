"""Rows of the PostgreSQL store: a job, an attempt or a node as a tuple, and how its instants are read."""

import struct
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.adapt import Buffer, Loader
from psycopg.pq import Format

from trioqueue.jobs.job import Attempt, AttemptOutcome, Job, JobId, Json, NodeId, Status
from trioqueue.store.protocol import NodeSeen, Running

Row = tuple[Any, ...]
"""What the driver returns: values of any type that a column has."""

FROM_BODY = (
    *("id", "type", "queue", "max_attempts", "timeout_seconds", "deadline_at", "unique_key", "parent_id"),
    *("root_id", "schedule", "traceparent", "created_at", "tags", "payload"),
)
FROM_LIVE = (
    *("priority", "status", "run_at", "attempt", "epoch", "version", "crash_count", "node"),
    *("lease_until", "started_at", "cancel_requested_at", "reason", "progress"),
)
FROM_ENDED = ("finished_at", "result")
FIELDS = (*FROM_BODY, *FROM_LIVE, *FROM_ENDED)
"""The fields of a Job, in the order of the columns below."""

UUIDS = frozenset({"id", "parent_id", "root_id"})


def _column(table: str, name: str) -> str:
    return f"{table}.{name}::text" if name in UUIDS else f"{table}.{name}"


JOB_COLUMNS = ", ".join(_column("jobs", name) for name in FIELDS)
"""Of the view `jobs`."""

CLAIMED_COLUMNS = ", ".join(
    [
        *(_column("bodies", name) for name in FROM_BODY),
        *(_column("claimed", name) for name in FROM_LIVE),
        *("NULL" for _ in FROM_ENDED),
    ]
)
"""Of a live job in the middle of a statement that changes it."""

_STATUSES = {status.value: status for status in Status}
_OUTCOMES = {outcome.value: outcome for outcome in AttemptOutcome}
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_read_microseconds = struct.Struct("!q").unpack


class InstantLoader(Loader):
    """Reads a timestamptz as an aware datetime in UTC, whatever the time zone of the session is.

    The binary form is microseconds since 2000 (PostgreSQL's documentation, section 8.5). The driver's
    own loader goes through the session's zone, where the last hours of the year 9999 do not exist.
    """

    format = Format.BINARY

    def load(self, data: Buffer) -> datetime:
        (microseconds,) = _read_microseconds(data)
        return _EPOCH + timedelta(0, 0, microseconds)


def job_from_row(row: Row) -> Job:
    """The job of a row with `JOB_COLUMNS` or `CLAIMED_COLUMNS`."""
    fields = dict(zip(FIELDS, row, strict=False))
    fields["status"] = _STATUSES[fields["status"]]
    fields["payload"] = fields["payload"].encode()
    fields["tags"] = tuple(fields["tags"] or ())
    for name in ("progress", "result"):
        if fields[name] is not None:
            fields[name] = fields[name].encode()
    return Job(**fields)


def attempt_from_row(row: Row) -> Attempt:
    """The attempt of a row of attempts.sql."""
    number, epoch, node, worker, started_at, ended_at, outcome, error = row
    return Attempt(
        number=number,
        epoch=epoch,
        node=NodeId(node),
        worker=worker,
        started_at=started_at,
        ended_at=ended_at,
        outcome=_OUTCOMES[outcome],
        error=error,
    )


def node_from_row(row: Row, running: list[Running]) -> NodeSeen:
    """The node of a row of nodes.sql."""
    node, workers, types, started_at, seen_at, silent_seconds, stopping = row
    return NodeSeen(
        node=NodeId(node),
        workers=workers,
        types=None if types is None else tuple(types),
        started_at=started_at,
        seen_at=seen_at,
        silent_seconds=silent_seconds,
        stopping=stopping,
        running=running,
    )


def running_from_row(row: Row) -> Running:
    """A job that a node holds, of a row of running.sql without the node."""
    job_id, type, queue, epoch, started_at, lease_until, cancel_requested = row
    return Running(
        job_id=JobId(job_id),
        type=type,
        queue=queue,
        epoch=epoch,
        started_at=started_at,
        lease_until=lease_until,
        cancel_requested=cancel_requested,
    )


def text_of(json: Json | None) -> str | None:
    """JSON as a column keeps it."""
    return None if json is None else json.decode()


def is_due(job: Job, now: datetime) -> bool:
    return job.status is Status.PENDING and job.run_at <= now
