"""What the fixture `tq` is: a whole trioqueue inside of a test, and the questions that tests ask of it."""

from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from random import Random
from typing import Any, TypeVar, Unpack

import trio
from trio.testing import MockClock

from trioqueue.jobs.handlers import Handlers
from trioqueue.jobs.job import Attempt, Job, JobId, Status
from trioqueue.node import Node
from trioqueue.store.protocol import JobFilter
from trioqueue.testing import perform as performing
from trioqueue.testing.client import Client
from trioqueue.testing.clock import Duration, TestClock, seconds_of
from trioqueue.testing.cluster import Cluster
from trioqueue.testing.drain import Drained, drain
from trioqueue.testing.errors import NoHandlers
from trioqueue.testing.faults import Faults
from trioqueue.testing.jobs import SHOWN, Query, SeenJob, Wanted, nearest, seen, table
from trioqueue.testing.log import EventLog, Kind
from trioqueue.testing.perform import Performed, TypeOrHandler
from trioqueue.testing.place import Place
from trioqueue.wire import JobRequest

T = TypeVar("T")

PAGE = 500
A_CENTURY = 100 * 365 * 86_400.0


class QueueUnderTest:
    """A trioqueue of the test's own: a fresh store, real nodes, virtual time.

    Jobs are kept from the first `enqueue` on. They run while a node has workers: during `drain`, or
    for good after `start`. With the end of the test everything is cut and gone.
    """

    def __init__(
        self,
        place: Place,
        *,
        handlers: Handlers | None = None,
        real_time: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.clock = TestClock()
        self.trio_clock: MockClock | None = None if real_time else MockClock(autojump_threshold=0)
        """What to run Trio with, where nobody has chosen a clock."""
        self._cluster = Cluster(place, self.clock, settings=settings or {})
        self._cluster.handlers = handlers
        self._random = Random("ids of what is performed")
        self._table = "the test has not begun"
        self.clock.when_moved(self._cluster.stir)

    def __repr__(self) -> str:
        return f"<QueueUnderTest {self._cluster!r}>"

    # Where it lives

    def run(self, story: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run an async function in a Trio run of its own: for plain tests. Returns what it returns.

        May be called again: the same store, and time goes on where it stood.
        """
        return trio.run(self.hosted, story, *arguments, clock=self.trio_clock)

    async def hosted(self, story: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run an async function while nodes can live, in the Trio run that this is called in."""
        return await self._cluster.run(lambda: story(*arguments), before_the_end=self._remember_the_jobs)

    async def _remember_the_jobs(self) -> None:
        """For the report of a failure: afterwards nobody can ask any more."""
        with trio.move_on_after(5):
            store = await self._cluster.observer()
            page = await store.list(JobFilter(), limit=SHOWN)
            self._table = table([seen(job) for job in page.jobs], more=page.next_cursor is not None)

    def report(self) -> list[tuple[str, str]]:
        """What to print when a test has failed: titles and texts."""
        return [("trioqueue jobs", self._table), ("trioqueue events", self._cluster.events.text())]

    # Nodes

    async def start(self, handlers: Handlers | None = None, **settings: Any) -> Node:
        """Start a node with workers; again, and there is another one beside it.

        `settings` are fields of `trioqueue.config.Settings`, like `worker_count=1`.
        """
        return await self._cluster.start(handlers, **settings)

    async def stop(self, node: Node | None = None) -> None:
        """Shut a node down, or all of them, as SIGTERM does; returns when it has ended."""
        await self._cluster.stop(node)

    async def kill(self, node: Node | None = None) -> None:
        """Let a node vanish, or all of them, as if its machine had lost its power.

        Nothing of it reaches the store or the events any more. Its handlers are cancelled. Nobody
        is told: other nodes take its jobs over when their leases have expired.
        """
        await self._cluster.kill(node)

    async def lose_lease(self, job: Job) -> None:
        """Let the store refuse the claim that holds this job now, as if it had been rescued elsewhere.

        The attempt is stopped and what it comes to is dropped. The job runs again when the lease
        would have ended. Raises ValueError for a job that is not processing.
        """
        current = await self.job(job)
        if current.status is not Status.PROCESSING:
            raise ValueError(f"job {job.id} is {current.status}: there is no lease to lose")
        for store in self._cluster.stores:
            store.lose(current)

    @property
    def nodes(self) -> list[Node]:
        """Those with workers that live now, the one that was started first first."""
        return self._cluster.nodes

    @property
    def handlers(self) -> Handlers:
        """Whose jobs may be enqueued."""
        if self._cluster.handlers is None:
            raise NoHandlers
        return self._cluster.handlers

    @property
    def faults(self) -> Faults:
        """What shall go wrong with the store."""
        return self._cluster.faults

    @cached_property
    def client(self) -> Client:
        """Talks HTTP to the first living node, in process."""
        return Client(self._cluster.face)

    @property
    def place(self) -> Place:
        """The store's URL and schema: for what else of yours writes there."""
        return self._cluster.place

    # Jobs

    async def enqueue(
        self, type: TypeOrHandler, payload: object = None, *, delay: Duration | None = None, **options: Any
    ) -> SeenJob:
        """Enqueue as `POST /jobs` does, with the same fields as `options` and the same errors.

        `type` may be the handler itself. Returns the job that is in the store now.
        """
        if delay is not None:
            options["delay_seconds"] = seconds_of(delay)
        name = self._type_of(type)
        assert name is not None
        request = JobRequest(type=name, payload={} if payload is None else payload, **options)
        door = await self._cluster.door()
        return seen((await door.enqueue(request)).job)

    async def perform(
        self,
        type: TypeOrHandler,
        payload: object = None,
        *,
        attempt: int = 1,
        max_attempts: int | None = None,
        timeout_seconds: float | None = None,
    ) -> Performed:
        """Run one attempt with a real context, and say what it came to. The job is in no one's way.

        `type` may be the handler itself, registered or not. An error of the handler is part of the
        answer; a payload that does not fit raises `InvalidJob`, as at the door.
        """
        store = await self._cluster.aside()
        return await performing.perform(
            self._cluster.handlers or Handlers(),
            type,
            {} if payload is None else payload,
            attempt=attempt,
            max_attempts=max_attempts,
            timeout_seconds=timeout_seconds,
            store=store,
            clock=self.clock,
            random=self._random,
            max_result_bytes=self._cluster.setting("max_payload_bytes"),
        )

    async def drain(self, *, with_delayed: bool = False, within: Duration = A_CENTURY) -> Drained:
        """Run what is due, and what is enqueued meanwhile, until nothing is; says what was done.

        `with_delayed`: also what is due later, retries and snoozes too, however long it takes; time
        moves on as far as that needs. Raises `NotDrained` when it takes longer than `within`.
        """
        return await drain(self._cluster, with_delayed=with_delayed, longest_seconds=seconds_of(within))

    async def job(self, job: Job | str) -> SeenJob:
        """The job as it is now; `JobNotFound` when it was pruned."""
        store = await self._cluster.observer()
        return seen(await store.get(_id_of(job)))

    async def attempts(self, job: Job | str) -> list[Attempt]:
        """Its ended attempts, oldest first."""
        store = await self._cluster.observer()
        return list(await store.attempts(_id_of(job)))

    async def finished(self, job: Job | str, *, within: Duration = A_CENTURY) -> SeenJob:
        """Wait until the job has ended. Raises `trio.TooSlowError`."""
        self._cluster.stir()
        with trio.fail_after(seconds_of(within)):
            while True:
                length = len(self.events)
                current = await self.job(job)
                if current.is_final:
                    return current
                await self.events.longer_than(length)

    async def jobs(
        self,
        type: TypeOrHandler | None = None,
        payload: Mapping[str, object] | None = None,
        **query: Unpack[Query],
    ) -> list[SeenJob]:
        """The jobs that are like this, the last enqueued first. See `assert_enqueued`."""
        wanted = self._wanted(type, payload, query)
        return [job for job in await self._all_jobs() if not wanted.misses(job)]

    async def assert_enqueued(
        self,
        type: TypeOrHandler | None = None,
        payload: Mapping[str, object] | None = None,
        *,
        count: int | None = None,
        **query: Unpack[Query],
    ) -> SeenJob:
        """There is a job like this, `count` of them if said; returns the one enqueued last.

        The `payload` may be a part of the job's: the keys that are named must be there, with these
        values (or with `ANYTHING`). A job counts whatever has become of it, unless a `status` is asked
        for, and as long as it is not pruned. `run_at` and `run_in` ask when it is due.
        """
        __tracebackhide__ = True
        wanted = self._wanted(type, payload, query)
        jobs = await self._all_jobs()
        found = [job for job in jobs if not wanted.misses(job)]
        if not found or (count is not None and len(found) != count):
            number = "a job" if count is None else f"{count} of these jobs"
            instead = (
                f"{len(found)} of these jobs" if found else f"none.\nThe nearest are\n{nearest(wanted, jobs)}"
            )
            raise AssertionError(f"expected {number}: {wanted}\nThere is {instead}")
        return found[0]

    async def refute_enqueued(
        self,
        type: TypeOrHandler | None = None,
        payload: Mapping[str, object] | None = None,
        **query: Unpack[Query],
    ) -> None:
        """There is no job like this."""
        __tracebackhide__ = True
        wanted = self._wanted(type, payload, query)
        found = [job for job in await self._all_jobs() if not wanted.misses(job)]
        if found:
            raise AssertionError(f"expected no such job: {wanted}\nThere is\n{table(found[:SHOWN])}")

    # Events

    @property
    def events(self) -> EventLog:
        """What every node has published so far."""
        return self._cluster.events

    async def wait_for(self, kind: type[Kind], *, within: Duration = A_CENTURY, **fields: object) -> Kind:
        """Wait until an event has happened, as in `wait_for(AttemptStarted, type="import")`.

        One that has happened already counts, and each is returned once only. Raises
        `trio.TooSlowError`.
        """
        self._cluster.stir()
        with trio.fail_after(seconds_of(within)):
            return await self.events.first(kind, **fields)

    async def _all_jobs(self) -> list[SeenJob]:
        store = await self._cluster.observer()
        jobs: list[SeenJob] = []
        cursor: str | None = None
        while True:
            page = await store.list(JobFilter(), limit=PAGE, cursor=cursor)
            jobs += [seen(job) for job in page.jobs]
            cursor = page.next_cursor
            if cursor is None:
                return jobs

    def _wanted(
        self, type: TypeOrHandler | None, payload: Mapping[str, object] | None, query: Query
    ) -> Wanted:
        return Wanted.like(self._type_of(type), payload, query, now=self.clock.now())

    def _type_of(self, type: TypeOrHandler | None) -> str | None:
        if type is None or isinstance(type, str):
            return type
        return performing.find(self.handlers, type).type


def _id_of(job: Job | str) -> JobId:
    return JobId(job) if isinstance(job, str) else job.id
