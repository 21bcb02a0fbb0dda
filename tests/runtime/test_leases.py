"""Leases: what happens when a node goes silent, loses its store, or is overtaken."""

from datetime import datetime, timedelta
from random import Random

import pytest
import trio
from trio.testing import MockClock

from tests.runtime.conftest import NodeUnderTest, StartNode
from trioqueue import Context, Handlers
from trioqueue.clock import current_clock
from trioqueue.config import load_settings
from trioqueue.errors import ConfigError, LoopDied, StoreUnavailable
from trioqueue.events import AttemptLost, Events, JobsRescued
from trioqueue.health import Health
from trioqueue.jobs.job import Job, NodeId, Status
from trioqueue.node import Node
from trioqueue.runtime.leases import Leases
from trioqueue.runtime.rest import Rest
from trioqueue.store.memory.store import MemoryStore
from trioqueue.store.protocol import Store
from trioqueue.testing.conformance import new_job


def store_of(node: NodeUnderTest) -> Store:
    return node.node.service._store


def is_ready(node: NodeUnderTest) -> bool:
    return node.node.health.is_ready


async def claim_as_a_ghost(store: Store, job: Job) -> None:
    """Another node claims the job and is never heard of again."""
    claims = await store.claim(node=NodeId("ghost"), types=frozenset({job.type}), limit=1, lease_seconds=30)
    assert [claim.job.id for claim in claims] == [job.id]


