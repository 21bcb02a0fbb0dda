"""What only the SQLite store has: a file, group commit, and costs that do not grow."""

import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from threading import Barrier
from typing import Any

import apsw
import pytest
import trio

from trioqueue.clock import TrioClock, run_inline
from trioqueue.errors import ConfigError, LeaseLost, StoreUnavailable
from trioqueue.jobs.job import Json, NodeId, Status
from trioqueue.jobs.outcome import Completed, Failed
from trioqueue.store.open import check_url, open_store
from trioqueue.store.protocol import JobFilter, Store
from trioqueue.store.sqlite import connection as connections
from trioqueue.store.sqlite import operations
from trioqueue.store.sqlite.queries import read_queries
from trioqueue.store.sqlite.store import SqliteStore
from trioqueue.store.sqlite.transaction import Transaction
from trioqueue.store.sqlite.writer import Writer
from trioqueue.testing.conformance import HandClock, claim, claim_one, enqueue, everything, new_job, settle

NODE = NodeId("node")
STARTING_AT_ONCE = 4


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


def open_at(
    path: Path, clock: HandClock, *, node: NodeId = NODE, run_sync: Callable[..., Awaitable[Any]] = run_inline
) -> AbstractAsyncContextManager[Store]:
    return open_store(f"sqlite:///{path}", clock=clock, random=Random(0), node=node, run_sync=run_sync)


@pytest.fixture
async def store(path: Path, clock: HandClock) -> AsyncIterator[Store]:
    async with open_at(path, clock) as store:
        yield store


class Gate:
    """Runs what it is handed only while it is open, and counts."""

    def __init__(self) -> None:
        self.opened = trio.Event()
        self.opened.set()
        self.runs = 0

    def shut(self) -> None:
        self.opened = trio.Event()

    async def run_sync(self, function: Callable[[], Any]) -> Any:
        await self.opened.wait()
        self.runs += 1
        return function()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def writer(path: Path, clock: HandClock, gate: Gate, nursery: trio.Nursery) -> AsyncIterator[Writer]:
    connections.prepare(path)
    writer = Writer(path, read_queries(), clock, gate.run_sync)
    nursery.start_soon(writer.run)
    yield writer
    gate.opened.set()
    writer.close()


# Group commit


async def test_calls_that_come_together_share_a_commit(path: Path, clock: HandClock, gate: Gate) -> None:
    async with open_at(path, clock, run_sync=gate.run_sync) as store:
        before = gate.runs
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(enqueue, store)
        assert gate.runs - before <= 2
        assert len(await everything(store)) == 100


def spoil(transaction: Transaction) -> None:
    """Write, count, then fail: half an operation."""
    operations.beat(transaction, NodeId("half"), None, False)
    transaction.changes["pending", "q", "t"] += 1
    raise RuntimeError("half done")


async def test_only_the_guilty_operation_fails(writer: Writer, gate: Gate) -> None:
    results: list[object] = []

    async def submit(operation: Callable[[Transaction], object]) -> None:
        try:
            results.append(await writer.submit(operation))
        except RuntimeError as error:
            results.append(str(error))

    def beat(transaction: Transaction) -> str:
        operations.beat(transaction, NodeId("whole"), None, False)
        return "whole"

    gate.shut()
    async with trio.open_nursery() as nursery:
        for operation in (beat, spoil, beat):
            nursery.start_soon(submit, operation)
        await trio.testing.wait_all_tasks_blocked()
        gate.opened.set()
    assert sorted(map(str, results)) == ["half done", "whole", "whole"]
    assert await writer.submit(lambda t: list(t.connection.execute("SELECT node FROM nodes"))) == [("whole",)]
    assert await writer.submit(lambda t: list(t.run("counters"))) == []


async def test_a_lost_lease_makes_nobody_run_twice(writer: Writer, gate: Gate) -> None:
    runs: list[str] = []

    def refuse(transaction: Transaction) -> None:
        runs.append("refuse")
        raise LeaseLost("id", 1)

    def work(transaction: Transaction) -> None:
        runs.append("work")
        operations.beat(transaction, NodeId("n"), None, False)

    async def be_refused() -> None:
        with pytest.raises(LeaseLost):
            await writer.submit(refuse)

    gate.shut()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.submit, work)
        nursery.start_soon(be_refused)
        nursery.start_soon(writer.submit, work)
        await trio.testing.wait_all_tasks_blocked()
        gate.opened.set()
    assert sorted(runs) == ["refuse", "work", "work"]


