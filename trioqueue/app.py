"""`app` for hypercorn, and `create_app()` for people with handlers of their own.

hypercorn trioqueue.app:app
"""

from typing import Any

from trioqueue.config import load_handlers, load_settings
from trioqueue.jobs.handlers import Handlers
from trioqueue.node import Node
from trioqueue.web.api import api
from trioqueue.web.site import Site


def create_app(handlers: Handlers | None = None, **settings: Any) -> Site:
    """An ASGI app that is a whole trioqueue: HTTP, workers and store.

    Without `handlers`, the setting TRIOQUEUE_HANDLERS names them; without that, demo mode.
    `settings` are fields of `trioqueue.config.Settings` and win over the environment. Nothing is
    read or opened before the server starts the app; wrong settings are reported then.
    """

    def make_node() -> Node:
        loaded = load_settings(**settings)
        found = handlers
        if found is None and loaded.handlers is not None:
            found = load_handlers(loaded.handlers)
        return Node(loaded, found)

    site = Site(make_node=make_node)
    site.register_blueprint(api)
    return site


app = create_app()
