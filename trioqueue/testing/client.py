"""An HTTP client in process: the service's own routes, without a port and without waiting."""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any, cast

from quart import Response

from trioqueue.node import Node
from trioqueue.web.hosted import Hosted
from trioqueue.web.routes import add_routes
from trioqueue.web.site import Site


class Client:
    """Sends requests to the node that `find_node` finds. Options are those of Quart's test client.

    Answers are Quart's: `status_code`, `headers`, `await answer.get_json()`.
    """

    def __init__(self, find_node: Callable[[], Awaitable[Node]]) -> None:
        self._find_node = find_node
        self._serving = ServingNode()
        self._site = Site(lambda: cast(Hosted, self._serving))
        self._hosting = ExitStack()
        self._hosting.enter_context(self._site.hosting(cast(Hosted, self._serving)))
        add_routes(self._site)

    async def request(self, method: str, path: str, **options: Any) -> Response:
        """Any request, as in `request("POST", "/jobs", json={…}, headers={…})`."""
        self._serving.node = await self._find_node()
        return await self._site.test_client().open(path, method=method, **options)

    async def get(self, path: str, **options: Any) -> Response:
        """As in `get("/jobs", query_string={"status": "dead"})`."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Response:
        """As in `post("/jobs", json={"type": "charge", "payload": {"order": 7}})`."""
        return await self.request("POST", path, **options)


class ServingNode:
    """Whichever node serves requests at the moment."""

    node: Node

    def __getattr__(self, name: str) -> Any:
        return getattr(self.node, name)
