"""A job in JSON: what a client asks for, and what it is shown."""

import re
from datetime import datetime
from typing import Any

import msgspec

from trioqueue.errors import InvalidFilter, InvalidJob
from trioqueue.jobs import codec
from trioqueue.jobs.handlers import TYPE_CHARACTERS, TYPE_PATTERN
from trioqueue.jobs.job import Attempt, Job, Status
from trioqueue.jobs.pointer import locate
from trioqueue.wire.common import (
    ID_PATTERN,
    LONGEST_SECONDS,
    check_instant,
    check_range,
    raw,
)

QUEUE_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,99}")

TRACEPARENT_PATTERN = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

MOST_TAGS = 20

TAG_CHARACTERS = 64

KEY_CHARACTERS = 200


class JobRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job as a client asks for it. None means the handler's or the service's default."""

    type: str
    payload: Any = msgspec.field(default_factory=dict)  # any JSON value
    queue: str = "default"
    priority: int = 0
    run_at: datetime | None = None
    delay_seconds: float | None = None
    max_attempts: int | None = None
    timeout_seconds: float | None = None
    deadline_at: datetime | None = None
    unique_key: str | None = None
    tags: list[str] = []
    parent_id: str | None = None
    traceparent: str | None = None


class RedriveRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which jobs a client wants back. Every field that is set must match."""

    status: Status
    type: str | None = None
    queue: str | None = None
    tag: str | None = None
    dry_run: bool = False


class JobBody(msgspec.Struct, frozen=True, kw_only=True):
    """A job as clients see it. `attempts` is there when one job was asked for."""

    id: str
    type: str
    status: Status
    payload: msgspec.Raw
    result: msgspec.Raw
    reason: str | None
    progress: msgspec.Raw
    queue: str
    priority: int
    attempt: int
    max_attempts: int
    timeout_seconds: float | None
    run_at: datetime
    deadline_at: datetime | None
    unique_key: str | None
    tags: tuple[str, ...]
    epoch: int
    node: str | None
    lease_until: datetime | None
    crash_count: int
    cancel_requested_at: datetime | None
    parent_id: str | None
    root_id: str
    schedule: str | None
    traceparent: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    version: int
    attempts: list[Attempt] | msgspec.UnsetType = msgspec.UNSET


