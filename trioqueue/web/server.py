"""`trioqueue serve`: the node and its HTTP server in one root nursery, with exit codes that tell.

node.run                    (ends last)
└─ hypercorn.trio.serve     (ends first)

`trioqueue worker` is the same without the server.
"""

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, cast

import hypercorn.trio
import trio
from hypercorn.config import Config

from trioqueue.errors import ConfigError, StoreUnavailable
from trioqueue.web.hosted import Hosted
from trioqueue.web.lifespan import sole_cause
from trioqueue.web.process import Ending, ExitCode, Watchdog, end_quietly, final_state, hold_signals
from trioqueue.web.site import Site

log = logging.getLogger(__name__)


class CannotListen(Exception):
    """An address cannot be bound: another process has it, or it is not one of this machine's."""

    def __init__(self, bind: Sequence[str], reason: OSError) -> None:
        super().__init__(f"cannot listen on {', '.join(bind)}: {reason.strerror or reason}")


def serve(
    site: Site, *, bind: Sequence[str] | None, access_log: bool = False, ends_process: bool = False
) -> ExitCode:
    """Serve the site until SIGTERM or SIGINT; blocks. Returns what the process is to exit with.

    The first signal closes intake, ends the server within a second and drains the node; the second
    cuts. `bind` takes what hypercorn takes: `host:port`, `[v6]:port`, `unix:path`, `fd://number`;
    with None there is no server, and the site's node only runs jobs.
    With `ends_process` it never returns: the process ends with that code while the signals are still
    held, and no thread that a handler has left behind is waited for.
    """
    with ExitStack() as held:
        code = _run(site, bind, access_log, held)
        if ends_process:
            end_quietly(code)
    return code


def _run(site: Site, bind: Sequence[str] | None, access_log: bool, held: ExitStack) -> ExitCode:
    try:
        node = trio.run(_serve, site, bind, access_log, held)
    except KeyboardInterrupt:
        return ExitCode.DRAINED  # the node had not started yet
    except Exception as error:
        return _explain(sole_cause(error))
    code, words = final_state(node)
    if code is not ExitCode.DRAINED:
        _say(words)
    return code


async def _serve(site: Site, bind: Sequence[str] | None, access_log: bool, held: ExitStack) -> Hosted:
    node = site.make_node()
    if bind is None:
        if node.workers == 0:
            raise ConfigError(["WORKER_COUNT=0: a worker that runs no jobs would do nothing at all"])
        serve_until = partial(_serve_nothing, node)
    else:
        serve_until = partial(_serve_http, site, _config(bind, access_log=access_log), bind)
    async with trio.open_nursery() as root:
        await root.start(node.run)
        stopping = trio.Event()
        watchdog = Watchdog(node)
        held.callback(watchdog.dismiss)
        ending = Ending(node, watchdog, stopping.set)
        held.callback(hold_signals(ending.ask))
        root.start_soon(ending.end_without_server)
        with site.hosting(node):
            await serve_until(stopping)
        # No request runs any more, so nothing is enqueued after this.
        node.stop()
        await node.stopped.wait()
        # The node has ended, and with it every attempt; its store is closed.
        root.cancel_scope.cancel()
    return node


async def _serve_http(site: Site, config: Config, bind: Sequence[str], stopping: trio.Event) -> None:
    app = cast(Any, site)  # hypercorn's types of ASGI are narrower than ASGI
    async with trio.open_nursery() as nursery:
        try:
            addresses: list[str] = await nursery.start(
                partial(hypercorn.trio.serve, app, config, shutdown_trigger=stopping.wait, mode="asgi")
            )
        except OSError as error:
            raise CannotListen(bind, error) from error
        _say(f"listening on {', '.join(addresses)}")


async def _serve_nothing(node: Hosted, stopping: trio.Event) -> None:
    _say(f"at work with {node.workers} workers, without HTTP")
    await stopping.wait()


def _config(bind: Sequence[str], *, access_log: bool) -> Config:
    """Binds at once, so that an address in use is told before a store is opened; listens later."""
    config = Config()
    config.bind = list(bind)
    try:
        sockets = config.create_sockets().insecure_sockets
    except OSError as error:
        raise CannotListen(bind, error) from error
    config.bind = [f"fd://{socket.detach()}" for socket in sockets]
    config.accesslog = "-" if access_log else None
    config.errorlog = log
    return config


def _explain(error: BaseException) -> ExitCode:
    match error:
        case ConfigError():
            _say(str(error))
            return ExitCode.BAD_CONFIG
        case CannotListen() | StoreUnavailable():
            _say(str(error))
        case _:
            log.critical("the service crashed", exc_info=error)
    return ExitCode.CRASHED


def _say(words: str) -> None:
    with suppress(OSError, ValueError):  # nobody may be there to read it
        sys.stderr.write(f"trioqueue: {words}\n")
        sys.stderr.flush()
