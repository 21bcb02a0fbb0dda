"""The edge alone, on virtual time: what reaches the app, and what does not."""

import json

import pytest
import trio
from trio.testing import MockClock

from trioqueue.web.asgi import App, Message, Receive, Scope, Send
from trioqueue.web.edge import Edge
from trioqueue.web.limits import Limits

MAX_BODY_BYTES = 1000


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    message = await receive()
    assert not message["more_body"], "the edge hands a body over as one piece"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"], "more_body": False})


def piece(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def ask(
    *messages: Message,
    app: App = echo,
    target: bytes = b"/",
    headers: tuple[tuple[bytes, bytes], ...] = (),
    every_seconds: float = 0.0,
) -> tuple[int, dict[str, bytes], bytes]:
    """Status, headers and body of the answer; the body of the request comes message by message."""
    coming = list(messages or [piece(b"", more=False)])
    answer: list[Message] = []

    async def receive() -> Message:
        await trio.sleep(every_seconds)
        if coming:
            return coming.pop(0)
        await trio.sleep_forever()
        raise AssertionError

    async def send(message: Message) -> None:
        await trio.lowlevel.checkpoint()
        answer.append(message)

    path, _, query = target.partition(b"?")
    scope = {"type": "http", "raw_path": path, "query_string": query, "headers": headers}
    await Edge(app, Limits(), max_body_bytes=MAX_BODY_BYTES)(scope, receive, send)
    if not answer:
        return 0, {}, b""
    fields = {name.decode(): value for name, value in answer[0]["headers"]}
    return answer[0]["status"], fields, b"".join(message["body"] for message in answer[1:])


async def test_a_body_in_pieces_arrives_whole(autojump_clock: MockClock) -> None:
    pieces = [piece(b"one "), piece(b"two "), piece(b"three"), piece(b"", more=False)]
    assert await ask(*pieces, every_seconds=1) == (200, {}, b"one two three")


async def test_a_body_of_the_largest_size_passes(autojump_clock: MockClock) -> None:
    status, _, body = await ask(piece(b"x" * MAX_BODY_BYTES, more=False))
    assert (status, len(body)) == (200, MAX_BODY_BYTES)


@pytest.mark.parametrize("more", [True, False])
async def test_one_byte_more_does_not(autojump_clock: MockClock, more: bool) -> None:
    status, headers, _ = await ask(piece(b"x" * (MAX_BODY_BYTES + 1), more=more))
    assert status == 413
    assert (b"connection" in str(headers).encode()) is more


async def test_a_slow_body_gets_408_after_the_deadline(autojump_clock: MockClock) -> None:
    begin = trio.current_time()
    status, headers, body = await ask(*[piece(b"x")] * 500, every_seconds=1)
    assert (status, headers["connection"]) == (408, b"close")
    assert json.loads(body)["type"] == "/problems/slow-body"
    assert trio.current_time() - begin == pytest.approx(Limits().body_seconds, abs=0.1)


async def test_a_refused_body_is_drained_first(autojump_clock: MockClock) -> None:
    status, headers, _ = await ask(piece(b"a"), piece(b"b", more=False), target=b"nowhere")
    assert status == 400
    assert "connection" not in headers


async def test_a_refused_body_is_not_drained_for_ever(autojump_clock: MockClock) -> None:
    begin = trio.current_time()
    status, headers, _ = await ask(*[piece(b"x")] * 500, target=b"nowhere", every_seconds=0.3)
    assert (status, headers["connection"]) == (400, b"close")
    assert trio.current_time() - begin < Limits().drain_seconds + 1


async def test_nobody_is_answered_who_hung_up(autojump_clock: MockClock) -> None:
    assert await ask(piece(b"x"), {"type": "http.disconnect"}) == (0, {}, b"")
    assert await ask(piece(b"x"), {"type": "http.disconnect"}, target=b"nowhere") == (0, {}, b"")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"content-length", b"1001")], 413),
        ([(b"content-length", b"9" * 5000)], 413),
        ([(b"content-length", b"1e3")], 413),
        ([(b"content-length", b"0"), (b"Transfer-Encoding", b"chunked")], 400),
        ([(b"host", b"")], 200),
        ([(b"host", b"jobs_1.example.org.:8080")], 200),
        ([(b"host", b"[::1]:80")], 200),
        ([(b"host", b"a..b")], 400),
        ([(b"host", b"a" * 64)], 400),
        ([(b"host", b"a@b")], 400),
        ([(b"host", b"a." * 5000 + b"@")], 400),
        ([(b"content-encoding", b"gzip")], 415),
        ([(b"content-encoding", b"identity")], 200),
        ([(b"x", b"y")] * 64, 200),
        ([(b"x", b"y")] * 65, 400),
        ([(b"x", b"y" * 10_000)] * 2, 431),
    ],
)
async def test_headers(autojump_clock: MockClock, headers: list[tuple[bytes, bytes]], status: int) -> None:
    assert (await ask(headers=tuple(headers)))[0] == status


@pytest.mark.parametrize(
    "target", [b"", b"*", b"jobs", b"?a", b"http://[::1/", b"/\x7f", b"/\xff", b"/?a\x00", b"/ "]
)
async def test_bad_targets(autojump_clock: MockClock, target: bytes) -> None:
    status, _, body = await ask(target=target)
    assert (status, json.loads(body)["type"]) == (400, "/problems/bad-target")


async def test_a_long_target(autojump_clock: MockClock) -> None:
    assert (await ask(target=b"/" + b"a" * 4000))[0] == 200
    assert (await ask(target=b"/" + b"a" * 4000 + b"?" + b"b" * 1000))[0] == 414


async def test_an_app_that_fails_before_it_answers_gives_a_plain_500(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            raise RuntimeError("a secret")

    status, _, body = await ask(app=broken)
    assert status == 500
    assert b"secret" not in body
    assert "a secret" in caplog.text


async def test_the_last_message_is_sent_even_when_the_app_is_cancelled(autojump_clock: MockClock) -> None:
    async def cancelled(scope: Scope, receive: Receive, send: Send) -> None:
        with trio.CancelScope() as scope_of_app:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            scope_of_app.cancel()
            await send({"type": "http.response.body", "body": b"last", "more_body": False})

    assert (await ask(app=cancelled))[2] == b"last"
