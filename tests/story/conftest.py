"""The whole service in process: HTTP through Quart's test client, virtual time, no port."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from trioqueue import Handlers
from trioqueue.app import create_app
from trioqueue.web.hosted import Hosted
from trioqueue.web.site import Site


class Client:
    """What a client sees: status, headers and JSON."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._client = site.test_client()

    @property
    def node(self) -> Hosted:
        return self.site.node

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
        response = await self._client.open(path, method=method, **options)
        assert response.content_type in ("application/json", "application/problem+json"), (
            response.content_type
        )
        self.headers = response.headers
        return response.status_code, await response.get_json(force=True)

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        return await self.call("GET", path)

    async def post(self, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        return await self.call("POST", path, json=body) if body is not None else await self.call("POST", path)

    async def finished(self, job_id: str) -> dict[str, Any]:
        pause = 0.05
        while True:
            _, job = await self.get(f"/jobs/{job_id}")
            if job["status"] not in ("pending", "processing"):
                return job
            await trio.sleep(pause)
            pause = min(pause * 1.5, 5)


StartClient = Callable[..., Awaitable[Client]]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_database"))
    return "memory:" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
async def start(store_url: str, nursery: trio.Nursery) -> AsyncIterator[StartClient]:
    """Start the service with these handlers and settings; demo mode without handlers."""
    nodes: list[Hosted] = []

    async def start_service(handlers: Handlers | None = None, **settings: Any) -> Client:
        usual = {"store": store_url, "log_level": "error", "relaxed_durability": True}
        site = create_app(handlers, **{**usual, **settings})
        node = site.make_node()
        await nursery.start(node.run)
        nodes.append(node)
        hosting.enter_context(site.hosting(node))
        return Client(site)

    with ExitStack() as hosting:
        yield start_service
    for node in nodes:
        node.cut()
        await node.stopped.wait()
