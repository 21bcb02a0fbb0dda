"""Hosts the node inside the ASGI lifespan: for the hypercorn command, which owns the process.

node.run                                                          (ends last)
└─ HTTP, from lifespan.startup.complete to lifespan.shutdown      (ends first)
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
from quart_trio.asgi import TrioASGILifespan

from trioqueue.errors import ConfigError, StoreUnavailable
from trioqueue.web.asgi import Receive, Send
from trioqueue.web.guard import install_guard
from trioqueue.web.guest import is_guest
from trioqueue.web.hosted import Hosted
from trioqueue.web.process import (
    ExitCode,
    end_process,
    final_state,
    hold_process,
    is_hypercorns,
)

if TYPE_CHECKING:
    from trioqueue.web.site import Site

log = logging.getLogger(__name__)


class Lifespan(TrioASGILifespan):
    """Makes the node, runs it for as long as the server serves, and drains it afterwards.

    A node that cannot start, or that breaks, ends the process: nothing is served without it.
    """

    def __init__(self, app: "Site", scope: Any) -> None:  # the types of messages are quart-trio's affair
        super().__init__(app, scope)
        self._site = app
        self._has_started = False

    async def __call__(self, receive: Any, send: Any) -> None:
        await receive()  # lifespan.startup
        try:
            if self._site.is_hosted:  # by `trioqueue serve`, where the node is outside of the server
                install_guard(self._site.limits)
                async with self._serving(receive, send):
                    pass
            else:
                await self._host(self._site.make_node(), receive, send)
        except Exception as error:
            await self._fail(sole_cause(error), send)
        else:
            await send({"type": "lifespan.shutdown.complete"})

    async def _host(self, node: Hosted, receive: Receive, send: Send) -> None:
        install_guard(self._site.limits, grace_seconds=node.grace_seconds)
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            ending = hold_process(node, is_guest=is_guest()) if is_hypercorns() else None
            if ending is not None:
                nursery.start_soon(ending.end_without_server)
            with self._site.hosting(node):
                async with self._serving(receive, send):
                    if ending is not None:
                        ending.hurry()
                    node.stop()
                    await node.stopped.wait()
            nursery.cancel_scope.cancel()
        if node.leases_left > 0 and is_hypercorns():
            end_process(*final_state(node))

    @asynccontextmanager
    async def _serving(self, receive: Receive, send: Send) -> AsyncIterator[None]:
        """Quart's own start and end. The body runs when the server has ended, before Quart does."""
        async with trio.open_nursery() as self._site.nursery:
            await self._site.startup()
            self._has_started = True
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
            yield
            await self._site.shutdown()
            self._site.nursery.cancel_scope.cancel()

    async def _fail(self, error: BaseException, send: Send) -> None:
        match error:
            case ConfigError():
                code, last_words = ExitCode.BAD_CONFIG, str(error)
            case StoreUnavailable() if not self._has_started:
                code, last_words = ExitCode.CRASHED, str(error)
            case _:
                log.critical("the service crashed", exc_info=error)
                code, last_words = ExitCode.CRASHED, f"the service crashed: {error!r}"
        if is_hypercorns():
            end_process(code, last_words)
        stage = "shutdown" if self._has_started else "startup"
        await send({"type": f"lifespan.{stage}.failed", "message": last_words})


def sole_cause(error: BaseException) -> BaseException:
    """What is inside of the groups that nurseries have put around a single error."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
