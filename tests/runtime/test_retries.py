"""What a handler's policy makes of its failures, through a whole node in virtual time."""

from datetime import timedelta
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.runtime.conftest import StartNode
from trioqueue import Context, Handlers, Retry
from trioqueue.jobs.job import Attempt, Status

STEADY = Retry(base_seconds=10, factor=1, spread=0)


class Busy(Exception):
    retry_after = timedelta(minutes=5)


def failing(*errors: BaseException, retry: Retry, **options: Any) -> Handlers:
    """A handler that raises these, one at each attempt, and then returns."""
    handlers = Handlers()
    rest = list(errors)

    @handlers.handler("fail", retry=retry, **options)
    async def fail(ctx: Context) -> None:
        if rest:
            raise rest.pop(0)

    return handlers


async def waits(start_node: StartNode, handlers: Handlers) -> tuple[Status, list[int]]:
    """How the job ends, and how many whole seconds lie between its attempts."""
    test = await start_node(handlers)
    job = await test.finished(await test.enqueue("fail"))
    attempts: list[Attempt] = list((await test.node.service.get(job.id))[1])
    pauses = [after.started_at - before.ended_at for before, after in pairwise(attempts)]
    return job.status, [int(pause.total_seconds()) for pause in pauses]


async def test_a_type_has_its_own_backoff(start_node: StartNode, autojump_clock: MockClock) -> None:
    handlers = failing(OSError(), OSError(), retry=STEADY)
    assert await waits(start_node, handlers) == (Status.COMPLETED, [10, 10])


async def test_an_error_that_is_not_retried_makes_the_job_dead_at_once(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = failing(KeyError("no such user"), retry=Retry(by_error={LookupError: None}))
    assert await waits(start_node, handlers) == (Status.DEAD, [])


async def test_each_kind_of_error_can_have_its_own_backoff(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    patient = Retry(base_seconds=100, spread=0)
    retry = Retry(base_seconds=1, spread=0, by_error={ConnectionError: patient})
    handlers = failing(ValueError(), ConnectionResetError(), retry=retry)
    assert await waits(start_node, handlers) == (Status.COMPLETED, [1, 200])


async def test_a_nursery_around_the_error_changes_nothing(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    retry = Retry(base_seconds=10, spread=0, by_error={ValueError: None})
    alone = ExceptionGroup("nursery", [ValueError()])
    mixed = ExceptionGroup("nursery", [ValueError(), OSError()])
    assert await waits(start_node, failing(alone, retry=retry)) == (Status.DEAD, [])
    status, pauses = await waits(start_node, failing(mixed, retry=retry))
    assert (status, pauses) == (Status.COMPLETED, [10])


async def test_an_error_that_says_retry_after_is_obeyed(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = failing(Busy(), retry=STEADY)
    assert await waits(start_node, handlers) == (Status.COMPLETED, [300])


async def test_a_timeout_waits_as_long_as_a_failure(start_node: StartNode, autojump_clock: MockClock) -> None:
    handlers = Handlers()

    @handlers.handler("fail", timeout_seconds=1, retry=STEADY)
    async def fail(ctx: Context) -> None:
        if ctx.attempt == 1:
            await trio.sleep(100)

    assert await waits(start_node, handlers) == (Status.COMPLETED, [10])


@pytest.mark.parametrize("store_url", ["sqlite", "postgres"], indirect=True)  # memory ends with its node
async def test_twenty_deploys_during_a_job_leave_its_budget_untouched(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = Handlers()

    @handlers.handler("long", max_attempts=1)
    async def long(ctx: Context) -> None:
        await trio.sleep(60)

    random = Random(20)
    test = await start_node(handlers, grace_seconds=2)
    job = await test.enqueue("long")
    for _ in range(20):
        await trio.sleep(random.uniform(1, 50))
        test.node.stop()
        await test.node.stopped.wait()
        test = await start_node(handlers, grace_seconds=2)
    await trio.sleep(5)
    before = await test.get(job)
    job = await test.finished(job)

    assert (before.status, before.attempt, before.crash_count) == (Status.PROCESSING, 1, 0)
    assert (job.status, job.attempt, job.max_attempts, job.crash_count) == (Status.COMPLETED, 1, 1, 0)
    assert await test.outcomes(job) == ["released"] * 20 + ["completed"]
