"""psycopg on Trio: everything of it works, and whoever is cancelled leaves no trace on the server."""

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from random import Random

import psycopg
import pytest
import trio
from psycopg import errors, generators, waiting
from psycopg.conninfo import conninfo_attempts, timeout_from_conninfo

from tests.postgres.proxy import start_proxy
from tests.postgres.server import Server as PostgresServer
from trioqueue.errors import ConfigError, StoreUnavailable
from trioqueue.store.postgres.connection import Server, TrioConnection, connect, is_retryable, unavailable

LEANED_ON = "psycopg has changed something that the Trio connection leans on: "


@asynccontextmanager
async def open_connection(url: str) -> AsyncIterator[TrioConnection]:
    connection = await connect(url, within=10)
    try:
        yield connection
    finally:
        connection.discard()


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[TrioConnection]:
    async with open_connection(postgres_url) as connection:
        yield connection


@pytest.fixture
async def observer(postgres_url: str) -> AsyncIterator[TrioConnection]:
    async with open_connection(postgres_url) as connection:
        yield connection


async def one(connection: TrioConnection, query: str, *values: object) -> object:
    row = await (await connection.execute(query.encode(), values)).fetchone()
    assert row is not None
    return row[0]


async def is_active(observer: TrioConnection, connection: TrioConnection) -> bool:
    pid = connection.info.backend_pid
    return await one(observer, "SELECT state FROM pg_stat_activity WHERE pid = %s", pid) == "active"


# The contract with psycopg


def test_psycopg_still_has_what_the_connection_leans_on() -> None:
    """Semi-private things. When this fails, read psycopg's changes before anything else."""
    base = psycopg.AsyncConnection
    for name in ("_connect_gen", "_should_cancel", "_try_cancel"):
        assert hasattr(base, name), LEANED_ON + name
    assert inspect.isgeneratorfunction(base._connect_gen), LEANED_ON + "_connect_gen is a generator"
    wait = inspect.signature(base.wait).parameters
    assert set(wait) <= {"self", "gen", "interval", "timeout"}, LEANED_ON + "the parameters of wait()"
    assert inspect.isgeneratorfunction(generators.notifies), LEANED_ON + "generators.notifies"
    assert callable(generators.cancel), LEANED_ON + "generators.cancel"
    for name in ("_enter_gen", "_exit_gen"):
        assert hasattr(psycopg.AsyncTransaction, name), LEANED_ON + f"AsyncTransaction.{name}"
    assert {"NOT_STARTED", "ACTIVE", "COMMITTED"} <= set(psycopg.AsyncTransaction.Status.__members__)
    assert (waiting.Wait.R, waiting.Wait.W, waiting.Wait.RW) == (1, 2, 3), LEANED_ON + "Wait"
    assert (waiting.Ready.NONE, waiting.Ready.R, waiting.Ready.W) == (0, 1, 2), LEANED_ON + "Ready"
    assert callable(conninfo_attempts), LEANED_ON + "conninfo_attempts"
    assert timeout_from_conninfo({"connect_timeout": "7"}) == 7, LEANED_ON + "timeout_from_conninfo"
    assert psycopg.capabilities.has_cancel_safe(), "libpq is older than 17: cancelling costs connections"


async def test_psycopg_takes_the_lock_and_waits_only_through_wait(connection: TrioConnection) -> None:
    lock: object = connection.lock
    assert isinstance(lock, trio.Lock), LEANED_ON + "the attribute lock"
    async with lock, trio.open_nursery() as nursery:
        nursery.start_soon(connection.execute, "SELECT 1")
        await trio.testing.wait_all_tasks_blocked()
        assert lock.statistics().tasks_waiting == 1, LEANED_ON + "execute() takes the lock"
        nursery.cancel_scope.cancel()


# psycopg's own ways


