"""Sees every change of every job, row by row, and asks the invariants about each once it is committed.

SQLite tells before it changes a row what it was and what it will be, so nothing is read again. The
rows of a transaction are judged in their order when it has been committed, and forgotten when it
was rolled back.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from tests.simulation.kernel import MACHINE
from trioqueue.jobs.job import JobId

LIVE = ("pending", "processing")
COUNTED = ("failed", "timed_out")


class JobRow(NamedTuple):
    """A row of `jobs`. Instants are microseconds since 1970."""

    seq: int
    id: JobId
    type: str
    queue: str
    priority: int
    status: str
    due: int
    run_at: int
    attempt: int
    max_attempts: int
    epoch: int
    version: int
    crash_count: int
    node: str | None
    lease_until: int | None
    timeout_seconds: float | None
    deadline_at: int | None
    unique_key: str | None
    parent_id: str | None
    root_id: str
    schedule: str | None
    traceparent: str | None
    created_at: int
    started_at: int | None
    finished_at: int | None
    cancel_requested_at: int | None
    reason: str | None
    tags: str | None
    payload: bytes
    progress: bytes | None
    result: bytes | None

    @property
    def is_final(self) -> bool:
        return self.status not in LIVE


class AttemptRow(NamedTuple):
    """A row of `attempts`."""

    seq: int
    epoch: int
    number: int
    node: str
    worker: int | None
    started_at: int
    ended_at: int
    outcome: str
    error: str | None


@dataclass(slots=True)
class History:
    """A job as it has been seen so far."""

    row: JobRow
    spent: int = 0
    """Attempts that failed or timed out."""
    lost: int = 0
    outcomes: list[tuple[int, str]] = field(default_factory=list)
    """Of each epoch that has ended with a row in the ledger."""


Change = tuple[str, str, tuple[Any, ...] | None, tuple[Any, ...] | None]
"""What is done to which table; the row before, and after."""


class Observer:
    """The jobs of the store, kept beside it."""

    def __init__(self) -> None:
        self.jobs: dict[int, History] = {}
        self.by_id: dict[JobId, History] = {}
        self.holders: dict[str, int] = {}
        """Which job has a unique key now."""
        self.processing: set[int] = set()
        self.deleted: dict[JobId, JobRow] = {}
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.unfinished = 0
        self._changes: list[Change] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See the changes of every connection that is opened inside of the block."""
        apsw.connection_hooks.append(self._watch)
        try:
            yield
        finally:
            apsw.connection_hooks.remove(self._watch)

    def committed(self) -> list[Change]:
        """What has been committed since this was last asked."""
        changes, self._changes = self._changes, []
        return changes

    def keep(self, before: JobRow | None, after: JobRow | None) -> None:
        """A job is different now."""
        if before is not None:
            self._count(before, -1)
            if before.unique_key is not None and not before.is_final:
                self.holders.pop(before.unique_key, None)
            self.processing.discard(before.seq)
        if after is None:
            assert before is not None
            del self.jobs[before.seq]
            del self.by_id[before.id]
            self.deleted[before.id] = before
            return
        self._count(after, +1)
        if after.unique_key is not None and not after.is_final:
            self.holders[after.unique_key] = after.seq
        if after.status == "processing":
            self.processing.add(after.seq)
        if after.seq in self.jobs:
            self.jobs[after.seq].row = after
        else:
            self.jobs[after.seq] = self.by_id[after.id] = History(after)

    def differences(self, path: Path) -> list[str]:
        """Where the file, and the counters in it, are not what has been seen of them."""
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            rows = {row[0]: JobRow(*row) for row in connection.execute("SELECT * FROM jobs")}
            kept = {(s, q, t): n for s, q, t, n in connection.execute("SELECT * FROM counters")}
            [(problem,)] = connection.execute("PRAGMA integrity_check(1)")
        finally:
            connection.close()
        seen = {seq: history.row for seq, history in self.jobs.items()}
        found = [
            f"job {seq} is {rows.get(seq)}, and was seen as {seen.get(seq)}"
            for seq in sorted(rows.keys() | seen.keys())
            if rows.get(seq) != seen.get(seq)
        ]
        real = {key: count for key, count in self.counts.items() if count}
        if kept != real:
            found.append(f"the counters say {sorted(kept.items())}, and there are {sorted(real.items())}")
        if problem != "ok":
            found.append(f"the file is damaged: {problem}")
        return found

    def _count(self, row: JobRow, change: int) -> None:
        self.counts[row.status, row.queue, row.type] += change
        if not row.is_final:
            self.unfinished += change

    def _watch(self, connection: apsw.Connection) -> None:
        machine = MACHINE.get()
        if machine is not None:
            machine.files.append(connection)
        connection.preupdate_hook(self._before_update)
        connection.set_rollback_hook(self._changes_undone)

    def _before_update(self, update: apsw.PreUpdate) -> None:
        if update.table_name in ("jobs", "attempts"):
            self._changes.append((update.op, update.table_name, update.old, update.new))

    def _changes_undone(self) -> None:
        self._changes.clear()
