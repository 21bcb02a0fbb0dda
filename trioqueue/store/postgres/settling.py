"""What settling sends: each settlement with what the lifecycle makes of it, as columns of an array each.

The row decides which of two transitions applies: somebody may have asked the job to stop since it was
claimed, and only the statement that locks the row knows. Both come from `lifecycle.after_attempt`,
so that one statement, one round trip and no open transaction are enough.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any

from msgspec.structs import replace

from trioqueue.jobs.job import Job, Json, Status
from trioqueue.jobs.lifecycle import Transition, after_attempt
from trioqueue.jobs.outcome import NAMES, Completed, Outcome, error_of
from trioqueue.store import changes
from trioqueue.store.postgres.rows import Row, text_of


@dataclass(frozen=True, slots=True)
class Case:
    """One settlement under one condition: `asked` tells whether the job was asked to stop; None fits both."""

    n: int
    job: Job
    asked: bool | None
    outcome: Outcome
    transition: Transition
    worker: int | None


def cases(n: int, job: Job, outcome: Outcome, worker: int | None, random: Random) -> Iterable[Case]:
    """What may become of `job`. The number `n` names the settlement in the statement's answer."""
    jitter = random.random()
    if isinstance(outcome, Completed):
        yield Case(n, job, None, outcome, after_attempt(job, outcome, jitter), worker)
        return
    untold = replace(job, cancel_requested_at=None)
    asked = replace(job, cancel_requested_at=job.created_at)  # any time: only whether it is set counts
    yield Case(n, job, False, outcome, after_attempt(untold, outcome, jitter), worker)
    yield Case(n, job, True, outcome, after_attempt(asked, outcome, jitter), worker)


def settle_values(cases: Sequence[Case], *, expired: bool = False) -> dict[str, Any]:
    """The parameters of settle.sql."""
    transitions = [case.transition for case in cases]
    return {
        "n": [case.n for case in cases],
        "id": [case.job.id for case in cases],
        "epoch": [case.job.epoch for case in cases],
        "asked": [case.asked for case in cases],
        "status": [str(transition.status) for transition in transitions],
        "attempt": [transition.attempt for transition in transitions],
        "crash_count": [transition.crash_count for transition in transitions],
        "wait_seconds": [transition.wait_seconds for transition in transitions],
        "reason": [transition.reason for transition in transitions],
        "result": [text_of(transition.result) for transition in transitions],
        "outcome": [str(NAMES[type(case.outcome)]) for case in cases],
        "error": [error_of(case.outcome) for case in cases],
        "worker": [case.worker for case in cases],
        "expired": expired,
    }


def settled_jobs(cases: Sequence[Case], rows: Sequence[Row]) -> dict[int, tuple[Job, datetime]]:
    """The jobs as they are after settle.sql has answered with `rows`, by number, and the time it was then."""
    by_condition = {(case.n, case.asked): case for case in cases}
    settled: dict[int, tuple[Job, datetime]] = {}
    for n, asked, version, lease_until, cancel_requested_at, progress, now in rows:
        case = by_condition[n, asked]
        job = replace(
            case.job,
            version=version,
            lease_until=lease_until,
            cancel_requested_at=cancel_requested_at,
            progress=None if progress is None else Json(progress.encode()),
        )
        settled[n] = (changes.settled(job, case.transition, now), now)
    return settled


def is_due(job: Job, now: datetime) -> bool:
    return job.status is Status.PENDING and job.run_at <= now
