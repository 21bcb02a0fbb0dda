"""Hosts the node inside the ASGI lifespan: for the hypercorn command, which owns the process.

node.run                                                          (ends last)
└─ HTTP, from lifespan.startup.complete to lifespan.shutdown      (ends first)
"""

import logging
from typing import TYPE_CHECKING, Any

import trio
from quart_trio.asgi import TrioASGILifespan

from trioqueue.errors import ConfigError, StoreUnavailable
from trioqueue.web.asgi import Receive, Send
from trioqueue.web.guard import install_guard
from trioqueue.web.guest import is_guest
from trioqueue.web.hosted import Hosted
from trioqueue.web.limits import SERVER_SECONDS
from trioqueue.web.process import (
    SPARE_SECONDS,
    Ending,
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
        install_guard(self._site.limits)
        if self._site.is_hosted:  # by `trioqueue serve`, where the node is outside of the server
            await super().__call__(receive, send)
            return
        await receive()  # lifespan.startup
        try:
            node = self._site.make_node()
            await self._host(node, receive, send)
        except Exception as error:
            await self._fail(sole_cause(error), send)
        else:
            if node.leases_left > 0 and is_hypercorns():
                end_process(*final_state(node))
            await send({"type": "lifespan.shutdown.complete"})

    async def _host(self, node: Hosted, receive: Receive, send: Send) -> None:
        install_guard(self._site.limits, grace_seconds=node.grace_seconds)
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            ending = hold_process(node, is_guest=is_guest()) if is_hypercorns() else None
            if ending is not None:
                nursery.start_soon(_end_without_server, ending, node)
            with self._site.hosting(node):
                async with trio.open_nursery() as self._site.nursery:
                    await self._site.startup()
                    self._has_started = True
                    await send({"type": "lifespan.startup.complete"})
                    await receive()  # lifespan.shutdown: the server has ended
                    if ending is not None:
                        ending.hurry()
                    node.stop()
                    await node.stopped.wait()
                    await self._site.shutdown()
                    self._site.nursery.cancel_scope.cancel()
            nursery.cancel_scope.cancel()

    async def _fail(self, error: BaseException, send: Send) -> None:
        match error:
            case ConfigError():
                code, last_words = ExitCode.BAD_CONFIG, str(error)
            case StoreUnavailable() if not self._has_started:
                code, last_words = ExitCode.CRASHED, str(error)
            case _:
                log.critical("the node crashed", exc_info=error)
                code, last_words = ExitCode.CRASHED, f"the node crashed: {error!r}"
        if is_hypercorns():
            end_process(code, last_words)
        stage = "shutdown" if self._has_started else "startup"
        await send({"type": f"lifespan.{stage}.failed", "message": last_words})


async def _end_without_server(ending: Ending, node: Hosted) -> None:
    """Drain in time even if the server hangs, or cannot be told: claims are given back in any case."""
    await ending.asked.wait()
    await trio.sleep(SERVER_SECONDS + SPARE_SECONDS / 4)
    node.stop()
    await node.stopped.wait()
    await trio.sleep(SPARE_SECONDS / 4)
    end_process(*final_state(node))


def sole_cause(error: BaseException) -> BaseException:
    """What is inside of the groups that nurseries have put around a single error."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
