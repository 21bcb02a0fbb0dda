"""The shapes of ASGI, and the problem document that the hosting layer answers with by itself."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Scope = MutableMapping[str, Any]  # ASGI says: plain dictionaries, whose values depend on "type"
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Problem:
    """One RFC 9457 problem document."""

    status: int
    slug: str
    title: str
    detail: str

    def body(self) -> bytes:
        members = {
            "type": f"/problems/{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        return json.dumps(members).encode()


NOT_RUNNING = Problem(503, "not-running", "The service is not running", "It starts or it ends just now.")


async def answer(send: Send, problem: Problem, *, close: bool) -> None:
    """Send the problem as the whole response; `close` asks the server to end the connection after it."""
    body = problem.body()
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body))]
    if problem.status == 503:
        headers.append((b"retry-after", b"1"))
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
