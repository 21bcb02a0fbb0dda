"""Nodes on one server wake each other. When they cannot, nothing fails: they notice, and say so once."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Any

import pytest
import structlog
import trio
from psycopg import generators
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.postgres.proxy import start_proxy
from tests.postgres.server import Server as PostgresServer
from trioqueue.errors import StoreUnavailable
from trioqueue.store.postgres import hints as module
from trioqueue.store.postgres.connection import Server, TrioConnection, connect
from trioqueue.store.postgres.hints import Hints
from trioqueue.store.postgres.pool import Pool
from trioqueue.store.protocol import Hint

CHANNEL = "hints_test"


class Bells:
    """Counts what rang, and waits for more."""

    def __init__(self, hints: Hints) -> None:
        self.rung: Counter[Hint] = Counter()
        self._rang = trio.Event()
        hints.listen(self._ring)

    def _ring(self, hint: Hint) -> None:
        self.rung[hint] += 1
        self._rang.set()

    async def wait(self, hint: Hint, times: int = 1) -> None:
        with trio.fail_after(20):
            while self.rung[hint] < times:
                self._rang = trio.Event()
                await self._rang.wait()


class Node:
    """Hints that run, their bells, and the connections that have listened."""

    def __init__(self, url: str, listen_url: str | None = None) -> None:
        self.pool = Pool(partial(Server(url).connect, within=5), size=2, random=Random(0))
        self.server = Server(listen_url or url)
        self.listened: list[TrioConnection] = []
        self.hints = Hints(self.pool, self.connect, channel=CHANNEL, random=Random(0))
        self.bells = Bells(self.hints)

    async def connect(self) -> TrioConnection:
        self.listened.append(await self.server.connect(within=5))
        return self.listened[-1]


@asynccontextmanager
async def open_node(url: str, listen_url: str | None = None) -> AsyncIterator[Node]:
    """A node that listens already: then it has rung everything once."""
    node = Node(url, listen_url)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.pool.run)
        nursery.start_soon(node.hints.run)
        await node.bells.wait(Hint.CANCEL)
        node.bells.rung.clear()
        yield node
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_ear(url: str) -> AsyncIterator[list[str]]:
    """Everything that is told on the channel, but pings: `WORK mail`."""
    connection = await connect(url, within=5)
    heard: list[str] = []

    async def listen() -> None:
        while True:
            for each in await connection.wait(generators.notifies(connection.pgconn)):
                _, _, told = each.extra.decode().partition(" ")
                heard.extend([] if told.startswith("PING") else [told])

    await connection.execute(f"LISTEN {CHANNEL}".encode())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        yield heard
        nursery.cancel_scope.cancel()
    connection.discard()


async def until_heard(heard: list[str], told: str) -> None:
    with trio.fail_after(20):
        while told not in heard:  # noqa: ASYNC110 — a list is enough for a test
            await trio.sleep(0.005)


# Without a server


async def test_bells_ring_here_at_once(autojump_clock: MockClock) -> None:
    node = Node("postgresql://nowhere.invalid")
    node.hints.ring(Hint.WORK, ["a", "b"])
    assert node.bells.rung == {Hint.WORK: 1}


async def test_in_virtual_time_nothing_is_heard_and_nothing_told(autojump_clock: MockClock) -> None:
    node = Node("postgresql://nowhere.invalid")
    node.hints.ring(Hint.WORK)
    await node.hints.run()
    assert node.listened == []


async def test_a_dead_server_is_asked_ever_less_often_and_for_ever(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "is_virtual", lambda: False)
    attempts: list[float] = []

    async def refuse() -> TrioConnection:
        attempts.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        raise StoreUnavailable("it is dead")

    pool = Pool(refuse, size=1, random=Random(0))
    hints = Hints(pool, refuse, channel=CHANNEL, random=Random(0))
    with trio.move_on_after(3600):
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.run)
            await hints.run()
    assert 720 <= len(attempts) <= 1500, "every five seconds, or a little earlier"
    assert len([at for at in attempts if at < 5]) >= 4, "sooner in the beginning"


# Between nodes


async def test_nodes_hear_each_other(postgres_url: str) -> None:
    async with open_node(postgres_url) as one, open_node(postgres_url) as other:
        one.hints.ring(Hint.WORK, ["mail"])
        await other.bells.wait(Hint.WORK)
        other.hints.ring(Hint.CANCEL)
        await one.bells.wait(Hint.CANCEL)
        one.hints.ring(Hint.CANCEL)
        await other.bells.wait(Hint.CANCEL, 2)
        assert one.bells.rung == {Hint.WORK: 1, Hint.CANCEL: 2}, "what it told itself must not come back"


async def test_other_channels_are_not_heard(postgres_server: PostgresServer) -> None:
    async with open_node(postgres_server.url) as node:
        postgres_server.psql("SELECT pg_notify('another', 'x WORK ')")
        for nonsense in ("", "x", "x y z", "x DANCE", "WORK"):
            postgres_server.psql(f"SELECT pg_notify('{CHANNEL}', '{nonsense}')")
        postgres_server.psql(f"SELECT pg_notify('{CHANNEL}', 'x CANCEL some queue')")
        await node.bells.wait(Hint.CANCEL)
        assert node.bells.rung == {Hint.CANCEL: 1}


async def test_a_burst_is_told_at_its_beginning_and_at_its_end(postgres_url: str) -> None:
    async with open_ear(postgres_url) as heard, open_node(postgres_url) as node:
        began = trio.current_time()
        for _ in range(10):
            for queue in ("a", "b", "c"):
                node.hints.ring(Hint.WORK, [queue])
            await trio.sleep(0.001)
        gaps = int(
            (trio.current_time() - began) / module.GAP_SECONDS
        )  # none, on a machine with time to spare
        assert node.bells.rung == {Hint.WORK: 30}
        node.hints.ring(Hint.CANCEL)
        await until_heard(heard, "CANCEL ")
        await trio.sleep(3 * module.GAP_SECONDS)
        told = Counter(heard)
        assert set(told) == {"WORK a", "WORK b", "WORK c", "CANCEL "}
        assert max(told.values()) <= 2 + gaps


async def test_the_last_ring_of_a_burst_is_told(postgres_url: str) -> None:
    async with open_ear(postgres_url) as heard, open_node(postgres_url) as node:
        node.hints.ring(Hint.WORK, ["a"])
        await until_heard(heard, "WORK a")
        heard.clear()
        node.hints.ring(Hint.WORK, ["a"])
        await until_heard(heard, "WORK a")


async def test_a_queue_with_any_name_can_be_told(postgres_url: str) -> None:
    async with open_ear(postgres_url) as heard, open_node(postgres_url) as node:
        node.hints.ring(Hint.WORK, ['it\'s a "queue" {x} %s ü'])
        await until_heard(heard, 'WORK it\'s a "queue" {x} %s ü')


# When hearing fails


async def test_a_listener_whose_connection_is_ended_listens_again_and_rings_everything(
    postgres_server: PostgresServer,
) -> None:
    async with open_node(postgres_server.url) as node:
        pid = node.listened[0].info.backend_pid
        postgres_server.psql(f"SELECT pg_terminate_backend({pid}, 5000)")
        await node.bells.wait(Hint.WORK)
        await node.bells.wait(Hint.CANCEL)
        assert len(node.listened) == 2
        assert node.listened[0].closed
        async with open_node(postgres_server.url) as other:
            other.hints.ring(Hint.WORK)
            await node.bells.wait(Hint.WORK, 2)


Logs = list[MutableMapping[str, Any]]


@pytest.fixture
def logs() -> Iterator[Logs]:
    """What is logged, whatever an earlier test has made of the logs."""
    structlog.reset_defaults()
    with capture_logs() as logs:
        yield logs


async def test_a_listener_that_hears_nothing_any_more_is_replaced(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    monkeypatch.setattr(module, "PROOF_SECONDS", 0.05)
    monkeypatch.setattr(module, "HEARD_WITHIN_SECONDS", 0.5)
    with start_proxy(postgres_server.port) as proxy:
        ear = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?sslmode=disable"
        async with open_node(postgres_server.url, ear) as node:
            await trio.sleep(0.2)  # it has proved that it hears
            proxy.black_hole()
            with trio.fail_after(20):
                while not node.listened[0].closed:  # noqa: ASYNC110 — nothing else shows it
                    await trio.sleep(0.01)
            proxy.heal()
            await node.bells.wait(Hint.WORK)
            assert logs == []


async def test_who_never_hears_anything_says_so_once_and_tries_on(
    postgres_database: str,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
    logs: Logs,
) -> None:
    """As behind a pooler in transaction mode. Here it listens in another database."""
    monkeypatch.setattr(module, "HEARD_WITHIN_SECONDS", 0.02)
    monkeypatch.setattr(module, "SHORTEST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(module, "DEAF_PAUSE_SECONDS", 0.002)
    async with open_node(postgres_url, postgres_database) as node:
        await node.bells.wait(Hint.WORK, module.DEAF_ROUNDS + 3)
    assert [line["log_level"] for line in logs] == ["warning"]
    assert "polling alone" in logs[0]["event"]


async def test_bells_ring_and_no_caller_fails_while_the_server_is_away(postgres_url: str) -> None:
    """The server is one that nobody started."""
    node = Node("postgresql://u@127.0.0.1:1/db")
    async with trio.open_nursery() as nursery:
        await nursery.start(node.pool.run)
        nursery.start_soon(node.hints.run)
        for _ in range(20):
            node.hints.ring(Hint.WORK, ["a", "b"])
            await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    assert node.bells.rung == {Hint.WORK: 20}
