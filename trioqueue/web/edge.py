"""The outermost ASGI layer: what is not a proper request never reaches the app.

A body is read whole, within its limits, before the app is called. So no handler waits for a slow
client, and no response leaves while a body is still coming in, which would wedge the connection.
"""

import logging
import re

import trio

from trioqueue.web.asgi import App, Message, Problem, Receive, Scope, Send, answer
from trioqueue.web.limits import Limits

log = logging.getLogger(__name__)

HOST = re.compile(rb"(?:\[[0-9a-fA-F:.]+\]|[\w-]{1,63}(?:\.[\w-]{1,63})*\.?)?(?::[0-9]{1,5})?")
UNPRINTABLE = re.compile(rb"[^\x21-\x7e]")

BAD_TARGET = Problem(400, "bad-target", "Bad request target", "Send an absolute path in printable ASCII.")
BAD_HOST = Problem(400, "bad-host", "Bad Host header", "Send the name or the address that you call.")
BAD_FRAMING = Problem(
    400, "bad-framing", "Ambiguous body length", "Send Content-Length or Transfer-Encoding, never both."
)
ENCODED = Problem(415, "encoded-body", "Encoded body", "Content-Encoding is not accepted.")
TOO_SLOW = Problem(408, "slow-body", "The body came too slowly", "Send the whole body at once.")
FAILED = Problem(500, "internal", "Internal error", "The request failed; the service's log says why.")


class Refused(Exception):
    """The request is not let through; `problem` is the answer to it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.title)
        self.problem = problem


class BodyTooLarge(Exception):
    """More bytes came than are accepted."""


class ClientGone(Exception):
    """The client hung up before its request was complete."""


class Edge:
    """Wraps the app; runs under Trio, natively or as a guest."""

    def __init__(self, app: App, limits: Limits, *, max_body_bytes: int) -> None:
        self.max_body_bytes = max_body_bytes
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._answer(scope, _Body(receive), _shielded_at_the_end(send))
            case "websocket":
                await send({"type": "websocket.close", "code": 1003})
            case _:
                await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, body: "_Body", send: Send) -> None:
        try:
            content = await self._admit(scope, body)
        except ClientGone:
            pass
        except Refused as refused:
            await _refuse(body, send, refused.problem)
        else:
            await self._call(scope, _replayed(content, body.receive), send)

    async def _admit(self, scope: Scope, body: "_Body") -> bytes:
        """The whole body, or `Refused`: at once for a slow one, else after the rest of it was dropped."""
        problem = find_problem(scope, self._limits, self.max_body_bytes)
        if problem is None:
            try:
                with trio.fail_after(self._limits.body_seconds):
                    return await body.read(self.max_body_bytes)
            except trio.TooSlowError:
                raise Refused(TOO_SLOW) from None
            except BodyTooLarge:
                problem = _too_large(self.max_body_bytes)
        with trio.move_on_after(self._limits.drain_seconds):
            await body.drain(self._limits.drain_bytes)
        raise Refused(problem)

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = failed = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except* Exception as errors:
            if started:
                raise
            log.error("a request failed outside of the app", exc_info=errors)
            failed = True
        if failed:
            await answer(send, FAILED, close=True)


class _Body:
    """The body of one request while it comes in."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.is_complete = False

    async def read(self, max_bytes: int) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while not self.is_complete:
            chunk = await self._next()
            size += len(chunk)
            if size > max_bytes:
                raise BodyTooLarge
            chunks.append(chunk)
        return b"".join(chunks)

    async def drain(self, max_bytes: int) -> None:
        """Drop what comes, so that the client gets to read its answer; not for ever."""
        while not self.is_complete and max_bytes > 0:
            max_bytes -= len(await self._next())

    async def discard(self) -> None:
        """Drop what comes until the connection is closed."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def _next(self) -> bytes:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        self.is_complete = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk


def find_problem(scope: Scope, limits: Limits, max_body_bytes: int) -> Problem | None:
    """What is wrong with this request head, if anything."""
    target: bytes = scope["raw_path"]
    query: bytes = scope["query_string"]
    if not target.startswith(b"/") or UNPRINTABLE.search(target) or UNPRINTABLE.search(query):
        return BAD_TARGET
    if len(target) + len(query) > limits.target_bytes:
        return Problem(
            414, "long-target", "The target is too long", f"Send {limits.target_bytes} bytes at most."
        )
    headers: list[tuple[bytes, bytes]] = list(scope["headers"])
    if len(headers) > limits.headers:
        return Problem(400, "too-many-headers", "Too many headers", f"Send {limits.headers} fields at most.")
    if sum(len(name) + len(value) for name, value in headers) > limits.head_bytes:
        return Problem(
            431, "large-headers", "The headers are too large", f"Send {limits.head_bytes} bytes at most."
        )
    fields = {name.lower(): value for name, value in headers}
    if HOST.fullmatch(fields.get(b"host", b"")) is None:
        return BAD_HOST
    length = fields.get(b"content-length")
    if length is not None and b"transfer-encoding" in fields:
        return BAD_FRAMING
    if length is not None and (not length.isdigit() or int(length[:18]) > max_body_bytes):
        return _too_large(max_body_bytes)
    if fields.get(b"content-encoding", b"identity").strip().lower() not in (b"identity", b""):
        return ENCODED
    return None


def _too_large(max_body_bytes: int) -> Problem:
    detail = f"At most {max_body_bytes} bytes are accepted."
    return Problem(413, "payload-too-large", "The body is too large", detail)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body at once, and then what comes after it: the disconnect."""
    unread = [body]

    async def replayed() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return replayed


def _shielded_at_the_end(send: Send) -> Send:
    """quart-trio cancels the request as soon as the last message has left, while hypercorn is still at
    work behind it: it would never close the connection or start its idle time."""

    async def shielded(message: Message) -> None:
        if message["type"] != "http.response.body" or message.get("more_body", False):
            await send(message)
            return
        with trio.CancelScope(shield=True):  # bounded: the guard puts a deadline on every write
            await send(message)

    return shielded


async def _refuse(body: _Body, send: Send, problem: Problem) -> None:
    """Answer; if the body still comes in, close, and go on taking it until that has happened."""
    if body.is_complete:
        await answer(send, problem, close=False)
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(body.discard)
        await answer(send, problem, close=True)
        nursery.cancel_scope.cancel()
