"""All stores are driven through the same random histories and must never be told apart.

    python -m tests.store.test_stores_agree [EXAMPLES]

runs more of them than the tests do: 3,000 if no number is given.
"""

import shutil
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from queue import Queue
from random import Random
from typing import Any, TypeVar

import psycopg
import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.postgres.server import Server, start_server
from tests.store.postgres.conftest import RELAXED
from trioqueue.clock import run_inline
from trioqueue.errors import TrioqueueError
from trioqueue.jobs.job import FINAL, Claim, Job, Json, NewJob, NodeId, Status
from trioqueue.jobs.outcome import Cancelled, Completed, Failed, Outcome, Released, Snoozed, TimedOut
from trioqueue.store.open import open_store
from trioqueue.store.protocol import SILENT_SECONDS, Hint, JobFilter, NodeFacts, Settlement, Store
from trioqueue.testing.conformance import HandClock, new_job

T = TypeVar("T")

NODES = st.sampled_from([NodeId("alice"), NodeId("bob")])
TYPES = st.sampled_from(["noop", "mail"])
QUEUES = st.sampled_from(["default", "slow"])
SECONDS = st.sampled_from([0.0, 0.5, 1.0, 3.0, 60.0])
LONG_SECONDS = st.sampled_from([*[0.0, 0.5, 1.0, 3.0, 60.0] * 2, SILENT_SECONDS, 1000.0])
LIMITS = st.integers(1, 4)
FACTS = st.sampled_from(
    [
        NodeFacts(workers=0, types=()),
        NodeFacts(workers=3, types=("mail", "noop")),
        NodeFacts(workers=1, types=None),
    ]
)
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
    """An open store of each kind in a Trio loop of its own, in a thread: plain code can call them."""

    def __init__(self, path: Path, database: str, clock: HandClock) -> None:
        self._ready: Queue[list[Store]] = Queue()
        self._thread = threading.Thread(target=trio.run, args=(self._run, path, database, clock))
        self._thread.start()
        self.stores = self._ready.get()

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        return trio.from_thread.run(function, trio_token=self._token)

    def stop(self) -> None:
        trio.from_thread.run_sync(self._stopping.set, trio_token=self._token)
        self._thread.join()

    async def _run(self, path: Path, database: str, clock: HandClock) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stopping = trio.Event()
        options: dict[str, Any] = {"clock": clock, "random": Constant(), "node": NodeId("alice")}
        async with (
            open_store("memory:", **options) as memory,
            open_store(f"sqlite:///{path}", run_sync=run_inline, **options) as sqlite,
            open_store(database, postgres=RELAXED, **options) as postgres,
        ):
            empty(database)
            self._ready.put([memory, sqlite, postgres])
            await self._stopping.wait()


NEW_JOBS = st.fixed_dictionaries(
    {
        "type": TYPES,
        "queue": QUEUES,
        "priority": st.integers(-1, 1),
        "due_in": st.none() | SECONDS,
        "delay_seconds": st.none() | SECONDS,
        "deadline": st.none() | SECONDS,
        "unique_key": st.none() | st.sampled_from("kl"),
        "tags": st.lists(st.sampled_from("abc"), max_size=3).map(tuple),
        "max_attempts": st.integers(1, 3),
    }
)


def has_claims(machine: "StoresAgree") -> bool:
    return bool(machine.claims)


