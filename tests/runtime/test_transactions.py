"""A handler completes its job together with data of its own: both are there, or neither."""

from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

from tests.runtime.conftest import NodeUnderTest, StartNode
from tests.transactional import TransactionalStore
from trioqueue import Context, Handlers
from trioqueue.errors import MalformedJson, StoreUnavailable
from trioqueue.events import AttemptEnded, AttemptLost
from trioqueue.jobs.job import Job, Status
from trioqueue.jobs.outcome import Lost


@pytest.fixture
def store_url() -> str:
    return "memory:"


@pytest.fixture(autouse=True)
def transactional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trioqueue.store.open.MemoryStore", TransactionalStore)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What handlers' loggers are told."""
    lines: list[str] = []

    class Log:
        def bind(self, **_: object) -> "Log":
            return self

        def warning(self, event: str, **_: object) -> None:
            lines.append(event)

    monkeypatch.setattr(structlog.stdlib, "get_logger", lambda _: Log())
    return lines


def store_of(node: NodeUnderTest) -> TransactionalStore:
    store = node.node.service._store
    assert isinstance(store, TransactionalStore)
    return store


async def run(start_node: StartNode, function: Any, **options: Any) -> tuple[NodeUnderTest, Job]:
    """The job once the handler's first attempt has ended, and its node."""
    handlers = Handlers()
    handlers.handler("pay")(function)
    node = await start_node(handlers)
    job = await node.enqueue("pay", **options)
    await trio.sleep(0.5)
    return node, await node.get(job)


async def test_the_data_and_the_completion_are_there_together(
    start_node: StartNode, autojump_clock: MockClock, said: list[str]
) -> None:
    async def pay(ctx: Context) -> None:
        async with ctx.transaction() as connection:
            connection.append("receipt")
            ctx.set_result({"paid": 3})

    node, job = await run(start_node, pay)

    assert (job.status, job.result) == (Status.COMPLETED, b'{"paid":3}')
    assert store_of(node).rows == ("receipt",)
    [ended] = node.seen(AttemptEnded)
    assert isinstance(ended, AttemptEnded)
    assert (ended.job, ended.outcome, ended.status) == (job, "completed", "completed")
    assert await node.outcomes(job) == ["completed"]
    assert said == []
    assert node.node.leases_left == 0


