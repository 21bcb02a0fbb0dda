"""What callers of a store were told, and whether a database keeps it.

damaged      SQLite's own check of the file
not started  the store cannot be opened or does not claim
lost         a job or a change of it was acknowledged, and is not there; or a pruned job is back
torn         a part of what one call did is there, and another is not
different    a job is not as any caller has ever been told
unexplained  a job that nobody asked for
miscounted   counters or attempts that do not add up
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import apsw

from trioqueue.jobs.job import Job, JobId

Kind = Literal["damaged", "not started", "lost", "torn", "different", "unexplained", "miscounted"]

SPENT = ("completed", "failed", "timed_out")
"""Outcomes that count as attempts; see docs/lifecycle.md."""


@dataclass(frozen=True, slots=True)
class State:
    """A job at one version."""

    id: JobId
    version: int
    status: str
    attempt: int
    epoch: int
    crash_count: int
    result: bytes | None
    payload: bytes

    @classmethod
    def of(cls, job: Job) -> "State":
        return cls(
            job.id,
            job.version,
            str(job.status),
            job.attempt,
            job.epoch,
            job.crash_count,
            job.result,
            job.payload,
        )


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A call was answered: these jobs are kept."""

    states: tuple[State, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """A call was answered: this is the job now."""

    state: State


@dataclass(slots=True)
class Pruning:
    """Pruning was asked for. Which jobs that means is known when it is answered."""

    ids: frozenset[JobId] = frozenset()


@dataclass(frozen=True, slots=True)
class Pruned:
    """The call was answered."""

    ids: frozenset[JobId]


@dataclass(frozen=True, slots=True)
class Fault:
    kind: Kind
    what: str


class Known:
    """What callers were told in the whole recording: later answers explain earlier images."""

    def __init__(self, log: Sequence[object]) -> None:
        self.versions: dict[JobId, dict[int, State]] = defaultdict(dict)
        self.groups: list[frozenset[JobId]] = []
        """Jobs that one call enqueued: all of them are kept, or none."""
        for mark in log:
            match mark:
                case Enqueued(states):
                    self.groups.append(frozenset(state.id for state in states))
                    for state in states:
                        self.versions[state.id][state.version] = state
                case Changed(state):
                    self.versions[state.id][state.version] = state


@dataclass(slots=True)
class Promised:
    """What callers had been told when the power was cut."""

    states: dict[JobId, State] = field(default_factory=dict)
    pruned: set[JobId] = field(default_factory=set)
    pruning: frozenset[JobId] = frozenset()

    def take(self, mark: object) -> None:
        """Go on by one entry of a log; those that are no promises change nothing."""
        match mark:
            case Enqueued(states):
                for state in states:
                    self._keep(state)
            case Changed(state):
                self._keep(state)
            case Pruning(ids):
                self.pruning = ids
            case Pruned(ids):
                self.pruned |= ids
                self.pruning = frozenset()

    def _keep(self, state: State) -> None:
        before = self.states.get(state.id)
        if before is None or before.version < state.version:  # answers may overtake each other
            self.states[state.id] = state


def check(connection: apsw.Connection, known: Known, promised: Promised) -> Iterator[Fault]:
    """Everything that is wrong with a database, after what `promised` says."""
    try:
        connection.pragma("synchronous", "off")  # what SQLite makes of it may be lost
        problems = [row[0] for row in connection.execute("PRAGMA integrity_check")]
        if problems != ["ok"]:
            yield Fault("damaged", f"{problems[:3]}")
            return
        if not connection.table_exists(None, "jobs"):
            if promised.states:
                yield Fault("lost", f"there are no tables, and {len(promised.states)} jobs were acknowledged")
            return
        stored = read_jobs(connection)
        yield from _check_jobs(stored, known, promised)
        yield from _check_counters(connection)
        yield from _check_attempts(connection, stored)
        yield from _check_tags(connection)
    except apsw.Error as error:
        yield Fault("damaged", f"{type(error).__name__}: {error}")


def read_jobs(connection: apsw.Connection) -> dict[JobId, State]:
    """Every job in a database, as it is."""
    columns = "id, version, status, attempt, epoch, crash_count, result, payload"
    rows = connection.execute(f"SELECT {columns} FROM jobs")
    return {row[0]: State(*row) for row in rows}


def _check_jobs(stored: dict[JobId, State], known: Known, promised: Promised) -> Iterator[Fault]:
    absent = promised.pruned | (promised.pruning if not promised.pruning & stored.keys() else set())
    for id, state in promised.states.items():
        if id in absent:
            continue
        if id not in stored:
            yield Fault("lost", f"job {id}, acknowledged, {state.status}")
        elif stored[id].version < state.version:
            yield Fault("lost", f"job {id} was acknowledged as {state}, and is {stored[id]}")
    for id, state in stored.items():
        versions = known.versions.get(id)
        if versions is None:
            yield Fault("unexplained", f"nobody asked for job {id}")
        elif versions.get(state.version, state) != state or state.version > max(versions):
            yield Fault("different", f"job {id} is {state}; known are {list(versions.values())}")
    for id in promised.pruned & stored.keys():
        yield Fault("lost", f"job {id} was pruned, and is back")
    for group in known.groups:
        missing = group - stored.keys() - absent
        if missing and group & stored.keys():
            yield Fault("torn", f"{len(missing)} of {len(group)} jobs of one call are missing")


def _check_counters(connection: apsw.Connection) -> Iterator[Fault]:
    counters = set(connection.execute("SELECT status, queue, type, jobs FROM counters"))
    real = set(connection.execute("SELECT status, queue, type, count(*) FROM jobs GROUP BY 1, 2, 3"))
    if counters != real:
        yield Fault("miscounted", f"counters say {counters - real}, and the jobs are {real - counters}")


def _check_attempts(connection: apsw.Connection, stored: dict[JobId, State]) -> Iterator[Fault]:
    outcomes: dict[JobId, list[str]] = defaultdict(list)
    ledger = "SELECT id, attempts.epoch, outcome FROM attempts LEFT JOIN jobs USING (seq) ORDER BY 2"
    for id, epoch, outcome in connection.execute(ledger):
        if id is None:
            yield Fault("torn", "an attempt without its job")
        elif epoch > stored[id].epoch or (epoch == stored[id].epoch and stored[id].status == "processing"):
            yield Fault("miscounted", f"attempt {epoch} of job {id} has ended, which is {stored[id]}")
        else:
            outcomes[id].append(outcome)
    for id, state in stored.items():
        count = Counter(outcomes[id])
        spent = sum(count[outcome] for outcome in SPENT) + (state.status == "processing")
        # Whoever was asked to stop is not charged for the way in which the attempt ended.
        tolerance = 1 if state.status == "cancelled" else 0
        if not spent - tolerance <= state.attempt <= spent:
            yield Fault("miscounted", f"{outcomes[id]} of job {id}, which is {state}")
        if not count["lost"] - tolerance <= state.crash_count <= count["lost"]:
            yield Fault("miscounted", f"{outcomes[id]} of job {id}, which is {state}")
        if count["completed"] != (state.status == "completed"):
            yield Fault("torn", f"{outcomes[id]} of job {id}, which is {state}")


def _check_tags(connection: apsw.Connection) -> Iterator[Fault]:
    listed = set(connection.execute("SELECT tag, seq FROM job_tags"))
    real = set(connection.execute("SELECT value, seq FROM jobs, json_each(tags)"))
    if listed != real:
        yield Fault("torn", f"lists by tag have {listed - real}, and lack {real - listed}")
