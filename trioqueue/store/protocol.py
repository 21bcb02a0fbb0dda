"""The store's contract, in the order of a job's life. A second implementer needs this page and
`memory/store.py`; `trioqueue.testing.conformance` has one test for each promise made here.

Promises that hold for every method:

- It is atomic, and safe to call from many tasks and many nodes at once.
- What it reports has been committed, and flushed where the store is durable.
- The store's own clock decides what is due, what has expired and what time is written.
- When the store cannot be read or written it raises `StoreUnavailable`, and nothing has changed;
  but when the reason begins with `no answer` nobody knows whether it has. Every call may then be
  repeated: jobs are told by their ids, a settlement that was recorded is answered as the first time,
  and what a claim took and nobody was told of is given back with the next claim of the same store.
- Once it has been handed to the store it is not undone by cancelling the caller: either the
  caller is cancelled before anything happened, or the call completes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from enum import Enum, StrEnum, auto
from typing import Any, Protocol

import msgspec

from trioqueue.jobs.job import Attempt, Claim, Job, JobId, Json, NewJob, NodeId, Status
from trioqueue.jobs.outcome import Outcome

SILENT_SECONDS = 600.0
"""A node that was silent for longer than this, and holds no job, is forgotten."""


ENDS = (Status.COMPLETED, Status.CANCELLED, Status.DEAD)
"""The final statuses, in the order of next_upkeep.sql."""


class Hint(Enum):
    """Something may have happened. Never the only way to learn it: whoever listens also polls."""

    WORK = auto()
    """There may be a due job now."""
    CANCEL = auto()
    """Somebody may have asked for a processing job to stop."""


Bell = Callable[[Hint], None]
"""Called on the Trio loop; returns at once."""


class Enqueued(msgspec.Struct, frozen=True):
    """The job that is in the store now; `created` is false when it was there before."""

    job: Job
    created: bool


class Refusal(StrEnum):
    """Why a job was not redriven."""

    NOT_FOUND = auto()
    STATUS = auto()
    """It is neither dead nor cancelled."""
    DEADLINE = auto()
    """Its `deadline_at` has come: it would never run."""
    UNIQUE_KEY = auto()
    """A pending or processing job has its `unique_key`."""


class Redriven(msgspec.Struct, frozen=True):
    """What redriving one job came to: `job` as it is now, None if it is not there."""

    job: Job | None
    refusal: Refusal | None = None


class Settlement(msgspec.Struct, frozen=True):
    """What the attempt of a claim came to, to be recorded."""

    claim: Claim
    outcome: Outcome
    worker: int | None = None


class Renewal(msgspec.Struct, frozen=True):
    """What renewing one claim came to."""

    claim: Claim
    renewed: bool
    """False, and not busy: the lease was lost. Stop the attempt; it can settle nothing."""
    cancel_requested: bool = False
    """Somebody asked for the job to stop."""
    busy: bool = False
    """Not renewed, and not lost: somebody else's transaction holds the row. Ask again soon."""


class JobFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Every field that is set must match."""

    status: Status | None = None
    type: str | None = None
    queue: str | None = None
    tag: str | None = None


class Page(msgspec.Struct, frozen=True):
    """Jobs, newest first, and where the next page begins (None: this was the last)."""

    jobs: list[Job]
    next_cursor: str | None


class Count(msgspec.Struct, frozen=True):
    """How many jobs of this queue and type have this status."""

    queue: str
    type: str
    status: Status
    jobs: int


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says of itself. One that has said nothing has no workers and knows no types."""

    workers: int = 0
    types: tuple[str, ...] | None = ()
    """Of which types it runs jobs. None: any, as demo mode does."""


class NextUpkeep(msgspec.Struct, frozen=True, kw_only=True):
    """In how many seconds each chore will find something if nothing changes; None: never."""

    rescue: float | None = None
    expire: float | None = None
    prune: float | None = None


def seconds_until_first(instants: Iterable[datetime | None], now: datetime) -> float | None:
    """How long from `now` until the first of `instants`; None when there is none."""
    firsts = [instant for instant in instants if instant is not None]
    return (min(firsts) - now).total_seconds() if firsts else None


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A processing job, in few words."""

    job_id: JobId
    type: str
    queue: str
    epoch: int
    started_at: datetime
    """When it was claimed."""
    lease_until: datetime
    cancel_requested: bool


class NodeSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A node as the store knows it. Every time is the store's."""

    node: NodeId
    workers: int
    types: tuple[str, ...] | None
    """None: any, as demo mode runs."""
    started_at: datetime
    """Its first beat."""
    seen_at: datetime
    """Its last beat."""
    silent_seconds: float
    """How long ago that was, by the store's clock: nobody need compare clocks."""
    stopping: bool
    running: list[Running]
    """What it holds: the first claimed first, then the first accepted."""


