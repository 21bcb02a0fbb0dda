"""The JSON routes: parse, call one verb, render."""

from typing import TYPE_CHECKING, cast

import msgspec
import trio
from quart import Blueprint, Response, current_app, request
from werkzeug.exceptions import UnsupportedMediaType

from trioqueue.jobs.job import Status
from trioqueue.service import Service
from trioqueue.web.hosted import Hosted
from trioqueue.web.parameters import check_parameters, seconds, status_filter, text, whole_number
from trioqueue.wire.common import render
from trioqueue.wire.jobs import (
    CancelBody,
    JobPageBody,
    RedriveBody,
    UnwindingBody,
    job_body,
    parse_job_request,
    parse_redrive_request,
)
from trioqueue.wire.nodes import HealthBody, NodesBody, node_body

if TYPE_CHECKING:
    from trioqueue.web.site import Site

DEFAULT_LIMIT = 100
HIGHEST_LIMIT = 500
LONGEST_WAIT_SECONDS = 60.0

api = Blueprint("api", __name__)


@api.post("/jobs")
async def enqueue() -> Response:
    """Keep a job: 201 once it is committed and flushed, 200 when its unique key is in use."""
    _check_json("send the job as application/json")
    body = cast(bytes, await request.get_data(cache=False))
    job_request = parse_job_request(body)
    with trio.CancelScope(shield=True):  # a client that hangs up now must not undo the commit
        enqueued = await service().enqueue(job_request)
    response = answer(job_body(enqueued.job), status=201 if enqueued.created else 200)
    response.headers["Location"] = f"/jobs/{enqueued.job.id}"
    return response


@api.get("/jobs")
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


@api.get("/jobs/<job_id>")
async def get_job(job_id: str) -> Response:
    """One job with its attempts."""
    job, attempts = await service().get(job_id)
    return answer(job_body(job, list(attempts)))


@api.post("/jobs/<job_id>/cancel")
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


@api.post("/jobs/<job_id>/redrive")
async def redrive(job_id: str) -> Response:
    """Put a dead or cancelled job back."""
    check_parameters()
    with trio.CancelScope(shield=True):
        job = await service().redrive(job_id)
    return answer(job_body(job))


@api.post("/jobs/redrive")
async def redrive_matching() -> Response:
    """Put back every dead or cancelled job that matches, or only count them."""
    check_parameters()
    _check_json("send the filter as application/json")
    wanted = parse_redrive_request(cast(bytes, await request.get_data(cache=False)))
    receipt = await service().redrive_matching(
        status=wanted.status, type=wanted.type, queue=wanted.queue, tag=wanted.tag, dry_run=wanted.dry_run
    )
    return answer(msgspec.convert(receipt, RedriveBody, from_attributes=True))


@api.get("/nodes")
async def nodes() -> Response:
    """The nodes that share the store, and what each of them runs."""
    return answer(NodesBody(nodes=[node_body(node) for node in await service().nodes()]))


@api.get("/health")
async def health() -> Response:
    """Whether the node does its work, and how much of it there is."""
    node = hosted()
    counts = dict.fromkeys(Status, 0)
    for count in await node.service.counts():
        counts[count.status] += count.jobs
    body = HealthBody(
        status="ok" if node.health.is_ready else "unhealthy",
        demo=node.is_demo,
        jobs=counts,
        failing=_failures(node),
    )
    return answer(body, status=200 if node.health.is_ready else 503)


@api.get("/livez")
async def livez() -> Response:
    """Red when only a restart helps."""
    node = hosted()
    return answer(
        {"status": "ok" if node.health.is_live else "unhealthy", **_failing(node)},
        status=200 if node.health.is_live else 503,
    )


@api.get("/readyz")
async def readyz() -> Response:
    """Red when jobs should go elsewhere. `?verbose` shows every check and every warning."""
    node = hosted()
    ready = node.health.is_ready
    body: dict[str, object] = {"status": "ok" if ready else "unhealthy", **_failing(node)}
    if "verbose" in request.args:
        body |= node.health.facts
        body["checks"] = node.health.checks()
        body["warnings"] = node.health.warnings
    return answer(body, status=200 if ready else 503)


@api.get("/metrics")
async def metrics() -> Response:
    """The numbers of this node and of the store, for Prometheus."""
    body, content_type = await hosted().metrics.scrape(request.headers.get("Accept", ""))
    # The next scrape comes on a new connection: where processes share the port, each gets its turn.
    return Response(body, content_type=content_type, headers={"Connection": "close"})


def hosted() -> Hosted:
    """The node behind this site."""
    return cast("Site", current_app).node


def service() -> Service:
    return hosted().service


def answer(body: object, *, status: int = 200) -> Response:
    return Response(render(body) + b"\n", status=status, content_type="application/json")


def _failing(node: Hosted) -> dict[str, object]:
    failures = _failures(node)
    return {"failing": failures} if failures else {}


def _failures(node: Hosted) -> dict[str, str]:
    return {check.name: check.detail for check in node.health.checks() if not check.ok}


def _check_json(advice: str) -> None:
    """Whether the body may be JSON. The last of the three is what `curl -d` says."""
    if request.mimetype not in ("application/json", "", "application/x-www-form-urlencoded"):
        raise UnsupportedMediaType(advice)
