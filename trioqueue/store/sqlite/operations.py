"""The writes, each inside a transaction that it may share with others.

The law of this file: check first, write after. An operation that raises before it has written
costs its neighbours in the batch nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from heapq import merge
from operator import itemgetter
from random import Random

from msgspec.structs import replace

from trioqueue.errors import JobNotFound, LeaseLost
from trioqueue.jobs.job import FINAL, Claim, Job, JobId, Json, NewJob, NodeId, Status
from trioqueue.jobs.lifecycle import after_attempt, after_deadline
from trioqueue.jobs.outcome import Outcome
from trioqueue.store import changes
from trioqueue.store.protocol import (
    SILENT_SECONDS,
    Enqueued,
    NodeFacts,
    Redriven,
    Refusal,
    Renewal,
    Settlement,
)
from trioqueue.store.rows import (
    Row,
    attempt_to_row,
    instant,
    instant_or_none,
    job_from_row,
    job_to_row,
    microseconds,
    tags_from_text,
    types_to_text,
)
from trioqueue.store.sqlite.transaction import Transaction, is_due

Lane = tuple[str, str]
"""A queue and a type."""

PROMOTED_AT_ONCE = 1000
"""Delayed jobs of one lane that one claim makes due."""


def enqueue(transaction: Transaction, jobs: Sequence[NewJob]) -> list[Enqueued]:
    return [_accept(transaction, new) for new in jobs]


def _accept(transaction: Transaction, new: NewJob) -> Enqueued:
    job = changes.accepted(new, transaction.now)
    if not transaction.changed("insert_job", (*job_to_row(job), is_due(job, transaction.now))):
        return Enqueued(_already_there(transaction, new), created=False)
    if job.tags:
        seq = transaction.connection.last_insert_rowid()
        for tag in job.tags:
            transaction.run("insert_tag", {"tag": tag, "seq": seq})
    transaction.count(Status.PENDING, job, +1)
    return Enqueued(job, created=True)


def _already_there(transaction: Transaction, new: NewJob) -> Job:
    for row in transaction.run("job", {"id": new.id}):
        return job_from_row(row[1:])
    (row,) = transaction.run("job_with_unique_key", {"unique_key": new.unique_key})
    return job_from_row(row[1:])


def claim(
    transaction: Transaction, node: NodeId, types: frozenset[str] | None, limit: int, lease_seconds: float
) -> list[Claim]:
    if types is None and any(purpose == "handlers" for (purpose,) in transaction.run("purpose")):
        return []  # demo mode, and real handlers have come to this store since it started
    now = transaction.now
    lanes = _pending_lanes(transaction, types)
    for lane in lanes:
        _promote(transaction, lane)
    due = _take(transaction, lanes, limit)
    lease_until = now + timedelta(seconds=lease_seconds)
    values = {"node": node, "now": microseconds(now), "lease_until": microseconds(lease_until)}
    transaction.run_many("claim", [{**values, "seq": seq} for seq, _ in due])
    for _, job in due:
        transaction.count(Status.PENDING, job, -1)
        transaction.count(Status.PROCESSING, job, +1)
    return [Claim(job=changes.claimed(job, node, now, lease_until), node=node) for _, job in due]


def _pending_lanes(transaction: Transaction, types: frozenset[str] | None) -> list[Lane]:
    """The lanes that have pending jobs of `types`, those of this transaction included."""
    lanes = {(queue, type) for queue, type in transaction.run("pending_lanes")}
    lanes |= {(queue, type) for status, queue, type in transaction.changes if status == Status.PENDING}
    return sorted(lane for lane in lanes if types is None or lane[1] in types)


def _promote(transaction: Transaction, lane: Lane) -> None:
    queue, type = lane
    now = microseconds(transaction.now)
    rows = transaction.run(
        "promotable", {"queue": queue, "type": type, "now": now, "limit": PROMOTED_AT_ONCE}
    )
    transaction.run_many("promote", list(rows))


def _take(transaction: Transaction, lanes: Sequence[Lane], limit: int) -> list[tuple[int, Job]]:
    """The first due jobs of all lanes, in the order of claims; none whose deadline has come."""
    due: list[tuple[int, Job]] = []
    for row in _in_order(transaction, lanes):
        if len(due) == limit:
            break
        job = job_from_row(row[1:])
        if not changes.is_late(job, transaction.now):
            due.append((row[0], job))
    return due


def _in_order(transaction: Transaction, lanes: Sequence[Lane]) -> Iterator[Row]:
    """The lanes merged by priority, run_at and seq, read only as far as somebody asks."""
    rows = [transaction.run("claimable", {"queue": queue, "type": type}) for queue, type in lanes]
    return merge(*rows, key=_claim_order)


_claim_order = itemgetter(4, 6, 0)


def renew(transaction: Transaction, claims: Sequence[Claim], lease_seconds: float) -> list[Renewal]:
    lease_until = microseconds(transaction.now + timedelta(seconds=lease_seconds))
    return [_renew(transaction, claim, lease_until) for claim in claims]


def _renew(transaction: Transaction, claim: Claim, lease_until: int) -> Renewal:
    fence = {"id": claim.job.id, "epoch": claim.epoch}
    for (cancel_requested_at,) in transaction.run("renew", {**fence, "lease_until": lease_until}):
        return Renewal(claim, renewed=True, cancel_requested=cancel_requested_at is not None)
    return Renewal(claim, renewed=False)


def progress(transaction: Transaction, claim: Claim, progress: Json) -> None:
    fence = {"id": claim.job.id, "epoch": claim.epoch}
    if not transaction.changed("progress", {**fence, "progress": progress}):
        raise LeaseLost(claim.job.id, claim.epoch)


def settle(transaction: Transaction, settlements: Sequence[Settlement], random: Random) -> list[Job | None]:
    return [_settle(transaction, settlement, random) for settlement in settlements]


def _settle(transaction: Transaction, settlement: Settlement, random: Random) -> Job | None:
    for seq, job in _held(transaction, settlement.claim):
        jitter = random.random()
        return _end_attempt(transaction, seq, job, settlement.outcome, jitter, settlement.worker)
    return None


def release(transaction: Transaction, claims: Sequence[Claim]) -> int:
    return sum(_release(transaction, claim) for claim in claims)


def _release(transaction: Transaction, claim: Claim) -> bool:
    for seq, job in _held(transaction, claim):
        earlier = [instant(at) for (at,) in transaction.run("last_attempt_started_at", {"seq": seq})]
        transaction.keep(seq, job, changes.released(job, earlier[0] if earlier else None, transaction.now))
        return True
    return False


def cancel(transaction: Transaction, job_id: JobId) -> Job:
    for row in list(transaction.run("job", {"id": job_id})):
        job = job_from_row(row[1:])
        after = changes.cancelled(job, transaction.now)
        return job if after is job else transaction.keep(row[0], job, after)
    raise JobNotFound(job_id)


def redrive(transaction: Transaction, job_ids: Sequence[JobId]) -> list[Redriven]:
    return [_redrive(transaction, job_id) for job_id in job_ids]


def _redrive(transaction: Transaction, job_id: JobId) -> Redriven:
    for row in list(transaction.run("job", {"id": job_id})):
        job = job_from_row(row[1:])
        refusal = changes.refusal(job, transaction.now)
        if refusal is None and list(transaction.run("job_with_unique_key", {"unique_key": job.unique_key})):
            refusal = Refusal.UNIQUE_KEY
        if refusal is not None:
            return Redriven(job, refusal)
        return Redriven(transaction.keep(row[0], job, changes.redriven(job, transaction.now)))
    return Redriven(None, Refusal.NOT_FOUND)


def rescue(transaction: Transaction, dead: Sequence[NodeId], limit: int, random: Random) -> list[Job]:
    """Settle as `Lost` what has expired, then what dead nodes hold; forget who holds nothing any more."""
    now = microseconds(transaction.now)
    stopping = {node for (node,) in transaction.run("stopping_nodes")}
    rows = list(transaction.run("expired", {"now": now, "limit": limit}))
    for node in dead:
        rows += transaction.run("held_by_node", {"now": now, "node": node, "limit": limit - len(rows)})
    rescued = []
    for row in rows:
        job = job_from_row(row[1:])
        outcome = changes.left_behind(job, stopping=job.node in stopping)
        rescued.append(_end_attempt(transaction, row[0], job, outcome, random.random(), None))
    for node in dead:
        transaction.run("forget_node", {"node": node})
    transaction.run("forget_silent_nodes", {"before": silent_before(transaction.now)})
    return rescued


def silent_before(now: datetime) -> int:
    """A node whose last beat came before this is silent."""
    return microseconds(now - timedelta(seconds=SILENT_SECONDS))


def expire(transaction: Transaction, limit: int) -> list[Job]:
    rows = list(transaction.run("late", {"now": microseconds(transaction.now), "limit": limit}))
    late = [(row[0], job_from_row(row[1:])) for row in rows]
    return [
        transaction.keep(seq, job, changes.settled(job, after_deadline(job), transaction.now))
        for seq, job in late
    ]


def prune(transaction: Transaction, retention: Mapping[Status, timedelta], limit: int) -> int:
    pruned = 0
    for status, kept_for in retention.items():
        if status in FINAL:
            before = microseconds(transaction.now - kept_for)
            values = {"status": status, "before": before, "limit": limit - pruned}
            for row in list(transaction.run("prunable", values)):
                _delete(transaction, status, row)
                pruned += 1
    return pruned


def _delete(transaction: Transaction, status: Status, row: Row) -> None:
    seq, queue, type, tags = row
    for tag in tags_from_text(tags):
        transaction.run("delete_tag", {"tag": tag, "seq": seq})
    transaction.run("delete_attempts", {"seq": seq})
    transaction.run("delete_job", {"seq": seq})
    transaction.changes[status, queue, type] -= 1


def dedicate(transaction: Transaction, demo: bool) -> bool:
    return transaction.changed("dedicate", {"demo": demo})


def beat(transaction: Transaction, node: NodeId, facts: NodeFacts | None, stopping: bool) -> None:
    said = facts or NodeFacts()
    values = {
        "node": node,
        "now": microseconds(transaction.now),
        "stopping": stopping,
        "has_facts": facts is not None,
        "workers": said.workers,
        "types": types_to_text(said.types),
    }
    transaction.run("beat", values)


def forget_node(transaction: Transaction, node: NodeId) -> None:
    transaction.run("forget_node", {"node": node})


def _held(transaction: Transaction, claim: Claim) -> Iterator[tuple[int, Job]]:
    """The job that the claim holds, as it is stored now; nothing when the lease was lost."""
    rows = list(transaction.run("held", {"id": claim.job.id, "epoch": claim.epoch}))
    for seq, version, lease_until, cancel_requested_at, progress in rows:
        yield (
            seq,
            replace(
                claim.job,
                version=version,
                lease_until=instant(lease_until),
                cancel_requested_at=instant_or_none(cancel_requested_at),
                progress=progress,
            ),
        )


def _end_attempt(
    transaction: Transaction, seq: int, job: Job, outcome: Outcome, jitter: float, worker: int | None
) -> Job:
    attempt = changes.ended(job, outcome, worker, transaction.now)
    transaction.run("insert_attempt", (seq, *attempt_to_row(attempt)))
    transition = after_attempt(job, outcome, jitter)
    return transaction.keep(seq, job, changes.settled(job, transition, transaction.now))