async def test_a_queued_operation_is_withdrawn_when_its_caller_is_cancelled(
    writer: Writer, gate: Gate
) -> None:
    ran: list[str] = []
    gate.shut()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.submit, lambda _: ran.append("first"))
        await trio.testing.wait_all_tasks_blocked()  # the first is in a transaction that waits
        with trio.CancelScope() as scope:
            nursery.start_soon(trio.testing.wait_all_tasks_blocked)
            scope.cancel()
            await writer.submit(lambda _: ran.append("second"))
        assert scope.cancelled_caught
        gate.opened.set()
    await writer.submit(lambda _: ran.append("third"))
    assert ran == ["first", "third"]


async def test_a_call_in_a_transaction_completes_though_it_is_cancelled(writer: Writer, gate: Gate) -> None:
    answers: list[str] = []

    async def ask() -> None:
        answers.append(await writer.submit(lambda _: "done"))

    gate.shut()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        gate.opened.set()
    assert answers == ["done"]


async def test_closing_commits_what_is_queued(path: Path, clock: HandClock, gate: Gate) -> None:
    async with trio.open_nursery() as nursery, open_at(path, clock, run_sync=gate.run_sync) as store:
        gate.shut()
        for _ in range(5):
            nursery.start_soon(enqueue, store)
        await trio.testing.wait_all_tasks_blocked()
        gate.opened.set()
    async with open_at(path, clock) as store:
        assert len(await everything(store)) == 5


async def test_a_closed_store_says_so(path: Path, clock: HandClock) -> None:
    async with open_at(path, clock) as store:
        pass
    with pytest.raises(StoreUnavailable, match="closed"):
        await enqueue(store)


# When the file cannot be used


async def test_a_full_disk_is_reported_and_recovered_from(writer: Writer) -> None:
    def limit(pages: int) -> Callable[[Transaction], object]:
        return lambda transaction: transaction.connection.pragma("max_page_count", pages)

    def fill(transaction: Transaction) -> None:
        operations.beat(transaction, NodeId("x" * 1_000_000), None, False)

    await writer.submit(limit(50))
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        await writer.submit(fill)
    await writer.submit(limit(100_000))
    await writer.submit(fill)


async def test_all_who_shared_a_failed_commit_are_told(writer: Writer, gate: Gate) -> None:
    told: list[str] = []

    def fail(transaction: Transaction) -> None:
        raise apsw.IOError("the cable is loose")

    async def submit(operation: Callable[[Transaction], object]) -> None:
        with pytest.raises(StoreUnavailable) as caught:
            await writer.submit(operation)
        told.append(caught.value.reason)

    gate.shut()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit, lambda t: operations.beat(t, NODE, None, False))
        nursery.start_soon(submit, fail)
        await trio.testing.wait_all_tasks_blocked()
        gate.opened.set()
    assert told == ["no answer: the disk cannot be read or written (the cable is loose)"] * 2
    nodes = await writer.submit(lambda t: list(t.connection.execute("SELECT * FROM nodes")))
    assert nodes == []  # answered over a new connection, and nothing was kept


async def test_a_foreign_lock_is_reported_and_recovered_from(
    path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_wait_for_writer", lambda waited: False)
    async with open_at(path, clock) as store:
        with closing(apsw.Connection(str(path))) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="another process keeps the database locked"):
                await enqueue(store)
            assert await everything(store) == []  # readers do not mind
            other.execute("COMMIT")
        await enqueue(store)


async def test_who_queued_behind_a_locked_out_batch_is_refused_without_a_wait_of_their_own(
    path: Path, writer: Writer, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []

    def give_up(waited: int) -> bool:
        waits.append(waited)
        return False

    refused: list[str] = []

    async def be_refused(name: str) -> None:
        with pytest.raises(StoreUnavailable, match="another process keeps the database locked"):
            await writer.submit(lambda _: None)
        refused.append(name)

    monkeypatch.setattr(connections, "_wait_for_writer", give_up)
    with closing(apsw.Connection(str(path))) as other:
        other.execute("BEGIN IMMEDIATE")
        gate.shut()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(be_refused, "first batch")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(be_refused, "second batch")
            await trio.testing.wait_all_tasks_blocked()
            gate.opened.set()
        assert sorted(refused) == ["first batch", "second batch"]
        assert len(waits) == 1

        await be_refused("later")  # who comes afterwards waits, as ever
        assert len(waits) == 2
        other.execute("COMMIT")
    assert await writer.submit(lambda _: "free") == "free"


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 8192] = b"\xff" * 8192
    path.write_bytes(data)