async def test_an_error_in_the_block_rolls_back_and_the_job_is_tried_again(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    async def pay(ctx: Context) -> None:
        async with ctx.transaction() as connection:
            connection.append(f"attempt {ctx.attempt}")
            if ctx.attempt == 1:
                raise ZeroDivisionError

    node, job = await run(start_node, pay)
    assert (job.status, store_of(node).rows) == (Status.PENDING, ())

    job = await node.finished(job)

    assert (job.status, store_of(node).rows) == (Status.COMPLETED, ("attempt 2",))
    assert await node.outcomes(job) == ["failed", "completed"]


async def test_a_cancel_in_the_block_rolls_back(start_node: StartNode, autojump_clock: MockClock) -> None:
    async def pay(ctx: Context) -> None:
        async with ctx.transaction() as connection:
            connection.append("receipt")
            await trio.sleep_forever()

    node, job = await run(start_node, pay)
    receipt = await node.node.service.cancel(job.id, wait_seconds=5)

    assert receipt.job.status is Status.CANCELLED
    assert store_of(node).rows == ()


async def test_who_was_overtaken_commits_nothing(start_node: StartNode, autojump_clock: MockClock) -> None:
    async def pay(ctx: Context) -> None:
        async with ctx.transaction() as connection:
            connection.append(f"epoch {ctx.epoch}")
            if ctx.epoch == 1:
                await steal(ctx.job)

    async def steal(job: Job) -> None:
        """As if this node had been silent for too long."""
        store = store_of(nodes[0])
        store.shelf.keep(store.shelf.end_attempt(job, Lost("this node"), None, store.shelf.clock.now()))

    nodes: list[NodeUnderTest] = []
    handlers = Handlers()
    handlers.handler("pay")(pay)
    nodes.append(await start_node(handlers))
    job = await nodes[0].finished(await nodes[0].enqueue("pay"))

    assert store_of(nodes[0]).rows == ("epoch 2",)
    assert await nodes[0].outcomes(job) == ["lost", "completed"]
    assert len(nodes[0].seen(AttemptLost)) == 1


async def test_a_commit_whose_answer_is_late_is_not_taken_for_a_lost_lease(
    start_node: StartNode, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The renewal that comes in between finds the job settled, before anybody here knows why."""
    settle = TransactionalStore.settle

    async def settle_slowly(store: TransactionalStore, settlements: Any) -> Any:
        jobs = await settle(store, settlements)
        with trio.CancelScope(shield=True):
            await trio.sleep(15)
        return jobs

    async def pay(ctx: Context) -> None:
        async with ctx.transaction() as connection:
            connection.append("receipt")
        await trio.sleep_forever()

    monkeypatch.setattr(TransactionalStore, "settle", settle_slowly)
    node, job = await run(start_node, pay)
    await trio.sleep(20)

    assert (job.status, store_of(node).rows) == (Status.COMPLETED, ("receipt",))
    assert node.seen(AttemptLost) == []
    [ended] = node.seen(AttemptEnded)
    assert isinstance(ended, AttemptEnded)
    assert ended.outcome == "completed"


@pytest.mark.parametrize(
    ("then", "warning"),
    [
        ("return", None),
        ("return the same", None),
        ("return something else", "returned another result"),
        ("return nonsense", "failed after its transaction"),
        ("raise", "failed after its transaction"),
        ("snooze", "snoozed after its transaction"),
        ("begin another", "failed after its transaction"),
    ],
)
async def test_what_comes_after_the_block_changes_nothing(
    start_node: StartNode, autojump_clock: MockClock, said: list[str], then: str, warning: str | None
) -> None:
    async def pay(ctx: Context) -> object:
        async with ctx.transaction():
            ctx.set_result([1])
        match then:
            case "return the same":
                return [1]
            case "return something else":
                return 2
            case "return nonsense":
                return object()
            case "raise":
                raise ZeroDivisionError
            case "snooze":
                ctx.snooze(1)
            case "begin another":
                with pytest.raises(RuntimeError, match="has been committed"):
                    async with ctx.transaction():
                        pass
                raise ValueError
        return None

    node, job = await run(start_node, pay)

    assert (job.status, job.result) == (Status.COMPLETED, b"[1]")
    assert await node.outcomes(job) == ["completed"]
    assert len(node.seen(AttemptEnded)) == 1
    assert [line for line in said if warning is None or warning not in line] == []
    assert len(said) == (warning is not None)


async def test_a_handler_that_goes_on_after_the_block_has_not_lost_its_lease(
    start_node: StartNode, autojump_clock: MockClock, said: list[str]
) -> None:
    async def pay(ctx: Context) -> None:
        async with ctx.transaction():
            pass
        await trio.sleep(100)
        went_on.append(ctx.epoch)

    went_on: list[int] = []
    node, job = await run(start_node, pay)
    assert job.status is Status.COMPLETED
    assert node.node.leases_left == 0
    await trio.sleep(120)

    assert (went_on, said) == ([1], [])
    assert node.seen(AttemptLost) == []
    assert len(node.seen(AttemptEnded)) == 1


async def test_a_timeout_after_the_block_stops_the_handler_and_no_more(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    async def pay(ctx: Context) -> None:
        async with ctx.transaction():
            pass
        await trio.sleep_forever()

    node, job = await run(start_node, pay, timeout_seconds=10)
    await trio.sleep(20)

    assert await node.outcomes(job) == ["completed"]
    assert len(node.seen(AttemptEnded)) == 1


async def test_what_a_transaction_does_not_allow_is_told_at_once(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    async def pay(ctx: Context) -> None:
        with pytest.raises(RuntimeError, match="inside"):
            ctx.set_result(1)
        async with ctx.transaction():
            with pytest.raises(MalformedJson, match="cannot be kept"):
                ctx.set_result(object())
            with pytest.raises(MalformedJson, match="at most 1048576 are accepted"):
                ctx.set_result("x" * 1_048_576)
            with pytest.raises(RuntimeError, match="already"):
                async with ctx.transaction():
                    pass
            ctx.set_result("kept")
        with pytest.raises(RuntimeError, match="inside"):
            ctx.set_result(1)

    _, job = await run(start_node, pay)
    assert (job.status, job.result) == (Status.COMPLETED, b'"kept"')


async def test_after_a_block_that_failed_there_may_be_another(
    start_node: StartNode, autojump_clock: MockClock
) -> None:
    async def pay(ctx: Context) -> None:
        for word in ("first", "second"):
            try:
                async with ctx.transaction() as connection:
                    connection.append(word)
                    if word == "first":
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass

    node, job = await run(start_node, pay)
    assert (job.status, store_of(node).rows) == (Status.COMPLETED, ("second",))


async def test_a_store_that_is_away_fails_the_attempt(
    start_node: StartNode, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("cut off")

    async def pay(ctx: Context) -> None:
        with monkeypatch.context() as outage:
            outage.setattr(TransactionalStore, "transaction", away)
            async with ctx.transaction():
                pass

    _, job = await run(start_node, pay)
    assert (job.status, job.reason) == (
        Status.PENDING,
        "StoreUnavailable: the store is not available: cut off",
    )
