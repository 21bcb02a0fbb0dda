"""Trio as a guest of an asyncio loop, driven by a small ASGI server of the tests' own."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.lowlevel

from trioqueue.web.asgi import App, Message, Receive, Scope, Send
from trioqueue.web.guest import HIGH_WATER, Guest, is_guest

Handler = Callable[[Receive, Send], Awaitable[None]]


class Client:
    """One request: what it sends comes from `incoming`, what it gets is in `received`."""

    def __init__(self, guest: Guest, body: bytes | None = b"") -> None:
        self.received: list[Message] = []
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        self.taking = asyncio.Event()
        self.taking.set()
        self._guest = guest
        if body is not None:
            self.send_body(body)

    def send_body(self, body: bytes, *, more: bool = False) -> None:
        self.incoming.put_nowait({"type": "http.request", "body": body, "more_body": more})

    async def run(self) -> None:
        await self._guest({"type": "http"}, self.incoming.get, self._take)

    async def _take(self, message: Message) -> None:
        await self.taking.wait()
        self.received.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.received)


def site(handler: Handler) -> App:
    """An ASGI app whose every request is answered by `handler`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await handler(receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    return app


@asynccontextmanager
async def running(app: App) -> AsyncIterator[Guest]:
    """The app as hypercorn's asyncio worker runs it."""
    guest = Guest(app)
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    outgoing: asyncio.Queue[Message] = asyncio.Queue()
    lifespan = asyncio.create_task(guest({"type": "lifespan"}, incoming.get, outgoing.put))
    incoming.put_nowait({"type": "lifespan.startup"})
    assert (await outgoing.get())["type"] == "lifespan.startup.complete"
    yield guest
    incoming.put_nowait({"type": "lifespan.shutdown"})
    assert (await outgoing.get())["type"] == "lifespan.shutdown.complete"
    await lifespan


async def reply(send: Send, *chunks: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def echo(receive: Receive, send: Send) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    await reply(send, body)


def test_the_app_runs_under_trio() -> None:
    async def where(receive: Receive, send: Send) -> None:
        await trio.lowlevel.checkpoint()
        assert is_guest()
        await reply(send, b"trio" if trio.lowlevel.in_trio_task() else b"not trio")

    async def main() -> None:
        async with running(site(where)) as guest:
            client = Client(guest)
            await client.run()
            assert client.body == b"trio"

    asyncio.run(main())


async def test_under_trio_it_stands_aside() -> None:
    assert not is_guest()
    received: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"hello", "more_body": False}

    async def send(message: Message) -> None:
        received.append(message)

    await Guest(site(echo))({"type": "http"}, receive, send)
    assert received[1]["body"] == b"hello"


def test_a_body_may_come_in_pieces_and_slowly() -> None:
    async def main() -> None:
        async with running(site(echo)) as guest:
            client = Client(guest, body=None)
            request = asyncio.create_task(client.run())
            for piece in (b"slow", b"ly", b" but", b" surely"):
                client.send_body(piece, more=True)
                await asyncio.sleep(0.01)
            client.send_body(b"!")
            await request
            assert client.body == b"slowly but surely!"

    asyncio.run(main())


def test_many_requests_run_at_once() -> None:
    async def main() -> None:
        async with running(site(echo)) as guest:
            clients = [Client(guest, body=b"%d" % number) for number in range(200)]
            await asyncio.gather(*(client.run() for client in clients))
            assert [client.body for client in clients] == [b"%d" % number for number in range(200)]

    asyncio.run(main())


def test_a_slow_client_holds_the_app_back() -> None:
    sent = 0

    async def endless(receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            sent += 1

    async def main() -> None:
        async with running(site(endless)) as guest:
            client = Client(guest)
            client.taking.clear()
            request = asyncio.create_task(client.run())
            await asyncio.sleep(0.05)
            assert sent <= HIGH_WATER
            client.taking.set()
            await asyncio.sleep(0.05)
            assert sent > HIGH_WATER
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)

    asyncio.run(main())


def test_cancelling_a_request_cancels_the_app_and_waits_for_its_cleanup() -> None:
    events: list[str] = []

    async def patient(receive: Receive, send: Send) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.02)
            events.append("cleaned up")

    async def main() -> None:
        async with running(site(patient)) as guest:
            request = asyncio.create_task(Client(guest).run())
            await asyncio.sleep(0.02)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            assert events == ["cleaned up"]

    asyncio.run(main())


def test_the_app_hears_of_a_disconnect() -> None:
    heard: list[str] = []

    async def listen(receive: Receive, send: Send) -> None:
        await receive()
        heard.append((await receive())["type"])

    async def main() -> None:
        async with running(site(listen)) as guest:
            client = Client(guest)
            client.incoming.put_nowait({"type": "http.disconnect"})
            await client.run()
            assert heard == ["http.disconnect"]

    asyncio.run(main())


def test_an_error_in_the_app_reaches_the_server_and_nobody_else() -> None:
    async def broken(receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        if body == b"bad":
            raise ValueError("a bug")
        await reply(send, body)

    async def main() -> None:
        async with running(site(broken)) as guest:
            good = Client(guest, body=b"good")
            results: Any = await asyncio.gather(
                Client(guest, body=b"bad").run(), good.run(), return_exceptions=True
            )
            assert isinstance(results[0], ValueError)
            assert good.body == b"good"

    asyncio.run(main())


def test_an_error_in_the_server_reaches_the_app() -> None:
    ended: list[bool] = []

    async def endless(receive: Receive, send: Send) -> None:
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
        finally:
            ended.append(True)

    async def refuse(message: Message) -> None:
        raise OSError("the connection is broken")

    async def main() -> None:
        async with running(site(endless)) as guest:
            client = Client(guest)
            with pytest.raises(OSError, match="broken"):
                await guest({"type": "http"}, client.incoming.get, refuse)
            assert ended == [True]

    asyncio.run(main())


def test_without_a_lifespan_there_is_a_503() -> None:
    async def main() -> None:
        client = Client(Guest(site(echo)))
        await client.run()
        assert client.received[0]["status"] == 503
        assert json.loads(client.body)["type"] == "/problems/not-running"

    asyncio.run(main())


def test_a_crash_of_the_trio_run_ends_the_process(caplog: pytest.LogCaptureFixture) -> None:
    async def crash(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise RuntimeError("a bug in the lifespan")

    async def main() -> None:
        async with running(crash):
            await asyncio.sleep(1)

    with pytest.raises(SystemExit) as ended:
        asyncio.run(main())
    assert ended.value.code == 70
    assert "a bug in the lifespan" in caplog.text


def test_a_failed_shutdown_ends_the_process_too() -> None:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.failed", "message": "a crash"})

    async def main() -> None:
        async with running(fail):
            await asyncio.sleep(1)

    with pytest.raises(SystemExit) as ended:
        asyncio.run(main())
    assert ended.value.code == 70


def test_cancelling_the_lifespan_ends_the_trio_run_first() -> None:
    events: list[str] = []

    async def patient(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.02)
            events.append("cleaned up")

    async def main() -> None:
        incoming: asyncio.Queue[Message] = asyncio.Queue()
        outgoing: asyncio.Queue[Message] = asyncio.Queue()
        incoming.put_nowait({"type": "lifespan.startup"})
        lifespan = asyncio.create_task(Guest(patient)({"type": "lifespan"}, incoming.get, outgoing.put))
        await outgoing.get()
        lifespan.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lifespan
        assert events == ["cleaned up"]

    asyncio.run(main())
