"""Compares what clients were promised and what handlers did with what the store says in the end.

lost            acknowledged, but not in the store, or ended as it should not have
settled twice   more than one accepted completion, or an outcome after the last one
stale settle    accepted from a holder whose lease was over: the job had been claimed anew since
stuck           a job that has not ended, or a node that is still listed, after everything was drained
zombie          two attempts that overlap, an epoch that does not grow or was given twice
unfounded       completed although no handler finished under that epoch
miscounted      attempts, crashes or counters that do not add up
late            a killed process's job that was not taken over well before its lease ended
unexplained     a job that nobody asked for, that was refused, or that was lost without a kill
damaged         SQLite's own check of the file
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import apsw
import msgspec

from tests.crash.ledger import read_ledger

Kind = Literal[
    "lost",
    "settled twice",
    "stale settle",
    "stuck",
    "zombie",
    "unfounded",
    "miscounted",
    "late",
    "unexplained",
    "damaged",
]

LATE_SECONDS = 10.0
"""A third of the lease: whatever is taken over sooner was not taken over because the lease ended."""

DYING_SECONDS = 0.2
"""A process may get so far after it was sent SIGKILL."""


@dataclass(frozen=True, slots=True)
class Kill:
    """When processes were killed, in seconds of wall time: the signal was sent, they were seen to be gone."""

    sent_at: float
    seen_at: float
    pid: int | None = None
    """The only process that this kill can have ended."""

    def explains(self, attempt: "Attempt") -> bool:
        return (
            attempt.started_at <= self.seen_at + DYING_SECONDS
            and self.sent_at <= attempt.ended_at
            and self.pid in (None, attempt.pid)
        )


@dataclass(frozen=True, slots=True)
class Violation:
    kind: Kind
    what: str


@dataclass(frozen=True, slots=True)
class Attempt:
    epoch: int
    outcome: str
    node: str
    started_at: float
    ended_at: float

    @property
    def pid(self) -> int | None:
        """The process of its node, as the node's name says."""
        found = re.fullmatch(r".+-([0-9]+)-[0-9a-f]+", self.node)
        return int(found[1]) if found else None


@dataclass(slots=True)
class Job:
    """A job as the store has it."""

    id: str
    key: str
    status: str
    attempt: int
    epoch: int
    crash_count: int
    cancel_requested: bool
    reason: str | None
    attempts: list[Attempt] = field(default_factory=list)

    def __str__(self) -> str:
        history = ", ".join(f"{attempt.epoch}:{attempt.outcome}" for attempt in self.attempts)
        return (
            f"{self.id} ({self.key}) {self.status} at epoch {self.epoch}, {self.reason}; attempts {history}"
        )

    def outcomes(self, outcome: str) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.outcome == outcome]


Run = tuple[str, int]
"""A job's id and the epoch of one attempt."""


@dataclass(slots=True)
class Promises:
    """The clients' ledger, by the keys that clients gave their jobs."""

    asked: set[str] = field(default_factory=set)
    acknowledged: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)
    """Refused with the words that the store's own answer was lost: they may be there."""
    cancelled: set[str] = field(default_factory=set)
    """Confirmed: nothing of them runs any more."""
    stopping: set[str] = field(default_factory=set)
    """They were running when they were asked to stop."""


@dataclass(slots=True)
class Runs:
    """The handlers' ledger, in the order in which it was written."""

    started: list[Run] = field(default_factory=list)
    finished: set[Run] = field(default_factory=set)
    cancelled: set[Run] = field(default_factory=set)


@dataclass(slots=True)
class Audit:
    """What came out."""

    promises: Promises
    runs: Runs
    jobs: list[Job]
    rescues: list[float]
    """For each attempt that was lost: seconds from the kill to the moment when it was taken over."""
    violations: list[Violation]

    @property
    def recovered(self) -> int:
        """Jobs that were kept though their clients never saw an answer."""
        unanswered = self.promises.asked - self.promises.acknowledged.keys() - self.promises.refused
        return sum(job.key in unanswered for job in self.jobs)

    @property
    def doubtful(self) -> int:
        """Jobs that were kept though refused, whose clients were told that nobody knows."""
        return sum(job.key in self.promises.doubtful for job in self.jobs)

    @property
    def cut(self) -> set[Run]:
        """Claims that a killed process held. Those whose handler had finished already ran twice."""
        return {(job.id, attempt.epoch) for job in self.jobs for attempt in job.outcomes("lost")}

    def count(self, status: str) -> int:
        return sum(job.status == status for job in self.jobs)


