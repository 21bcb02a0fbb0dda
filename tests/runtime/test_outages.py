"""The store is away: readiness says so at once, sees soon when it is back, and the log stays readable."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.helpers import make_job
from tests.runtime.conftest import NodeUnderTest, StartNode
from tests.transactional import TransactionalStore
from trioqueue import Context, Handlers
from trioqueue.errors import StoreUnavailable
from trioqueue.events import JobsRescued, LoopFailed, StoreFailed
from trioqueue.jobs.job import NodeId, Status
from trioqueue.logs import Logs
from trioqueue.store.protocol import Store

CALLS = [
    *("enqueue", "get", "attempts", "list", "claim", "next_due_in", "renew", "progress", "settle"),
    *(
        "release",
        "cancel",
        "redrive",
        "rescue",
        "expire",
        "prune",
        "counts",
        "beat",
        "nodes",
        "next_upkeep_in",
    ),
]


@pytest.fixture
def store_url() -> str:
    return "memory:"


def store_of(node: NodeUnderTest) -> Store:
    return node.node.service._store


def is_ready(node: NodeUnderTest) -> bool:
    return node.node.health.is_ready


@contextmanager
def outage(store: Store, *calls: str, reason: Callable[[], str] = lambda: "cut off") -> Iterator[None]:
    """These calls, or all of them, cannot reach the store."""

    async def away(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailable(reason())

    with pytest.MonkeyPatch.context() as patch:
        for call in calls or CALLS:
            patch.setattr(store, call, away)
        yield


@pytest.mark.parametrize("call", ["enqueue", "get", "list", "cancel", "redrive", "counts", "nodes"])
async def test_readiness_is_red_when_a_client_is_told_that_the_store_is_away(
    start_node: StartNode, autojump_clock: MockClock, call: str
) -> None:
    node = await start_node()
    service = node.node.service
    job = await node.enqueue("a")
    calls: dict[str, Callable[[], object]] = {
        "enqueue": lambda: node.enqueue("a"),
        "get": lambda: service.get(job.id),
        "list": lambda: service.list(limit=1),
        "cancel": lambda: service.cancel(job.id, wait_seconds=0),
        "redrive": lambda: service.redrive(job.id),
        "counts": service.counts,
        "nodes": service.nodes,
    }
    with outage(store_of(node)):
        assert is_ready(node)
        with pytest.raises(StoreUnavailable):
            await calls[call]()  # type: ignore[misc]
        assert not is_ready(node)
    assert StoreFailed(node=node.node.id, call=call, reason="cut off") in node.events


@pytest.mark.parametrize("seconds", [0.0, 30.0])
async def test_readiness_is_green_again_a_second_after_the_store_is_back(
    start_node: StartNode, autojump_clock: MockClock, seconds: float
) -> None:
    node = await start_node()
    await trio.sleep(3)
    with outage(store_of(node)):
        with pytest.raises(StoreUnavailable):
            await node.enqueue("a")
        await trio.sleep(seconds)
        assert not is_ready(node)
    await trio.sleep(1.5)
    assert is_ready(node)


async def test_clients_that_fail_again_and_again_do_not_make_the_node_beat_faster(
    start_node: StartNode, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await start_node()
    beat = store_of(node).beat
    beats: list[float] = []

    async def count(*args: NodeId, **options: object) -> None:
        beats.append(trio.current_time())
        await beat(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(store_of(node), "beat", count)
    with outage(store_of(node), "enqueue"):
        for _ in range(1000):
            with pytest.raises(StoreUnavailable):
                await node.enqueue("a")
            await trio.sleep(0.03)
    assert 20 <= len(beats) <= 40


async def test_an_outage_costs_few_lines_whatever_the_load(
    start_node: StartNode,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A hundred workers busy, clients that repeat, and every error worded in its own way."""
    monkeypatch.setattr("trioqueue.store.open.MemoryStore", TransactionalStore)
    handlers = Handlers()

    @handlers.handler("pay")
    async def pay(ctx: Context) -> None:
        await trio.sleep(20)
        async with ctx.transaction():
            pass

    @handlers.handler("long")
    async def long(ctx: Context) -> None:
        await trio.sleep(1000)

    node = await start_node(handlers, worker_count=200, log_level="info", log_format="json")
    store = store_of(node)
    jobs = [await node.enqueue(type) for type in ("pay", "long") for _ in range(100)]
    await trio.sleep(1)
    assert {(await node.get(job)).status for job in jobs} == {Status.PROCESSING}
    capsys.readouterr()
    began = trio.current_time()

    numbers = iter(range(1_000_000))
    with outage(store, reason=lambda: f"connection {next(numbers)} was lost"):
        monkeypatch.setattr(store, "transaction", cut_off)
        while trio.current_time() < began + 50:
            with pytest.raises(StoreUnavailable):
                await node.enqueue("pay")
            await trio.sleep(0.05)
    monkeypatch.undo()
    await trio.sleep(9)

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert 2 < len(lines) < 60, lines
    assert {"store not available, trying again", "store available again", "attempt failed"} <= {
        line["event"] for line in lines
    }
    assert sum(len(line.get("exception", "").splitlines()) for line in lines) < 100


