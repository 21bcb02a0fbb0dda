"""A whole node without HTTP, in virtual time, on either store."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from trioqueue import Handlers
from trioqueue.clock import Clock
from trioqueue.config import Settings
from trioqueue.events import Event
from trioqueue.jobs.job import Job
from trioqueue.node import Node
from trioqueue.wire.jobs import JobRequest


class NodeUnderTest:
    """A running node, and the few things that tests ask of it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.events: list[Event] = []
        node.events.listen(self.events.append)

    async def enqueue(self, type: str, payload: object = None, **options: Any) -> Job:
        request = JobRequest(type=type, payload={} if payload is None else payload, **options)
        return (await self.node.service.enqueue(request)).job

    async def get(self, job: Job) -> Job:
        return (await self.node.service.get(job.id))[0]

    async def outcomes(self, job: Job) -> list[str]:
        return [str(attempt.outcome) for attempt in (await self.node.service.get(job.id))[1]]

    async def finished(self, job: Job) -> Job:
        """Wait, in virtual time, until the job has ended."""
        with trio.fail_after(100_000):
            pause = 0.05
            while not (job := await self.get(job)).is_final:
                await trio.sleep(pause)
                pause = min(pause * 1.5, 10)
        return job

    def seen(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


StartNode = Callable[..., Awaitable[NodeUnderTest]]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_database"))
    return "memory:" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
async def start_node(store_url: str, nursery: trio.Nursery) -> AsyncIterator[StartNode]:
    """Start a node with these handlers and settings; it is cut when the test ends."""
    nodes: list[Node] = []

    async def start(
        handlers: Handlers | None = None,
        *,
        clock: Clock | None = None,
        lazy: bool | None = None,
        **settings: Any,
    ) -> NodeUnderTest:
        node = Node(
            Settings(**{"store": store_url, "log_level": "error", "relaxed_durability": True, **settings}),
            handlers,
            clock=clock,
            random=Random(1),
            lazy=lazy,
        )
        test = NodeUnderTest(node)
        await nursery.start(node.run)
        nodes.append(node)
        return test

    yield start
    for node in nodes:
        node.cut()
        await node.stopped.wait()
