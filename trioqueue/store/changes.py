"""What each call makes of a job. Pure: the stores only find the job and keep what comes out.

The law of this file: every function returns the job as any reader sees it afterwards, one version on.
"""

from datetime import datetime, timedelta

from msgspec.structs import replace

from trioqueue.jobs.job import FINAL, Attempt, Claim, Job, Json, NewJob, NodeId, Status
from trioqueue.jobs.lifecycle import REDRIVABLE, Transition, after_redrive
from trioqueue.jobs.outcome import NAMES, Lost, Outcome, Released, error_of
from trioqueue.store.protocol import Refusal


def accepted(new: NewJob, now: datetime) -> Job:
    """The job that `new` asks for."""
    delay = timedelta(seconds=new.delay_seconds or 0)
    return Job(
        id=new.id,
        type=new.type,
        payload=new.payload,
        queue=new.queue,
        priority=new.priority,
        status=Status.PENDING,
        run_at=new.run_at or now + delay,
        attempt=0,
        max_attempts=new.max_attempts,
        timeout_seconds=new.timeout_seconds,
        deadline_at=new.deadline_at,
        unique_key=new.unique_key,
        tags=new.tags,
        progress=None,
        result=None,
        reason=None,
        epoch=0,
        node=None,
        lease_until=None,
        crash_count=0,
        cancel_requested_at=None,
        parent_id=new.parent_id,
        root_id=new.root_id or new.id,
        schedule=new.schedule,
        traceparent=new.traceparent,
        created_at=now,
        started_at=None,
        finished_at=None,
        version=1,
    )


def claimed(job: Job, node: NodeId, now: datetime, lease_until: datetime) -> Job:
    """`job` in the hands of `node`."""
    return replace(
        job,
        status=Status.PROCESSING,
        epoch=job.epoch + 1,
        attempt=job.attempt + 1,
        node=node,
        lease_until=lease_until,
        started_at=now,
        progress=None,
        version=job.version + 1,
    )


def renewed(job: Job, lease_until: datetime) -> Job:
    return replace(job, lease_until=lease_until, version=job.version + 1)


def progressed(job: Job, progress: Json) -> Job:
    return replace(job, progress=progress, version=job.version + 1)


def settled(job: Job, transition: Transition, now: datetime) -> Job:
    """`job` after `transition`, which ended its attempt or its wait."""
    wait = transition.wait_seconds
    return replace(
        job,
        status=transition.status,
        attempt=transition.attempt,
        crash_count=transition.crash_count,
        run_at=job.run_at if wait is None else now + timedelta(seconds=wait),
        reason=transition.reason,
        result=transition.result,
        node=None,
        lease_until=None,
        finished_at=now if transition.status in FINAL else None,
        version=job.version + 1,
    )


def released(job: Job, started_at: datetime | None, now: datetime) -> Job:
    """`job` as if it had not been claimed; cancelled when somebody asked for that in the meantime.

    `started_at` is when the attempt before this one was claimed.
    """
    untouched = replace(
        job,
        status=Status.PENDING,
        attempt=job.attempt - 1,
        node=None,
        lease_until=None,
        started_at=started_at,
        version=job.version + 1,
    )
    if job.cancel_requested_at is None:
        return untouched
    return replace(untouched, status=Status.CANCELLED, reason="cancelled", finished_at=now)


def cancelled(job: Job, now: datetime) -> Job:
    """`job` after somebody asked for it to stop; the same job where that changes nothing."""
    if job.is_final or job.cancel_requested_at is not None:
        return job
    asked = replace(job, cancel_requested_at=now, version=job.version + 1)
    if job.status is Status.PROCESSING:
        return asked
    return replace(asked, status=Status.CANCELLED, reason="cancelled", finished_at=now)


def redriven(job: Job, now: datetime) -> Job:
    """`job` put back by an operator. The epoch goes on: no claim of its earlier life can hold it."""
    return replace(settled(job, after_redrive(), now), cancel_requested_at=None)


def refusal(job: Job, now: datetime) -> Refusal | None:
    """Why `job` by itself cannot be redriven. Its unique key is for the store to look at."""
    if job.status not in REDRIVABLE:
        return Refusal.STATUS
    return Refusal.DEADLINE if is_late(job, now) else None


def left_behind(job: Job, *, stopping: bool) -> Outcome:
    """What the attempt came to whose node is silent; `stopping`: it had been told to stop."""
    if stopping:
        return Released(f"node {job.node} was stopped, and gave up on it")
    return Lost(str(job.node))


def ended(job: Job, outcome: Outcome, worker: int | None, now: datetime) -> Attempt:
    """The ledger's row for the attempt that `job` was in."""
    assert job.node is not None
    assert job.started_at is not None
    return Attempt(
        number=job.attempt,
        epoch=job.epoch,
        node=job.node,
        worker=worker,
        started_at=job.started_at,
        ended_at=now,
        outcome=NAMES[type(outcome)],
        error=error_of(outcome),
    )


def is_late(job: Job, now: datetime) -> bool:
    """Whether the job's deadline has come: it must not be claimed any more."""
    return job.deadline_at is not None and job.deadline_at <= now


def holds(claim: Claim, job: Job) -> bool:
    """The fence: whether `claim` is still the one that has `job`."""
    return job.status is Status.PROCESSING and job.epoch == claim.epoch
