"""What the fixture `tq` is: a whole trioqueue inside of a test, and the questions that tests ask of it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from random import Random
from typing import Any, TypeVar, Unpack

import trio
from trio.testing import MockClock

from trioqueue.errors import UnknownType
from trioqueue.jobs import codec
from trioqueue.jobs.handlers import Handlers
from trioqueue.jobs.job import Attempt, Job, JobId, Status
from trioqueue.node import Node
from trioqueue.store.protocol import JobFilter
from trioqueue.testing import perform as performing
from trioqueue.testing.client import Client
from trioqueue.testing.clock import Duration, TestClock, seconds_of
from trioqueue.testing.cluster import Cluster
from trioqueue.testing.drain import Drained, drain
from trioqueue.testing.errors import NestedRun, NoHandlers, unknown
from trioqueue.testing.faults import Faults
from trioqueue.testing.jobs import SHOWN, Query, SeenJob, Wanted, nearest, seen, table
from trioqueue.testing.log import E, EventLog
from trioqueue.testing.perform import Performed, TypeOrHandler
from trioqueue.testing.place import Place
from trioqueue.testing.waiting import A_CENTURY, until_finished, until_happened
from trioqueue.wire.jobs import JobRequest, parse_job_request

T = TypeVar("T")

PAGE = 500
OPTIONS = ("delay", *(field for field in JobRequest.__struct_fields__ if field not in ("type", "payload")))


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
        if trio.lowlevel.in_trio_run():
            raise NestedRun
        return trio.run(self.hosted, story, *arguments, clock=self.trio_clock)

    async def hosted(self, story: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run an async function while nodes can live, in the Trio run that this is called in."""
        return await self._cluster.run(lambda: story(*arguments), before_the_end=self._remember_the_jobs)

    async def _remember_the_jobs(self) -> None:
        """For the report of a failure: afterwards nobody can ask any more."""
        self._table = "the store has not answered"
        try:
            with trio.move_on_after(5):
                store = await self._cluster.observer()
                page = await store.list(JobFilter(), limit=SHOWN)
                self._table = table([seen(job) for job in page.jobs], more=page.next_cursor is not None)
        except Exception as error:  # the test may have broken the store; how it has failed says more
            self._table = f"the jobs cannot be listed: {error!r}"

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

    async def lose_lease(self, job: Job | str) -> None:
        """Let the store refuse the claim that holds this job now, as if it had been rescued elsewhere.

        The attempt is stopped and what it comes to is dropped. The job runs again when the lease
        would have ended. Raises ValueError for a job that is not processing.
        """
        current = await self.job(job)
        if current.status is not Status.PROCESSING:
            raise ValueError(f"job {current.id} is {current.status}: there is no lease to lose")
        for store in self._cluster.stores:
            store.lose(current)

    @property
    def nodes(self) -> list[Node]:
        """Those with workers that live now, the one that was started first first."""
        return self._cluster.nodes

    @property
    def handlers(self) -> Handlers:
        """Those of the node that is started next, and those whose jobs may be enqueued while none runs."""
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
        return Client(self._cluster.node_for_http)

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
        for option in options:
            if option not in OPTIONS:
                raise TypeError(f"{unknown(option, OPTIONS)} A payload is one dict")
        if delay is not None:
            if "delay_seconds" in options:
                raise ValueError("say delay or delay_seconds, not both")
            options["delay_seconds"] = seconds_of(delay)
        name = self._type_of(type)
        # Through JSON, so that it is the service's door that everything passes.
        body = codec.encode({"type": name, "payload": {} if payload is None else payload, **options})
        service = await self._cluster.service(name)
        return seen((await service.enqueue(parse_job_request(body))).job)

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
        answer; a payload that does not fit raises `InvalidJob`, as `enqueue` does.
        """
        store = await self._cluster.scratch_store()
        return await performing.perform(
            self._cluster.registries,
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

    async def finished(self, job: Job | str, *, within: Duration | None = None) -> SeenJob:
        """Wait until the job has ended: `within` a century of virtual time, 30 s of real time, or as said.

        Raises `NeverHappened`, which is a `trio.TooSlowError`, and `JobNotFound`.
        """
        return await until_finished(self._cluster, _id_of(job), within=within)

    async def cancel(self, job: Job | str, *, wait: Duration = 0) -> SeenJob:
        """Stop a job for good, as `POST /jobs/<job_id>/cancel` does; waits so long until it has ended.

        Returns the job as it is then: `cancelled` when nothing of it runs any more. Raises
        `WrongStatus` when it had already ended in another way, `JobNotFound`.
        """
        service = await self._cluster.service()
        return seen((await service.cancel(_id_of(job), wait_seconds=seconds_of(wait))).job)

    async def jobs(
        self,
        type: TypeOrHandler | None = None,
        payload: object = None,
        **query: Unpack[Query],
    ) -> list[SeenJob]:
        """The jobs that are like this, the last enqueued first. See `assert_enqueued`."""
        jobs = await self._all_jobs()
        wanted = self._wanted(type, payload, query, jobs)
        return [job for job in jobs if not wanted.misses(job)]

    async def assert_enqueued(
        self,
        type: TypeOrHandler | None = None,
        payload: object = None,
        *,
        count: int | None = None,
        **query: Unpack[Query],
    ) -> SeenJob:
        """There is a job like this, `count` of them if said; returns the one enqueued last.

        The `payload` may be a part of the job's: the keys that are named must be there, with these
        values (or with `ANYTHING`). It becomes JSON as that of a job does, so that a datetime finds its
        text. A job counts whatever has become of it, unless a `status` is asked for, and as long as it
        is not pruned. `run_at` and `run_in` ask when it is due.

        Raises `UnknownType`, TypeError or ValueError for a question that no job could answer.
        """
        __tracebackhide__ = True
        if count is not None and count < 1:
            raise ValueError(f"count={count}: that there is none is said by refute_enqueued")
        jobs = await self._all_jobs()
        wanted = self._wanted(type, payload, query, jobs)
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
        payload: object = None,
        **query: Unpack[Query],
    ) -> None:
        """There is no job like this, though there could be. Raises as `assert_enqueued` does."""
        __tracebackhide__ = True
        jobs = await self._all_jobs()
        wanted = self._wanted(type, payload, query, jobs)
        found = [job for job in jobs if not wanted.misses(job)]
        if found:
            raise AssertionError(f"expected no such job: {wanted}\nThere is\n{table(found[:SHOWN])}")

    # Events

    @property
    def events(self) -> EventLog:
        """What every node has published so far."""
        return self._cluster.events

    async def wait_for(self, event_class: type[E], *, within: Duration | None = None, **fields: object) -> E:
        """Wait until an event has happened, as in `wait_for(AttemptStarted, type="import")`.

        One that has happened already counts, and each is returned once only. Raises `NeverHappened`
        as `finished` does, and for fields that no such event has what `events.of` raises.
        """
        return await until_happened(self._cluster, event_class, fields, within=within)

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
        self, type: TypeOrHandler | None, payload: object, query: Query, jobs: Sequence[SeenJob]
    ) -> Wanted:
        name = None if type is None else self._type_of(type)
        known = {known for registry in self._cluster.registries for known in registry.types}
        if known and name is not None and name not in known | {job.type for job in jobs}:
            raise UnknownType(name, sorted(known))
        return Wanted.like(name, payload, query, now=self.clock.now())

    def _type_of(self, type: TypeOrHandler) -> str:
        return type if isinstance(type, str) else performing.find(self._cluster.registries, type).type


def _id_of(job: Job | str) -> JobId:
    return JobId(job) if isinstance(job, str) else job.id