async def test_psycopg_s_ways_to_query_work(connection: TrioConnection) -> None:
    await connection.execute("CREATE TEMPORARY TABLE t (n int, x text)")
    async with connection.cursor() as cursor:
        await cursor.executemany("INSERT INTO t VALUES (%s, %s)", [(n, str(n)) for n in range(500)])
        await cursor.executemany(
            "INSERT INTO t VALUES (%s, %s) RETURNING n", [(-1, "a"), (-2, "b")], returning=True
        )
        assert await cursor.fetchall() == [(-1,)]
    async with connection.cursor() as cursor, cursor.copy("COPY t FROM STDIN") as copy:
        for n in range(20_000):
            await copy.write_row((n, "y" * 100))
    assert await one(connection, "SELECT count(*) FROM t") == 20_502
    async with connection.cursor() as cursor, cursor.copy("COPY t TO STDOUT") as copy:
        assert len([row async for row in copy.rows()]) == 20_502
    async with connection.pipeline():
        cursors = [await connection.execute("SELECT %s::int", [n]) for n in range(300)]
    assert [await cursor.fetchone() for cursor in cursors] == [(n,) for n in range(300)]
    async with connection.cursor(binary=True) as cursor:
        assert [row[0] async for row in cursor.stream("SELECT n FROM t WHERE n < 0 ORDER BY n")] == [-2, -1]
    async with connection.transaction(), connection.cursor("named") as cursor:
        await cursor.execute("SELECT n FROM t ORDER BY n LIMIT 3")
        assert await cursor.fetchmany(2) == [(-2,), (-1,)]
    assert connection.is_reusable


async def test_commit_and_rollback_work(connection: TrioConnection) -> None:
    await connection.execute("CREATE TEMPORARY TABLE t (n int)")
    await connection.set_autocommit(False)
    await connection.execute("INSERT INTO t VALUES (1)")
    await connection.commit()
    await connection.execute("INSERT INTO t VALUES (2)")
    await connection.rollback()
    assert await one(connection, "SELECT sum(n) FROM t") == 1


async def test_a_large_statement_is_sent_while_the_answer_comes(connection: TrioConnection) -> None:
    text = "x" * 20_000_000
    assert await one(connection, "SELECT %s::text", text) == text


async def test_every_statement_commits_and_none_is_prepared(
    connection: TrioConnection, observer: TrioConnection
) -> None:
    await connection.execute("DROP TABLE IF EXISTS kept")
    await connection.execute("CREATE TABLE kept (n int)")
    for n in range(20):
        await connection.execute("INSERT INTO kept VALUES (%s)", [n])
    assert await one(observer, "SELECT count(*) FROM kept") == 20
    assert await one(connection, "SELECT count(*) FROM pg_prepared_statements") == 0


async def test_notifies_is_refused(connection: TrioConnection) -> None:
    with pytest.raises(psycopg.NotSupportedError, match="Trio"):
        async for _ in connection.notifies():
            pass
    await connection.execute("LISTEN somebody; NOTIFY somebody")
    assert not getattr(connection, "_notifies_backlog", None), (
        "notifications that nobody asks for must not be kept"
    )


# Transactions


def give_up(transaction: psycopg.AsyncTransaction) -> None:
    raise psycopg.Rollback(transaction)


async def test_transactions_nest_as_in_psycopg(connection: TrioConnection) -> None:
    await connection.execute("CREATE TEMPORARY TABLE t (n int)")
    async with connection.transaction():
        await connection.execute("INSERT INTO t VALUES (1)")
        with suppress(errors.DivisionByZero):
            async with connection.transaction():
                await connection.execute("INSERT INTO t VALUES (2)")
                await connection.execute("SELECT 1/0")
        with pytest.raises(errors.UndefinedTable):
            async with connection.transaction("mine"):
                await connection.execute("SELECT * FROM missing")
        async with connection.transaction() as inner:
            await connection.execute("INSERT INTO t VALUES (4)")
            give_up(inner)
        async with connection.transaction(force_rollback=True):
            await connection.execute("INSERT INTO t VALUES (8)")
        async with connection.transaction():
            await connection.execute("INSERT INTO t VALUES (16)")
    assert await one(connection, "SELECT sum(n) FROM t") == 17
    assert connection.is_reusable


async def test_a_transaction_in_a_pipeline_works(connection: TrioConnection) -> None:
    await connection.execute("CREATE TEMPORARY TABLE t (n int)")
    async with connection.pipeline(), connection.transaction():
        await connection.execute("INSERT INTO t VALUES (1)")
    assert await one(connection, "SELECT sum(n) FROM t") == 1


async def test_a_cancelled_transaction_is_rolled_back_and_its_connection_stays_good(
    connection: TrioConnection,
) -> None:
    await connection.execute("CREATE TEMPORARY TABLE t (n int)")
    with trio.move_on_after(0.1) as scope:
        async with connection.transaction():
            await connection.execute("INSERT INTO t VALUES (1)")
            async with connection.transaction():
                await connection.execute("SELECT pg_sleep(60)")
    assert scope.cancelled_caught
    assert connection.is_reusable
    assert await one(connection, "SELECT count(*) FROM t") == 0


