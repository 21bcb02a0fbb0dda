"""A node in JSON."""

from datetime import datetime

import msgspec

from trioqueue.jobs.job import Status


class RunningBody(msgspec.Struct, frozen=True, kw_only=True):
    """A job that a node runs, in few words."""

    job_id: str
    type: str
    queue: str
    epoch: int
    started_at: datetime
    lease_until: datetime
    cancel_requested: bool


class NodeBody(msgspec.Struct, frozen=True, kw_only=True):
    """A node as clients see it."""

    node: str = msgspec.field(name="id")
    workers: int
    types: tuple[str, ...] | None
    started_at: datetime
    seen_at: datetime
    silent_seconds: float
    stopping: bool
    running: list[RunningBody]


class NodesBody(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes on one store."""

    nodes: list[NodeBody]


class HealthBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether a node does its work; `failing`, if it is there, says what does not, and why."""

    status: str
    demo: bool
    jobs: dict[Status, int]
    failing: dict[str, str] = {}

    @property
    def is_ok(self) -> bool:
        return self.status == "ok"


def node_body(seen: object) -> NodeBody:
    """The shape of a node. `seen` has the same attributes: it is what the store says."""
    return msgspec.convert(seen, NodeBody, from_attributes=True)
