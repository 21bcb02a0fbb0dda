"""The routes of jobs: parse, call one verb, render."""

from typing import cast

import msgspec
import trio
from quart import Blueprint, Response, request

from trioqueue.web.answers import answer, check_json, service
from trioqueue.web.parameters import check_parameters, seconds, status_filter, text, whole_number
from trioqueue.wire.jobs import (
    CancelBody,
    JobPageBody,
    RedriveBody,
    UnwindingBody,
    job_body,
    parse_job_request,
    parse_redrive_request,
)

DEFAULT_LIMIT = 100
HIGHEST_LIMIT = 500
LONGEST_WAIT_SECONDS = 60.0

jobs = Blueprint("jobs", __name__)


@jobs.post("/jobs")
async def enqueue() -> Response:
    """Keep a job: 201 once it is committed and flushed, 200 when its unique key is in use."""
    check_json("send the job as application/json")
    body = cast(bytes, await request.get_data(cache=False))
    job_request = parse_job_request(body)
    with trio.CancelScope(shield=True):  # a client that hangs up now must not undo the commit
        enqueued = await service().enqueue(job_request)
    response = answer(job_body(enqueued.job), status=201 if enqueued.created else 200)
    response.headers["Location"] = f"/jobs/{enqueued.job.id}"
    return response


@jobs.get("/jobs")
async def list_jobs() -> Response:
    """Jobs, newest first, a page at a time."""
    check_parameters("status", "type", "queue", "tag", "limit", "cursor")
    page = await service().list(
        status=status_filter(),
        type=text("type"),
        queue=text("queue"),
        tag=text("tag"),
        limit=whole_number("limit", DEFAULT_LIMIT, lowest=1, highest=HIGHEST_LIMIT),
        cursor=request.args.get("cursor"),
    )
    return answer(JobPageBody(jobs=[job_body(job) for job in page.jobs], next_cursor=page.next_cursor))


@jobs.get("/jobs/<job_id>")
async def get_job(job_id: str) -> Response:
    """One job with its attempts."""
    job, attempts = await service().get(job_id)
    return answer(job_body(job, list(attempts)))


@jobs.post("/jobs/<job_id>/cancel")
async def cancel(job_id: str) -> Response:
    """Stop a job: 200 when nothing of it runs any more, 202 while something still unwinds."""
    check_parameters("wait")
    receipt = await service().cancel(job_id, wait_seconds=seconds("wait", 0.0, LONGEST_WAIT_SECONDS))
    job = receipt.job
    if receipt.confirmed:
        after_ms = round(receipt.after_seconds * 1000, 1)
        return answer(CancelBody(confirmed=True, job=job_body(job), after_ms=after_ms))
    unwinding = UnwindingBody(type=job.type, node=job.node, epoch=job.epoch, since=job.cancel_requested_at)
    return answer(CancelBody(confirmed=False, job=job_body(job), unwinding=unwinding), status=202)


@jobs.post("/jobs/<job_id>/redrive")
async def redrive(job_id: str) -> Response:
    """Put a dead or cancelled job back."""
    check_parameters()
    with trio.CancelScope(shield=True):
        job = await service().redrive(job_id)
    return answer(job_body(job))


@jobs.post("/jobs/redrive")
async def redrive_matching() -> Response:
    """Put back every dead or cancelled job that matches, or only count them."""
    check_parameters()
    check_json("send the filter as application/json")
    wanted = parse_redrive_request(cast(bytes, await request.get_data(cache=False)))
    receipt = await service().redrive_matching(
        status=wanted.status, type=wanted.type, queue=wanted.queue, tag=wanted.tag, dry_run=wanted.dry_run
    )
    return answer(msgspec.convert(receipt, RedriveBody, from_attributes=True))
