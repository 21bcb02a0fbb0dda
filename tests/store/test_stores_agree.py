"""Memory and SQLite are driven through the same random histories and must never be told apart."""

import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from queue import Queue
from random import Random
from typing import Any, TypeVar

import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trioqueue.clock import run_inline
from trioqueue.errors import TrioqueueError
from trioqueue.jobs.job import Claim, Job, Json, NewJob, NodeId, Status
from trioqueue.jobs.outcome import Cancelled, Completed, Failed, Outcome, Released, Snoozed, TimedOut
from trioqueue.store.open import open_store
from trioqueue.store.protocol import Hint, JobFilter, Settlement, Store
from trioqueue.testing.conformance import HandClock, new_job

T = TypeVar("T")

NODES = st.sampled_from([NodeId("alice"), NodeId("bob")])
TYPES = st.sampled_from(["noop", "mail"])
QUEUES = st.sampled_from(["default", "slow"])
SECONDS = st.sampled_from([0.0, 0.5, 1.0, 3.0, 60.0])
LIMITS = st.integers(1, 4)
OUTCOMES: st.SearchStrategy[Outcome] = st.sampled_from(
    [
        Completed(Json(b"1")),
        Failed("Traceback\nValueError: no"),
        Failed("no", final=True),
        TimedOut("slow"),
        Cancelled(),
        Snoozed(1, "later"),
        Snoozed(0),
        Released("stopping"),
    ]
)


class Constant(Random):
    """Both stores draw the same number, however often each of them draws."""

    def random(self) -> float:
        return 0.5


class Loop:
    """Two open stores in a Trio loop of their own, in a thread, so that plain code can call them."""

    def __init__(self, path: Path, clock: HandClock) -> None:
        self._ready: Queue[list[Store]] = Queue()
        self._thread = threading.Thread(target=trio.run, args=(self._run, path, clock))
        self._thread.start()
        self.memory, self.sqlite = self._ready.get()

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        return trio.from_thread.run(function, trio_token=self._token)

    def stop(self) -> None:
        trio.from_thread.run_sync(self._stopping.set, trio_token=self._token)
        self._thread.join()

    async def _run(self, path: Path, clock: HandClock) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stopping = trio.Event()
        options: dict[str, Any] = {"clock": clock, "random": Constant(), "node": NodeId("alice")}
        async with (
            open_store("memory:", **options) as memory,
            open_store(f"sqlite:///{path}", run_sync=run_inline, **options) as sqlite,
        ):
            self._ready.put([memory, sqlite])
            await self._stopping.wait()


NEW_JOBS = st.fixed_dictionaries(
    {
        "type": TYPES,
        "queue": QUEUES,
        "priority": st.integers(-1, 1),
        "delay": st.none() | SECONDS,
        "deadline": st.none() | SECONDS,
        "unique_key": st.none() | st.sampled_from("kl"),
        "tags": st.lists(st.sampled_from("abc"), max_size=3).map(tuple),
        "max_attempts": st.integers(1, 3),
    }
)


def has_claims(machine: "StoresAgree") -> bool:
    return bool(machine.claims)


