"""Few connections for many callers: who waits, who is refused, and what is never used again."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Any, cast

import psycopg
import pytest
import trio
from psycopg import errors
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.postgres.proxy import start_proxy
from tests.postgres.server import Server as PostgresServer
from trioqueue.errors import StoreUnavailable
from trioqueue.store.postgres.connection import Server, TrioConnection
from trioqueue.store.postgres.pool import Pool


class FakeConnection:
    """What a pool looks at."""

    def __init__(self) -> None:
        self.closed = False
        self.is_quiet = True
        self.give_up_at = 0.0
        self.reusable = True

    @property
    def is_reusable(self) -> bool:
        return self.reusable and not self.closed

    def discard(self) -> None:
        self.closed = True


class FakeServer:
    """Connects when it is told to. `pending`: the attempts that nobody has answered yet."""

    def __init__(self, *, answers: bool = True) -> None:
        self.answers = answers
        self.refuses = False
        self.attempts = 0
        self.opened: list[FakeConnection] = []
        self.answered = trio.Event()

    async def connect(self) -> TrioConnection:
        self.attempts += 1
        if self.refuses:
            await trio.lowlevel.checkpoint()
            raise StoreUnavailable("connection refused")
        if not self.answers:
            await self.answered.wait()
        await trio.lowlevel.checkpoint()
        self.opened.append(FakeConnection())
        return cast(TrioConnection, self.opened[-1])


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
async def pool(server: FakeServer, nursery: trio.Nursery) -> Pool:
    return await start_pool(nursery, server.connect, size=2)


async def start_pool(
    nursery: trio.Nursery, connect: Callable[[], Awaitable[TrioConnection]], *, size: int
) -> Pool:
    pool = Pool(connect, size=size, random=Random(0))
    await nursery.start(pool.run)
    return pool


class Caller:
    """Borrows a connection in a task of its own, until it is told to finish."""

    def __init__(self, pool: Pool, within: float = 60.0) -> None:
        self.pool = pool
        self.within = within
        self.scope = trio.CancelScope()
        self.finish = trio.Event()
        self.connection: Any = None
        self.ends: list[str] = []
        self.error: BaseException | None = None

    async def run(self) -> None:
        with self.scope:
            try:
                async with self.pool.connection(self.within) as self.connection:
                    await self.finish.wait()
                self.ends.append("done")
            except Exception as error:
                self.error = error


async def start_caller(nursery: trio.Nursery, pool: Pool, within: float = 60.0) -> Caller:
    caller = Caller(pool, within)
    nursery.start_soon(caller.run)
    await wait_all_tasks_blocked()
    return caller


# Who gets a connection


async def test_connections_are_opened_as_needed_and_used_again(pool: Pool, server: FakeServer) -> None:
    for _ in range(10):
        async with pool.connection(1):
            pass
    assert server.attempts == 1


async def test_the_last_one_used_is_the_next_one_used(pool: Pool, nursery: trio.Nursery) -> None:
    first, second = await start_caller(nursery, pool), await start_caller(nursery, pool)
    first.finish.set()
    await wait_all_tasks_blocked()
    second.finish.set()
    await wait_all_tasks_blocked()
    async with pool.connection(1) as connection:
        assert connection is second.connection


async def test_never_more_connections_than_allowed(
    pool: Pool, server: FakeServer, nursery: trio.Nursery
) -> None:
    callers = [await start_caller(nursery, pool) for _ in range(5)]
    assert server.attempts == 2
    for caller in callers:
        caller.finish.set()
    await wait_all_tasks_blocked()
    assert [caller.ends for caller in callers] == [["done"]] * 5
    assert server.attempts == 2


async def test_callers_are_served_in_their_order(pool: Pool, nursery: trio.Nursery) -> None:
    callers = [await start_caller(nursery, pool) for _ in range(4)]
    assert [bool(caller.connection) for caller in callers] == [True, True, False, False]
    callers[1].finish.set()
    await wait_all_tasks_blocked()
    assert [bool(caller.connection) for caller in callers] == [True, True, True, False]
    for caller in callers:
        caller.finish.set()


async def test_a_connection_that_is_not_reusable_is_closed_and_replaced(
    pool: Pool, server: FakeServer, nursery: trio.Nursery
) -> None:
    callers = [await start_caller(nursery, pool) for _ in range(3)]
    callers[0].connection.reusable = False
    callers[0].finish.set()
    await wait_all_tasks_blocked()
    assert callers[0].connection.closed
    assert callers[2].connection is server.opened[2]
    for caller in callers:
        caller.finish.set()


async def test_an_idle_connection_that_the_server_ended_is_not_handed_out(
    pool: Pool, server: FakeServer
) -> None:
    async with pool.connection(1):
        pass
    server.opened[0].is_quiet = False
    async with pool.connection(1) as connection:
        assert cast(object, connection) is server.opened[1]
    assert server.opened[0].closed


# Cancelling


async def test_waiting_for_a_connection_can_be_cancelled(nursery: trio.Nursery) -> None:
    server = FakeServer(answers=False)
    pool = await start_pool(nursery, server.connect, size=1)
    caller = await start_caller(nursery, pool)
    caller.scope.cancel()
    await wait_all_tasks_blocked()
    assert caller.scope.cancelled_caught
    server.answered.set()  # the attempt goes on, for whoever comes next
    async with pool.connection(1):
        pass
    assert server.attempts == 1


async def test_the_block_cannot_be_cancelled(pool: Pool, nursery: trio.Nursery) -> None:
    caller = await start_caller(nursery, pool)
    caller.scope.cancel()
    await wait_all_tasks_blocked()
    assert caller.ends == []
    caller.finish.set()
    await wait_all_tasks_blocked()
    assert caller.ends == ["done"]
    assert not caller.connection.closed


async def test_a_cancelled_caller_gets_no_connection(pool: Pool, server: FakeServer) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with pool.connection(1):
            pytest.fail("it began")
    assert server.attempts == 0


async def test_who_is_cancelled_when_a_connection_comes_does_not_lose_it(
    pool: Pool, nursery: trio.Nursery
) -> None:
    for first, then in [("finish", "cancel"), ("cancel", "finish")] * 20:
        holders = [await start_caller(nursery, pool) for _ in range(2)]
        waiters = [await start_caller(nursery, pool) for _ in range(2)]
        for action in (first, then):
            if action == "finish":
                holders[0].finish.set()
                await trio.lowlevel.checkpoint()
            else:
                waiters[0].scope.cancel()
        await wait_all_tasks_blocked()
        for caller in holders + waiters:
            caller.finish.set()
        await wait_all_tasks_blocked()
        assert waiters[1].ends == ["done"]
        assert repr(pool) == "<Pool of 2: 0 lent, 2 idle, 0 connecting, 0 waiting>"


# Deadlines. The clock is held while calls are in flight, so these tests push it themselves.


async def test_a_block_that_takes_too_long_is_ended_and_idle_connections_are_dropped(
    pool: Pool, server: FakeServer, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    slow, other = await start_caller(nursery, pool, within=5), await start_caller(nursery, pool)
    other.finish.set()
    await wait_all_tasks_blocked()
    assert slow.connection.give_up_at == 5
    mock_clock.jump(5.1)
    await wait_all_tasks_blocked()
    assert isinstance(slow.error, StoreUnavailable)
    assert "no answer within 5 s" in str(slow.error)
    assert [connection.closed for connection in server.opened] == [True, True]


async def test_waiting_counts_too(nursery: trio.Nursery, mock_clock: MockClock) -> None:
    server = FakeServer(answers=False)
    pool = await start_pool(nursery, server.connect, size=1)
    caller = await start_caller(nursery, pool, within=5)
    mock_clock.jump(4)
    await wait_all_tasks_blocked()
    server.answered.set()
    await wait_all_tasks_blocked()
    assert caller.connection.give_up_at == 5
    mock_clock.jump(1.1)
    await wait_all_tasks_blocked()
    assert isinstance(caller.error, StoreUnavailable)


async def test_a_slow_connect_is_not_cut_short_by_one_caller_s_deadline(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    server = FakeServer(answers=False)
    pool = await start_pool(nursery, server.connect, size=1)
    hasty, patient = await start_caller(nursery, pool, 1), await start_caller(nursery, pool, 60)
    mock_clock.jump(2)
    await wait_all_tasks_blocked()
    assert isinstance(hasty.error, StoreUnavailable)
    server.answered.set()
    await wait_all_tasks_blocked()
    assert patient.connection is server.opened[0]
    assert server.attempts == 1
    patient.finish.set()


async def test_virtual_time_stands_still_during_a_call(autojump_clock: MockClock, pool: Pool) -> None:
    async with pool.connection(60), trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, partial(trio.run, trio.sleep, 0.05))
    assert trio.current_time() < 60
    await trio.sleep(1000)


# Refused


async def test_when_connecting_fails_everybody_who_waits_is_told_at_once(
    nursery: trio.Nursery, server: FakeServer, pool: Pool
) -> None:
    server.refuses = True
    callers = [Caller(pool) for _ in range(5)]
    for caller in callers:
        nursery.start_soon(caller.run)
    await wait_all_tasks_blocked()
    assert ["refused" in str(caller.error) for caller in callers] == [True] * 5
    assert server.attempts <= 2


async def test_after_a_failure_nobody_hammers_and_a_success_is_soon_found(
    pool: Pool, server: FakeServer, autojump_clock: MockClock
) -> None:
    server.refuses = True
    attempts = []
    for _ in range(100):
        with pytest.raises(StoreUnavailable, match="refused"):
            async with pool.connection(1):
                pass
        attempts.append(server.attempts)
        await trio.sleep(0.1)
    assert 10 <= server.attempts <= 25, "10 s of trying, at least half a second apart in the end"
    server.refuses = False
    await trio.sleep(1)
    async with pool.connection(1):
        pass
    server.opened[0].is_quiet = False
    server.refuses = True
    with pytest.raises(StoreUnavailable):
        async with pool.connection(1):
            pass
    server.refuses = False
    await trio.sleep(0.1)  # the pause was reset
    async with pool.connection(1):
        pass


async def test_who_waits_for_a_lent_connection_is_not_refused(
    pool: Pool, server: FakeServer, nursery: trio.Nursery
) -> None:
    """As when the server has no room for a second connection."""
    holder = await start_caller(nursery, pool)
    server.refuses = True
    waiter = await start_caller(nursery, pool)
    assert waiter.error is None
    holder.finish.set()
    await wait_all_tasks_blocked()
    assert waiter.connection is holder.connection
    waiter.finish.set()


async def test_who_waits_for_a_lent_connection_that_breaks_is_refused(
    pool: Pool, server: FakeServer, nursery: trio.Nursery
) -> None:
    holder = await start_caller(nursery, pool)
    server.refuses = True
    waiter = await start_caller(nursery, pool)
    holder.connection.discard()
    holder.finish.set()
    await wait_all_tasks_blocked()
    assert isinstance(waiter.error, StoreUnavailable)


async def test_a_pool_that_has_ended_refuses_and_has_closed_everything(
    server: FakeServer, nursery: trio.Nursery
) -> None:
    async with trio.open_nursery() as inner:
        pool = await start_pool(inner, server.connect, size=2)
        holder = await start_caller(nursery, pool)
        async with pool.connection(1):
            pass
        inner.cancel_scope.cancel()
    with pytest.raises(StoreUnavailable, match="closed"):
        async with pool.connection(1):
            pass
    assert not holder.connection.closed, "what has begun is completed"
    holder.finish.set()
    await wait_all_tasks_blocked()
    assert holder.ends == ["done"]
    assert [connection.closed for connection in server.opened] == [True, True]


# Errors in the block


async def test_other_errors_pass_and_the_connection_is_used_again(pool: Pool, server: FakeServer) -> None:
    for error in (ZeroDivisionError(), errors.UniqueViolation("x")):
        with pytest.raises(type(error)):
            async with pool.connection(1):
                raise error
    assert server.attempts == 1


async def test_an_error_that_a_retry_cures_is_told_in_plain_words(pool: Pool, server: FakeServer) -> None:
    with pytest.raises(StoreUnavailable, match="another transaction"):
        async with pool.connection(1):
            raise errors.DeadlockDetected("x")
    async with pool.connection(1):
        pass
    assert server.attempts == 1


async def test_when_the_server_goes_away_idle_connections_are_dropped(
    pool: Pool, server: FakeServer, nursery: trio.Nursery
) -> None:
    other, gone = await start_caller(nursery, pool), errors.AdminShutdown("x")
    with pytest.raises(StoreUnavailable, match="shutting down"):  # noqa: PT012
        async with pool.connection(1):
            other.finish.set()
            await wait_all_tasks_blocked()
            raise gone
    assert [connection.closed for connection in server.opened] == [True, True]


# With a server


@asynccontextmanager
async def open_pool(url: str, size: int = 3) -> AsyncIterator[Pool]:
    async with trio.open_nursery() as nursery:
        connect = partial(Server(url).connect, within=5)
        yield await start_pool(nursery, connect, size=size)
        nursery.cancel_scope.cancel()


async def ask(pool: Pool, query: str, within: float = 10) -> Any:
    async with pool.connection(within) as connection:
        row = await (await connection.execute(query.encode())).fetchone()
    assert row is not None
    return row[0]


async def test_terminated_connections_are_replaced_and_no_caller_notices(
    postgres_server: PostgresServer,
) -> None:
    async with open_pool(postgres_server.url) as pool:
        before = await ask(pool, "SELECT pg_backend_pid()")
        postgres_server.psql(f"SELECT pg_terminate_backend({before}, 5000)")
        assert await ask(pool, "SELECT pg_backend_pid()") != before


async def test_a_connection_that_is_terminated_in_use_says_so(postgres_url: str) -> None:
    async with open_pool(postgres_url) as pool:
        with pytest.raises(StoreUnavailable, match="shutting down"):
            await ask(pool, "SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(5)")
        assert await ask(pool, "SELECT 1") == 1


async def test_a_mistake_in_a_query_is_raised_as_it_is(postgres_url: str) -> None:
    async with open_pool(postgres_url, size=1) as pool:
        with pytest.raises(psycopg.errors.UndefinedColumn):
            await ask(pool, "SELECT nonsense")
        assert await ask(pool, "SELECT 1") == 1


async def test_a_transaction_left_open_is_not_passed_on(postgres_url: str) -> None:
    async with open_pool(postgres_url, size=1) as pool:
        before = await ask(pool, "SELECT pg_backend_pid()")
        async with pool.connection(5) as connection:
            await connection.execute("BEGIN")
        assert await ask(pool, "SELECT pg_backend_pid()") != before


async def test_a_silent_server_is_given_up_in_time_and_found_again(postgres_server: PostgresServer) -> None:
    with start_proxy(postgres_server.port) as proxy:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?sslmode=disable"
        async with open_pool(url) as pool:
            async with pool.connection(5), pool.connection(5):
                pass
            proxy.black_hole()
            for _ in range(2):
                began = trio.current_time()
                with pytest.raises(StoreUnavailable, match="no answer within"):
                    await ask(pool, "SELECT 1", within=0.3)
                assert trio.current_time() - began < 2
            proxy.heal()
            assert await ask(pool, "SELECT 1") == 1


async def test_a_cancelled_caller_s_statement_is_completed(postgres_server: PostgresServer) -> None:
    postgres_server.psql("DROP TABLE IF EXISTS completed")
    postgres_server.psql("CREATE TABLE completed (n int)")
    async with open_pool(postgres_server.url) as pool:
        await ask(pool, "SELECT 1")
        with trio.move_on_after(0.05):
            async with pool.connection(10) as connection, connection.transaction():
                await connection.execute("INSERT INTO completed SELECT 1 FROM pg_sleep(0.2)")
    assert postgres_server.psql("SELECT * FROM completed") == [(1,)]


async def test_random_cancels_lose_no_connection(postgres_server: PostgresServer) -> None:
    random = Random(11)
    done = 0

    async def work(pool: Pool) -> None:
        nonlocal done
        for n in range(100):
            with trio.move_on_after(random.choice((60, random.uniform(0, 0.01)))):
                assert await ask(pool, f"SELECT {n} + 0 * length(pg_sleep(0.001)::text)") == n
                done += 1

    async with open_pool(postgres_server.url) as pool:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(work, pool)
        assert done > 400
        await wait_all_tasks_blocked(0.01)
        assert repr(pool) == "<Pool of 3: 0 lent, 3 idle, 0 connecting, 0 waiting>"
        busy = (
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND application_name = 'trioqueue'"
        )
        assert await ask(pool, busy) == 1, "only this one"