async def test_a_job_of_a_silent_node_runs_again_and_has_lost_no_attempt(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = Handlers()

    @handlers.handler("work")
    async def work(ctx: Context) -> None: ...

    api = await start_node(handlers, worker_count=0)
    job = await api.enqueue("work")
    await claim_as_a_ghost(store_of(api), job)
    await trio.sleep(29)
    assert (await api.get(job)).status is Status.PROCESSING
    await trio.sleep(3)

    rescued = await api.get(job)

    assert (rescued.status, rescued.crash_count, rescued.attempt) == (Status.PENDING, 1, 0)
    assert await api.outcomes(job) == ["lost"]
    assert len(api.seen(JobsRescued)) == 1


async def test_three_silent_nodes_make_a_job_dead(start_node: StartNode, autojump_clock: MockClock) -> None:
    api = await start_node(worker_count=0, lazy=False)
    job = await api.enqueue("poison")
    for _ in range(3):
        await claim_as_a_ghost(store_of(api), job)
        await trio.sleep(45)

    job = await api.get(job)

    assert (job.status, job.reason, job.crash_count) == (Status.DEAD, "crashed", 3)


@pytest.mark.parametrize("lease_seconds", [5, 30])
async def test_a_job_stops_itself_before_its_lease_ends(
    start_node: StartNode,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    lease_seconds: int,
) -> None:
    """The store refuses every renewal: the handler is cancelled while nobody else can have the job yet."""
    handlers = Handlers()
    stopped_at: list[float] = []

    @handlers.handler("long")
    async def long(ctx: Context) -> None:
        try:
            await trio.sleep_forever()
        finally:
            stopped_at.append(trio.current_time())

    node = await start_node(handlers, lease_seconds=lease_seconds)

    async def away(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailable("cut off")

    monkeypatch.setattr(store_of(node), "renew", away)
    began = trio.current_time()
    job = await node.enqueue("long")
    await trio.sleep(lease_seconds)

    assert stopped_at[0] - began == pytest.approx(lease_seconds * 0.8, abs=0.5)
    assert (await node.outcomes(job))[0] == "released"


class Ahead:
    """A clock that runs ahead of everybody else's."""

    def now(self) -> datetime:
        return current_clock().now() + timedelta(seconds=60)


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_who_was_overtaken_stops_and_settles_nothing(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    """To a node whose clock is ahead the lease has expired: it takes over, and the fence decides."""
    handlers = Handlers()
    ended: list[tuple[str, float]] = []

    @handlers.handler("long")
    async def long(ctx: Context) -> str:
        try:
            await trio.sleep(25)
        except trio.Cancelled:
            ended.append(("stopped", trio.current_time()))
            raise
        ended.append(("finished", trio.current_time()))
        return f"epoch {ctx.epoch}"

    overtaken = await start_node(handlers, lease_seconds=30)
    job = await overtaken.enqueue("long")
    await trio.sleep(1)
    other = await start_node(handlers, lease_seconds=3600, clock=Ahead())
    await trio.sleep(60)

    job = await other.get(job)
    assert [how for how, _ in ended] == ["stopped", "finished"]
    assert ended[0][1] < 12  # at the next renewal, ten seconds at most
    assert len(overtaken.seen(AttemptLost)) == 1
    assert (job.status, job.result) == (Status.COMPLETED, b'"epoch 2"')
    assert await other.outcomes(job) == ["lost", "completed"]


async def test_a_node_that_overtakes_itself_stops_its_older_attempt_at_once(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    """As after a pause of the process: its own rescuer wakes before its renewals."""
    handlers = Handlers()
    ended: list[str] = []

    @handlers.handler("long")
    async def long(ctx: Context) -> None:
        try:
            await trio.sleep(20)
        except trio.Cancelled:
            ended.append(f"epoch {ctx.epoch} stopped")
            raise
        ended.append(f"epoch {ctx.epoch} finished")

    clock = Stepping()
    node = await start_node(handlers, clock=clock, lazy=False)
    job = await node.enqueue("long")
    await trio.sleep(1)
    clock.seconds = 60
    await trio.sleep(3)
    assert ended == ["epoch 1 stopped"]
    job = await node.finished(job)

    assert ended == ["epoch 1 stopped", "epoch 2 finished"]
    assert await node.outcomes(job) == ["lost", "completed"]


class Stepping:
    """A clock that can be set forward."""

    seconds = 0.0

    def now(self) -> datetime:
        return current_clock().now() + timedelta(seconds=self.seconds)


async def test_a_store_that_is_away_for_a_while_loses_nothing(
    start_node: StartNode, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = Handlers()
    runs: list[str] = []

    @handlers.handler("work")
    async def work(ctx: Context) -> None:
        runs.append(ctx.job.id)
        await trio.sleep(5)

    node = await start_node(handlers)
    jobs = [await node.enqueue("work") for _ in range(5)]
    await trio.sleep(1)

    async def away(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailable("disk full")

    with monkeypatch.context() as outage:
        for call in ("settle", "claim", "renew", "beat", "rescue", "next_due_in", "release"):
            outage.setattr(store_of(node), call, away)
        await trio.sleep(15)
        assert is_ready(node) is False
    await trio.sleep(10)

    assert is_ready(node) is True
    for job in jobs:
        assert (await node.get(job)).status is Status.COMPLETED
    assert sorted(runs) == sorted(job.id for job in jobs)


async def test_a_loop_that_breaks_is_started_again_and_too_often_ends_the_node(
    start_node: StartNode, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await start_node(lazy=False)
    store = store_of(node)
    real = store.rescue
    calls = 0

    async def broken_twice(*, limit: int) -> object:
        nonlocal calls
        calls += 1
        if calls <= 2:
            raise ZeroDivisionError
        return await real(limit=limit)

    monkeypatch.setattr(store, "rescue", broken_twice)
    await trio.sleep(20)
    assert calls > 3
    assert node.node.health.is_live
    assert not node.node.stopped.is_set()


async def test_a_node_whose_loop_never_comes_back_ends(autojump_clock: MockClock, store_url: str) -> None:
    async def broken(**_: object) -> None:
        raise ZeroDivisionError

    async def spoil(node: Node, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with pytest.raises(LoopDied, match="rescue"):
            await node.run(task_status=task_status)

    async with trio.open_nursery() as nursery:
        settings = load_settings(store=store_url, log_level="error", relaxed_durability=True)
        node = Node(settings, lazy=False)
        await nursery.start(spoil, node)
        node.service._store.rescue = broken  # type: ignore[method-assign,assignment]
        with trio.fail_after(100):
            await node.stopped.wait()


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_two_nodes_on_one_file_share_the_work(start_node: StartNode, autojump_clock: MockClock) -> None:
    handlers = Handlers()
    ran: list[str] = []

    @handlers.handler("work")
    async def work(ctx: Context) -> None:
        ran.append(ctx.job.id)
        await trio.sleep(1)

    first = await start_node(handlers, worker_count=2)
    second = await start_node(handlers, worker_count=2)
    jobs = [await first.enqueue("work") for _ in range(40)]
    await trio.sleep(30)

    assert sorted(ran) == sorted(job.id for job in jobs)
    for job in jobs:
        assert (await second.get(job)).status is Status.COMPLETED


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_demo_mode_refuses_a_store_that_real_handlers_have_served(
    start_node: StartNode, autojump_clock: MockClock, store_url: str
) -> None:
    """Forgetting TRIOQUEUE_HANDLERS must not complete everybody's jobs by sleeping."""
    handlers = Handlers()

    @handlers.handler("work")
    async def work(ctx: Context) -> None: ...

    await start_node(handlers)
    with pytest.raises(ConfigError, match="TRIOQUEUE_HANDLERS"):
        await Node(load_settings(store=store_url, relaxed_durability=True)).run()


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_a_demo_node_leaves_the_jobs_of_real_handlers_alone(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    """It was there first, and took everything; since handlers have come it takes nothing any more."""
    handlers = Handlers()
    ran: list[str] = []

    @handlers.handler("work")
    async def work(ctx: Context) -> None:
        ran.append(ctx.job.id)

    await start_node(worker_count=5)
    real = await start_node(handlers, worker_count=1)
    jobs = [await real.enqueue("work") for _ in range(20)]
    for job in jobs:
        await real.finished(job)

    assert sorted(ran) == sorted(job.id for job in jobs)


async def test_an_idle_node_is_healthy_all_the_time(start_node: StartNode, autojump_clock: MockClock) -> None:
    node = await start_node()
    await trio.sleep(5)
    for _ in range(600):
        await trio.sleep(1)
        assert all(check.ok for check in node.node.health.checks()), node.node.health.checks()


async def test_a_claim_that_can_no_longer_be_trusted_is_not_begun_but_given_back(
    autojump_clock: MockClock,
) -> None:
    """After a pause of the whole process, what waited in the channel may run elsewhere by now."""
    store = MemoryStore(current_clock(), Random(0))
    health = Health()
    leases = Leases(
        store, NodeId("alice"), lease_seconds=10, health=health, events=Events(), rest=Rest(health)
    )
    await store.enqueue([new_job()])
    asked_at = trio.current_time()
    claims = await store.claim(node=NodeId("alice"), types=None, limit=1, lease_seconds=10)
    leases.hold(claims, asked_at=asked_at)
    await trio.sleep(8)

    assert leases.begin(claims[0]) is None

    assert len(leases) == 1
    await leases.renew()
    assert len(leases) == 0
    job = await store.get(claims[0].job.id)
    assert (job.status, job.attempt, job.crash_count) == (Status.PENDING, 0, 0)
