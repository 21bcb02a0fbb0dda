"""What only the PostgreSQL store has: a server's clock, names of its own, answers that get lost."""

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import psycopg
import pytest
import trio

from tests.conftest import ROOT
from tests.postgres.server import Server
from tests.store.postgres.conftest import RELAXED, OpenStore, ask, until_somebody_waits
from trioqueue.clock import WallClock
from trioqueue.config import load_settings
from trioqueue.errors import ConfigError, LeaseLost, NotSupported, StoreBusy, StoreUnavailable
from trioqueue.jobs.handlers import Handlers
from trioqueue.jobs.job import Json, NodeId, Status
from trioqueue.jobs.outcome import Completed, Failed, Released
from trioqueue.node import Node
from trioqueue.runtime.context import Context
from trioqueue.store.open import migrate_store, open_store
from trioqueue.store.options import PostgresOptions
from trioqueue.store.postgres.store import PostgresStore
from trioqueue.store.protocol import Hint, Settlement, Store
from trioqueue.testing.conformance import (
    ALICE,
    BOB,
    HandClock,
    claim,
    claim_one,
    enqueue,
    everything,
    new_job,
    settle,
)
from trioqueue.wire.jobs import JobRequest, parse_job_request

ANY = None


@pytest.fixture
async def store(open_postgres: OpenStore) -> AsyncIterator[Store]:
    async with open_postgres() as store:
        yield store


# The server's clock


class WrongClock(WallClock):
    """A node whose clock is years off."""

    def now(self) -> datetime:
        return super().now() + timedelta(days=3650)


async def test_the_servers_clock_decides_and_not_the_nodes(open_postgres: OpenStore) -> None:
    async with open_postgres(clock=WrongClock()) as store:
        later = await enqueue(store, delay_seconds=3600)
        job = await enqueue(store)
        assert abs((job.created_at - WallClock().now()).total_seconds()) < 60
        claimed = await claim_one(store, lease_seconds=30)
        assert claimed.job.id == job.id
        assert await claim(store) == []
        assert await store.rescue(limit=10) == []
        seconds = await store.next_due_in(ANY)
        assert seconds is not None
        assert 3590 < seconds <= 3600
        assert (await store.get(later.id)).status is Status.PENDING


async def test_a_schema_for_tests_is_no_schema_for_work(open_postgres: OpenStore) -> None:
    async with open_postgres(clock=HandClock()):
        pass
    with pytest.raises(ConfigError, match="made for virtual time"):
        async with open_postgres():
            pass


async def test_a_schema_for_work_is_no_schema_for_tests(open_postgres: OpenStore) -> None:
    async with open_postgres() as store:
        await enqueue(store)
    with pytest.raises(ConfigError, match="made for real time"):
        async with open_postgres(clock=HandClock()):
            pass


# What a server must promise


