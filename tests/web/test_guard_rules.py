"""The decisions of the guard, without a server."""

import math
from contextlib import ExitStack

import h11
import pytest
from hypercorn.events import Updated

from trioqueue.web.connections import Doors, HeadBegun, Patience
from trioqueue.web.guard import escape, find_refusal, install_guard
from trioqueue.web.limits import Limits

BUSY, IDLE = Updated(idle=False), Updated(idle=True)


def test_an_unknown_hypercorn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trioqueue.web.guard.version", lambda package: "0.19.0")
    with pytest.raises(RuntimeError, match=r"hypercorn 0\.19\.0 is not supported"):
        install_guard(Limits())


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("/jobs?a=b c", "/jobs?a=b c"),
        ("/caf\u00e9", "/caf\u00e9"),
        ("/a\nb\r\x00\x1b[2J\x7f", r"/a\nb\r\x00\x1b[2J\x7f"),
        ("\x85\u2028\u202e\ud800", r"\x85\u2028\u202e\ud800"),
        ('a" 200 "\\n', r"a\" 200 \"\\n"),
    ],
)
def test_what_the_access_log_escapes(text: str, escaped: str) -> None:
    assert escape(text) == escaped


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\nconnection: upgrade", None),
        (b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: WebSocket\r\nconnection: upgrade", 400),
        (b"GET / HTTP/1.1\r\nhost: \xff", 400),
        (b"GET / HTTP/1.0\r\nhost: a", None),
        (b"GET / HTTP/2.0\r\nhost: a", 505),
        (b"PRI * HTTP/2.0", 505),
        (b"CONNECT a:1 HTTP/1.1\r\nhost: a", 501),
        (b"TRACE / HTTP/1.1\r\nhost: a", 501),
        (b"head / HTTP/1.1\r\nhost: a", 501),
    ],
)
def test_which_requests_are_refused(head: bytes, status: int | None) -> None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(head + b"\r\n\r\n")
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    assert find_refusal(request) == status


def test_patience_counts_from_the_end_of_the_last_request() -> None:
    patience = Patience(0.0, idle_seconds=5, head_seconds=10)
    assert patience.left(1.0) == 4
    patience.note(BUSY, 2.0)
    assert patience.is_busy
    patience.note(IDLE, 60.0)
    assert patience.left(61.0) == 4


def test_dripping_does_not_prolong_patience() -> None:
    patience = Patience(0.0, idle_seconds=5, head_seconds=10)
    patience.note(HeadBegun(), 3.0)
    patience.note(HeadBegun(), 12.0)
    assert patience.left(12.5) == pytest.approx(0.5)


def test_a_busy_connection_is_looked_at_again_in_time() -> None:
    patience = Patience(0.0, idle_seconds=5, head_seconds=10)
    patience.note(BUSY, 0.0)
    assert 0 < patience.left(1000.0) < math.inf


def test_doors_close_when_the_house_is_full() -> None:
    doors = Doors(2)
    with ExitStack() as guests:
        assert [guests.enter_context(doors.entered()) for _ in range(3)] == [True, True, False]
    with doors.entered() as welcome:
        assert welcome