async def test_a_damaged_file_is_refused(path: Path, clock: HandClock) -> None:
    async with open_at(path, clock) as store:
        await store.enqueue([new_job(payload=Json(b'"%s"' % (b"x" * 500))) for _ in range(500)])
    damage(path)
    with pytest.raises(StoreUnavailable, match="damaged; restore a backup"):
        async with open_at(path, clock):
            pass


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_text("Dear diary, " * 1000)
    with pytest.raises(ConfigError, match="not an SQLite database"):
        connections.prepare(path)
    assert path.read_text() == "Dear diary, " * 1000


async def test_the_database_of_another_program_is_refused(path: Path, clock: HandClock) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE diary (page TEXT)")
    with pytest.raises(ConfigError, match="another program"):
        async with open_at(path, clock):
            pass


async def test_a_directory_that_does_not_exist_is_named(tmp_path: Path, clock: HandClock) -> None:
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        async with open_at(tmp_path / "nowhere" / "jobs.db", clock):
            pass


async def test_an_error_leaves_the_store_as_it_was_raised(path: Path, clock: HandClock) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_at(path, clock):
            raise ZeroDivisionError


# The file


def prepare_together(path: Path, gate: Barrier) -> int:
    """The version of the file afterwards."""
    gate.wait()
    return connections.prepare(path).after


def test_processes_that_start_at_once_create_the_file_together(tmp_path: Path) -> None:
    # Threads here: between its connections SQLite locks a file as it does between processes.
    with ThreadPoolExecutor(STARTING_AT_ONCE) as threads:
        for number in range(20):
            start = partial(prepare_together, tmp_path / f"jobs-{number}.db", Barrier(STARTING_AT_ONCE))
            starting = [threads.submit(start) for _ in range(STARTING_AT_ONCE)]
            newest = connections.look_ahead(tmp_path / "none.db").after
            assert [one.result() for one in starting] == [newest] * STARTING_AT_ONCE


async def test_only_the_owner_can_read_the_files(path: Path, store: Store) -> None:
    await enqueue(store)
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == {"jobs.db": 0o600, "jobs.db-wal": 0o600, "jobs.db-shm": 0o600, "jobs.db-nodes": 0o700}


async def test_a_commit_is_flushed(writer: Writer) -> None:
    full = await writer.submit(lambda transaction: transaction.connection.pragma("synchronous"))
    mode = await writer.submit(lambda transaction: transaction.connection.pragma("journal_mode"))
    assert (full, mode) == (2, "wal")


async def test_jobs_outlive_the_process(path: Path, clock: HandClock) -> None:
    async with open_at(path, clock) as store:
        job = await enqueue(store, tags=("a",))
    async with open_at(path, clock) as store:
        assert await store.get(job.id) == job


async def test_closing_leaves_one_file_and_an_empty_directory(path: Path, clock: HandClock) -> None:
    async with open_at(path, clock) as store:
        await enqueue(store)
        await store.beat(NODE)
    assert sorted(file.name for file in path.parent.iterdir()) == ["jobs.db", "jobs.db-nodes"]
    assert list(path.with_name("jobs.db-nodes").iterdir()) == []
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT * FROM nodes").fetchall() == []


async def test_virtual_time_needs_no_threads(path: Path, autojump_clock: trio.testing.MockClock) -> None:
    clock = TrioClock(HandClock().now())
    async with open_store(f"sqlite:///{path}", clock=clock, random=Random(0), node=NODE) as store:
        await enqueue(store, run_at=clock.now() + timedelta(days=365))
        assert await claim(store) == []
        await trio.sleep(timedelta(days=365).total_seconds())
        assert len(await claim(store)) == 1


