"""Reads what is in the store as a client can, over HTTP, and so from any kind of store."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from http.client import HTTPConnection, HTTPException
from typing import Any

from tests.crash.audit import Attempt, Job, Violation
from tests.crash.load import call

PAGE = 500
READERS = 4


class Inquiry:
    """Asks any of the nodes, on one connection for each thread and node."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._own = threading.local()
        self._connections: list[HTTPConnection] = []

    def get(self, path: str) -> Any:
        """The answer's JSON, which has no type of its own."""
        status, answer = self._ask(path)
        assert status == 200, f"{path}: {status} {answer}"
        return answer

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def pages(self) -> Iterator[dict[str, Any]]:
        """Every job, without its attempts."""
        cursor = ""
        while True:
            page = self.get(f"/jobs?limit={PAGE}{cursor}")
            yield from page["jobs"]
            if page["next_cursor"] is None:
                return
            cursor = f"&cursor={page['next_cursor']}"

    def jobs(self) -> list[Job]:
        """Every job with its attempts."""
        ids = [job["id"] for job in self.pages()]
        with ThreadPoolExecutor(READERS) as readers:
            return list(readers.map(lambda id: read_job(self.get(f"/jobs/{id}")), ids))

    def check_counts(self, jobs: Sequence[Job]) -> Iterator[Violation]:
        """What /health says must be what the list shows."""
        said, real = self.counts(), Counter(job.status for job in jobs)
        if said is None:
            yield Violation("miscounted", "/health does not say how many jobs there are")
        for status, number in (said or {}).items():
            if number != real[status]:
                yield Violation("miscounted", f"/health says {number} {status}, there are {real[status]}")

    def counts(self) -> dict[str, int] | None:
        """Jobs by their status; None when the node cannot tell now."""
        _, answer = self._ask("/health")
        counts: dict[str, int] | None = answer.get("jobs")
        return counts

    def wait_drained(self, seconds: float) -> bool:
        """Until nothing waits and nothing runs; False when that took too long."""
        deadline = time.monotonic() + seconds
        while True:
            counts = self.counts()
            if counts is not None and counts["pending"] + counts["processing"] == 0:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)

    def _ask(self, path: str) -> tuple[int, Any]:
        if not hasattr(self._own, "connection"):
            port = self._ports[len(self._connections) % len(self._ports)]
            self._own.connection = HTTPConnection("127.0.0.1", port, timeout=30)
            self._connections.append(self._own.connection)
        try:
            return call(self._own.connection, "GET", path)
        except (ConnectionError, HTTPException):  # it was idle for too long: a new one
            self._own.connection.close()
            return call(self._own.connection, "GET", path)


def read_job(body: dict[str, Any]) -> Job:
    attempts = [
        Attempt(
            attempt["epoch"],
            attempt["outcome"],
            attempt["node"],
            seconds(attempt["started_at"]),
            seconds(attempt["ended_at"]),
        )
        for attempt in body["attempts"]
    ]
    return Job(
        body["id"],
        body["payload"]["key"],
        body["status"],
        body["attempt"],
        body["epoch"],
        body["crash_count"],
        body["cancel_requested_at"] is not None,
        body["reason"],
        attempts,
    )


def seconds(instant: str) -> float:
    return datetime.fromisoformat(instant).timestamp()