class Completion:
    """A transaction that a handler shares with the completion of its own job."""

    __slots__ = ("connection", "job", "result")

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        """The driver's own connection, of whatever class that is. Only for use inside the block."""
        self.result: Json | None = None
        """What the job completes with. Set it inside the block."""
        self.job: Job | None = None
        """The settled job, once the block has ended."""


class Store(Protocol):
    """Keeps jobs."""

    @property
    def url(self) -> str:
        """Where it is, for people: no secrets in it."""

    def listen(self, bell: Bell) -> None:
        """Ring `bell` for hints from now on, those of this process and of others on the same store."""

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """Keep new jobs, all or none, and answer in the same order.

        - A job whose `id` is already kept is not stored again (a call may be repeated after its
          answer was lost), nor is one whose `unique_key` a pending or processing job has: the
          job that is there is returned, with `created` false. Two new jobs of one call count too.
        - `run_at` None means now, and `delay_seconds` so much later. The job starts pending, with
          epoch, attempt and crash count 0 and version 1. `root_id` None means the job itself.
        - Rings `Hint.WORK`, here and on other nodes, when a created job is due.
        """

    async def get(self, job_id: JobId) -> Job:
        """The job, or `JobNotFound`."""

    async def attempts(self, job_id: JobId) -> list[Attempt]:
        """The job's ended attempts, oldest first; `JobNotFound` when there is no such job."""

    # From here on `list` is this method, not the builtin: hence Sequence in later signatures.
    async def list(self, filter: JobFilter, *, limit: int, cursor: str | None = None) -> Page:
        """Up to `limit` matching jobs, the last accepted first, from `cursor` on.

        The order is that in which the store accepted the jobs, so that a page never repeats a
        job and never skips one that was there when the first page was read. Raises
        `InvalidFilter` for a cursor that no page has returned. Its cost does not grow with the
        number of jobs that do not match a single filter.
        """

    async def claim(
        self, *, node: NodeId, types: frozenset[str] | None, limit: int, lease_seconds: float
    ) -> Sequence[Claim]:
        """Take up to `limit` due jobs for `node`, leased for `lease_seconds`.

        - Due: pending, `run_at` has come, and the type is one of `types` (None: any, as demo mode
          asks; nothing is due for it once real handlers have served the store, see `dedicate`).
        - Order: lowest `priority` number, then oldest `run_at`, then first accepted.
        - Each becomes processing, with `epoch` and `attempt` one higher, `started_at` now,
          `progress` empty, and `node` and `lease_until` set. No two claims ever share an epoch.
        - A job whose `deadline_at` has come is passed over; see `expire`, which is called often, so
          that there are few of them.
        - Its cost does not grow with the number of pending, delayed or finished jobs.
        """

    async def next_due_in(self, types: frozenset[str] | None) -> float | None:
        """Seconds until the first pending job of `types` is due; None when none is pending.

        Negative when it has been due for so long. By the store's own clock: a difference, so that
        nobody need compare clocks.
        """

    async def renew(self, claims: Sequence[Claim], *, lease_seconds: float) -> Sequence[Renewal]:
        """Make the leases of these claims end `lease_seconds` from now, in one write.

        Fenced one by one: a claim that does not hold its job any more is answered with
        `renewed` false, and the others are renewed all the same. Same order as `claims`. A claim
        whose job somebody else's transaction holds is `busy`, and its lease ends when it did.
        """

    async def progress(self, claim: Claim, progress: Json) -> None:
        """Keep what the handler says of its progress. Fenced: `LeaseLost`."""

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Job | None]:
        """Record how attempts ended, end their leases, and return the jobs as they are now.

        Fenced one by one: None, and nothing changes, unless the job is processing under the claim's
        epoch; the others are settled all the same. Same order as `settlements`. `StoreBusy`, and
        nothing changes, when somebody else's transaction holds one of the jobs for too long.

        A job becomes what `lifecycle.after_attempt` says of the stored job, so that a request to
        cancel that came in the meantime is honoured. The attempt goes into the ledger in the same
        transaction. `progress` stays; `node` and `lease_until` are cleared; `finished_at` is set
        when the new status is final. Rings `Hint.WORK` when a job is due again.
        """

    def transaction(self, claim: Claim, *, worker: int | None) -> AbstractAsyncContextManager[Completion]:
        """A transaction in the store's own database that ends with settling `claim` as `Completed`.

        What is done on the completion's `connection` inside the block, and the settlement with its
        `result`, are committed together when the block ends, all or nothing; then its `job` is the
        job as it is now. The settlement is that of `settle`: same fence, same ledger.

        - Inside the block nothing of the job is locked: it is renewed, and may be lost, as ever.
        - `LeaseLost` out of the block when the claim does not hold the job any more, at the
          latest when the block ends: everything is rolled back.
        - An error or a cancellation inside the block rolls everything back and settles nothing.
        - `StoreUnavailable` as ever. When it is raised because the connection was lost during the
          commit, the commit may have happened: then the job is settled, and the claim is lost.
        - A store whose database handlers cannot share raises `NotSupported`.
        """

    async def release(self, claims: Sequence[Claim]) -> int:
        """Give back claims that no worker has begun; returns how many were still held.

        As if never claimed: `attempt` goes back, no row in the ledger, `run_at` stays. The epoch
        stays where it is. Claims that do not hold their job any more are passed over. A job that
        was asked to stop becomes cancelled. Rings `Hint.WORK`.
        """

    async def cancel(self, job_id: JobId) -> Job:
        """Ask for a job to stop; returns the job as it is now. `JobNotFound` when there is none.

        Pending: it is cancelled. Processing: `cancel_requested_at` is set, once, and
        `Hint.CANCEL` rings everywhere. Final already: nothing changes.
        """

    async def redrive(self, job_ids: Sequence[JobId]) -> Sequence[Redriven]:
        """Put dead or cancelled jobs back, as an operator asks. Same order as `job_ids`, none twice.

        One by one, in this order: a job that cannot be redriven is answered with the first `Refusal`
        that holds, in the order in which they are listed there, and the others are redriven all the
        same. Two jobs of one call that have one unique key count, too.

        The job becomes what `lifecycle.after_redrive` says: pending, due at once, with attempt and
        crash count 0. Its `reason`, `result`, `finished_at` and `cancel_requested_at` are cleared. Its
        ledger stays, and its epoch where it is. Rings `Hint.WORK`. After a lost answer a second call
        finds a job that the first has redriven, and refuses it.
        """

    async def rescue(self, *, limit: int) -> Sequence[Job]:
        """Settle up to `limit` processing jobs whose lease has expired, as `Lost`.

        As `Released`, which counts no crash, when their node had said that it was `stopping`.
        Also jobs whose node is known to be dead, where a store can know that. Check and change
        are one transaction: a lease that was renewed in time is never overruled. The attempt
        goes into the ledger with no worker. Returns the jobs as they are now; rings `Hint.WORK`.

        In addition it forgets the nodes that have been silent for longer than `SILENT_SECONDS`
        and hold no processing job (any more).
        """

    async def expire(self, *, limit: int) -> Sequence[Job]:
        """End up to `limit` pending jobs whose `deadline_at` has come, whether they are due or not.

        The earliest deadline first. They become what `lifecycle.after_deadline` says; no attempt
        goes into the ledger. Returns the jobs as they are now.
        """

    async def prune(self, retention: Mapping[Status, timedelta], *, limit: int) -> int:
        """Delete up to `limit` jobs whose status's retention has gone by since they ended.

        Only final statuses are looked at, whatever `retention` names. Attempts and tags go with
        the job. Returns how many jobs were deleted.
        """

    async def next_upkeep_in(self, retention: Mapping[Status, timedelta]) -> NextUpkeep:
        """When `rescue`, `expire` and `prune` will find a job; negative when they would by now.

        By the store's own clock, as in `next_due_in`. For whoever would else look again and again.
        """

    async def counts(self) -> Sequence[Count]:
        """How many jobs there are, by queue, type and status; zeros are left out.

        Read from maintained counters, exact at every commit, at a cost that does not depend on
        the number of jobs.
        """

    async def dedicate(self, *, demo: bool) -> bool:
        """Remember what the store is for: jobs of real handlers, or of demo mode, which only simulates.

        Returns false, and changes nothing, when demo mode asks for a store that real handlers have
        served: it would complete jobs that somebody depends on. The other way round is welcome.
        """

    async def beat(self, node: NodeId, *, facts: NodeFacts | None = None, stopping: bool = False) -> None:
        """Write down that `node` is alive. Proves, too, that the store can be written.

        `facts` None: those that it said before still hold. `stopping`: it was told to stop, and what
        it may leave behind was not lost in a crash; it stays so, whatever later beats say.
        """

    async def nodes(self) -> Sequence[NodeSeen]:
        """The nodes that have beaten and are not forgotten, and any other that holds a job.

        In the order of their first beat, then of their ids. One that holds jobs and has not
        beaten has said nothing of itself; it started with the first of these claims and was last
        seen with the latest.
        """
