"""A node whose clock is hours wrong, on a store that has a clock of its own, as a server has."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.runtime.conftest import NodeUnderTest, StartNode
from trioqueue import Context, Handlers
from trioqueue.clock import current_clock
from trioqueue.jobs.job import Json, Status
from trioqueue.store.open import open_store
from trioqueue.testing.conformance import new_job


class Wrong:
    """A clock that is this many hours ahead, or behind."""

    def __init__(self, hours: float) -> None:
        self._wrong = timedelta(hours=hours)

    def now(self) -> datetime:
        return current_clock().now() + self._wrong


@pytest.fixture(params=[-5, 5], ids=["behind", "ahead"])
def wrong(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Wrong:
    """The node's clock; its store keeps right time."""

    def open_right(url: str, *, clock: object, **options: Any) -> Any:
        assert isinstance(clock, Wrong)
        return open_store(url, clock=current_clock(), **options)

    monkeypatch.setattr("trioqueue.node.open_store", open_right)
    return Wrong(request.param)


async def test_a_deadline_is_counted_from_the_claim(
    start_node: StartNode, autojump_clock: MockClock, wrong: Wrong
) -> None:
    handlers = Handlers()
    ran: list[float] = []

    @handlers.handler("slow")
    async def slow(ctx: Context) -> None:
        began = trio.current_time()
        try:
            await trio.sleep_forever()
        finally:
            ran.append(trio.current_time() - began)

    node = await start_node(handlers, clock=wrong)
    deadline = current_clock().now() + timedelta(seconds=10)
    new = new_job(type="slow", payload=Json(b"{}"), deadline_at=deadline)
    [enqueued] = await node.node.service._store.enqueue([new])
    job = await node.finished(enqueued.job)

    assert ran == [pytest.approx(10, abs=1.1)]
    assert await node.outcomes(job) == ["timed_out"]


async def test_a_delay_is_as_long_as_was_asked(
    start_node: StartNode, autojump_clock: MockClock, wrong: Wrong
) -> None:
    """And the dispatcher, once awake, sleeps until then: it would look again only after thirty seconds."""
    handlers = Handlers()
    started: list[float] = []

    @handlers.handler("work")
    async def work(ctx: Context) -> None:
        started.append(trio.current_time())

    node = await start_node(handlers, clock=wrong, poll_seconds=30)
    asked_at = trio.current_time()
    delayed = await node.enqueue("work", delay_seconds=5)
    await node.enqueue("work")
    await node.finished(delayed)

    assert started == [pytest.approx(asked_at + wait, abs=0.1) for wait in (0, 5)]


@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
async def test_health_knows_how_long_work_has_waited(
    start_node: StartNode, autojump_clock: MockClock, wrong: Wrong, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await start_node(clock=wrong)

    async def claim_nothing(**_: object) -> list[object]:
        await trio.lowlevel.checkpoint()
        return []

    monkeypatch.setattr(node.node.service._store, "claim", claim_nothing)
    await trio.sleep(60)
    await node.enqueue("work")
    await trio.sleep(8)
    assert node.node.health.is_ready
    await trio.sleep(12)
    assert not node.node.health.is_ready


async def test_nodes_are_seen_by_the_stores_clock(
    start_node: StartNode, autojump_clock: MockClock, wrong: Wrong
) -> None:
    node = await start_node(clock=wrong, lazy=False)
    started_at = current_clock().now()
    await trio.sleep(62)
    [seen] = await node.node.service.nodes()
    assert abs(seen.started_at - started_at) < timedelta(seconds=1)
    assert 0 <= seen.silent_seconds < 6


async def test_a_processing_job_is_left_alone(
    start_node: StartNode, autojump_clock: MockClock, wrong: Wrong
) -> None:
    """Neither this node's clock nor another's makes a lease expire."""
    handlers = Handlers()

    @handlers.handler("long")
    async def long(ctx: Context) -> int:
        await trio.sleep(100)
        return ctx.epoch

    node: NodeUnderTest = await start_node(handlers, clock=wrong)
    job = await node.finished(await node.enqueue("long"))
    assert (job.status, job.result) == (Status.COMPLETED, b"1")
