"""Processes on one file wake each other, and know at once when one of them has died."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import trio

from trioqueue.clock import WallClock
from trioqueue.jobs.job import NodeId, Status
from trioqueue.store.open import open_store
from trioqueue.store.protocol import Hint, Store
from trioqueue.store.sqlite.neighbours import open_neighbours
from trioqueue.testing.conformance import claim_one, enqueue

OTHER_PROCESS = """
import sys
from random import Random

import trio

from trioqueue.clock import WallClock
from trioqueue.jobs.job import NodeId
from trioqueue.store.open import open_store

async def main(url, node):
    async with open_store(url, clock=WallClock(), random=Random(), node=node) as store:
        store.listen(lambda hint: print(hint.name, flush=True))
        claims = await store.claim(node=node, types=None, limit=1, lease_seconds=3600)
        print("claimed", len(claims), flush=True)
        await trio.sleep_forever()

trio.run(main, sys.argv[1], NodeId("other/node"))
"""


class Lines:
    """The lines that a process prints."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._rest = b""

    async def next(self) -> str:
        while b"\n" not in self._rest:
            self._rest += await self._stream.receive_some()
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode()


@asynccontextmanager
async def other_process(url: str) -> AsyncIterator[tuple[trio.Process, Lines]]:
    process = await trio.lowlevel.open_process([sys.executable, "-c", OTHER_PROCESS, url], stdout=-1)
    assert process.stdout is not None
    try:
        with trio.fail_after(30):
            yield process, Lines(process.stdout)
    finally:
        process.kill()
        await process.wait()
        await process.stdout.aclose()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with open_store(url, clock=WallClock(), random=Random(0), node=NodeId("here")) as store:
        yield store


async def test_a_job_that_is_enqueued_here_wakes_the_others_at_once(store: Store, url: str) -> None:
    async with other_process(url) as (_, lines):
        assert await lines.next() == "claimed 0"
        waits = []
        for _ in range(5):
            started_at = trio.current_time()
            await enqueue(store)
            assert await lines.next() == "WORK"
            waits.append(trio.current_time() - started_at)
        assert min(waits) < 0.05


async def test_a_request_to_cancel_reaches_the_node_that_runs_the_job(store: Store, url: str) -> None:
    job = await enqueue(store)
    async with other_process(url) as (_, lines):
        assert await lines.next() == "claimed 1"
        await store.cancel(job.id)
        assert await lines.next() == "CANCEL"


async def test_what_a_killed_process_held_is_rescued_at_once(store: Store, url: str, tmp_path: Path) -> None:
    job = await enqueue(store)
    async with other_process(url) as (process, lines):
        assert await lines.next() == "claimed 1"
        assert await store.rescue(limit=10) == []  # its lease lasts an hour, and it lives
        process.kill()
        await process.wait()
        (rescued,) = await store.rescue(limit=10)
    assert (rescued.id, rescued.status, rescued.crash_count) == (job.id, Status.PENDING, 1)
    (attempt,) = await store.attempts(job.id)
    assert attempt.node == "other/node"
    assert [file.name for file in (tmp_path / "jobs.db-nodes").iterdir()] == ["here"]


async def test_a_dead_node_is_known_until_all_it_held_is_rescued(tmp_path: Path) -> None:
    with open_neighbours(tmp_path / "nodes", NodeId("here")) as here:
        with open_neighbours(tmp_path / "nodes", NodeId("there")) as there:
            assert here.dead() == []
            there._socket.close()  # as the end of its process does
            assert here.dead() == [NodeId("there")]
        here.forget(NodeId("there"))
        assert here.dead() == []


async def test_a_node_that_left_is_not_dead(tmp_path: Path) -> None:
    with open_neighbours(tmp_path / "nodes", NodeId("here")) as here:
        with open_neighbours(tmp_path / "nodes", NodeId("there")):
            pass
        assert here.dead() == []


async def test_a_node_that_does_not_listen_for_a_while_is_not_dead(tmp_path: Path) -> None:
    with (
        open_neighbours(tmp_path / "nodes", NodeId("here")) as here,
        open_neighbours(tmp_path / "nodes", NodeId("deaf")),
    ):
        for _ in range(5000):  # more than its socket can hold
            assert here.dead() == []


async def test_many_rings_are_passed_on_as_one(tmp_path: Path) -> None:
    heard: list[Hint] = []
    with (
        open_neighbours(tmp_path / "nodes", NodeId("here")) as here,
        open_neighbours(tmp_path / "nodes", NodeId("there")) as there,
    ):
        there.listen(heard.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(there.run)
            for _ in range(100):
                here.ring(Hint.WORK)
            with trio.fail_after(10):
                while not heard:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert heard == [Hint.WORK]


async def test_a_deep_directory_is_no_obstacle(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a-rather-long-name-of-a-directory"] * 5)
    deep.mkdir(parents=True)
    url = f"sqlite:///{deep}/jobs.db"
    heard = trio.Event()
    async with (
        open_store(url, clock=WallClock(), random=Random(0), node=NodeId("here")) as here,
        open_store(url, clock=WallClock(), random=Random(0), node=NodeId("there")) as there,
    ):
        there.listen(lambda hint: heard.set())
        await enqueue(here)
        with trio.fail_after(10):
            await heard.wait()


async def test_without_sockets_the_store_works_all_the_same(url: str, tmp_path: Path) -> None:
    (tmp_path / "jobs.db-nodes").write_text("not a directory")
    async with open_store(url, clock=WallClock(), random=Random(0), node=NodeId("here")) as store:
        heard: list[Hint] = []
        store.listen(heard.append)
        await enqueue(store)
        await claim_one(store)
        assert await store.rescue(limit=10) == []
        assert heard == [Hint.WORK]
