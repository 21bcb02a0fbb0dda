"""Each way in which one client could harm hypercorn and quart-trio, against each host."""

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.web.hosts import Host, Kind, read_all, start_host, wait_until

HERE = Path(__file__).parent
CLOSE = b"host: test\r\nconnection: close\r\n"


@pytest.fixture(scope="module", params=["asyncio", "trio", "serve"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with start_host(cast(Kind, request.param), "fake_site:app", cwd=HERE, ready="/") as running:
        yield running


@pytest.fixture(autouse=True)
def _unharmed(host: Host) -> Iterator[None]:
    """After every test: the same process answers, and no file descriptor was left open."""
    before = json.loads(host.get("/"))
    yield
    after = json.loads(host.get("/"))
    assert after["pid"] == before["pid"], host.output()
    wait_until(
        lambda: json.loads(host.get("/"))["fds"] <= before["fds"], 5, lambda: f"leaked: {host.get('/')!r}"
    )


def status_of(answer: bytes) -> int:
    match = re.match(rb"HTTP/1\.1 (\d{3})", answer)
    assert match is not None, answer
    return int(match[1])


def problem_of(answer: bytes) -> dict[str, object]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, answer
    problem: dict[str, object] = json.loads(body)
    assert problem["status"] == status_of(answer)
    return problem


def test_z1_a_websocket_upgrade_with_strange_bytes_is_refused(host: Host) -> None:
    for name in (b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions"):
        upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        answer = host.send(b"GET / HTTP/1.1\r\nHost: test\r\n" + upgrade + key + name + b": \xff\r\n\r\n")
        assert status_of(answer) == 400


def test_z2_http2_by_prior_knowledge_is_refused(host: Host) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    headers = b"\x00\x00\x06\x01\x05\x00\x00\x00\x01\x82\x86\x44\x02/\xff"
    assert status_of(host.send(preface + settings + headers)) == 505


def test_z3_an_upgrade_to_h2c_is_answered_in_http1(host: Host) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    answer = host.send(b"GET / HTTP/1.1\r\nHost: test\r\n" + upgrade + b"\r\n")
    assert status_of(answer) == 200
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["pid"]


def test_z4_a_host_that_is_not_ascii_is_refused(host: Host) -> None:
    assert status_of(host.send(b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n")) == 400


def test_z5_a_client_that_never_reads_is_cut(host: Host) -> None:
    fds = json.loads(host.get("/"))["fds"]
    with host.connect() as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_until(lambda: json.loads(host.get("/"))["fds"] > fds, 1)
        wait_until(lambda: json.loads(host.get("/"))["fds"] <= fds, 3)
        assert not read_all(client).endswith(b"0\r\n\r\n"), "the response was complete"


def test_z6_an_idle_connection_is_closed_in_time(host: Host) -> None:
    with host.connect() as client:
        begin = time.monotonic()
        client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert status_of(read_all(client)) == 200
        assert 0.9 < time.monotonic() - begin < 2.0


def test_z6_connection_close_closes_at_once(host: Host) -> None:
    begin = time.monotonic()
    assert status_of(host.send(b"GET / HTTP/1.1\r\n" + CLOSE + b"\r\n")) == 200
    assert time.monotonic() - begin < 0.5


def test_z6_a_connection_that_never_asks_is_closed_in_time(host: Host) -> None:
    begin = time.monotonic()
    assert host.send(b"") == b""
    assert 0.9 < time.monotonic() - begin < 2.0


def test_z7_hanging_up_does_not_undo_what_is_shielded(host: Host) -> None:
    with host.connect() as client:
        client.sendall(b"POST /commit/a HTTP/1.1\r\nHost: test\r\ncontent-length: 0\r\n\r\n")
        time.sleep(0.1)
    wait_until(lambda: "a" in json.loads(host.get("/committed")), 3)


def test_z8_no_line_of_the_access_log_can_be_forged(host: Host) -> None:
    forged = b"127.0.0.1 - FORGED 200"
    host.send(
        b"GET /a%0a"
        + forged.replace(b" ", b"%20")
        + b' HTTP/1.1\r\nuser-agent: \x1b[2J"\r\n'
        + CLOSE
        + b"\r\n"
    )
    wait_until(lambda: "FORGED" in host.output(), 3)
    assert [line for line in host.output().splitlines() if line.startswith("127.0.0.1")] == []
    assert "GET /a\\n127.0.0.1 - FORGED 200 1.1" in host.output()
    assert '\\x1b[2J\\"' in host.output()


@pytest.mark.parametrize("target", [b"?", b"http://[::1/", b"*", b"jobs"])
def test_z9_a_target_that_is_no_path_is_refused(host: Host, target: bytes) -> None:
    answer = host.send(b"GET " + target + b" HTTP/1.1\r\n" + CLOSE + b"\r\n")
    assert problem_of(answer)["type"] == "/problems/bad-target"
    assert status_of(answer) == 400


def test_z10_two_body_lengths_at_once_are_refused(host: Host) -> None:
    lengths = b"content-length: 5\r\ntransfer-encoding: chunked\r\n"
    answer = host.send(b"POST /echo HTTP/1.1\r\n" + CLOSE + lengths + b"\r\n5\r\nhello\r\n0\r\n\r\n")
    assert problem_of(answer)["type"] == "/problems/bad-framing"


def test_z11_a_dripping_body_is_refused_and_closed(host: Host) -> None:
    with host.connect() as client:
        client.sendall(b"POST /echo HTTP/1.1\r\nHost: test\r\ncontent-length: 100\r\n\r\n")
        begin = time.monotonic()
        client.settimeout(0.2)
        answer = _drip(client, b"x", seconds=4)
    assert problem_of(answer)["type"] == "/problems/slow-body"
    assert status_of(answer) == 408
    assert time.monotonic() - begin < 2.5


def test_a_dripping_head_is_dropped(host: Host) -> None:
    with host.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        begin = time.monotonic()
        client.settimeout(0.2)
        assert _drip(client, b"a", seconds=4) == b""
    assert 1.2 < time.monotonic() - begin < 2.5


def _drip(client: socket.socket, byte: bytes, seconds: float) -> bytes:
    deadline = time.monotonic() + seconds
    received = b""
    while time.monotonic() < deadline:
        try:
            client.sendall(byte)
            data = client.recv(65536)
        except TimeoutError:
            continue
        except (ConnectionResetError, BrokenPipeError):
            return received
        if not data:
            return received
        received += data
    raise AssertionError("the connection is still open")


@pytest.mark.parametrize("method", [b"CONNECT", b"TRACE", b"PRI"])
def test_methods_for_proxies_are_refused(host: Host, method: bytes) -> None:
    assert status_of(host.send(method + b" / HTTP/1.1\r\n" + CLOSE + b"\r\n")) == 501


def test_many_headers_are_refused(host: Host) -> None:
    many = b"".join(b"x-%d: 1\r\n" % number for number in range(70))
    answer = host.send(b"GET / HTTP/1.1\r\n" + CLOSE + many + b"\r\n")
    assert problem_of(answer)["type"] == "/problems/too-many-headers"


def test_an_encoded_body_is_refused(host: Host) -> None:
    head = b"POST /echo HTTP/1.1\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n" + CLOSE
    assert problem_of(host.send(head + b"\r\nabcd"))["status"] == 415


def test_a_large_body_is_refused_before_it_has_come(host: Host) -> None:
    answer = host.send(b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 999999999\r\n\r\nabc")
    assert problem_of(answer)["status"] == 413
    assert b"connection: close" in answer


def test_a_large_body_without_a_length_is_refused_while_it_comes(host: Host) -> None:
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    head = b"POST /echo HTTP/1.1\r\ntransfer-encoding: chunked\r\n" + CLOSE
    assert problem_of(host.send(head + b"\r\n" + chunk * 20 + b"0\r\n\r\n"))["status"] == 413


def test_a_connection_goes_on_after_a_refused_body(host: Host) -> None:
    with host.connect() as client:
        body = b"x" * 200_000
        client.sendall(b"POST /echo HTTP/1.1\r\nHost: test\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        client.sendall(b"POST /early HTTP/1.1\r\nHost: test\r\ncontent-length: 90000\r\n\r\n" + body[:90_000])
        client.sendall(b"GET / HTTP/1.1\r\n" + CLOSE + b"\r\n")
        answers = read_all(client)
    assert re.findall(rb"HTTP/1\.1 (\d{3})", answers) == [b"413", b"422", b"200"]


def test_no_more_connections_than_the_limit(host: Host) -> None:
    crowd = [host.connect() for _ in range(45)]
    try:
        for client in crowd:
            client.settimeout(0.3)
        answers = [client.recv(100) for client in crowd[40:]]
    finally:
        for client in crowd:
            client.close()
    assert [status_of(answer) for answer in answers] == [503] * 5
    wait_until(lambda: host.get("/") != b"", 5)


def test_clients_that_vanish_with_requests_pending_leave_no_task_behind(host: Host) -> None:
    for _ in range(50):  # more than may be connected at once
        with host.connect() as client:
            client.sendall(b"GET /large HTTP/1.1\r\nHost: test\r\n\r\n" * 3)
    wait_until(lambda: host.get("/") != b"", 5)


def test_nothing_tells_what_server_this_is(host: Host) -> None:
    assert b"hypercorn" not in host.send(b"GET / HTTP/1.1\r\n" + CLOSE + b"\r\n").lower()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 2000,
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nCookie: \xff=\xfe; a=%00\r\n\r\n",
        b"GET /%ff%fe%00?%ff=%00 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
        b"GET //a/../%2e%2e/b HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: test\r\nExpect: 200-ok\r\nConnection: close\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: test\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
    ],
)
def test_garbage_is_answered_without_a_500(host: Host, garbage: bytes) -> None:
    answer = host.send(garbage)
    assert answer == b"" or status_of(answer) < 500 or status_of(answer) in (501, 505), answer
