"""What becomes of a job, whatever its handler does. Every story runs on both stores, in virtual time."""

import subprocess
import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.runtime.conftest import StartNode
from trioqueue import Context, Handlers
from trioqueue.clock import EPOCH_OF_TESTS
from trioqueue.errors import NotSupported
from trioqueue.events import AttemptEnded, ClaimsReleased
from trioqueue.jobs.job import Status


async def test_a_job_runs_and_keeps_its_result(start_node: StartNode, autojump_clock: MockClock) -> None:
    handlers = Handlers()

    @handlers.handler("add")
    async def add(ctx: Context, a: int, b: int = 2) -> dict[str, int]:
        return {"sum": a + b}

    node = await start_node(handlers)
    job = await node.finished(await node.enqueue("add", {"a": 40}))

    assert job.status is Status.COMPLETED
    assert job.result == b'{"sum":42}'
    assert await node.outcomes(job) == ["completed"]


async def test_a_failing_job_is_retried_until_it_is_dead(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = Handlers()
    started: list[float] = []

    @handlers.handler("fail")
    async def fail(ctx: Context) -> None:
        started.append(trio.current_time())
        raise KeyError("missing")

    node = await start_node(handlers)
    job = await node.finished(await node.enqueue("fail", max_attempts=4))

    assert (job.status, job.attempt, job.reason) == (Status.DEAD, 4, "KeyError: 'missing'")
    assert await node.outcomes(job) == ["failed"] * 4
    waits = [later - earlier for earlier, later in pairwise(started)]
    assert all(base <= wait <= base * 1.25 + 1.3 for base, wait in zip([2, 4, 8], waits, strict=True)), waits


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        BaseExceptionGroup("g", [SystemExit(1), ValueError("x")]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_handler_raises_the_node_lives(
    start_node: StartNode, autojump_clock: MockClock, error: BaseException
) -> None:
    handlers = Handlers()

    @handlers.handler("raise")
    async def raise_it(ctx: Context) -> None:
        raise error

    @handlers.handler("fine")
    async def fine(ctx: Context) -> None: ...

    node = await start_node(handlers)
    bad = await node.finished(await node.enqueue("raise", max_attempts=1))
    good = await node.finished(await node.enqueue("fine"))

    assert (bad.status, good.status) == (Status.DEAD, Status.COMPLETED)


async def test_a_cancelled_of_some_other_scope_is_only_a_failed_attempt(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = Handlers()

    @handlers.handler("stray")
    async def stray(ctx: Context) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.sleep(1)
            except trio.Cancelled as cancelled:
                kept = cancelled
                raise
        raise kept

    node = await start_node(handlers)
    job = await node.finished(await node.enqueue("stray", max_attempts=1))

    assert job.status is Status.DEAD


async def test_a_timeout_is_a_failed_attempt_with_a_name(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = Handlers()

    @handlers.handler("slow", timeout_seconds=3, max_attempts=2)
    async def slow(ctx: Context) -> None:
        await trio.sleep(60)

    node = await start_node(handlers)
    job = await node.finished(await node.enqueue("slow"))

    assert (job.status, job.reason) == (Status.DEAD, "timed out after 3 s")
    assert await node.outcomes(job) == ["timed_out", "timed_out"]


async def test_a_deadline_ends_the_attempt_and_the_job(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = Handlers()

    @handlers.handler("slow")
    async def slow(ctx: Context) -> None:
        assert ctx.deadline is not None
        await trio.sleep(60)

    node = await start_node(handlers)
    job = await node.finished(await node.enqueue("slow", deadline_at=EPOCH_OF_TESTS + timedelta(seconds=10)))

    assert job.status is Status.DEAD
    assert job.finished_at is not None
    assert job.finished_at - EPOCH_OF_TESTS < timedelta(seconds=20)
    assert await node.outcomes(job) == ["timed_out"]


async def test_a_long_job_keeps_a_short_lease(start_node: StartNode, autojump_clock: MockClock) -> None:
    handlers = Handlers()

    @handlers.handler("long")
    async def long(ctx: Context) -> str:
        await trio.sleep(3600)
        return "done"

    node = await start_node(handlers, lease_seconds=5)
    job = await node.finished(await node.enqueue("long"))

    assert (job.status, job.epoch, job.crash_count) == (Status.COMPLETED, 1, 0)


async def test_a_snoozed_job_runs_later_and_keeps_its_attempt(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = Handlers()
    runs: list[tuple[float, int]] = []

    @handlers.handler("wait")
    async def wait(ctx: Context) -> None:
        runs.append((trio.current_time(), ctx.attempt))
        if len(runs) < 3:
            try:
                ctx.snooze(100, "not yet")
            except Exception:  # a careless handler must not swallow it
                pytest.fail("snooze was swallowed")

    node = await start_node(handlers)
    job = await node.finished(await node.enqueue("wait"))

    assert [attempt for _, attempt in runs] == [1, 1, 1]
    assert runs[1][0] - runs[0][0] == pytest.approx(100, abs=1.5)
    assert (job.status, job.attempt) == (Status.COMPLETED, 1)
    assert await node.outcomes(job) == ["snoozed", "snoozed", "completed"]


async def test_a_delayed_job_starts_when_it_is_due(start_node: StartNode, autojump_clock: MockClock) -> None:
    handlers = Handlers()
    started: list[datetime] = []

    @handlers.handler("later")
    async def later(ctx: Context) -> None:
        assert ctx.job.started_at is not None
        started.append(ctx.job.started_at)

    node = await start_node(handlers)
    due = EPOCH_OF_TESTS + timedelta(hours=2)
    await node.finished(await node.enqueue("later", run_at=due))

    assert due <= started[0] <= due + timedelta(seconds=1.5)


async def test_a_result_that_is_not_json_fails_for_good(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = Handlers()

    @handlers.handler("odd")
    async def odd(ctx: Context) -> object:
        return float("nan")

    node = await start_node(handlers)
    job = await node.finished(await node.enqueue("odd"))

    assert (job.status, job.attempt) == (Status.DEAD, 1)
    assert job.reason is not None
    assert "result cannot be kept" in job.reason


async def test_progress_is_shown_and_stays(start_node: StartNode, autojump_clock: MockClock) -> None:
    handlers = Handlers()

    @handlers.handler("steps")
    async def steps(ctx: Context) -> None:
        await ctx.progress(1, 2, "half")
        await trio.sleep(10)

    node = await start_node(handlers)
    job = await node.enqueue("steps")
    await trio.sleep(5)
    assert (await node.get(job)).progress == b'{"done":1,"total":2,"message":"half"}'
    assert (await node.finished(job)).progress is not None


async def test_a_plain_function_runs_in_a_thread(start_node: StartNode, autojump_clock: MockClock) -> None:
    handlers = Handlers()

    @handlers.handler("thread", timeout_seconds=1)
    def thread(ctx: Context, n: int) -> dict[str, Any]:
        ctx.report(1, n)
        return {"main": threading.current_thread() is threading.main_thread(), "key": ctx.idempotency_key}

    node = await start_node(handlers)
    job = await node.finished(await node.enqueue("thread", {"n": 3}))

    assert job.result == b'{"main":false,"key":"trioqueue-%s"}' % job.id.encode()


async def test_cancelling_a_processing_job_stops_its_whole_subtree(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = Handlers()
    ended: list[str] = []

    async def child(name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.2)
            ended.append(name)

    @handlers.handler("tree")
    async def tree(ctx: Context) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, "a")
            nursery.start_soon(child, "b")

    node = await start_node(handlers)
    job = await node.enqueue("tree")
    await trio.sleep(1)
    receipt = await node.node.service.cancel(job.id, wait_seconds=5)

    assert receipt.confirmed
    assert sorted(ended) == ["a", "b"]
    assert receipt.after_seconds == pytest.approx(0.2, abs=0.05)
    assert receipt.job.status is Status.CANCELLED
    assert await node.outcomes(job) == ["cancelled"]


async def test_cancel_tells_when_something_still_unwinds(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = Handlers()

    @handlers.handler("stubborn")
    async def stubborn(ctx: Context) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(20)

    node = await start_node(handlers)
    job = await node.enqueue("stubborn")
    await trio.sleep(1)

    first = await node.node.service.cancel(job.id, wait_seconds=2)
    second = await node.node.service.cancel(job.id, wait_seconds=60)

    assert not first.confirmed
    assert second.confirmed


async def test_cancelling_a_thread_works_where_it_asks(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = Handlers()
    rounds = []

    @handlers.handler("loop")
    def loop(ctx: Context) -> None:
        while True:
            rounds.append(1)
            ctx.check_cancelled()
            threading.Event().wait(0.005)

    node = await start_node(handlers)
    job = await node.enqueue("loop")
    while not rounds:
        await trio.lowlevel.checkpoint()
    receipt = await node.node.service.cancel(job.id, wait_seconds=30)

    assert receipt.confirmed
    assert receipt.job.status is Status.CANCELLED


async def test_a_pending_job_is_cancelled_at_once_and_never_runs(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = Handlers()
    ran = []

    @handlers.handler("later")
    async def later(ctx: Context) -> None:
        ran.append(1)

    node = await start_node(handlers)
    job = await node.enqueue("later", delay_seconds=60)
    receipt = await node.node.service.cancel(job.id, wait_seconds=0)
    await trio.sleep(200)

    assert receipt.confirmed
    assert ran == []


async def test_stopping_lets_attempts_finish_and_releases_what_waits(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = Handlers()

    @handlers.handler("work")
    async def work(ctx: Context) -> None:
        await trio.sleep(10)

    node = await start_node(handlers, worker_count=2, grace_seconds=30)
    jobs = [await node.enqueue("work") for _ in range(6)]
    await trio.sleep(1)
    started = trio.current_time()
    node.node.stop()
    await node.node.stopped.wait()

    assert trio.current_time() - started == pytest.approx(9, abs=0.5)
    ended = [event for event in node.seen(AttemptEnded) if isinstance(event, AttemptEnded)]
    assert {event.job.id for event in ended} == {job.id for job in jobs[:2]}
    assert {event.status for event in ended} == {Status.COMPLETED}


async def test_after_the_grace_period_attempts_are_released_and_cost_nothing(
    store_url: str, start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = Handlers()

    @handlers.handler("endless")
    async def endless(ctx: Context) -> None:
        await trio.sleep_forever()

    node = await start_node(handlers, grace_seconds=5)
    await node.enqueue("endless")
    await trio.sleep(1)
    started = trio.current_time()
    node.node.stop()
    await node.node.stopped.wait()

    assert trio.current_time() - started == pytest.approx(5, abs=0.6)
    [ended] = [event for event in node.seen(AttemptEnded) if isinstance(event, AttemptEnded)]
    assert (ended.outcome, ended.status, ended.job.attempt) == ("released", "pending", 0)
    assert node.node.leases_left == 0


async def test_a_second_signal_cuts_the_grace_period(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = Handlers()

    @handlers.handler("endless")
    async def endless(ctx: Context) -> None:
        await trio.sleep_forever()

    node = await start_node(handlers, grace_seconds=60)
    await node.enqueue("endless")
    await trio.sleep(1)
    node.node.stop()
    await trio.sleep(1)
    started = trio.current_time()
    node.node.cut()
    await node.node.stopped.wait()

    assert trio.current_time() - started < 1


async def test_a_handler_that_never_lets_go_does_not_hold_the_node(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = Handlers()

    @handlers.handler("deaf")
    async def deaf(ctx: Context) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(10)

    node = await start_node(handlers, grace_seconds=1)
    await node.enqueue("deaf")
    await trio.sleep(0.5)
    node.node.stop()
    await node.node.stopped.wait()

    assert node.node.leases_left in (0, 1)


async def test_long_jobs_do_not_hold_others_back(start_node: StartNode, autojump_clock: MockClock) -> None:
    """After many short jobs the look-ahead is large; claims stuck behind long jobs are given back."""
    handlers = Handlers()

    @handlers.handler("work")
    async def work(ctx: Context, seconds: float) -> None:
        await trio.sleep(seconds)

    node = await start_node(handlers, worker_count=2)
    for _ in range(300):
        await node.enqueue("work", {"seconds": 0.0})
    for _ in range(20):
        await node.enqueue("work", {"seconds": 50.0})
    await trio.sleep(10)

    assert node.node.leases_left <= 2
    for event in node.seen(ClaimsReleased):
        assert isinstance(event, ClaimsReleased)


async def test_run_process_leaves_no_descendant(start_node: StartNode) -> None:
    """On the real clock: a shell that ignores SIGTERM, with children in other groups and sessions."""
    handlers = Handlers()
    script = "trap '' TERM; sleep 1000 & setsid sleep 1001 & (setsid setsid sleep 1002 &) ; sleep 1003"

    @handlers.handler("shell")
    async def shell(ctx: Context) -> None:
        await ctx.run_process(["sh", "-c", script])

    def alive() -> list[str]:
        found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        return [line for line in found.splitlines() if line.startswith("sleep 100")]

    node = await start_node(handlers)
    job = await node.enqueue("shell")
    with trio.fail_after(10):
        while len(alive()) < 4:  # noqa: ASYNC110 — processes of the system's have no event
            await trio.sleep(0.05)
    receipt = await node.node.service.cancel(job.id, wait_seconds=8)

    assert receipt.confirmed
    assert alive() == []


async def test_run_process_returns_what_was_written(start_node: StartNode) -> None:
    handlers = Handlers()

    @handlers.handler("count")
    async def count(ctx: Context, text: str) -> str:
        done = await ctx.run_process(["wc", "-c"], stdin=text.encode())
        return done.stdout.decode().strip()

    node = await start_node(handlers)
    job = await node.finished(await node.enqueue("count", {"text": "hello"}))

    assert job.result == b'"5"'


async def test_times_are_utc(start_node: StartNode, autojump_clock: MockClock) -> None:
    node = await start_node(demo_seconds=2)
    job = await node.finished(await node.enqueue("anything", [1, 2]))
    assert job.created_at.tzinfo is UTC
    assert job.started_at is not None
    assert job.finished_at is not None
    assert job.finished_at - job.started_at >= timedelta(seconds=2)


async def test_a_store_without_transactions_says_what_is_needed(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    async def pay(ctx: Context) -> None:
        with pytest.raises(NotSupported, match="transactions need a PostgreSQL store"):
            async with ctx.transaction():
                pass

    handlers = Handlers()
    handlers.handler("pay")(pay)
    node = await start_node(handlers)
    job = await node.finished(await node.enqueue("pay"))
    assert job.status is Status.COMPLETED
