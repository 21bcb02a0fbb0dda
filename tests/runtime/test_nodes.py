"""Nodes and what they run, as every node on the same store sees them."""

from datetime import timedelta
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.runtime.conftest import NodeUnderTest, StartNode
from trioqueue import Context, Handlers
from trioqueue.jobs.job import NodeId, Status
from trioqueue.store.protocol import SILENT_SECONDS, NodeSeen


def some_handlers() -> Handlers:
    handlers = Handlers()

    @handlers.handler("long")
    async def long(ctx: Context) -> None:
        await trio.sleep(1000)

    @handlers.handler("brew")
    async def brew(ctx: Context) -> None: ...

    return handlers


async def nodes_seen_by(node: NodeUnderTest) -> list[NodeSeen]:
    return list(await node.node.service.nodes())


async def test_a_node_says_who_it_is_and_shows_what_it_runs(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    node = await start_node(some_handlers(), worker_count=3, lazy=False)
    job = await node.enqueue("long", queue="slow")
    await trio.sleep(62)
    [seen] = await nodes_seen_by(node)
    assert (seen.node, seen.workers, seen.types) == (node.node.id, 3, ("brew", "long"))
    assert seen.seen_at - seen.started_at > timedelta(seconds=50)
    assert 0 <= seen.silent_seconds < 6
    [running] = seen.running
    assert (running.job_id, running.type, running.queue, running.epoch) == (job.id, "long", "slow", 1)
    assert not running.cancel_requested
    assert (await node.get(job)).lease_until == running.lease_until


async def test_a_demo_node_runs_any_type(start_node: StartNode, autojump_clock: MockClock) -> None:
    [seen] = await nodes_seen_by(await start_node())
    assert seen.types is None


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_a_node_that_stops_is_said_to_and_one_that_ended_well_is_gone(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    first = await start_node(some_handlers(), grace_seconds=10)
    await trio.sleep(1)
    second = await start_node(some_handlers(), grace_seconds=10)
    for node in (first, second):
        await node.enqueue("long")
        await trio.sleep(1)
    assert [seen.node for seen in await nodes_seen_by(first)] == [first.node.id, second.node.id]
    for node in (first, second):
        node.node.stop()
    await trio.sleep(2)
    assert all(seen.stopping for seen in await nodes_seen_by(second))
    await trio.sleep(20)

    third = await start_node(some_handlers())
    assert [seen.node for seen in await nodes_seen_by(third)] == [third.node.id]


async def test_a_node_that_went_silent_is_forgotten_after_a_while(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    node = await start_node(some_handlers(), lazy=False)
    await node.node.service._store.beat(NodeId("ghost"))
    await trio.sleep(SILENT_SECONDS - 10)
    assert len(await nodes_seen_by(node)) == 2
    await trio.sleep(20)
    assert [seen.node for seen in await nodes_seen_by(node)] == [node.node.id]


async def test_a_node_without_workers_claims_nothing_and_is_healthy(
    start_node: StartNode, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts jobs for others, however long these take to come."""
    node = await start_node(some_handlers(), worker_count=0)

    async def claim(**_: Any) -> None:
        raise AssertionError("it claims")

    monkeypatch.setattr(node.node.service._store, "claim", claim)
    job = await node.enqueue("brew")
    for _ in range(300):
        await trio.sleep(1)
        assert all(check.ok for check in node.node.health.checks()), node.node.health.checks()
    assert "loop dispatcher" not in {check.name for check in node.node.health.checks()}
    assert (await node.get(job)).status is Status.PENDING
    [seen] = await nodes_seen_by(node)
    assert (seen.workers, seen.types) == (0, ("brew", "long"))
