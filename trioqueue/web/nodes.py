"""The routes of nodes: who is there, whether this one does its work, and its numbers."""

from quart import Blueprint, Response, request

from trioqueue.jobs.job import Status
from trioqueue.web.answers import answer, hosted, service
from trioqueue.web.hosted import Hosted
from trioqueue.wire.nodes import HealthBody, NodesBody, node_body

nodes = Blueprint("nodes", __name__)


@nodes.get("/nodes")
async def list_nodes() -> Response:
    """The nodes that share the store, and what each of them runs."""
    return answer(NodesBody(nodes=[node_body(node) for node in await service().nodes()]))


@nodes.get("/health")
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


@nodes.get("/livez")
async def livez() -> Response:
    """Red when only a restart helps."""
    node = hosted()
    return answer(
        {"status": "ok" if node.health.is_live else "unhealthy", **_failing(node)},
        status=200 if node.health.is_live else 503,
    )


@nodes.get("/readyz")
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


@nodes.get("/metrics")
async def metrics() -> Response:
    """The numbers of this node and of the store, for Prometheus."""
    body, content_type = await hosted().metrics.scrape(request.headers.get("Accept", ""))
    # The next scrape comes on a new connection: where processes share the port, each gets its turn.
    return Response(body, content_type=content_type, headers={"Connection": "close"})


def _failing(node: Hosted) -> dict[str, object]:
    failures = _failures(node)
    return {"failing": failures} if failures else {}


def _failures(node: Hosted) -> dict[str, str]:
    return {check.name: check.detail for check in node.health.checks() if not check.ok}