class JobPageBody(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs, newest first; `next_cursor` is None on the last page."""

    jobs: list[JobBody]
    next_cursor: str | None


class UnwindingBody(msgspec.Struct, frozen=True, kw_only=True):
    """What of a job still runs although it was asked to stop."""

    type: str
    node: str | None
    epoch: int
    since: datetime | None


class CancelBody(msgspec.Struct, frozen=True, kw_only=True):
    """`confirmed`: nothing of the job runs any more, `after_ms` milliseconds after it was asked to stop."""

    confirmed: bool
    job: JobBody
    after_ms: float | msgspec.UnsetType = msgspec.UNSET
    unwinding: UnwindingBody | msgspec.UnsetType = msgspec.UNSET


class RedriveBody(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs matched, and what became of them. `skipped`: they could not be redriven now."""

    matched: int
    redriven: int
    skipped: int


def parse_job_request(text: bytes) -> JobRequest:
    """The body of `POST /jobs`; raises `MalformedJson` or `InvalidJob` with a pointer."""
    value = codec.decode(text)
    if not isinstance(value, dict):
        raise InvalidJob("", 'an object is expected, like {"type": "thumbnail", "payload": {}}')
    if "type" not in value:
        raise InvalidJob("/type", "a job needs a type: the name of the handler that runs it")
    try:
        request = msgspec.convert(value, JobRequest, strict=True)
    except msgspec.ValidationError as error:
        raise _invalid_field(str(error)) from None
    _check(request)
    return request


def parse_redrive_request(text: bytes) -> RedriveRequest:
    """The body of `POST /jobs/redrive`; raises `MalformedJson` or `InvalidFilter`."""
    value = codec.decode(text or b"{}")
    if not isinstance(value, dict) or "status" not in value:
        raise InvalidFilter(
            "status", 'say which jobs to redrive: {"status": "dead"} or {"status": "cancelled"}'
        )
    try:
        return msgspec.convert(value, RedriveRequest, strict=True)  # codec.decode has refused NUL
    except msgspec.ValidationError as error:
        pointer, problem = locate(str(error))
        if problem.startswith("object contains unknown field"):
            problem = f"there is no such field; use {', '.join(RedriveRequest.__struct_fields__)}"
        raise InvalidFilter(pointer.removeprefix("/"), problem) from None


def _check(request: JobRequest) -> None:
    """Limits that keep every store, index and page in bounds. Each says what to do."""
    if len(request.type) > TYPE_CHARACTERS or not TYPE_PATTERN.fullmatch(request.type):
        raise InvalidJob(
            "/type",
            f"a type is 1 to {TYPE_CHARACTERS} letters, digits or _ . : / -, and begins with none of . : / -",
        )
    if not QUEUE_PATTERN.fullmatch(request.queue):
        raise InvalidJob("/queue", "a queue is 1 to 100 letters, digits or any of _ . : -")
    check_range("/priority", request.priority, -1_000_000, 1_000_000)
    check_range("/max_attempts", request.max_attempts, 1, 1000)
    check_range("/timeout_seconds", request.timeout_seconds, 0.001, LONGEST_SECONDS)
    check_range("/delay_seconds", request.delay_seconds, 0, 3_155_760_000)
    check_instant("/run_at", request.run_at)
    check_instant("/deadline_at", request.deadline_at)
    if request.run_at is not None and request.delay_seconds is not None:
        raise InvalidJob("/delay_seconds", "send run_at or delay_seconds, not both")
    if request.unique_key is not None and not 1 <= len(request.unique_key) <= KEY_CHARACTERS:
        raise InvalidJob("/unique_key", f"a unique key has 1 to {KEY_CHARACTERS} characters")
    if len(request.tags) > MOST_TAGS:
        raise InvalidJob("/tags", f"a job has at most {MOST_TAGS} tags")
    for index, tag in enumerate(request.tags):
        if not 1 <= len(tag) <= TAG_CHARACTERS:
            raise InvalidJob(f"/tags/{index}", f"a tag has 1 to {TAG_CHARACTERS} characters")
    if request.parent_id is not None and not ID_PATTERN.fullmatch(request.parent_id):
        raise InvalidJob("/parent_id", "a job id is expected")
    if request.traceparent is not None and not TRACEPARENT_PATTERN.fullmatch(request.traceparent):
        raise InvalidJob("/traceparent", "a W3C traceparent is expected: version-trace-span-flags, in hex")


def _invalid_field(message: str) -> InvalidJob:
    pointer, problem = locate(message)
    if problem.startswith("object contains unknown field"):
        problem = f"there is no such field; a job has {', '.join(JobRequest.__struct_fields__)}"
    return InvalidJob(pointer, problem)


def job_body(job: Job, attempts: list[Attempt] | None = None) -> JobBody:
    """The shape of a job in every answer."""
    return JobBody(
        id=job.id,
        type=job.type,
        status=job.status,
        payload=raw(job.payload),
        result=raw(job.result),
        reason=job.reason,
        progress=raw(job.progress),
        queue=job.queue,
        priority=job.priority,
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        timeout_seconds=job.timeout_seconds,
        run_at=job.run_at,
        deadline_at=job.deadline_at,
        unique_key=job.unique_key,
        tags=job.tags,
        epoch=job.epoch,
        node=job.node,
        lease_until=job.lease_until,
        crash_count=job.crash_count,
        cancel_requested_at=job.cancel_requested_at,
        parent_id=job.parent_id,
        root_id=job.root_id,
        schedule=job.schedule,
        traceparent=job.traceparent,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        version=job.version,
        attempts=msgspec.UNSET if attempts is None else attempts,
    )