@pytest.mark.parametrize(
    "url",
    [
        "memory:",
        "sqlite:///jobs.db",
        "sqlite:////var/lib/jobs.db",
        "sqlite:///a/b",
        "postgresql://alice:secret@localhost/jobs",
        "postgres://",
    ],
)
def test_these_urls_can_be_opened(url: str) -> None:
    assert check_url(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory",
        "jobs.db",
        "mysql://alice:secret@localhost/jobs",
        "sqlite:",
        "sqlite://jobs.db",
        "sqlite:///",
        "sqlite:////",
        "sqlite:///directory/",
        "sqlite:///:memory:",
        "sqlite:///nul\x00.db",
    ],
)
async def test_other_urls_are_refused_with_what_is_accepted(url: str) -> None:
    problem = check_url(url)
    assert problem is not None
    assert "sqlite:///jobs.db" in problem
    assert "secret" not in problem
    with pytest.raises(ConfigError):
        async with open_store(url, clock=HandClock(), random=Random(0), node=NODE):
            pass


# Costs


def plan(path: Path, query: str, *, filters: str = "") -> str:
    sql = read_queries()[query].replace("{filters}", filters)
    values = dict.fromkeys(re.findall(r":(\w+)", sql), 1)
    with closing(apsw.Connection(str(path))) as connection:
        return "\n".join(str(row[3]) for row in connection.execute("EXPLAIN QUERY PLAN " + sql, values))


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("job", "sqlite_autoindex_jobs_1 (id=?)"),
        ("job_with_unique_key", "jobs_unique_key (unique_key=?)"),
        ("attempts", "PRIMARY KEY (seq=?)"),
        ("promote", "INTEGER PRIMARY KEY (rowid=?)"),
        ("promotable", "jobs_waiting (queue=? AND type=? AND due=? AND run_at<?)"),
        ("claimable", "jobs_due (queue=? AND type=?)"),
        ("claim", "INTEGER PRIMARY KEY (rowid=?)"),
        ("next_due", "jobs_waiting (queue=? AND type=? AND due=?)"),
        ("held", "sqlite_autoindex_jobs_1 (id=?)"),
        ("renew", "sqlite_autoindex_jobs_1 (id=?)"),
        ("progress", "sqlite_autoindex_jobs_1 (id=?)"),
        ("keep", "INTEGER PRIMARY KEY (rowid=?)"),
        ("last_attempt_started_at", "PRIMARY KEY (seq=?)"),
        ("expired", "jobs_leases (lease_until<?)"),
        ("next_upkeep", "jobs_leases"),
        ("next_upkeep", "jobs_deadlines"),
        ("next_upkeep", "jobs_finished (status=?"),
        ("holder", "sqlite_autoindex_jobs_1 (id=?)"),
        ("settled", "sqlite_autoindex_jobs_1 (id=?)"),
        ("settled", "PRIMARY KEY (seq=? AND epoch=?)"),
        ("held_by_node", "jobs_leases (lease_until>?)"),
        ("prunable", "jobs_finished (status=? AND finished_at<?)"),
        ("delete_attempts", "PRIMARY KEY (seq=?)"),
        ("delete_tag", "PRIMARY KEY (tag=? AND seq=?)"),
        ("pending_lanes", "PRIMARY KEY (status=?)"),
        ("jobs", "INTEGER PRIMARY KEY (rowid<?)"),
        ("jobs_with_tag", "PRIMARY KEY (tag=? AND seq<?)"),
    ],
)
async def test_every_query_goes_by_an_index(store: Store, path: Path, query: str, index: str) -> None:
    steps = plan(path, query)
    assert index in steps
    assert "SCAN jobs" not in steps
    assert "SCAN attempts" not in steps
    assert "TEMP B-TREE" not in steps


@pytest.mark.parametrize("query", ["nodes", "rescue_is_due", "forget_silent_nodes"])
async def test_who_runs_what_is_read_from_the_leases_alone(store: Store, path: Path, query: str) -> None:
    of_jobs = [step for step in plan(path, query).splitlines() if " jobs " in step]
    assert of_jobs
    assert all("INDEX jobs_leases" in step for step in of_jobs)


async def test_a_rescue_that_finds_nothing_writes_nothing(path: Path, clock: HandClock, gate: Gate) -> None:
    async with open_at(path, clock, run_sync=gate.run_sync) as store:
        await store.beat(NODE)
        await enqueue(store)
        await store.beat((await claim_one(store, lease_seconds=3600)).node)
        clock.advance(1000)  # both are silent; one of them holds a job
        before = gate.runs
        await store.rescue(limit=10)
        assert [node.node for node in await store.nodes()] == ["alice"]
        assert gate.runs == before + 1
        await store.rescue(limit=10)
        assert gate.runs == before + 1


