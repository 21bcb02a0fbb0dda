"""`app` for hypercorn, and `create_app()` for people with handlers of their own.

hypercorn trioqueue.app:app
"""

from typing import Any

from trioqueue.config import load_handlers, load_settings
from trioqueue.jobs.handlers import Handlers
from trioqueue.node import Node
from trioqueue.web.routes import add_routes
from trioqueue.web.site import Site

ENVELOPE_BYTES = 65_536
"""What a request may have around the payload: the other fields of a job."""


def create_app(handlers: Handlers | None = None, **settings: Any) -> Site:
    """An ASGI app that is a whole trioqueue: HTTP, workers and store.

    Without `handlers`, the setting TRIOQUEUE_HANDLERS names them; without that, demo mode.
    `settings` are fields of `trioqueue.config.Settings` and win over the environment. Nothing is
    read or opened before a server starts the app; wrong settings are reported then.
    """

    def make_node() -> Node:
        loaded = load_settings(**settings)
        found = handlers
        if found is None and loaded.handlers is not None:
            found = load_handlers(loaded.handlers)
        site.max_body_bytes = loaded.max_payload_bytes + ENVELOPE_BYTES
        return Node(loaded, found)

    site = Site(make_node)
    add_routes(site)
    return site


app = create_app()
