"""What an operation is handed: one write transaction, its time, and the counters' part of it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import cast

import apsw

from trioqueue.jobs.job import Job, Status
from trioqueue.store.rows import Row, microseconds, microseconds_or_null
from trioqueue.store.sql import Queries

Values = Row | Mapping[str, object]
"""The values of a query's parameters: in order, or by name."""


class Transaction:
    """Runs queries by name and adds up how the counters change.

    The counters are written once, before the commit: of a batch of a hundred enqueues that is one
    write and not a hundred.
    """

    def __init__(self, connection: apsw.Connection, queries: Queries, now: datetime) -> None:
        self.connection = connection
        self.now = now
        self.changes: Counter[tuple[str, str, str]] = Counter()
        """By status, queue and type: how many more jobs there are than the counters say."""
        self._queries = queries

    def run(self, query: str, values: Values = ()) -> Iterator[Row]:
        """Run a query; its rows are read from the database as they are asked for."""
        return cast(Iterator[Row], self.connection.execute(self._queries[query], values))

    def run_many(self, query: str, values: Sequence[Values]) -> None:
        """Run a query once for each of `values`."""
        self.connection.executemany(self._queries[query], values)

    def changed(self, query: str, values: Values) -> bool:
        """Run a query that writes; whether it changed any row."""
        self.run(query, values)
        return self.connection.changes() > 0

    def keep(self, seq: int, before: Job, after: Job) -> Job:
        """Write down that a job has changed."""
        self.run("keep", _kept(seq, after, self.now))
        if after.status is not before.status:
            self.count(before.status, before, -1)
            self.count(after.status, after, +1)
        return after

    def count(self, status: Status, job: Job, change: int) -> None:
        self.changes[status, job.queue, job.type] += change

    def write_counters(self) -> None:
        for (status, queue, type), change in self.changes.items():
            if change:
                key = {"status": status, "queue": queue, "type": type}
                self.run("add_to_counter", {**key, "change": change})
                if change < 0:
                    self.run("drop_empty_counter", key)


def is_due(job: Job, now: datetime) -> bool:
    return job.status is Status.PENDING and job.run_at <= now


def _kept(seq: int, job: Job, now: datetime) -> Mapping[str, object]:
    return {
        "seq": seq,
        "status": job.status,
        "due": is_due(job, now),
        "run_at": microseconds(job.run_at),
        "attempt": job.attempt,
        "epoch": job.epoch,
        "version": job.version,
        "crash_count": job.crash_count,
        "node": job.node,
        "lease_until": microseconds_or_null(job.lease_until),
        "started_at": microseconds_or_null(job.started_at),
        "finished_at": microseconds_or_null(job.finished_at),
        "cancel_requested_at": microseconds_or_null(job.cancel_requested_at),
        "reason": job.reason,
        "progress": job.progress,
        "result": job.result,
    }
