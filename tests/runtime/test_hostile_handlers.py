"""Handlers, payloads and surroundings that mean harm, or only happen. None may end the node or keep a job."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.runtime.conftest import StartNode
from tests.web.hosts import wait_until
from trioqueue import Context, Handlers
from trioqueue.errors import InvalidJob, MalformedJson, StoreUnavailable
from trioqueue.events import Event
from trioqueue.jobs import codec
from trioqueue.jobs.job import Job, Status
from trioqueue.runtime.processes import MARK, _process, kill_orphans
from trioqueue.store.protocol import Settlement


@pytest.mark.parametrize("text", [b"[{" * 40 + b'"\\' * 200_000, b"[1" + b"1" * 110 + b'"\\' * 200_000])
def test_checking_a_text_takes_time_in_proportion_to_its_length(text: bytes) -> None:
    """400 kB took minutes once. The bound is generous: it tells linear from quadratic, not fast from slow."""
    began = time.process_time()
    with pytest.raises(MalformedJson):
        codec.decode(text)
    assert time.process_time() - began < 5


async def test_a_snooze_inside_of_a_nursery_is_a_snooze(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = Handlers()
    runs: list[int] = []

    async def child(ctx: Context) -> None:
        ctx.snooze(10, "in a nursery")

    @handlers.handler("nested")
    async def nested(ctx: Context) -> None:
        runs.append(ctx.attempt)
        if len(runs) == 1:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(child, ctx)

    node = await start_node(handlers)
    job = await node.finished(await node.enqueue("nested"))

    assert (job.status, runs) == (Status.COMPLETED, [1, 1])
    assert await node.outcomes(job) == ["snoozed", "completed"]


@pytest.mark.parametrize("reason", ["\ud800", "a\0b", "x" * 1_000_000, "line\nline"])
async def test_any_text_may_be_the_reason_of_a_snooze(
    start_node: StartNode, autojump_clock: MockClock, reason: str
) -> None:
    handlers = Handlers()
    runs: list[int] = []

    @handlers.handler("wait")
    async def wait(ctx: Context) -> None:
        runs.append(1)
        if len(runs) == 1:
            ctx.snooze(1, reason)

    node = await start_node(handlers)
    job = await node.finished(await node.enqueue("wait"))

    assert await node.outcomes(job) == ["snoozed", "completed"]


async def test_a_payload_type_that_raises_fails_the_job_and_nothing_else(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = Handlers()
    broken = False

    @dataclass
    class Picky:
        value: int

        def __post_init__(self) -> None:
            if broken:
                raise KeyError("picky")

    async def picky(ctx: Context, picky: Picky) -> None: ...

    picky.__annotations__ = {"ctx": Context, "picky": Picky, "return": None}
    handlers.handler("picky")(picky)

    node = await start_node(handlers)
    jobs = [await node.enqueue("picky", {"picky": {"value": n}}, delay_seconds=5) for n in range(12)]
    broken = True
    with pytest.raises(InvalidJob, match="KeyError"):
        await node.enqueue("picky", {"picky": {"value": 1}})
    for job in jobs:
        assert (await node.finished(job)).status is Status.DEAD
    assert node.node.leases_left == 0


async def test_an_outcome_that_the_store_cannot_keep_does_not_end_the_node(
    start_node: StartNode, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = Handlers()

    @handlers.handler("work")
    async def work(ctx: Context) -> str:
        return "too much for the store"

    node = await start_node(handlers)
    store = node.node.service._store
    settle = store.settle
    calls: list[int] = []

    async def refuse_once(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise OverflowError
        return await settle(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "settle", refuse_once)
    job = await node.finished(await node.enqueue("work"))

    assert (job.status, job.reason) == (Status.DEAD, "the outcome could not be recorded: OverflowError")


async def test_a_result_has_a_limit(start_node: StartNode, autojump_clock: MockClock) -> None:
    handlers = Handlers()

    @handlers.handler("big")
    async def big(ctx: Context) -> str:
        return "x" * 2000

    node = await start_node(handlers, max_payload_bytes=1000)
    job = await node.finished(await node.enqueue("big"))

    assert job.status is Status.DEAD
    assert job.reason is not None
    assert "at most 1000" in job.reason


async def test_progress_is_passed_over_while_the_store_is_away(
    start_node: StartNode, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = Handlers()

    @handlers.handler("steps")
    async def steps(ctx: Context) -> str:
        await ctx.progress(1, 2)
        return "done"

    async def away(*_: object) -> None:
        raise StoreUnavailable("locked")

    node = await start_node(handlers)
    monkeypatch.setattr(node.node.service._store, "progress", away)
    job = await node.finished(await node.enqueue("steps", max_attempts=1))

    assert job.status is Status.COMPLETED


async def test_a_listener_that_raises_is_nobodys_trouble(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    def raise_it(event: Event) -> None:
        raise OSError("the log's disk is full")

    node = await start_node()
    node.node.events.listen(raise_it)
    job = await node.finished(await node.enqueue("anything"))

    assert job.status is Status.COMPLETED


async def test_what_could_not_be_settled_is_counted_as_left(
    start_node: StartNode, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 0 would say that everything was settled or given back."""
    handlers = Handlers()

    @handlers.handler("work")
    async def work(ctx: Context) -> None:
        await trio.sleep(2)

    async def away(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailable("disk full")

    node = await start_node(handlers, grace_seconds=5)
    for _ in range(3):
        await node.enqueue("work")
    await trio.sleep(1)
    with monkeypatch.context() as outage:
        outage.setattr(node.node.service._store, "settle", away)
        node.node.stop()
        await node.node.stopped.wait()

    assert node.node.leases_left == 3


async def test_a_users_threads_do_not_starve_the_store(start_node: StartNode) -> None:
    """On the real clock: forty threads of a handler's own take all that Trio has to give by default."""
    handlers = Handlers()
    release = trio.Event()

    def wait_for(stop: Path) -> None:
        wait_until(stop.exists, 20)

    @handlers.handler("greedy")
    async def greedy(ctx: Context, stop: str) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(trio.to_thread.run_sync, wait_for, Path(stop))
            release.set()

    node = await start_node(handlers)
    stop = Path(os.environ.get("TMPDIR", "/tmp")) / f"trioqueue-test-{os.getpid()}"
    try:
        job = await node.enqueue("greedy", {"stop": str(stop)})
        with trio.fail_after(10):
            await release.wait()
        with trio.fail_after(3):
            await node.enqueue("greedy", {"stop": str(stop)}, delay_seconds=1000)
    finally:
        stop.touch()
    job = await node.finished(job)
    stop.unlink()

    assert job.status is Status.COMPLETED


def started_by(mark: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "300"], env={**os.environ, MARK: mark})