class StoresAgree(RuleBasedStateMachine):
    """Every rule makes the same call on all stores, and compares the answers and the hints."""

    database: str
    """Of PostgreSQL; set before the first example."""

    @initialize(fields=st.lists(NEW_JOBS, min_size=3, max_size=8))
    def open(self, fields: list[dict[str, Any]]) -> None:
        self.directory = tempfile.mkdtemp()
        self.clock = HandClock()
        self.loop = Loop(Path(self.directory) / "jobs.db", self.database, self.clock)
        self.hints: list[list[Hint]] = [[] for _ in self.loop.stores]
        for store, hints in zip(self.loop.stores, self.hints, strict=True):
            store.listen(hints.append)
        self.new: list[NewJob] = []
        self.claims: list[Claim] = []
        self.enqueue(fields)

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.stop()
            shutil.rmtree(self.directory)

    def all(self, call: Callable[[Store], Awaitable[T]]) -> T | str:
        async def answer(store: Store) -> T | str:
            try:
                return await call(store)
            except TrioqueueError as error:
                return repr(error)

        async def answers() -> list[T | str]:
            return [await answer(store) for store in self.loop.stores]

        first, *others = self.loop.call(answers)
        for store, other in zip(self.loop.stores[1:], others, strict=True):
            assert other == first, store
        assert all(hints == self.hints[0] for hints in self.hints)
        return first

    def some_claims(self, data: st.DataObject) -> list[Claim]:
        return data.draw(st.lists(st.sampled_from(self.claims), min_size=1, max_size=3))

    def some_job(self, data: st.DataObject) -> NewJob:
        return data.draw(st.sampled_from(self.new))

    @rule(fields=st.lists(NEW_JOBS, min_size=1, max_size=3))
    def enqueue(self, fields: list[dict[str, Any]]) -> None:
        new = [self.a_new_job(**chosen) for chosen in fields]
        self.new += new
        self.all(lambda store: store.enqueue(new))

    def a_new_job(
        self,
        *,
        due_in: float | None,
        delay_seconds: float | None,
        deadline: float | None,
        **fields: Any,
    ) -> NewJob:
        now = self.clock.now()
        return new_job(
            run_at=None if due_in is None else now + timedelta(seconds=due_in),
            delay_seconds=delay_seconds if due_in is None else None,
            deadline_at=None if deadline is None else now + timedelta(seconds=deadline),
            **fields,
        )

    @rule(data=st.data())
    def enqueue_again(self, data: st.DataObject) -> None:
        again = [self.some_job(data)]
        self.all(lambda store: store.enqueue(again))

    @rule(seconds=LONG_SECONDS)
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(node=NODES, types=st.none() | st.frozensets(TYPES), limit=LIMITS, lease=SECONDS)
    def claim(self, node: NodeId, types: frozenset[str] | None, limit: int, lease: float) -> None:
        claims = self.all(lambda store: store.claim(node=node, types=types, limit=limit, lease_seconds=lease))
        assert not isinstance(claims, str)
        self.claims += claims

    @precondition(has_claims)
    @rule(data=st.data(), outcome=OUTCOMES, worker=st.none() | st.integers(0, 9))
    def settle(self, data: st.DataObject, outcome: Outcome, worker: int | None) -> None:
        claim = self.some_claims(data)[0]
        self.all(lambda store: store.settle([Settlement(claim, outcome, worker)]))

    @precondition(has_claims)
    @rule(data=st.data(), seconds=SECONDS)
    def renew(self, data: st.DataObject, seconds: float) -> None:
        claims = list({(claim.job.id, claim.epoch): claim for claim in self.some_claims(data)}.values())
        self.all(lambda store: store.renew(claims, lease_seconds=seconds))

    @precondition(has_claims)
    @rule(data=st.data())
    def progress(self, data: st.DataObject) -> None:
        claim = self.some_claims(data)[0]
        self.all(lambda store: store.progress(claim, Json(b"0.5")))

    @precondition(has_claims)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        claims = self.some_claims(data)
        self.all(lambda store: store.release(claims))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = self.some_job(data).id
        self.all(lambda store: store.cancel(job_id))

    @rule(data=st.data())
    def redrive(self, data: st.DataObject) -> None:
        new = data.draw(
            st.lists(st.sampled_from(self.new), min_size=1, max_size=4, unique_by=lambda job: job.id)
        )
        self.all(lambda store: store.redrive([job.id for job in new]))

    @rule(limit=LIMITS)
    def rescue(self, limit: int) -> None:
        self.all(lambda store: store.rescue(limit=limit))

    @rule(limit=LIMITS)
    def expire(self, limit: int) -> None:
        self.all(lambda store: store.expire(limit=limit))

    @rule(retention=st.dictionaries(st.sampled_from(Status), SECONDS), limit=LIMITS)
    def prune(self, retention: dict[Status, float], limit: int) -> None:
        kept_for = {status: timedelta(seconds=seconds) for status, seconds in retention.items()}
        self.all(lambda store: store.prune(kept_for, limit=limit))

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

        self.all(pages)

    @rule(types=st.none() | st.frozensets(TYPES))
    def next_due_in(self, types: frozenset[str] | None) -> None:
        self.all(lambda store: store.next_due_in(types))

    @rule()
    def next_upkeep_in(self) -> None:
        kept_for = dict.fromkeys(FINAL, timedelta(seconds=3))
        self.all(lambda store: store.next_upkeep_in(kept_for))

    @rule(node=NODES, facts=st.none() | FACTS, stopping=st.booleans())
    def beat(self, node: NodeId, facts: NodeFacts | None, stopping: bool) -> None:
        self.all(lambda store: store.beat(node, facts=facts, stopping=stopping))

    @rule(data=st.data())
    def attempts(self, data: st.DataObject) -> None:
        job_id = self.some_job(data).id
        self.all(lambda store: store.attempts(job_id))

    @invariant()
    def the_jobs_the_counts_and_the_nodes_are_the_same(self) -> None:
        async def everything(store: Store) -> object:
            counts = {(count.queue, count.type, count.status, count.jobs) for count in await store.counts()}
            return (await store.list(JobFilter(), limit=1000)).jobs, counts, await store.nodes()

        self.all(everything)


def empty(database: str) -> None:
    """A new schema for each example would take longer than the example."""
    with psycopg.connect(database, autocommit=True) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'trioqueue'").fetchall()
        tables = [f"trioqueue.{name}" for (name,) in rows if name != "meta"]
        connection.execute(f"TRUNCATE {', '.join(tables)}".encode())


def histories(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


@pytest.fixture(scope="module", autouse=True)
def database(postgres_server: Server) -> Iterator[None]:
    StoresAgree.database = postgres_server.create_database("agree")
    yield
    postgres_server.drop_database("agree")


@pytest.mark.timeout(900)
class TestStoresAgree(StoresAgree.TestCase):  # type: ignore[misc, valid-type]  # made at run time
    settings = histories(300)


def main() -> None:
    examples = int(sys.argv[1]) if len(sys.argv) > 1 else 3_000
    with start_server(fsync=False) as server:
        StoresAgree.database = server.create_database("agree")
        run_state_machine_as_test(StoresAgree, settings=histories(examples))
    sys.stdout.write(f"{examples} histories: the stores agree\n")


if __name__ == "__main__":
    main()
