"""Small makers that tests share."""

from datetime import UTC, datetime
from random import Random
from typing import Any

from trioqueue.jobs.job import Job, JobId, Json, Status, new_job_id

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def job_id(number: int = 0) -> JobId:
    """The same id for the same number."""
    return new_job_id(NOON, Random(number))


def make_job(**fields: Any) -> Job:
    """A pending job with every field at its default, but for `fields`."""
    defaults: dict[str, Any] = {
        "id": job_id(),
        "type": "work",
        "payload": Json(b"{}"),
        "queue": "default",
        "priority": 0,
        "status": Status.PENDING,
        "run_at": NOON,
        "attempt": 0,
        "max_attempts": 5,
        "timeout_seconds": None,
        "deadline_at": None,
        "unique_key": None,
        "tags": (),
        "progress": None,
        "result": None,
        "reason": None,
        "epoch": 0,
        "node": None,
        "lease_until": None,
        "crash_count": 0,
        "cancel_requested_at": None,
        "parent_id": None,
        "root_id": job_id(),
        "schedule": None,
        "traceparent": None,
        "created_at": NOON,
        "started_at": None,
        "finished_at": None,
        "version": 1,
    }
    return Job(**{**defaults, **fields})