def test_subprocesses_of_a_service_that_was_killed_are_ended() -> None:
    namespace, _, mine = _process(os.getpid()).partition("-")
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    orphan = started_by(f"{namespace}-{gone.pid}-12345-abc")
    reused = started_by(f"{namespace}-{os.getpid()}-1-abc")
    own = started_by(f"{namespace}-{mine}-abc")
    foreign = started_by(f"1-{gone.pid}-12345-abc")
    try:
        kill_orphans()
        for killed in (orphan, reused):
            assert killed.wait(5) == -9
        assert (own.poll(), foreign.poll()) == (None, None)
    finally:
        for process in (orphan, reused, own, foreign):
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    "declare", [lambda h: h.handler(lambda ctx: None), lambda h: h.handler("a")(_yields)]
)
def test_a_declaration_that_cannot_work_is_refused(declare: Callable[[Handlers], object]) -> None:
    with pytest.raises(TypeError, match=r"write @handlers.handler|not yield"):
        declare(Handlers())


async def _yields(ctx: Context):  # type: ignore[no-untyped-def]
    yield 1


async def test_our_own_errors_raised_by_a_handler_are_tried_again(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    handlers = Handlers()

    @handlers.handler("odd")
    async def odd(ctx: Context) -> None:
        if ctx.attempt == 1:
            await ctx.progress(float("nan"))

    node = await start_node(handlers)
    job = await node.finished(await node.enqueue("odd"))

    assert await node.outcomes(job) == ["failed", "completed"]


async def test_a_handler_that_unwinds_slowly_is_released_when_it_has_ended(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    """It ends after the last moment for settling, and before the process: nobody waits for its lease."""
    handlers = Handlers()

    @handlers.handler("slow")
    async def slow(ctx: Context) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.9)

    node = await start_node(handlers, grace_seconds=1)
    store = node.node.service._store
    job = await node.enqueue("slow")
    await trio.sleep(0.5)
    settled: list[object] = []
    settle = store.settle

    async def watch(settlements: Sequence[Settlement]) -> Sequence[Job | None]:
        jobs = await settle(settlements)
        settled.extend(jobs)
        return jobs

    store.settle = watch  # type: ignore[method-assign]
    node.node.stop()
    await node.node.stopped.wait()

    assert node.node.leases_left == 0
    [last] = settled
    assert isinstance(last, Job)
    assert (last.id, last.status, last.attempt, last.crash_count) == (job.id, Status.PENDING, 0, 0)