@pytest.mark.parametrize("column", ["status", "type", "queue"])
async def test_a_list_with_one_filter_goes_by_its_index(store: Store, path: Path, column: str) -> None:
    steps = plan(path, "jobs", filters=f"AND {column} = :{column}")
    assert f"jobs_by_{column} ({column}=? AND rowid<?)" in steps
    assert "TEMP B-TREE" not in steps


async def cost(store: Store, work: Callable[[], Awaitable[object]]) -> int:
    """How many dozens of SQLite's machine instructions `work` takes."""
    assert isinstance(store, SqliteStore)
    instructions = 0

    def count() -> bool:
        nonlocal instructions
        instructions += 1
        return False

    for part in (store._writer, store._reader):
        if part._connection is not None:
            part._connection.set_progress_handler(count, 12)
    await work()
    return instructions


async def a_full_round(store: Store, clock: HandClock) -> None:
    claims = await claim(store, 10, types=frozenset({"noop"}), lease_seconds=1)
    assert len(claims) == 10
    await store.renew(claims, lease_seconds=1)
    await settle(store, claims[0], Completed())
    await settle(store, claims[1], Failed("no"))
    await store.release(claims[2:9])
    clock.advance(1)
    assert len(await store.rescue(limit=10)) == 1
    await store.next_due_in(frozenset({"noop"}))
    await store.counts()
    await store.nodes()
    await store.prune({Status.DEAD: timedelta(days=1)}, limit=10)
    for filter in (JobFilter(), JobFilter(status=Status.PENDING), JobFilter(tag="t"), JobFilter(type="noop")):
        await store.list(filter, limit=10)


async def test_no_cost_grows_with_the_number_of_other_jobs(store: Store, clock: HandClock) -> None:
    await store.enqueue([new_job(tags=("t",)) for _ in range(30)])
    await a_full_round(store, clock)
    small = await cost(store, lambda: a_full_round(store, clock))

    later = clock.now() + timedelta(days=1)
    await store.enqueue([new_job(type="done") for _ in range(1000)])
    for claimed in await claim(store, 1000, types=frozenset({"done"})):
        await settle(store, claimed, Completed())
    await store.enqueue([new_job(type="unknown", priority=-9) for _ in range(3000)])
    await store.enqueue([new_job(run_at=later, priority=-9) for _ in range(3000)])
    await store.enqueue([new_job(priority=1) for _ in range(3000)])
    large = await cost(store, lambda: a_full_round(store, clock))
    assert large < small * 1.3


async def test_a_claim_promotes_many_delayed_jobs_bit_by_bit(store: Store, clock: HandClock) -> None:
    await store.enqueue([new_job(run_at=clock.now() + timedelta(seconds=1)) for _ in range(2500)])
    clock.advance(1)
    taken = [len(await claim(store, 900)) for _ in range(4)]
    assert taken == [900, 900, 700, 0]


async def test_two_stores_on_one_file_share_the_jobs(path: Path, clock: HandClock) -> None:
    async with (
        open_at(path, clock, node=NodeId("one")) as one,
        open_at(path, clock, node=NodeId("two")) as two,
    ):
        await one.enqueue([new_job() for _ in range(20)])
        taken: list[str] = []

        async def take(store: Store, node: NodeId) -> None:
            while claims := await claim(store, 3, node=node):
                for claimed in claims:
                    taken.append(claimed.job.id)
                    await settle(store, claimed, Completed())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, one, NodeId("one"))
            nursery.start_soon(take, two, NodeId("two"))
        assert len(taken) == len(set(taken)) == 20
        assert await one.counts() == await two.counts()


async def test_one_store_sees_the_fence_of_the_other(path: Path, clock: HandClock) -> None:
    async with (
        open_at(path, clock, node=NodeId("one")) as one,
        open_at(path, clock, node=NodeId("two")) as two,
    ):
        await enqueue(one)
        late = await claim_one(one, lease_seconds=1)
        clock.advance(1)
        await two.rescue(limit=1)
        with pytest.raises(LeaseLost):
            await settle(one, late, Completed())
