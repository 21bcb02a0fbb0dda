"""Clients that come and go: some post jobs at an even rate, some never read, some only hold a connection."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from random import Random
from typing import Any

from tests.crash.ledger import Ledger
from tests.crash.load import call

POSTERS = 8
MUTES = 4
IDLERS = 4

FAILING = 0.01
TYPES = {"quick": 85, "threaded": 10, "slow": 5}
"""Of the jobs that do not fail."""

STAY_SECONDS = 5.0
"""A connection lives for so long at most."""
ABRUPT = 0.3
"""The share of connections that end with a reset, in the middle of a request."""

HALF_A_REQUEST = b'POST /jobs HTTP/1.1\r\nhost: soak\r\ncontent-length: 100\r\n\r\n{"type":'
RESET = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Crowd:
    """What they do, and what they were told."""

    port: int
    rate: float
    ledger: Ledger
    leaking: float = 0.0
    """The share of jobs that leak."""
    acknowledged: int = 0
    connections: int = 0
    """Opened so far."""
    failures: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def post(self, random: Random, name: str) -> None:
        """One of the posters: an even share of the rate, on one connection after the other."""
        number, next_at = 0, time.monotonic()
        while not self.stopping.is_set():
            with self._connect() as connection:
                stay_until = time.monotonic() + random.uniform(0.1, STAY_SECONDS)
                while time.monotonic() < stay_until and not self.stopping.is_set():
                    number += 1
                    if not self._post_one(connection, random, f"{name}-{number}"):
                        break
                    next_at += POSTERS / self.rate
                    self.stopping.wait(max(next_at - time.monotonic(), 0.0))
                leave(connection, random)

    def be_mute(self, random: Random, name: str) -> None:
        """Ask for much, and read nothing of it."""
        while not self.stopping.is_set():
            with self._connect() as connection, suppress(OSError):
                connection.connect()
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                for _ in range(random.randint(1, 5)):
                    connection.sock.sendall(b"GET /jobs?limit=100 HTTP/1.1\r\nhost: soak\r\n\r\n")
                    self.stopping.wait(random.uniform(0.1, STAY_SECONDS / 5))
                leave(connection, random)

    def be_idle(self, random: Random, name: str) -> None:
        """Ask once, and stay."""
        while not self.stopping.is_set():
            with self._connect() as connection, suppress(OSError, HTTPException):
                call(connection, "GET", "/health")
                self.stopping.wait(random.uniform(0.1, STAY_SECONDS))
                leave(connection, random)

    @contextmanager
    def _connect(self) -> Iterator[HTTPConnection]:
        with self._lock:
            self.connections += 1
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            yield connection

    def _post_one(self, connection: HTTPConnection, random: Random, key: str) -> bool:
        try:
            status, answer = call(connection, "POST", "/jobs", self._make_job(random, key))
        except (OSError, HTTPException, ValueError) as error:
            self.failures.append(f"{key}: {error!r}")
            return False
        if status != 201:
            self.failures.append(f"{key}: {status} {answer}")
            return False
        self.ledger.write("acknowledged", key, answer["id"])
        with self._lock:
            self.acknowledged += 1
        return True

    def _make_job(self, random: Random, key: str) -> dict[str, Any]:
        if random.random() < self.leaking:
            return {"type": "leaking", "payload": {"key": key}}
        if random.random() < FAILING:
            return {"type": "flaky", "payload": {"key": key}}
        (type,) = random.choices(list(TYPES), list(TYPES.values()))
        seconds = {"seconds": round(random.uniform(0.0, 0.2), 3)} if type == "slow" else {}
        return {"type": type, "payload": {"key": key, **seconds}}


def leave(connection: HTTPConnection, random: Random) -> None:
    """Close politely, or reset with half a request on its way."""
    if random.random() < ABRUPT and connection.sock is not None:
        with suppress(OSError):
            connection.sock.sendall(HALF_A_REQUEST)
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


@contextmanager
def crowd(port: int, rate: float, path: Path, random: Random, *, leaking: float = 0.0) -> Iterator[Crowd]:
    """All of them at once, until the block ends."""
    them = Crowd(port, rate, Ledger(path), leaking)
    parts: list[tuple[Callable[[Random, str], None], int]] = [
        (them.post, POSTERS),
        (them.be_mute, MUTES),
        (them.be_idle, IDLERS),
    ]
    threads = [
        threading.Thread(target=part, args=(Random(random.random()), f"{part.__name__}-{number}"))
        for part, count in parts
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    try:
        yield them
    finally:
        them.stopping.set()
        for thread in threads:
            thread.join()
        them.ledger.close()
