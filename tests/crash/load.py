"""Clients that post jobs as fast as they are answered, and write down what they were promised."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from random import Random
from typing import Any

from tests.crash.ledger import Ledger

CLIENTS = 4
JOBS_PER_CLIENT = 250
"""For each client in each cycle, so that the backlog stays within what a cycle can work off."""

CANCELLED = 0.04
"""The share of jobs that their client cancels at once."""

TYPES = {"quick": 70, "threaded": 12, "snoozing": 6, "slow": 6, "flaky": 6}


@contextmanager
def load(port: int, path: Path, random: Random, name: str) -> Iterator[None]:
    """Several clients at once, until the block ends."""
    ledger = Ledger(path)
    stopping = threading.Event()
    clients = [
        threading.Thread(
            target=send_jobs, args=(port, ledger, stopping, Random(random.random()), f"{name}-{number}")
        )
        for number in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        stopping.set()
        for client in clients:
            client.join()
        ledger.close()


def send_jobs(port: int, ledger: Ledger, stopping: threading.Event, random: Random, name: str) -> None:
    """One client: posts jobs as fast as they are answered, and writes down what it was promised."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        for number in range(JOBS_PER_CLIENT):
            if stopping.is_set():
                return
            try:
                send_job(connection, ledger, random, f"{name}-{number}")
            except (OSError, HTTPException):
                return  # the service is gone: nobody knows what became of this one


def send_job(connection: HTTPConnection, ledger: Ledger, random: Random, key: str) -> None:
    ledger.write("asked", key)
    status, answer = call(connection, "POST", "/jobs", make_job(random, key))
    if status != 201:
        ledger.write("refused", key, str(status))
        time.sleep(0.05)
        return
    ledger.write("acknowledged", key, answer["id"])
    if random.random() < CANCELLED:
        status, _ = call(connection, "POST", f"/jobs/{answer['id']}/cancel")
        match status:
            case 200:
                ledger.write("cancelled", key)
            case 202:
                ledger.write("stopping", key)


def make_job(random: Random, key: str, *, slowest_seconds: float = 0.5) -> dict[str, Any]:
    (type,) = random.choices(list(TYPES), list(TYPES.values()))
    payload: dict[str, Any] = {"key": key}
    if type == "slow":
        payload["seconds"] = round(random.uniform(0.05, slowest_seconds), 3)
    job: dict[str, Any] = {"type": type, "payload": payload}
    if random.random() < 0.05:
        job["delay_seconds"] = round(random.uniform(0.0, 2.0), 3)
    return job


def call(
    connection: HTTPConnection, method: str, path: str, body: dict[str, Any] | None = None
) -> tuple[int, Any]:
    """One request; the status and the decoded answer."""
    text = None if body is None else json.dumps(body)
    connection.request(method, path, text, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())
