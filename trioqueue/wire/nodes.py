"""A node in JSON."""

from datetime import datetime

import msgspec


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


def node_body(seen: object) -> NodeBody:
    """The shape of a node. `seen` has the same attributes: it is what the store says."""
    return msgspec.convert(seen, NodeBody, from_attributes=True)