class StoresAgree(RuleBasedStateMachine):
    """Every rule makes the same call on both, and compares the answers and the hints."""

    @initialize(fields=st.lists(NEW_JOBS, min_size=3, max_size=8))
    def open(self, fields: list[dict[str, Any]]) -> None:
        self.directory = tempfile.mkdtemp()
        self.clock = HandClock()
        self.loop = Loop(Path(self.directory) / "jobs.db", self.clock)
        self.hints: tuple[list[Hint], list[Hint]] = ([], [])
        self.loop.memory.listen(self.hints[0].append)
        self.loop.sqlite.listen(self.hints[1].append)
        self.new: list[NewJob] = []
        self.claims: list[Claim] = []
        self.enqueue(fields)

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.stop()
            shutil.rmtree(self.directory)

    def both(self, call: Callable[[Store], Awaitable[T]]) -> T | str:
        async def answer(store: Store) -> T | str:
            try:
                return await call(store)
            except TrioqueueError as error:
                return repr(error)

        async def answers() -> tuple[T | str, T | str]:
            return await answer(self.loop.memory), await answer(self.loop.sqlite)

        first, second = self.loop.call(answers)
        assert first == second
        assert self.hints[0] == self.hints[1]
        return first

    def some_claims(self, data: st.DataObject) -> list[Claim]:
        return data.draw(st.lists(st.sampled_from(self.claims), min_size=1, max_size=3))

    def some_job(self, data: st.DataObject) -> NewJob:
        return data.draw(st.sampled_from(self.new))

    @rule(fields=st.lists(NEW_JOBS, min_size=1, max_size=3))
    def enqueue(self, fields: list[dict[str, Any]]) -> None:
        new = [self.a_new_job(**chosen) for chosen in fields]
        self.new += new
        self.both(lambda store: store.enqueue(new))

    def a_new_job(self, *, delay: float | None, deadline: float | None, **fields: Any) -> NewJob:
        now = self.clock.now()
        return new_job(
            run_at=None if delay is None else now + timedelta(seconds=delay),
            deadline_at=None if deadline is None else now + timedelta(seconds=deadline),
            **fields,
        )

    @rule(data=st.data())
    def enqueue_again(self, data: st.DataObject) -> None:
        again = [self.some_job(data)]
        self.both(lambda store: store.enqueue(again))

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(node=NODES, types=st.none() | st.frozensets(TYPES), limit=LIMITS, lease=SECONDS)
    def claim(self, node: NodeId, types: frozenset[str] | None, limit: int, lease: float) -> None:
        claims = self.both(
            lambda store: store.claim(node=node, types=types, limit=limit, lease_seconds=lease)
        )
        assert not isinstance(claims, str)
        self.claims += claims

    @precondition(has_claims)
    @rule(data=st.data(), outcome=OUTCOMES, worker=st.none() | st.integers(0, 9))
    def settle(self, data: st.DataObject, outcome: Outcome, worker: int | None) -> None:
        claim = self.some_claims(data)[0]
        self.both(lambda store: store.settle([Settlement(claim, outcome, worker)]))

    @precondition(has_claims)
    @rule(data=st.data(), seconds=SECONDS)
    def renew(self, data: st.DataObject, seconds: float) -> None:
        claims = self.some_claims(data)
        self.both(lambda store: store.renew(claims, lease_seconds=seconds))

    @precondition(has_claims)
    @rule(data=st.data())
    def progress(self, data: st.DataObject) -> None:
        claim = self.some_claims(data)[0]
        self.both(lambda store: store.progress(claim, Json(b"0.5")))

    @precondition(has_claims)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        claims = self.some_claims(data)
        self.both(lambda store: store.release(claims))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = self.some_job(data).id
        self.both(lambda store: store.cancel(job_id))

    @rule(limit=LIMITS)
    def rescue(self, limit: int) -> None:
        self.both(lambda store: store.rescue(limit=limit))

    @rule(retention=st.dictionaries(st.sampled_from(Status), SECONDS), limit=LIMITS)
    def prune(self, retention: dict[Status, float], limit: int) -> None:
        kept_for = {status: timedelta(seconds=seconds) for status, seconds in retention.items()}
        self.both(lambda store: store.prune(kept_for, limit=limit))

    @rule(
        status=st.none() | st.sampled_from(Status),
        type=st.none() | TYPES,
        queue=st.none() | QUEUES,
        tag=st.none() | st.sampled_from("abc"),
        limit=LIMITS,
    )
    def list(self, limit: int, **fields: Any) -> None:
        async def pages(store: Store) -> list[list[Job]]:
            page = await store.list(JobFilter(**fields), limit=limit)
            seen = [page.jobs]
            while page.next_cursor is not None:
                page = await store.list(JobFilter(**fields), limit=limit, cursor=page.next_cursor)
                seen.append(page.jobs)
            return seen

        self.both(pages)

    @rule(types=st.none() | st.frozensets(TYPES))
    def next_due_at(self, types: frozenset[str] | None) -> None:
        self.both(lambda store: store.next_due_at(types))

    @rule(data=st.data())
    def attempts(self, data: st.DataObject) -> None:
        job_id = self.some_job(data).id
        self.both(lambda store: store.attempts(job_id))

    @invariant()
    def the_jobs_and_the_counts_are_the_same(self) -> None:
        async def everything(store: Store) -> object:
            counts = {(count.queue, count.type, count.status, count.jobs) for count in await store.counts()}
            return (await store.list(JobFilter(), limit=1000)).jobs, counts

        self.both(everything)


TestStoresAgree = StoresAgree.TestCase
TestStoresAgree.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
