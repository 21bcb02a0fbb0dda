"""Under virtual time what is idle costs nothing, and what is not goes on as in real time."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from tests.runtime.conftest import StartNode
from trioqueue import Context, Handlers
from trioqueue.clock import current_clock
from trioqueue.health import Health
from trioqueue.jobs.job import NodeId, Status
from trioqueue.runtime.rest import Rest
from trioqueue.testing.conformance import new_job

DAY = 86_400


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
async def rest(health: Health, autojump_clock: MockClock) -> AsyncIterator[Rest]:
    rest = Rest(health)
    with rest.shared():
        yield rest


async def elapsed(rest: Rest, **how: object) -> float:
    began = trio.current_time()
    await rest.wait("loop", 10, **how)  # type: ignore[arg-type]
    return trio.current_time() - began


async def test_it_rests_until_something_has_happened_and_then_as_long_as_usual(
    rest: Rest, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    assert await elapsed(rest) == 10  # what happened before it came is unknown to it
    nursery.start_soon(later, 500, rest.stir)
    assert await elapsed(rest) == 510
    nursery.start_soon(later, 500, rest.stir)
    assert await elapsed(rest, at_once=True) == 500
    nursery.start_soon(later, 500, rest.stir)
    assert await elapsed(rest, alone=True, due_in=600) == 600


async def test_what_happened_since_it_looked_last_is_not_missed(
    rest: Rest, autojump_clock: MockClock
) -> None:
    await elapsed(rest)
    rest.stir()
    assert await elapsed(rest) == 10


async def test_what_happens_soon_after_the_last_time_needs_no_other_time_at_once(
    rest: Rest, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    await elapsed(rest)
    nursery.start_soon(later, 3, rest.stir)
    nursery.start_soon(later, 50, rest.stir)
    assert await elapsed(rest, at_once=True) == 50


async def test_it_ends_when_something_is_due_or_was_waited_for(rest: Rest, autojump_clock: MockClock) -> None:
    await elapsed(rest)
    assert await elapsed(rest, due_in=3 * DAY) == 3 * DAY
    two_days = partial(trio.sleep, 2 * DAY)
    assert await rest.wait("loop", 10, until=two_days)
    assert not await rest.wait("loop", 10, due_in=DAY, until=two_days)


async def test_what_is_due_already_is_looked_at_again_after_the_usual_time(
    rest: Rest, autojump_clock: MockClock
) -> None:
    await elapsed(rest)
    assert await elapsed(rest, due_in=0) == 10
    assert await elapsed(rest, due_in=-5) == 10


async def test_one_node_wakes_the_others_of_its_run(
    rest: Rest, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    other = Rest(Health())
    await elapsed(rest)
    nursery.start_soon(later, 500, other.stir)
    assert await elapsed(rest) == 510


async def test_one_that_is_not_lazy_never_rests(health: Health, autojump_clock: MockClock) -> None:
    rest = Rest(health, lazy=False)
    for _ in range(3):
        assert await elapsed(rest) == 10
    assert await elapsed(rest, due_in=3) == 3
    assert await elapsed(rest, due_in=30) == 10


async def test_a_loop_that_rests_is_not_wedged(
    rest: Rest, health: Health, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    health.store_written()
    for _ in range(2):  # only the second time it knows that nothing has happened
        for loop in ("beat", "chore"):
            nursery.start_soon(rest.wait, loop, 10)
        await trio.sleep(DAY)
    assert health.is_ready
    health.turn("other")
    await trio.sleep(DAY)
    assert not health.is_live
    nursery.cancel_scope.cancel()


async def test_a_year_of_nothing_ends_with_a_healthy_node(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = Handlers()

    @handlers.handler("work")
    async def work(ctx: Context) -> float:
        return trio.current_time()

    node = await start_node(handlers)
    job = await node.enqueue("work", delay_seconds=360 * DAY)
    await trio.sleep(300 * DAY)
    assert node.node.health.is_ready, node.node.health.checks()
    began = trio.current_time()
    await trio.sleep(60 * DAY + 1)
    ended = await node.get(job)
    assert float(ended.result or b"0") - began == pytest.approx(60 * DAY, abs=1)


async def test_what_another_leaves_behind_is_rescued_when_its_lease_ends(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    """Nothing happens on this node meanwhile: it knows when to look."""
    node = await start_node(worker_count=0)
    job = await node.enqueue("work")
    store = node.node.service._store
    await store.claim(node=NodeId("ghost"), types=None, limit=1, lease_seconds=500)
    await trio.sleep(499)
    assert (await node.get(job)).status is Status.PROCESSING
    await trio.sleep(3)
    assert (await node.get(job)).status is Status.PENDING


async def test_a_node_that_died_with_empty_hands_is_forgotten_when_something_happens(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    node = await start_node(worker_count=0)
    await node.node.service._store.beat(NodeId("ghost"))
    await trio.sleep(4000)
    await node.enqueue("work")
    await trio.sleep(10)
    assert [seen.node for seen in await node.node.service.nodes()] == [node.node.id]


async def test_a_node_that_rested_for_long_is_still_the_one_that_it_was(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    """Its rescue, which another node's dead job calls for, finds it alive."""
    node = await start_node(worker_count=0)
    [began] = await node.node.service.nodes()
    await node.enqueue("work")
    store = node.node.service._store
    await store.claim(node=NodeId("ghost"), types=None, limit=1, lease_seconds=3000)
    await trio.sleep(4000)
    [seen] = await node.node.service.nodes()
    assert (seen.node, seen.started_at) == (began.node, began.started_at)


async def test_what_comes_too_late_and_what_is_old_ends_in_time(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    node = await start_node(worker_count=0, retention={Status.DEAD: timedelta(days=3)})
    store = node.node.service._store
    deadline = current_clock().now() + timedelta(days=2)
    [enqueued] = await store.enqueue([new_job(deadline_at=deadline)])
    await node.enqueue("other", delay_seconds=DAY)  # so that somebody looks
    await trio.sleep(2 * DAY + 1)
    assert (await node.get(enqueued.job)).status is Status.DEAD
    await trio.sleep(3 * DAY + 30)
    assert [job.status for job in (await node.node.service.list(limit=10)).jobs] == [Status.PENDING]


async def later(seconds: float, call: Callable[[], object]) -> None:
    await trio.sleep(seconds)
    call()
