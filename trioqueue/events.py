"""The facts, past tense, and the bus that hands them out.

Facts are published after the commit and never awaited: a job never waits for a listener.
The store is the truth, events are a courtesy.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime

import msgspec

from trioqueue.jobs.job import AttemptOutcome, Job, JobId, NodeId, Status


class NodeStarted(msgspec.Struct, frozen=True, kw_only=True):
    node: NodeId
    store: str
    workers: int
    types: list[str]
    demo: bool
    warnings: list[str]


class NodeDraining(msgspec.Struct, frozen=True, kw_only=True):
    node: NodeId
    running: int
    grace_seconds: float


class NodeStopped(msgspec.Struct, frozen=True, kw_only=True):
    node: NodeId
    leases_left: int


class JobEnqueued(msgspec.Struct, frozen=True, kw_only=True):
    job: Job


class JobCancelled(msgspec.Struct, frozen=True, kw_only=True):
    """A pending job was cancelled, or a processing one was asked to stop (`confirmed` false)."""

    job: Job
    confirmed: bool


class JobRedriven(msgspec.Struct, frozen=True, kw_only=True):
    """An operator has put a dead or cancelled job back."""

    job: Job


class AttemptStarted(msgspec.Struct, frozen=True, kw_only=True):
    job: Job
    node: NodeId
    worker: int
    at: datetime
    waited_seconds: float
    """Since its `run_at`: by the store's clock until it was claimed, by the node's from there on."""


class AttemptEnded(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt was settled; `status` is what the job became."""

    job: Job
    node: NodeId
    worker: int
    outcome: AttemptOutcome
    status: Status
    error: str | None
    seconds: float


class AttemptLost(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt ended after its lease had: what it came to was dropped."""

    job: Job
    node: NodeId
    worker: int
    outcome: AttemptOutcome


class ClaimsReleased(msgspec.Struct, frozen=True, kw_only=True):
    node: NodeId
    released: int


class JobsRescued(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs were taken over whose nodes had gone silent."""

    node: NodeId
    jobs: list[Job]
    """As they are now."""

    @property
    def job_ids(self) -> list[JobId]:
        return _ids(self.jobs)

    @property
    def dead_ids(self) -> list[JobId]:
        """Those among them that are dead now: too many nodes went silent with them."""
        return _ids(self.jobs, Status.DEAD)

    @property
    def cancelled_ids(self) -> list[JobId]:
        """Those among them that are cancelled now: they had been asked to stop."""
        return _ids(self.jobs, Status.CANCELLED)


class JobsExpired(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs are dead whose deadline came before they had begun, or between two attempts."""

    node: NodeId
    jobs: list[Job]
    """As they are now."""

    @property
    def job_ids(self) -> list[JobId]:
        return _ids(self.jobs)


class JobsPruned(msgspec.Struct, frozen=True, kw_only=True):
    node: NodeId
    pruned: int


class LoopFailed(msgspec.Struct, frozen=True, kw_only=True):
    node: NodeId
    loop: str
    error: str


class StoreFailed(msgspec.Struct, frozen=True, kw_only=True):
    """A call could not reach the store. Chores try again; clients are told to."""

    node: NodeId
    call: str
    reason: str


class StoreRecovered(msgspec.Struct, frozen=True, kw_only=True):
    node: NodeId
    call: str
    after_seconds: float


Event = (
    NodeStarted
    | NodeDraining
    | NodeStopped
    | JobEnqueued
    | JobCancelled
    | JobRedriven
    | AttemptStarted
    | AttemptEnded
    | AttemptLost
    | ClaimsReleased
    | JobsRescued
    | JobsExpired
    | JobsPruned
    | LoopFailed
    | StoreFailed
    | StoreRecovered
)

Listener = Callable[[Event], None]


class Events:
    """Hands every published fact to every listener, in order, at once."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """From now on, call `listener` with each event. It must be quick."""
        self._listeners.append(listener)

    def publish(self, event: Event) -> None:
        for listener in self._listeners:
            # A listener's trouble (a log on a full disk, a closed stderr) is never a job's trouble.
            with suppress(Exception):
                listener(event)


def _ids(jobs: Iterable[Job], status: Status | None = None) -> list[JobId]:
    return [job.id for job in jobs if status in (None, job.status)]