def cut_off(*_: object, **__: object) -> None:
    raise StoreUnavailable("the connection was lost")


async def test_what_comes_a_thousand_times_is_said_a_few_times_and_counted(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = Logs("json", "info")
    node = NodeId("node")
    dead_jobs = [make_job(status=Status.DEAD)] * 500
    for _ in range(2):
        for number in range(1000):
            logs.notice(JobsRescued(node=node, jobs=dead_jobs))
            logs.notice(LoopFailed(node=node, loop="beat", error="Traceback\n…\nValueError: no"))
            logs.notice(StoreFailed(node=node, call="beat", reason=f"reason {number % 300}"))
        await trio.sleep(61)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    assert len(lines) == 2 * 40
    rescued = [line for line in lines if line["event"] == "jobs rescued from silent nodes"]
    assert [line.get("left_out_before") for line in rescued] == [None] * 10 + [990] + [None] * 9
    failed = [line for line in lines if line["event"] == "loop failed, starting it again"]
    assert sum("exception" in line for line in failed) == 4
    assert failed[5]["error"] == "ValueError: no"
    dead = [line for line in lines if "are dead" in line["event"]]
    assert (dead[0]["jobs"], len(dead[0]["job_ids"])) == (500, 10)


@pytest.mark.parametrize("store_url", ["memory:", "sqlite"])
@pytest.mark.parametrize("seconds", range(6, 16))
async def test_an_outage_longer_than_a_lease_counts_no_crash_for_those_who_live(
    start_node: StartNode,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    store_url: str,
    seconds: int,
) -> None:
    """When it is over, all leases have expired; a rescue comes after their holders have had their say."""
    handlers = Handlers()

    @handlers.handler("long")
    async def long(ctx: Context) -> None:
        await trio.sleep(20)

    url = store_url if store_url == "memory:" else f"sqlite:///{tmp_path}/jobs.db"
    nodes = [
        await start_node(handlers, store=url, lease_seconds=5, grace_seconds=0, worker_count=2, lazy=False)
        for _ in range(1 if store_url == "memory:" else 2)
    ]
    jobs = [await nodes[0].enqueue("long") for _ in range(3)]
    await trio.sleep(7)

    async def away(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailable("locked")

    with monkeypatch.context() as outage:
        for node in nodes:
            # Not rescue: its turn may come at the very moment when the store is back.
            for call in ("settle", "claim", "renew", "beat", "expire", "prune", "release"):
                outage.setattr(node.node.service._store, call, away)
        await trio.sleep(seconds)

    for job in jobs:
        ended = await nodes[0].finished(job)
        assert (ended.status, ended.crash_count) == (Status.COMPLETED, 0)
        assert set(await nodes[0].outcomes(ended)) <= {"released", "completed"}
