"""Rows of the SQL stores: a job or an attempt as a tuple, and back.

Instants are whole microseconds since 1970 in UTC: exact, ordered and eight bytes at most. The
columns stand in the order in which they are stored: the payload and what handlers say come last,
so that the small ones can be read without them.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from trioqueue.jobs.job import Attempt, AttemptOutcome, Job, JobId, Json, NodeId, Status
from trioqueue.store.protocol import NodeFacts, NodeSeen, Running

Row = tuple[Any, ...]
"""What a driver returns: values of any type that a column has."""

JOB_COLUMNS = (
    "id, type, queue, priority, status, run_at, attempt, max_attempts, epoch, version, crash_count, node,"
    " lease_until, timeout_seconds, deadline_at, unique_key, parent_id, root_id, schedule, traceparent,"
    " created_at, started_at, finished_at, cancel_requested_at, reason, tags, payload, progress, result"
)
ATTEMPT_COLUMNS = "number, epoch, node, worker, started_at, ended_at, outcome, error"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_STATUSES = {status.value: status for status in Status}
_OUTCOMES = {outcome.value: outcome for outcome in AttemptOutcome}
_texts = msgspec.json.Decoder(tuple[str, ...])


def microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // _MICROSECOND


def instant(microseconds: int) -> datetime:
    return _EPOCH + timedelta(0, 0, microseconds)


def microseconds_or_null(instant: datetime | None) -> int | None:
    return None if instant is None else microseconds(instant)


def instant_or_none(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else instant(microseconds)


def job_to_row(job: Job) -> Row:
    """The values of `JOB_COLUMNS`."""
    return (
        job.id,
        job.type,
        job.queue,
        job.priority,
        job.status,
        microseconds(job.run_at),
        job.attempt,
        job.max_attempts,
        job.epoch,
        job.version,
        job.crash_count,
        job.node,
        microseconds_or_null(job.lease_until),
        job.timeout_seconds,
        microseconds_or_null(job.deadline_at),
        job.unique_key,
        job.parent_id,
        job.root_id,
        job.schedule,
        job.traceparent,
        microseconds(job.created_at),
        microseconds_or_null(job.started_at),
        microseconds_or_null(job.finished_at),
        microseconds_or_null(job.cancel_requested_at),
        job.reason,
        tags_to_text(job.tags),
        job.payload,
        job.progress,
        job.result,
    )


def job_from_row(row: Row) -> Job:
    """The job of a row with `JOB_COLUMNS`."""
    (
        id,
        type,
        queue,
        priority,
        status,
        run_at,
        attempt,
        max_attempts,
        epoch,
        version,
        crash_count,
        node,
        lease_until,
        timeout_seconds,
        deadline_at,
        unique_key,
        parent_id,
        root_id,
        schedule,
        traceparent,
        created_at,
        started_at,
        finished_at,
        cancel_requested_at,
        reason,
        tags,
        payload,
        progress,
        result,
    ) = row
    return Job(
        id=JobId(id),
        type=type,
        payload=Json(payload),
        queue=queue,
        priority=priority,
        status=_STATUSES[status],
        run_at=instant(run_at),
        attempt=attempt,
        max_attempts=max_attempts,
        timeout_seconds=timeout_seconds,
        deadline_at=instant_or_none(deadline_at),
        unique_key=unique_key,
        tags=tags_from_text(tags),
        progress=progress,
        result=result,
        reason=reason,
        epoch=epoch,
        node=node,
        lease_until=instant_or_none(lease_until),
        crash_count=crash_count,
        cancel_requested_at=instant_or_none(cancel_requested_at),
        parent_id=parent_id,
        root_id=JobId(root_id),
        schedule=schedule,
        traceparent=traceparent,
        created_at=instant(created_at),
        started_at=instant_or_none(started_at),
        finished_at=instant_or_none(finished_at),
        version=version,
    )


def attempt_to_row(attempt: Attempt) -> Row:
    """The values of `ATTEMPT_COLUMNS`."""
    return (
        attempt.number,
        attempt.epoch,
        attempt.node,
        attempt.worker,
        microseconds(attempt.started_at),
        microseconds(attempt.ended_at),
        attempt.outcome,
        attempt.error,
    )


def attempt_from_row(row: Row) -> Attempt:
    """The attempt of a row with `ATTEMPT_COLUMNS`."""
    number, epoch, node, worker, started_at, ended_at, outcome, error = row
    return Attempt(
        number=number,
        epoch=epoch,
        node=NodeId(node),
        worker=worker,
        started_at=instant(started_at),
        ended_at=instant(ended_at),
        outcome=_OUTCOMES[outcome],
        error=error,
    )


def nodes_from_rows(rows: Iterable[Row], now: datetime) -> Sequence[NodeSeen]:
    """The nodes of a result of `nodes.sql`: one row for each job that a node holds, or one without a job."""
    first: dict[NodeId, Row] = {}
    running: dict[NodeId, list[Running]] = {}
    for row in rows:
        first.setdefault(row[0], row)
        held = running.setdefault(row[0], [])
        if row[6] is not None:
            held.append(_running_from_row(row[6:]))
    nodes = [_node_from_row(row[:6], running[node], now) for node, row in first.items()]
    return sorted(nodes, key=lambda node: (node.started_at, node.node))


def _node_from_row(row: Row, running: list[Running], now: datetime) -> NodeSeen:
    node, workers, types, started_at, beat_at, stopping = row
    if beat_at is None:  # it never said that it is there
        facts = NodeFacts()
        first, last = running[0].started_at, running[-1].started_at
    else:
        facts = NodeFacts(workers=workers, types=types_from_text(types))
        first, last = instant(started_at), instant(beat_at)
    return NodeSeen(
        node=NodeId(node),
        workers=facts.workers,
        types=facts.types,
        started_at=first,
        seen_at=last,
        silent_seconds=(now - last).total_seconds(),
        stopping=bool(stopping),
        running=running,
    )


def _running_from_row(row: Row) -> Running:
    id, type, queue, epoch, started_at, lease_until, cancel_requested_at = row
    return Running(
        job_id=JobId(id),
        type=type,
        queue=queue,
        epoch=epoch,
        started_at=instant(started_at),
        lease_until=instant(lease_until),
        cancel_requested=cancel_requested_at is not None,
    )


def types_to_text(types: tuple[str, ...] | None) -> str | None:
    return None if types is None else msgspec.json.encode(types).decode()


def types_from_text(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else _texts.decode(text)


def tags_to_text(tags: tuple[str, ...]) -> str | None:
    return msgspec.json.encode(tags).decode() if tags else None


def tags_from_text(text: str | None) -> tuple[str, ...]:
    return _texts.decode(text) if text is not None else ()
