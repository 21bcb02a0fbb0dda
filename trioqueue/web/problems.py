"""Every error as application/problem+json (RFC 9457): never HTML, never a traceback."""

import logging
from collections.abc import Mapping
from http import HTTPStatus

from quart import Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from trioqueue.errors import (
    Draining,
    InvalidFilter,
    InvalidJob,
    JobNotFound,
    MalformedJson,
    PayloadTooLarge,
    RedriveRefused,
    StoreBusy,
    StoreUnavailable,
    TrioqueueError,
    TryAgain,
    UnknownType,
    WrongStatus,
)
from trioqueue.wire.common import render

log = logging.getLogger("trioqueue.web")

KINDS: dict[type[TrioqueueError], tuple[int, str, str]] = {
    MalformedJson: (400, "malformed-json", "The body is not acceptable JSON"),
    InvalidFilter: (400, "bad-filter", "A query parameter cannot be used"),
    InvalidJob: (422, "invalid-job", "The job cannot be accepted"),
    UnknownType: (422, "unknown-type", "No handler has this type"),
    PayloadTooLarge: (413, "payload-too-large", "The payload is too large"),
    JobNotFound: (404, "not-found", "There is no such job"),
    WrongStatus: (409, "wrong-status", "The job's status does not allow that"),
    RedriveRefused: (409, "redrive-refused", "The job cannot be redriven"),
    Draining: (503, "draining", "This node takes no new jobs"),
    StoreBusy: (503, "store-busy", "Somebody else's transaction is in the way"),
    StoreUnavailable: (503, "store-unavailable", "The store is not available"),
}
"""Status, slug and title of each error that reaches a client."""


def problem(
    status: int, slug: str, title: str, detail: str, *, facts: Mapping[str, object] | None = None
) -> Response:
    """One problem document. `facts` are further members, for programs."""
    body = {"type": f"/problems/{slug}", "title": title, "status": status, "detail": detail, **(facts or {})}
    return Response(render(body) + b"\n", status=status, content_type="application/problem+json")


async def from_trioqueue(error: TrioqueueError) -> Response:
    """The answer for an error that trioqueue raised on purpose."""
    kind = next((KINDS[base] for base in type(error).__mro__ if base in KINDS), None)
    if kind is None:
        return await from_anything(error)
    status, slug, title = kind
    response = problem(status, slug, title, str(error), facts=_facts(error))
    if isinstance(error, TryAgain):
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    return response


async def from_http(error: HTTPException) -> Response:
    """The answer for what the router and the request parser refuse: 404, 405, 413 and so on."""
    status = error.code or 500
    title = HTTPStatus(status).phrase
    slug = title.lower().replace(" ", "-")
    detail = error.description or title
    if isinstance(error, NotFound):
        detail = "There is nothing at this path; jobs are at /jobs, the node's state at /health."
    response = problem(status, slug, title, detail)
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return response


async def from_anything(error: BaseException) -> Response:
    """The answer for a mistake of ours. The client learns nothing but that; the log has it all."""
    log.error("a request failed", exc_info=error)
    return problem(500, "internal", "Internal error", "The request failed; the service's log says why.")


def _facts(error: TrioqueueError) -> dict[str, object]:
    match error:
        case InvalidJob(pointer=pointer, problem=text):
            return {"errors": [{"pointer": pointer, "detail": text}]}
        case UnknownType(known=known):
            return {"errors": [{"pointer": "/type", "detail": "unknown type"}], "known_types": known}
        case InvalidFilter(parameter=parameter):
            return {"parameter": parameter}
        case WrongStatus(status=status):
            return {"job_status": status}
        case PayloadTooLarge(limit_bytes=limit):
            return {"limit_bytes": limit}
        case _:
            return {}