async def test_a_transaction_that_is_cancelled_between_two_statements_is_rolled_back(
    connection: TrioConnection,
) -> None:
    await connection.execute("CREATE TEMPORARY TABLE t (n int)")
    with trio.CancelScope() as scope:
        async with connection.transaction():
            await connection.execute("INSERT INTO t VALUES (1)")
            scope.cancel()
    assert scope.cancelled_caught, "a cancelled task must not commit"
    assert connection.is_reusable
    assert await one(connection, "SELECT count(*) FROM t") == 0
    async with connection.transaction():
        await connection.execute("INSERT INTO t VALUES (2)")
    assert await one(connection, "SELECT sum(n) FROM t") == 2


async def test_a_transaction_in_a_cancelled_task_does_not_begin(connection: TrioConnection) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with connection.transaction():
            pytest.fail("it has begun")
    async with connection.transaction():
        pass
    assert connection.is_reusable


async def test_an_error_at_commit_leaves_a_good_connection(connection: TrioConnection) -> None:
    await connection.execute("CREATE TEMPORARY TABLE t (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(errors.UniqueViolation):
        async with connection.transaction():
            await connection.execute("INSERT INTO t VALUES (1), (1)")
    assert connection.is_reusable


async def test_a_rollback_that_is_not_answered_ends_the_connection(postgres_server: PostgresServer) -> None:
    with start_proxy(postgres_server.port) as proxy:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?sslmode=disable"
        async with open_connection(url) as connection:
            with trio.fail_after(10), suppress(ZeroDivisionError):
                async with connection.transaction():
                    await connection.execute("SELECT 1")
                    proxy.black_hole()
                    raise ZeroDivisionError
            assert connection.closed


# Cancelling


async def test_the_server_stops_a_cancelled_statement(
    connection: TrioConnection, observer: TrioConnection
) -> None:
    with trio.move_on_after(0.1) as scope:
        await connection.execute("SELECT pg_sleep(60)")
    assert scope.cancelled_caught
    assert not await is_active(observer, connection)
    assert await one(connection, "SELECT 1") == 1


async def test_a_statement_in_a_cancelled_task_is_not_sent(connection: TrioConnection) -> None:
    await connection.execute("CREATE TEMPORARY TABLE t (n int)")
    with trio.CancelScope() as scope:
        scope.cancel()
        await connection.execute("INSERT INTO t VALUES (1)")
    assert await one(connection, "SELECT count(*) FROM t") == 0


async def test_without_libpq_17_a_cancelled_statement_costs_its_connection(
    connection: TrioConnection, observer: TrioConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cancel request blocks the process. The server finds out that nobody waits any more."""
    monkeypatch.setitem(psycopg.capabilities._cache, "Connection.cancel_safe()", "libpq is too old")
    pid = connection.info.backend_pid
    with trio.move_on_after(0.05):
        await connection.execute("SELECT pg_sleep(60)")
    assert connection.closed
    with trio.fail_after(10):
        while await one(observer, "SELECT count(*) FROM pg_stat_activity WHERE pid = %s", pid):  # noqa: ASYNC110
            await trio.sleep(0.05)


async def test_a_silent_server_costs_a_cancelled_statement_its_connection(
    postgres_server: PostgresServer,
) -> None:
    with start_proxy(postgres_server.port) as proxy:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?sslmode=disable"
        async with open_connection(url) as connection:
            proxy.black_hole()
            with trio.fail_after(10), trio.move_on_after(0.05) as scope:
                await connection.execute("SELECT 1")
            assert scope.cancelled_caught
            assert connection.closed


async def test_past_give_up_at_the_server_is_not_asked_to_stop(
    connection: TrioConnection, observer: TrioConnection
) -> None:
    connection.give_up_at = trio.current_time() + 0.1
    pid = connection.info.backend_pid
    with trio.move_on_at(connection.give_up_at):
        async with connection.transaction():
            await connection.execute("SELECT pg_sleep(0.6)")
    assert connection.closed
    assert await one(observer, "SELECT state FROM pg_stat_activity WHERE pid = %s", pid) == "active"


async def test_discard_wakes_whoever_waits_on_the_connection(connection: TrioConnection) -> None:
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(psycopg.OperationalError):
                await connection.execute("SELECT pg_sleep(60)")

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked(0.05)
        connection.discard()
    assert connection.closed
    connection.discard()


async def test_a_cancelled_connection_block_closes_the_connection(postgres_url: str) -> None:
    connection = await connect(postgres_url, within=10)
    with trio.CancelScope() as scope:
        async with connection:
            scope.cancel()
            await connection.execute("SELECT 1")
    assert connection.closed


async def test_random_cancels_never_give_a_wrong_answer(postgres_url: str, observer: TrioConnection) -> None:
    """Queries, transactions and copies, cut at random points, on connections that are used again."""
    random = Random(7)
    await observer.execute("DROP TABLE IF EXISTS pairs")
    await observer.execute("CREATE TABLE pairs (worker int, n int, half int)")
    counts = {"done": 0, "cancelled": 0, "replaced": 0}

    async def query(connection: TrioConnection, worker: int, n: int) -> None:
        assert await one(connection, "SELECT %s::int + 0 * length(pg_sleep(%s)::text)", n, 0.002) == n

    async def pair(connection: TrioConnection, worker: int, n: int) -> None:
        async with connection.transaction():
            await connection.execute("INSERT INTO pairs VALUES (%s, %s, 1)", [worker, n])
            async with connection.transaction():
                await connection.execute("INSERT INTO pairs VALUES (%s, %s, 2)", [worker, n])

    async def copy_in(connection: TrioConnection, worker: int, n: int) -> None:
        async with connection.cursor() as cursor, cursor.copy("COPY pairs FROM STDIN") as copy:
            for half in (1, 2):
                await copy.write_row((worker, n, half))
                await trio.sleep(0.001)

    async def copy_out(connection: TrioConnection, worker: int, n: int) -> None:
        query = "COPY (SELECT %s::int, x FROM generate_series(1, 5000) x) TO STDOUT"
        async with connection.cursor() as cursor, cursor.copy(query, [n]) as copy:
            rows = [row async for row in copy.rows()]
        assert len(rows) == 5_000
        assert {row[0] for row in rows} == {str(n)}

    async def work(worker: int) -> None:
        connection = await connect(postgres_url, within=10)
        for n in range(150):
            doing = random.choice((query, pair, pair, copy_in, copy_out))
            with trio.move_on_after(
                random.choice((60, random.uniform(0, 0.008), random.uniform(0, 0.003)))
            ) as scope:
                await doing(connection, worker, n)
            counts["cancelled" if scope.cancelled_caught else "done"] += 1
            if not connection.is_reusable:
                connection.discard()
                connection = await connect(postgres_url, within=10)
                counts["replaced"] += 1
        connection.discard()

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            for worker in range(4):
                nursery.start_soon(work, worker)
        busy = "SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' AND pid <> pg_backend_pid()"
        while await one(observer, f"{busy} AND datname = current_database()"):  # noqa: ASYNC110 — no event there
            await trio.sleep(0.01)
    halves = await observer.execute(
        "SELECT worker, n, array_agg(half ORDER BY half) FROM pairs GROUP BY 1, 2"
    )
    assert all(row[2] == [1, 2] for row in await halves.fetchall()), "half of a transaction was committed"
    assert counts["cancelled"] > 100
    assert counts["done"] > 50
    assert counts["replaced"] < counts["cancelled"] / 4, counts


# Connecting


async def test_our_defaults_are_set_and_the_url_overrides_them(postgres_url: str) -> None:
    async with open_connection(postgres_url) as connection:
        assert await one(connection, "SHOW application_name") == "trioqueue"
        assert await one(connection, "SHOW statement_timeout") == "10s"
        assert await one(connection, "SHOW lock_timeout") == "1s"
        assert await one(connection, "SHOW client_connection_check_interval") == "2s"
        assert connection.info.get_parameters()["tcp_user_timeout"] == "10000"
    own = "application_name=mine&options=-c%20statement_timeout%3D3s"
    async with open_connection(f"{postgres_url}?{own}") as connection:
        assert await one(connection, "SHOW application_name") == "mine"
        assert await one(connection, "SHOW statement_timeout") == "3s"
        assert await one(connection, "SHOW lock_timeout") == "1s"


async def test_several_hosts_are_tried_in_turn(postgres_server: PostgresServer) -> None:
    silent = await trio.open_tcp_listeners(0, host="127.0.0.1")
    ports = f"1,{silent[0].socket.getsockname()[1]},{postgres_server.port}"
    url = f"host=127.0.0.1,127.0.0.1,localhost port={ports} user=postgres dbname=postgres"
    with trio.fail_after(10):
        connection = await connect(url, within=1)
    assert connection.info.port == postgres_server.port
    connection.discard()
    await silent[0].aclose()


async def test_a_host_that_does_not_answer_is_given_up(postgres_server: PostgresServer) -> None:
    (silent,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"postgresql://postgres:s3cret-word@127.0.0.1:{silent.socket.getsockname()[1]}/postgres"
    with trio.fail_after(5), pytest.raises(StoreUnavailable) as caught:
        await connect(url, within=0.2)
    assert "0.2 s" in caught.value.reason
    await silent.aclose()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://u:s3cret-word@127.0.0.1:1/db", "Connection refused"),
        ("postgresql://u:s3cret-word@no-such-host.invalid/db", "resolve host"),
        ("postgresql://u:s3cret-word@[::1/db", "not a URL"),
        ("host=127.0.0.1 password=s3cret-word nonsense", "not a URL"),
        ("postgresql://u:s3cret-word@127.0.0.1/db?connect_timeout=soon", "connect_timeout"),
    ],
)
async def test_whatever_is_wrong_with_a_url_the_password_is_not_told(url: str, words: str) -> None:
    with pytest.raises((StoreUnavailable, ConfigError)) as caught:
        await connect(url, within=10)
    assert words in str(caught.value)
    shown = "".join(map(repr, (caught.value, caught.value.__cause__))) + str(caught.value)
    assert "s3cret-word" not in shown


async def test_a_wrong_database_is_named(postgres_server: PostgresServer) -> None:
    with pytest.raises(StoreUnavailable, match='"missing" does not exist'):
        await connect(postgres_server.database_url("missing"), within=10)


@asynccontextmanager
async def open_refusing_server(refused: bytes, answer: bytes) -> AsyncIterator[tuple[Server, list[bytes]]]:
    """It accepts whoever does not ask for `refused`. What they asked for is in the list."""
    asked: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            asked.append(bytes(await stream.receive_some()))
            if refused in asked[-1]:
                text = b"SFATAL\0VFATAL\0C08P01\0M" + answer + b"\0\0"
                await stream.send_all(b"E" + (len(text) + 4).to_bytes(4, "big") + text)
            else:
                await stream.send_all(b"R\0\0\0\x08\0\0\0\0" + b"Z\0\0\0\x05I")
                await stream.receive_some()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        yield Server(f"postgresql://u@127.0.0.1:{port}/db?sslmode=disable"), asked
        nursery.cancel_scope.cancel()


async def test_a_pooler_that_refuses_options_is_asked_without_them_from_then_on() -> None:
    """As PgBouncer before 1.20 answers."""
    refusal = b"unsupported startup parameter: options"
    async with open_refusing_server(b"options\0", refusal) as (server, asked):
        for _ in range(2):
            (await server.connect(within=5)).discard()
    assert [b"options\0" in startup for startup in asked] == [True, True, False, False]


async def test_a_server_that_does_not_know_one_setting_is_asked_for_the_others() -> None:
    name = b"client_connection_check_interval"
    async with open_refusing_server(name, b'unrecognized parameter "%s"' % name) as (server, asked):

        async def open_and_close() -> None:
            (await server.connect(within=5)).discard()

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(open_and_close)
    assert [b"statement_timeout" in startup for startup in asked] == [True] * 6


# What errors mean


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.DiskFull("x"), "disk is full"),
        (errors.TooManyConnections("x"), "too many connections"),
        (errors.AdminShutdown("x"), "shutting down"),
        (errors.CannotConnectNow("x"), "starting"),
        (errors.QueryCanceled("x"), "too long"),
        (errors.ReadOnlySqlTransaction("x"), "read-only"),
        (errors.LockNotAvailable("x"), "somebody else"),
        (errors.DeadlockDetected("x"), "another transaction"),
        (errors.ConnectionFailure("x"), "lost"),
        (errors.IoError("x"), "files"),
        (psycopg.OperationalError("the connection is lost\nmore"), "the connection is lost"),
        (psycopg.InterfaceError("the connection is closed"), "closed"),
        (ConnectionResetError("reset"), "reset"),
    ],
)
def test_errors_of_the_server_are_told_in_plain_words(error: psycopg.Error | OSError, words: str) -> None:
    reason = unavailable(error)
    assert reason is not None
    assert words in reason.reason
    assert "\n" not in reason.reason


@pytest.mark.parametrize(
    "error",
    [
        errors.UndefinedTable("x"),
        errors.UniqueViolation("x"),
        psycopg.ProgrammingError("x"),
        errors.SyntaxError("x"),
    ],
)
def test_mistakes_of_ours_are_not_excused(error: psycopg.Error) -> None:
    assert unavailable(error) is None


def test_only_what_did_not_happen_may_be_repeated() -> None:
    assert is_retryable(errors.DeadlockDetected("x"))
    assert is_retryable(errors.SerializationFailure("x"))
    assert not is_retryable(errors.StatementCompletionUnknown("x"))
    assert not is_retryable(errors.QueryCanceled("x"))
    assert not is_retryable(psycopg.OperationalError("x"))
