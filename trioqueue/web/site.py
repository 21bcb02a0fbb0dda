"""The Quart app with everything around it that makes it safe to serve."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

from quart import Quart
from quart_trio import QuartTrio
from quart_trio.testing import TrioTestApp

from trioqueue.web.asgi import App, Receive, Scope, Send
from trioqueue.web.edge import Edge
from trioqueue.web.guest import Guest
from trioqueue.web.hosted import Hosted
from trioqueue.web.lifespan import Lifespan
from trioqueue.web.limits import Limits

MAX_BODY_BYTES = 16 * 1024 * 1024


class PatientTestApp(TrioTestApp):
    """Quart's own gives a shutdown six seconds; a node may take its whole grace period, in virtual time."""

    def __init__(self, app: Quart, startup_timeout: int = 3_600, shutdown_timeout: int = 100_000) -> None:
        super().__init__(app, startup_timeout, shutdown_timeout)


class Site(QuartTrio):
    """A request goes through the guest bridge and the edge, then to Quart's routes.

    `make_node` is called when a server starts the site, inside the Trio run that the node lives in.
    """

    test_app_class = PatientTestApp
    asgi_lifespan_class = Lifespan  # type: ignore[assignment]  # Quart means the class to be replaced

    def __init__(
        self,
        make_node: Callable[[], Hosted],
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
        limits: Limits | None = None,
        import_name: str = "trioqueue.web",
    ) -> None:
        super().__init__(import_name, static_folder=None)
        self.make_node = make_node
        self.limits = limits or Limits()
        self._node: Hosted | None = None
        self._edge = Edge(cast(App, super().__call__), self.limits, max_body_bytes=max_body_bytes)
        self._guest = Guest(self._edge)
        # The edge and the guard have deadlines of their own for what these would cut.
        self.config.update(BACKGROUND_TASK_SHUTDOWN_TIMEOUT=1, BODY_TIMEOUT=None, RESPONSE_TIMEOUT=None)
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # type: ignore[override]
        await self._guest(scope, receive, send)

    @property
    def max_body_bytes(self) -> int:
        """The most bytes that a request body may have; may be set at any time."""
        return self._edge.max_body_bytes

    @max_body_bytes.setter
    def max_body_bytes(self, value: int) -> None:
        self._edge.max_body_bytes = value
        self.config["MAX_CONTENT_LENGTH"] = value

    @property
    def is_hosted(self) -> bool:
        """Whether a node stands behind this site now."""
        return self._node is not None

    @property
    def node(self) -> Hosted:
        """The node behind this site, for the routes."""
        if self._node is None:
            raise RuntimeError("no server has started this site; see Site.hosting()")
        return self._node

    @contextmanager
    def hosting(self, node: Hosted) -> Iterator[None]:
        """For this long, the site is the face of `node`. Tests use it as well as hosts."""
        self._node = node
        try:
            yield
        finally:
            self._node = None