def audit(
    clients: Path,
    handlers: Path,
    store: Path,
    kills: Sequence[Kill],
    *,
    late_seconds: float = LATE_SECONDS,
) -> Audit:
    """Read everything and judge it. Nothing may be writing any more."""
    promises, runs = read_promises(clients), read_runs(handlers)
    if not store.exists():
        return Audit(promises, runs, [], [], [Violation("damaged", "there is no store")])
    connection = apsw.Connection(str(store), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.pragma("query_only", True)
        jobs = read_jobs(connection)
        rescues = list(rescue_seconds(jobs, kills))
        violations = [
            *check_jobs(promises, runs, jobs),
            *check_rescues(rescues, late_seconds=late_seconds),
            *check_counters(connection),
            *check_nodes(connection, store),
            *check_file(connection),
        ]
    finally:
        connection.close()
    return Audit(promises, runs, jobs, [seconds for _, seconds in rescues if seconds is not None], violations)


def read_promises(path: Path) -> Promises:
    promises = Promises()
    for fact, key, *rest in read_ledger(path):
        match fact:
            case "asked":
                promises.asked.add(key)
            case "acknowledged":
                promises.acknowledged[key] = rest[0]
            case "refused":
                promises.refused.add(key)
            case "cancelled":
                promises.cancelled.add(key)
            case "stopping":
                promises.stopping.add(key)
    return promises


def read_runs(path: Path) -> Runs:
    runs = Runs()
    for fact, job_id, epoch, _ in read_ledger(path):
        run = (job_id, int(epoch))
        match fact:
            case "started":
                runs.started.append(run)
            case "finished":
                runs.finished.add(run)
            case "cancelled":
                runs.cancelled.add(run)
    return runs


def read_jobs(connection: apsw.Connection) -> list[Job]:
    jobs: dict[int, Job] = {}
    query = (
        "SELECT seq, id, payload, status, attempt, epoch, crash_count, cancel_requested_at, reason FROM jobs"
    )
    for (
        seq,
        id,
        payload,
        status,
        attempt,
        epoch,
        crash_count,
        cancel_requested_at,
        reason,
    ) in connection.execute(query):
        key = msgspec.json.decode(payload)["key"]
        cancel_requested = cancel_requested_at is not None
        jobs[seq] = Job(id, key, status, attempt, epoch, crash_count, cancel_requested, reason)
    query = "SELECT seq, epoch, outcome, node, started_at, ended_at FROM attempts ORDER BY seq, epoch"
    for seq, epoch, outcome, node, started_at, ended_at in connection.execute(query):
        jobs[seq].attempts.append(Attempt(epoch, outcome, node, started_at / 1e6, ended_at / 1e6))
    return list(jobs.values())


def check_jobs(promises: Promises, runs: Runs, jobs: Sequence[Job]) -> Iterator[Violation]:
    """All that must be true whatever happened, and whatever the store is."""
    yield from check_promises(promises, jobs)
    for job in jobs:
        yield from check_job(job)
    yield from check_runs(runs, jobs)


def check_promises(promises: Promises, jobs: Sequence[Job]) -> Iterator[Violation]:
    kept = {job.key: job for job in jobs}
    for key, job_id in promises.acknowledged.items():
        if key not in kept or kept[key].id != job_id:
            yield Violation("lost", f"{job_id} ({key}) was acknowledged and is not in the store")
    for key in promises.cancelled:
        if key in kept and kept[key].status != "cancelled":
            yield Violation("lost", f"its cancelling was confirmed: {kept[key]}")
    for key in promises.stopping:
        if key in kept and not (
            kept[key].cancel_requested and kept[key].status in ("cancelled", "completed")
        ):
            yield Violation("lost", f"it was asked to stop: {kept[key]}")
    for key in (promises.refused - promises.doubtful) & kept.keys():
        yield Violation("unexplained", f"refused, and kept all the same: {kept[key]}")
    for key in kept.keys() - promises.asked:
        yield Violation("unexplained", f"nobody asked for it: {kept[key]}")
    for key, times in Counter(job.key for job in jobs).items():
        if times > 1:
            yield Violation("unexplained", f"asked for once and kept {times} times: {key}")


def check_job(job: Job) -> Iterator[Violation]:
    """What must be true of every job in the end, whatever happened to it on the way."""
    completed, lost = job.outcomes("completed"), job.outcomes("lost")
    match job.status:
        case "completed" if job.attempt != 1 + len(job.outcomes("failed")):
            yield Violation("miscounted", f"attempt is {job.attempt}: {job}")
        case "completed" | "cancelled":
            pass
        case "dead" if job.reason == "crashed" and len(lost) == 3:
            pass  # three processes were killed with this job in hand, as the rule says
        case "dead":
            yield Violation("lost", f"dead for no good reason: {job}")
        case _:
            yield Violation("stuck", str(job))
    if len(completed) != (job.status == "completed") or completed not in ([], job.attempts[-1:]):
        yield Violation("settled twice", str(job))
    if job.status == "completed" and job.attempts and job.attempts[-1].epoch < job.epoch:
        yield Violation("stale settle", f"claimed since, under epoch {job.epoch}: {job}")
    if job.crash_count != len(lost) and not job.cancel_requested:
        yield Violation("miscounted", f"{job.crash_count} crashes: {job}")
    for before, after in pairwise(job.attempts):
        if after.started_at < before.ended_at:
            yield Violation("zombie", f"attempts {before.epoch} and {after.epoch} overlap: {job}")
    if job.attempts and job.attempts[-1].epoch > job.epoch:
        yield Violation("zombie", f"an attempt from the future: {job}")


def check_runs(runs: Runs, jobs: Sequence[Job]) -> Iterator[Violation]:
    epochs: dict[str, list[int]] = defaultdict(list)
    for job_id, epoch in runs.started:
        epochs[job_id].append(epoch)
    for job_id, begun in epochs.items():
        if any(after <= before for before, after in pairwise(begun)):
            yield Violation("zombie", f"{job_id} was started under the epochs {begun}")
    for job in jobs:
        for attempt in job.outcomes("completed"):
            if (job.id, attempt.epoch) not in runs.finished:
                yield Violation("unfounded", str(job))
            if max(epochs[job.id], default=0) > attempt.epoch:
                yield Violation("stale settle", f"begun since, under epoch {max(epochs[job.id])}: {job}")


def rescue_seconds(jobs: Sequence[Job], kills: Sequence[Kill]) -> Iterator[tuple[Job, float | None]]:
    """How long each lost attempt's job had to wait after the first kill that can have ended it."""
    for job in jobs:
        for attempt in job.outcomes("lost"):
            kill = next((kill for kill in kills if kill.explains(attempt)), None)
            yield job, None if kill is None else attempt.ended_at - kill.sent_at


def check_rescues(
    rescues: Sequence[tuple[Job, float | None]], *, late_seconds: float = LATE_SECONDS
) -> Iterator[Violation]:
    for job, seconds in rescues:
        if seconds is None:
            yield Violation("unexplained", f"lost, and nobody had been killed: {job}")
        elif seconds > late_seconds:
            yield Violation("late", f"taken over after {seconds:.1f} s: {job}")


def check_counters(connection: apsw.Connection) -> Iterator[Violation]:
    said = set(connection.execute("SELECT status, queue, type, jobs FROM counters"))
    real = set(connection.execute("SELECT status, queue, type, count(*) FROM jobs GROUP BY 1, 2, 3"))
    for status, queue, type, jobs in sorted(said ^ real):
        yield Violation("miscounted", f"counter or jobs alone say {jobs} {status} of {type} in {queue}")


def check_nodes(connection: apsw.Connection, store: Path) -> Iterator[Violation]:
    """The dead have been seen to be dead, and the last ones have signed off."""
    for (node,) in connection.execute("SELECT node FROM nodes"):
        yield Violation("stuck", f"the store still knows the node {node}")
    for socket in store.with_name(store.name + "-nodes").iterdir():
        yield Violation("stuck", f"the directory still lists the node {socket.name}")


def check_file(connection: apsw.Connection) -> Iterator[Violation]:
    for (line,) in connection.execute("PRAGMA integrity_check"):
        if line != "ok":
            yield Violation("damaged", str(line))
