"""Hardens hypercorn, for every worker class. Leans on internals of 0.18, and refuses any other version.

Whatever a client does, it ends its own connection at most: not the process, not the shutdown, not
another connection; and it writes no line of the access log but its own.
"""

from functools import partial
from importlib.metadata import version
from typing import Any

import h11
import hypercorn.asyncio.run
import hypercorn.logging
import hypercorn.protocol
import hypercorn.trio.run
from hypercorn.config import Config
from hypercorn.events import Event, RawData
from hypercorn.logging import AccessLogAtoms
from hypercorn.protocol.h11 import H11Protocol

from trioqueue.web.connections import Doors, GuardedAsyncioServer, GuardedTrioServer, HeadBegun, Refused
from trioqueue.web.limits import SERVER_SECONDS, Limits

KNOWN_HYPERCORN = "0.18."


def install_guard(limits: Limits, *, grace_seconds: float = 0.0) -> None:
    """Guard every connection that hypercorn accepts in this process from now on.

    Settings are changed where hypercorn keeps its defaults, so what the user has set still wins. Call
    it while the lifespan starts, before the server makes its TLS context and accepts. May be repeated.
    """
    if not (found := version("hypercorn")).startswith(KNOWN_HYPERCORN):
        raise RuntimeError(f"hypercorn {found} is not supported: the guard knows {KNOWN_HYPERCORN}x only")
    Config.alpn_protocols = ["http/1.1"]
    Config.include_server_header = False
    Config.keep_alive_timeout = limits.idle_seconds
    Config.keep_alive_max_requests = 1_000_000
    Config.graceful_timeout = SERVER_SECONDS
    Config.ssl_handshake_timeout = limits.head_seconds
    Config.shutdown_timeout = max(Config.shutdown_timeout, grace_seconds + 5.0)
    doors = Doors(limits.connections)
    vars(hypercorn.asyncio.run).update(TCPServer=partial(GuardedAsyncioServer, limits, doors))
    vars(hypercorn.trio.run).update(TCPServer=partial(GuardedTrioServer, limits, doors))
    vars(hypercorn.protocol).update(H11Protocol=GuardedH11Protocol, H2Protocol=NoProtocol)
    vars(hypercorn.logging).update(AccessLogAtoms=EscapedAtoms)


class GuardedH11Protocol(H11Protocol):
    """HTTP/1.1 and nothing else."""

    async def handle(self, event: Event) -> None:
        if isinstance(event, RawData) and event.data and self.stream is None:
            await self.send(HeadBegun())
        await super().handle(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        status = find_refusal(event)
        if status is not None:
            await self._send_error_response(status)
            raise Refused(status)


class NoProtocol:
    """Stands where hypercorn makes an HTTP/2 connection: by ALPN, by upgrade, by prior knowledge."""

    def __init__(self, *_: object) -> None:
        raise Refused("HTTP/2")


def find_refusal(request: h11.Request) -> int | None:
    """The status that refuses this request head, if the protocol or the method is not for us.

    An `Upgrade: h2c` is ignored and answered in HTTP/1.1, as RFC 9110 allows: Java's HttpClient asks
    for it with every first request.
    """
    if request.http_version not in (b"1.0", b"1.1"):
        return 505
    if request.method in (b"CONNECT", b"TRACE", b"PRI"):
        return 501
    if request.method != request.method.upper():  # hypercorn would take `head` for HEAD, but h11 would not
        return 501
    for name, value in request.headers:
        if name == b"upgrade" and value.strip().lower() == b"websocket":
            return 400
        if name == b"host" and not value.isascii():
            return 400
    return None


class EscapedAtoms(AccessLogAtoms):
    """What the access log says of a request, with nothing in it that could pass for another line."""

    def __init__(self, *request: Any) -> None:
        super().__init__(*request)
        self.update({key: escape(value) for key, value in self.items() if isinstance(value, str)})


def escape(text: str) -> str:
    """Control and bidirectional characters, quotes and backslashes as escapes, like Apache's log."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return "".join(map(_escape_character, text))


def _escape_character(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else character.encode("unicode_escape").decode()