@pytest.mark.parametrize("setting", ["synchronous_commit", "fsync"])
async def test_a_server_that_does_not_flush_is_refused_unless_that_is_wanted(
    postgres_database: str, postgres_server: Server, open_postgres: OpenStore, setting: str
) -> None:
    if setting == "synchronous_commit":
        name = postgres_database.rpartition("/")[2]
        ask(postgres_database, f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    with pytest.raises(ConfigError, match=rf"{setting}=off.*crash would lose jobs.*RELAXED_DURABILITY"):
        async with open_postgres(postgres=PostgresOptions()):
            pass
    async with open_postgres(postgres=PostgresOptions(relaxed_durability=True)) as store:
        await enqueue(store)


async def test_a_database_in_another_encoding_is_refused(
    postgres_url: str, postgres_names: Any, open_postgres: OpenStore
) -> None:
    name = next(postgres_names)
    ask(
        postgres_url,
        f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'",
    )
    url = postgres_url.rpartition("/")[0] + "/" + name
    with pytest.raises(ConfigError, match="LATIN1"):
        async with open_store(url, clock=WallClock(), random=Random(0), node=ALICE, postgres=RELAXED):
            pass
    ask(postgres_url, f"DROP DATABASE {name}")


async def test_a_role_without_rights_is_told_what_to_do(
    postgres_database: str, open_postgres: OpenStore
) -> None:
    ask(postgres_database, "DROP ROLE IF EXISTS guest")
    ask(postgres_database, "CREATE ROLE guest LOGIN")
    guest = postgres_database.replace("//postgres@", "//guest@")
    with pytest.raises(ConfigError, match="trioqueue migrate"):
        async with open_store(guest, clock=WallClock(), random=Random(0), node=ALICE, postgres=RELAXED):
            pass
    ask(postgres_database, "DROP ROLE guest")


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    url = "postgresql://postgres:secret@127.0.0.1:1/nowhere"
    with pytest.raises(StoreUnavailable) as raised:
        async with open_store(url, clock=WallClock(), random=Random(0), node=ALICE):
            pass
    assert "secret" not in str(raised.value)


async def test_many_nodes_may_start_on_an_empty_database_at_the_same_time(open_postgres: OpenStore) -> None:
    started: list[str] = []

    async def start(number: int) -> None:
        async with open_postgres(node=NodeId(f"node {number}")) as store:
            await enqueue(store)
            started.append(store.url)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(start, number)
    async with open_postgres() as store:
        assert len(await everything(store)) == len(started) == 8


async def test_migrating_says_what_it_did_and_does_it_once(postgres_database: str) -> None:
    shown = await migrate_store(postgres_database, postgres=RELAXED, print_only=True)
    assert (shown.before, shown.after) == (0, 1)
    assert 'CREATE TABLE "trioqueue"."bodies"' in shown.sql
    assert ask(postgres_database, "SELECT count(*) FROM pg_namespace WHERE nspname = 'trioqueue'") == [(0,)]
    done = await migrate_store(postgres_database, postgres=RELAXED)
    assert (done.before, done.after, done.sql) == (0, 1, shown.sql)
    again = await migrate_store(postgres_database, postgres=RELAXED)
    assert (again.before, again.after, again.sql) == (1, 1, "")


async def test_the_script_that_migrating_shows_may_be_run_by_hand(
    open_postgres: OpenStore, postgres_database: str
) -> None:
    shown = await migrate_store(postgres_database, postgres=RELAXED, print_only=True)
    ask(postgres_database, shown.sql)
    async with open_postgres() as store:
        await enqueue(store)
    again = await migrate_store(postgres_database, postgres=RELAXED)
    assert (again.before, again.sql) == (1, "")


async def test_the_owner_of_an_empty_schema_may_migrate_and_grant_the_rest(postgres_database: str) -> None:
    """The grants are those of docs/postgres.md."""
    name = postgres_database.rpartition("/")[2]
    ask(postgres_database, f"CREATE ROLE {name}_owner LOGIN; CREATE ROLE {name}_nodes LOGIN")
    ask(postgres_database, f"CREATE ROLE {name}_application LOGIN")
    ask(postgres_database, f"CREATE SCHEMA trioqueue AUTHORIZATION {name}_owner")
    owner, nodes, application = (
        postgres_database.replace("//postgres@", f"//{name}_{role}@")
        for role in ("owner", "nodes", "application")
    )
    await migrate_store(owner, postgres=RELAXED)
    page = (ROOT / "docs" / "postgres.md").read_text()
    grants = [line for line in page.splitlines() if line.startswith("GRANT ")]
    assert len(grants) == 5
    for grant in grants:
        sql = grant.replace("TO nodes", f"TO {name}_nodes").replace("application;", f"{name}_application;")
        ask(owner, sql)
    job_id = ask(application, "SELECT trioqueue.enqueue('noop', unique_key => 'k', tags => '{a}')")[0][0]
    async with open_store(nodes, clock=WallClock(), random=Random(0), node=ALICE, postgres=RELAXED) as store:
        claimed = await claim_one(store)
        assert claimed.job.id == str(job_id)
        await settle(store, claimed, Completed())
        await store.rescue(limit=1)
        await store.prune({Status.COMPLETED: timedelta(0)}, limit=1)
    ask(postgres_database, "DROP SCHEMA trioqueue CASCADE")
    for role in ("owner", "nodes", "application"):
        ask(postgres_database, f"DROP ROLE {name}_{role}")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://a:secret@127.0.0.1/b?bogus=1", "no parameter 'bogus'"),
        ("postgresql://a:secr@et@127.0.0.1/b", "%40"),
        ("postgresql://a:secret@[::1/b", "not a URL"),
    ],
)
async def test_a_url_that_cannot_be_used_is_bad_configuration(url: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        async with open_store(url, clock=WallClock(), random=Random(0), node=ALICE):
            pass
    assert words in str(raised.value)
    assert "secr" not in str(raised.value)


async def test_a_newer_schema_is_served_where_it_allows_that(
    open_postgres: OpenStore, postgres_database: str
) -> None:
    async with open_postgres():
        ask(postgres_database, "UPDATE trioqueue.meta SET version = 3, oldest = 1")
    async with open_postgres() as store:
        await enqueue(store)
    ask(postgres_database, "UPDATE trioqueue.meta SET oldest = 2")
    with pytest.raises(ConfigError, match="newer trioqueue"):
        async with open_postgres():
            pass


async def test_a_schema_of_another_program_is_left_alone(
    open_postgres: OpenStore, postgres_database: str
) -> None:
    ask(postgres_database, "CREATE SCHEMA trioqueue")
    ask(postgres_database, "CREATE TABLE trioqueue.live (mine int)")
    with pytest.raises(ConfigError, match="another program"):
        async with open_postgres():
            pass
    assert ask(postgres_database, "SELECT count(*) FROM trioqueue.live") == [(0,)]


async def test_an_instant_in_any_zone_is_kept(open_postgres: OpenStore, postgres_database: str) -> None:
    """RFC 3339 knows offsets that PostgreSQL does not read."""
    settings = load_settings(store=postgres_database, relaxed_durability=True, worker_count=0)
    node = Node(settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        body = b'{"type": "noop", "run_at": "2030-01-02T00:00:00+23:59"}'
        job = (await node.service.enqueue(parse_job_request(body))).job
        assert await node.service.get(job.id) == (job, [])
        assert job.run_at == datetime(2030, 1, 1, 0, 1, tzinfo=UTC)
        node.stop()


# Names


async def test_two_services_share_a_database_and_see_nothing_of_each_other(
    open_postgres: OpenStore, postgres_database: str
) -> None:
    other_schema = replace(RELAXED, schema="other")
    other_prefix = replace(RELAXED, table_prefix="second_")
    async with (
        open_postgres() as one,
        open_postgres(postgres=other_schema) as two,
        open_postgres(postgres=other_prefix) as three,
    ):
        for store in (one, two, three):
            await enqueue(store, unique_key="the same")
        for store in (one, two, three):
            assert len(await claim(store)) == 1
            assert [(count.status, count.jobs) for count in await store.counts()] == [(Status.PROCESSING, 1)]
    tables = {
        name
        for (name,) in ask(
            postgres_database, "SELECT tablename FROM pg_tables WHERE schemaname = 'trioqueue'"
        )
    }
    assert {"live", "second_live"} <= tables


@pytest.mark.parametrize(
    "names",
    [
        {"schema": 'x"; DROP TABLE jobs; --'},
        {"schema": "Upper"},
        {"schema": "pg_mine"},
        {"schema": ""},
        {"schema": "x" * 41},
        {"table_prefix": "no-dash"},
        {"table_prefix": "1st"},
        {"channel": "not a name"},
    ],
)
async def test_names_that_are_not_plain_are_refused(open_postgres: OpenStore, names: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        async with open_postgres(postgres=replace(RELAXED, **names)):
            pass


# Answers that get lost


class LostAnswers:
    """Stands between the store and its database: carries calls out, and says that it could not."""

    def __init__(self, store: Store) -> None:
        assert isinstance(store, PostgresStore)
        self._database = store._database
        self._lost: set[str] = set()
        self._refusing = self.refuse_after_a_loss = False
        for part in (store._enqueuer, store._claims, store._settlements):
            part._database = self  # type: ignore[assignment]

    def lose_next(self, query: str) -> None:
        self._lost.add(query)

    async def rows(self, query: str, *args: Any, **options: Any) -> Any:
        if self._refusing:
            raise StoreUnavailable("connection refused")
        rows = await self._database.rows(query, *args, **options)
        if query in self._lost:
            self._lost.discard(query)
            self._refusing = self.refuse_after_a_loss
            raise StoreUnavailable("the answer was lost")
        return rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


async def test_a_claim_whose_answer_was_lost_is_given_back_and_is_no_crash(store: Store) -> None:
    answers = LostAnswers(store)
    job = await enqueue(store)
    answers.lose_next("claim")
    with pytest.raises(StoreUnavailable):
        await claim(store, node=NodeId("node"))
    assert (await store.get(job.id)).status is Status.PROCESSING
    again = await claim_one(store, node=NodeId("node"))
    assert (again.job.attempt, again.job.crash_count, again.epoch) == (1, 0, 2)


async def test_a_settlement_whose_answer_was_lost_is_found_in_the_ledger(store: Store) -> None:
    answers = LostAnswers(store)
    await enqueue(store)
    claimed = await claim_one(store)
    settlement = Settlement(claimed, Completed(Json(b"1")), 3)
    answers.lose_next("settle")
    with pytest.raises(StoreUnavailable):
        await store.settle([settlement])
    (job,) = await store.settle([settlement])
    assert job is not None
    assert (job.status, job.result) == (Status.COMPLETED, Json(b"1"))
    assert len(await store.attempts(job.id)) == 1
    assert await store.settle([settlement]) == [None]


async def test_a_job_whose_answer_was_lost_is_kept_once_and_was_created(store: Store) -> None:
    answers = LostAnswers(store)
    new = new_job()
    answers.lose_next("enqueue")
    (answer,) = await store.enqueue([new])
    assert (answer.created, answer.job.id) == (True, new.id)
    assert [job.id for job in await everything(store)] == [new.id]


async def test_what_may_have_been_kept_is_not_said_to_be_refused(store: Store) -> None:
    """The first try is carried out and its answer is lost; the second one is refused."""
    answers = LostAnswers(store)
    new = new_job()
    answers.lose_next("enqueue")
    answers.refuse_after_a_loss = True
    with pytest.raises(StoreUnavailable, match="the answer was lost"):
        await store.enqueue([new])
    assert [job.id for job in await everything(store)] == [new.id]


async def test_a_settlement_that_somebody_else_made_is_not_taken_for_ours(store: Store) -> None:
    answers = LostAnswers(store)
    await enqueue(store)
    claimed = await claim_one(store)
    answers.lose_next("settle")
    with pytest.raises(StoreUnavailable):
        await store.settle([Settlement(claimed, Completed(), 3)])
    assert await store.settle([Settlement(claimed, Failed("late"), 3)]) == [None]


async def test_a_deadlock_is_tried_again(store: Store, postgres_database: str) -> None:
    """Calls that enqueue the same keys in opposite order."""
    async with trio.open_nursery() as nursery:
        for keys in (("a", "b"), ("b", "a")) * 5:
            nursery.start_soon(store.enqueue, [new_job(unique_key=key) for key in keys])
    assert len(await everything(store)) == 2


async def test_one_id_sent_many_times_at_once_is_kept_once(store: Store) -> None:
    new = new_job()
    answers: list[bool] = []

    async def send() -> None:
        (answer,) = await store.enqueue([new])
        answers.append(answer.created)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(send)
    assert sorted(answers) == [False] * 19 + [True]


# Many nodes


async def test_an_outcome_that_meets_a_request_to_stop_is_recorded(
    store: Store, postgres_database: str
) -> None:
    """The request commits while the settlement waits for its row."""
    await enqueue(store)
    claimed = await claim_one(store)
    with psycopg.connect(postgres_database) as connection:
        connection.execute("UPDATE trioqueue.live SET cancel_requested_at = now(), version = version + 1")
        async with trio.open_nursery() as nursery:
            answers: list[Any] = []

            async def settle_now() -> None:
                answers.extend(await store.settle([Settlement(claimed, Failed("no"), 1)]))

            nursery.start_soon(settle_now)
            await until_somebody_waits(postgres_database)
            connection.commit()
    assert [answer.status for answer in answers] == [Status.CANCELLED]


async def test_a_unique_key_that_somebody_holds_is_no_outage(store: Store, postgres_database: str) -> None:
    with psycopg.connect(postgres_database) as application:
        application.execute("SELECT trioqueue.enqueue('noop', unique_key => 'report')")
        with pytest.raises(StoreBusy, match="unique key"), trio.fail_after(1.4):
            await enqueue(store, unique_key="report")
        application.rollback()
    assert (await enqueue(store, unique_key="report")).unique_key == "report"


async def test_a_unique_key_that_somebody_holds_cannot_use_up_the_connections(
    store: Store, postgres_database: str
) -> None:
    async def ask_for_the_key() -> None:
        with suppress(StoreBusy):
            await enqueue(store, unique_key="report")

    with psycopg.connect(postgres_database) as application:
        application.execute("SELECT trioqueue.enqueue('noop', unique_key => 'report')")
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask_for_the_key)
            await until_somebody_waits(postgres_database)
            with trio.fail_after(0.9):
                await enqueue(store)
        application.rollback()


async def test_a_row_that_somebody_holds_keeps_no_other_from_being_renewed(
    store: Store, postgres_database: str
) -> None:
    await store.enqueue([new_job() for _ in range(3)])
    claims = await claim(store, lease_seconds=30)
    with psycopg.connect(postgres_database) as application:
        application.execute("SELECT FROM trioqueue.live WHERE seq = 2 FOR UPDATE")
        with trio.fail_after(0.9):
            renewals = await store.renew(claims, lease_seconds=60)
        assert [(renewal.renewed, renewal.busy) for renewal in renewals] == [
            (True, False),
            (False, True),
            (True, False),
        ]
    assert [renewal.renewed for renewal in await store.renew(claims, lease_seconds=60)] == [True] * 3


async def test_a_row_that_somebody_holds_keeps_no_other_from_being_rescued(
    store: Store, postgres_database: str
) -> None:
    await store.enqueue([new_job() for _ in range(3)])
    await claim(store, lease_seconds=0)
    with psycopg.connect(postgres_database) as application:
        application.execute("SELECT FROM trioqueue.live ORDER BY seq LIMIT 1 FOR UPDATE")
        assert len(await store.rescue(limit=10)) == 2
    assert len(await store.rescue(limit=10)) == 1


async def test_a_row_that_somebody_holds_keeps_no_other_outcome_from_being_recorded(
    postgres_database: str,
) -> None:
    handlers = Handlers()
    let_go = trio.Event()

    @handlers.handler("noop")
    async def noop(ctx: Context) -> None: ...

    @handlers.handler("waiting")
    async def waiting(ctx: Context) -> None:
        await let_go.wait()

    settings = load_settings(store=postgres_database, relaxed_durability=True, log_level="error")
    node = Node(settings, handlers)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        held = (await node.service.enqueue(JobRequest(type="waiting"))).job
        await until_status(node, held.id, Status.PROCESSING)
        with psycopg.connect(postgres_database) as application:
            application.execute("SELECT FROM trioqueue.live FOR UPDATE")
            let_go.set()
            for _ in range(3):
                other = (await node.service.enqueue(JobRequest(type="noop"))).job
                await until_status(node, other.id, Status.COMPLETED)
            assert (await node.service.get(held.id))[0].status is Status.PROCESSING
        await until_status(node, held.id, Status.COMPLETED)
        node.stop()


async def until_status(node: Node, job_id: str, status: Status) -> None:
    with trio.fail_after(10):
        job, _ = await node.service.get(job_id)
        while job.status is not status:
            await trio.sleep(0.01)
            job, _ = await node.service.get(job_id)


async def test_a_rescue_does_not_wait_for_the_counters(store: Store, postgres_database: str) -> None:
    job = await enqueue(store)
    await claim_one(store, lease_seconds=0)
    fill = "INSERT INTO trioqueue.counter_changes SELECT 'dead', 'q', 't', 1 FROM generate_series(1, 200000)"
    ask(postgres_database, fill)
    assert [rescued.id for rescued in await store.rescue(limit=10)] == [job.id]
    left = ask(postgres_database, "SELECT count(*) FROM trioqueue.counter_changes")
    assert 0 < left[0][0] < 200_000
    counted = {(count.status, count.type): count.jobs for count in await store.counts()}
    assert counted == {(Status.DEAD, "t"): 200_000, (Status.PENDING, "noop"): 1}


async def test_a_claim_does_not_wait_for_jobs_that_somebody_holds(
    store: Store, postgres_database: str
) -> None:
    first, second = await enqueue(store), await enqueue(store)
    with psycopg.connect(postgres_database) as connection:
        connection.execute("SELECT FROM trioqueue.live ORDER BY seq LIMIT 1 FOR UPDATE")
        with trio.fail_after(3):
            assert [claimed.job.id for claimed in await claim(store)] == [second.id]
    assert [claimed.job.id for claimed in await claim(store)] == [first.id]


async def test_nodes_that_do_everything_at_once_lose_nothing(open_postgres: OpenStore) -> None:
    """Claims, settlements, renewals, rescues and cancels of two nodes, all at the same time."""
    async with open_postgres() as one, open_postgres(node=BOB) as two:
        jobs = [
            answer.job.id for answer in await one.enqueue([new_job(max_attempts=1000) for _ in range(60)])
        ]
        ended: set[str] = set()

        async def work(store: Store, node: NodeId, number: int) -> None:
            for turn in range(25):
                claims = await claim(store, 7, node=node, lease_seconds=0.01 if turn % 5 == 0 else 30)
                await store.renew(claims, lease_seconds=0.01 if turn % 7 == 0 else 30)
                outcomes = (Completed(), Released("again"), Failed("no"))
                await store.settle(
                    [Settlement(c, outcomes[(turn + n) % 3], number) for n, c in enumerate(claims)]
                )
                await store.rescue(limit=5)

        async def cancel(store: Store) -> None:
            for job_id in jobs[::7]:
                await store.cancel(job_id)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(work, one, ALICE, number)
                nursery.start_soon(work, two, BOB, number)
            nursery.start_soon(cancel, one)
        for job in await everything(one):
            attempts = await one.attempts(job.id)
            assert len({attempt.epoch for attempt in attempts}) == len(attempts)
            completed = [attempt for attempt in attempts if attempt.outcome == "completed"]
            assert len(completed) == (job.status is Status.COMPLETED)
            ended.add(job.id)
        assert ended == set(jobs)
        counted = sum(count.jobs for count in await two.counts())
        assert counted == len(jobs)


async def test_hints_reach_the_other_node(open_postgres: OpenStore) -> None:
    async with open_postgres() as one, open_postgres(node=BOB) as two:
        heard = trio.Event()
        with trio.fail_after(10):
            while not heard.is_set():
                two.listen(lambda hint: heard.set() if hint is Hint.WORK else None)
                await enqueue(one)
                with trio.move_on_after(0.2):
                    await heard.wait()


# Transactions of handlers


@pytest.fixture
def orders(postgres_database: str) -> str:
    ask(postgres_database, "CREATE TABLE orders (id int)")
    return postgres_database


async def test_a_handlers_rows_and_the_settlement_are_committed_together(store: Store, orders: str) -> None:
    await enqueue(store)
    claimed = await claim_one(store)
    async with store.transaction(claimed, worker=4) as completion:
        await completion.connection.execute("INSERT INTO orders VALUES (7)")
        completion.result = Json(b'"paid"')
        assert ask(orders, "SELECT * FROM orders") == []
        assert (await store.get(claimed.job.id)).status is Status.PROCESSING
    assert completion.job is not None
    assert (completion.job.status, completion.job.result) == (Status.COMPLETED, Json(b'"paid"'))
    assert await store.get(claimed.job.id) == completion.job
    assert ask(orders, "SELECT * FROM orders") == [(7,)]
    (attempt,) = await store.attempts(claimed.job.id)
    assert (attempt.outcome, attempt.worker) == ("completed", 4)


async def test_a_lost_lease_rolls_the_handlers_rows_back(store: Store, orders: str) -> None:
    await enqueue(store)
    late = await claim_one(store, lease_seconds=0)
    await store.rescue(limit=1)
    current = await claim_one(store, node=BOB)
    with pytest.raises(LeaseLost):
        async with store.transaction(late, worker=1) as completion:
            await completion.connection.execute("INSERT INTO orders VALUES (7)")
    assert ask(orders, "SELECT * FROM orders") == []
    assert (await settle(store, current, Completed())).status is Status.COMPLETED


async def test_an_error_in_the_block_settles_nothing(store: Store, orders: str) -> None:
    await enqueue(store)
    claimed = await claim_one(store)
    with pytest.raises(psycopg.errors.DivisionByZero):  # noqa: PT012
        async with store.transaction(claimed, worker=1) as completion:
            await completion.connection.execute("INSERT INTO orders VALUES (7)")
            await completion.connection.execute("SELECT 1 / 0")
    assert ask(orders, "SELECT * FROM orders") == []
    assert (await settle(store, claimed, Completed())).status is Status.COMPLETED


async def test_a_cancelled_block_settles_nothing(store: Store, orders: str) -> None:
    await enqueue(store)
    claimed = await claim_one(store)
    with trio.move_on_after(0.1) as scope:
        async with store.transaction(claimed, worker=1) as completion:
            await completion.connection.execute("INSERT INTO orders VALUES (7)")
            await completion.connection.execute("SELECT pg_sleep(30)")
    assert scope.cancelled_caught
    assert ask(orders, "SELECT * FROM orders") == []
    assert (await settle(store, claimed, Completed())).status is Status.COMPLETED


async def test_what_a_handler_sets_on_its_connection_is_its_own_affair(store: Store, orders: str) -> None:
    for _ in range(2):
        await enqueue(store)
        claimed = await claim_one(store)
        async with store.transaction(claimed, worker=1) as completion:
            connection = completion.connection
            cursor = await connection.execute("SHOW work_mem")
            assert await cursor.fetchone() == ("4MB",)
            await connection.execute("SET work_mem = '7MB'")
            connection.row_factory = psycopg.rows.dict_row
        assert completion.job is not None
        assert completion.job.status is Status.COMPLETED


async def test_a_handler_may_not_end_the_transaction_itself(store: Store, orders: str) -> None:
    await enqueue(store)
    claimed = await claim_one(store)
    with pytest.raises(RuntimeError, match="ended inside"):  # noqa: PT012
        async with store.transaction(claimed, worker=1) as completion:
            await completion.connection.execute("INSERT INTO orders VALUES (7)")
            await completion.connection.commit()
    assert (await store.get(claimed.job.id)).status is Status.PROCESSING


async def test_a_server_that_goes_away_inside_of_a_block_is_unavailable(store: Store, orders: str) -> None:
    await enqueue(store)
    claimed = await claim_one(store)
    with pytest.raises(StoreUnavailable):  # noqa: PT012
        async with store.transaction(claimed, worker=1) as completion:
            me = completion.connection.info.backend_pid
            ask(orders, f"SELECT pg_terminate_backend({me})")
            await completion.connection.execute("INSERT INTO orders VALUES (7)")
    assert (await settle(store, claimed, Completed())).status is Status.COMPLETED


async def test_a_handler_may_use_savepoints(store: Store, orders: str) -> None:
    await enqueue(store)
    claimed = await claim_one(store)
    async with store.transaction(claimed, worker=1) as completion:
        connection = completion.connection
        await connection.execute("INSERT INTO orders VALUES (1)")
        with pytest.raises(psycopg.errors.DivisionByZero):  # noqa: PT012
            async with connection.transaction():
                await connection.execute("INSERT INTO orders VALUES (2)")
                await connection.execute("SELECT 1 / 0")
    assert ask(orders, "SELECT * FROM orders") == [(1,)]


async def test_other_stores_cannot_do_that() -> None:
    async with open_store("memory:", clock=WallClock(), random=Random(0), node=ALICE) as store:
        await enqueue(store)
        claimed = await claim_one(store)
        with pytest.raises(NotSupported):
            async with store.transaction(claimed, worker=1):
                pass
