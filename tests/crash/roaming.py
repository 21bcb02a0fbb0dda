"""Clients that go on to another node when one is gone, and remember each answer."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPMessage
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from tests.crash.ledger import Ledger
from tests.crash.load import CANCELLED, CLIENTS, call, make_job

PATIENCE_SECONDS = 15.0
"""How long a client waits for an answer before it gives up and goes elsewhere."""

REST_SECONDS = 0.05
"""Before the next job, when this one was not accepted."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one POST."""

    key: str
    asked_at: float
    """Wall time."""
    seconds: float
    """Until the answer, or until it was plain that none comes."""
    status: int | None
    """None: the connection broke, or the client has lost its patience."""
    problem: str = ""
    detail: str = ""
    retry_after: str | None = None

    @property
    def is_doubtful(self) -> bool:
        """The node did not hear what its database made of the job, and says so."""
        return self.problem == "store-unavailable" and "no answer" in self.detail


@dataclass
class Load:
    """What the clients have been told so far."""

    ports: Callable[[], Sequence[int]]
    """The nodes that there are now."""
    ledger: Ledger
    pause_seconds: float
    slowest_seconds: float
    answers: list[Answer] = field(default_factory=list)
    acknowledged: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run_client(self, random: Random, name: str) -> None:
        """Post jobs as fast as they are answered, on one connection for as long as it works."""
        connection: HTTPConnection | None = None
        try:
            for number in count():
                if self.stopping.is_set():
                    return
                if connection is None:
                    port = random.choice(self.ports())
                    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
                if not self._send_job(connection, random, f"{name}-{number}"):
                    connection.close()
                    connection = None
                self.stopping.wait(self.pause_seconds)
        finally:
            if connection is not None:
                connection.close()

    def _send_job(self, connection: HTTPConnection, random: Random, key: str) -> bool:
        """Whether the connection can still be used."""
        self.ledger.write("asked", key)
        asked_at, begin = time.time(), time.monotonic()
        try:
            status, body, headers = post_job(
                connection, make_job(random, key, slowest_seconds=self.slowest_seconds)
            )
        except (OSError, HTTPException, ValueError):
            self.answers.append(Answer(key, asked_at, time.monotonic() - begin, None))
            self.stopping.wait(REST_SECONDS)
            return False
        seconds = time.monotonic() - begin
        if status not in (200, 201):
            problem, detail = str(body.get("type", "")).rpartition("/")[2], str(body.get("detail", ""))
            self.answers.append(
                Answer(key, asked_at, seconds, status, problem, detail, headers.get("Retry-After"))
            )
            self.ledger.write("refused", key, str(status), problem)
            self.stopping.wait(REST_SECONDS)
            return True
        self.answers.append(Answer(key, asked_at, seconds, status))
        self.ledger.write("acknowledged", key, body["id"])
        with self._lock:
            self.acknowledged += 1
        return random.random() >= CANCELLED or self._cancel(connection, key, body["id"])

    def _cancel(self, connection: HTTPConnection, key: str, job_id: str) -> bool:
        try:
            status, _ = call(connection, "POST", f"/jobs/{job_id}/cancel")
        except (OSError, HTTPException, ValueError):
            return False
        match status:
            case 200:
                self.ledger.write("cancelled", key)
            case 202:
                self.ledger.write("stopping", key)
        return True


def post_job(connection: HTTPConnection, job: dict[str, Any]) -> tuple[int, dict[str, Any], HTTPMessage]:
    connection.request("POST", "/jobs", json.dumps(job), {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read()), response.headers


@contextmanager
def roaming_load(
    ports: Callable[[], Sequence[int]],
    path: Path,
    random: Random,
    *,
    pause_seconds: float = 0.0,
    slowest_seconds: float = 0.5,
) -> Iterator[Load]:
    """Several clients at once, until the block ends."""
    load = Load(ports, Ledger(path), pause_seconds, slowest_seconds)
    clients = [
        threading.Thread(target=load.run_client, args=(Random(random.random()), f"client-{number}"))
        for number in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    try:
        yield load
    finally:
        load.stopping.set()
        for client in clients:
            client.join()
        load.ledger.close()
