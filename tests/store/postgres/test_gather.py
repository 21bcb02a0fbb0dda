"""Many callers' jobs share a statement, and nobody suffers for a neighbour."""

from collections.abc import AsyncIterator, Sequence

import psycopg
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.store.postgres.conftest import OpenStore, until_somebody_waits
from trioqueue.errors import StoreUnavailable
from trioqueue.jobs.job import NewJob
from trioqueue.store.changes import accepted
from trioqueue.store.postgres.gather import MOST_JOBS, Gatherer
from trioqueue.store.protocol import Enqueued
from trioqueue.testing.conformance import HandClock, enqueue, everything, new_job

Submitted = list[list[NewJob]]


class FakeServer:
    """Takes a second for each statement."""

    def __init__(self) -> None:
        self.statements: list[list[NewJob]] = []
        self.deadlines: list[float] = []
        self.error: Exception | None = None

    async def enqueue(self, jobs: Sequence[NewJob], deadline: float) -> list[Enqueued]:
        self.statements.append(list(jobs))
        self.deadlines.append(deadline)
        await trio.sleep(1)
        if self.error is not None:
            raise self.error
        if any(job.type == "guilty" for job in jobs):
            raise ValueError("guilty")
        return [Enqueued(accepted(job, HandClock().now()), created=True) for job in jobs]


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
async def gatherer(server: FakeServer, nursery: trio.Nursery) -> AsyncIterator[Gatherer]:
    gatherer = Gatherer(server.enqueue, within=5)
    nursery.start_soon(gatherer.run)
    yield gatherer
    gatherer.close()


async def test_what_is_asked_for_while_a_statement_runs_goes_into_the_next(
    server: FakeServer, gatherer: Gatherer, autojump_clock: MockClock
) -> None:
    jobs = [new_job() for _ in range(10)]
    answers: dict[int, list[Enqueued]] = {}

    async def ask(number: int) -> None:
        answers[number] = await gatherer.submit([jobs[number]])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, 0)
        await wait_all_tasks_blocked()
        for number in range(1, 10):
            nursery.start_soon(ask, number)
    assert [len(statement) for statement in server.statements] == [1, 9]
    assert {n: [answer.job.id for answer in got] for n, got in answers.items()} == {
        n: [job.id] for n, job in enumerate(jobs)
    }


async def test_a_statement_is_answered_before_the_first_who_waits_gives_up(
    server: FakeServer, gatherer: Gatherer, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gatherer.submit, [new_job()])
        await trio.sleep(0.25)
        nursery.start_soon(gatherer.submit, [new_job()])
        await trio.sleep(0.25)
        nursery.start_soon(gatherer.submit, [new_job()])
    assert server.deadlines == [5, 5.25]


async def test_statements_stay_short(
    server: FakeServer, gatherer: Gatherer, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gatherer.submit, [new_job()])
        await wait_all_tasks_blocked()
        for _ in range(3):
            nursery.start_soon(gatherer.submit, [new_job() for _ in range(MOST_JOBS // 2)])
    assert [len(statement) for statement in server.statements] == [1, MOST_JOBS, MOST_JOBS // 2]


async def test_only_the_guilty_call_fails(
    server: FakeServer, gatherer: Gatherer, autojump_clock: MockClock
) -> None:
    results: list[str] = []

    async def ask(type: str) -> None:
        try:
            (answer,) = await gatherer.submit([new_job(type=type)])
            results.append(answer.job.type)
        except ValueError as error:
            results.append(str(error).upper())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "first")
        await wait_all_tasks_blocked()
        for type in ("good", "guilty", "fine"):
            nursery.start_soon(ask, type)
    assert sorted(results) == ["GUILTY", "fine", "first", "good"]


async def test_everybody_is_told_that_the_server_is_away(
    server: FakeServer, gatherer: Gatherer, autojump_clock: MockClock
) -> None:
    server.error = StoreUnavailable("away")
    told: list[str] = []

    async def ask() -> None:
        with pytest.raises(StoreUnavailable) as raised:
            await gatherer.submit([new_job()])
        told.append(raised.value.reason)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
    assert told == ["away"] * 3


async def test_who_waits_may_leave_and_who_was_sent_may_not(
    server: FakeServer, gatherer: Gatherer, autojump_clock: MockClock
) -> None:
    answered: list[str] = []

    async def ask(name: str, scope: trio.CancelScope) -> None:
        with scope:
            await gatherer.submit([new_job(type=name)])
            answered.append(name)

    sent, waiting = trio.CancelScope(), trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "sent", sent)
        await wait_all_tasks_blocked()
        nursery.start_soon(ask, "waiting", waiting)
        await wait_all_tasks_blocked()
        sent.cancel()
        waiting.cancel()
    assert answered == ["sent"]
    assert [[job.type for job in statement] for statement in server.statements] == [["sent"]]


async def test_nobody_is_taken_in_after_the_end(gatherer: Gatherer) -> None:
    gatherer.close()
    with pytest.raises(StoreUnavailable):
        await gatherer.submit([new_job()])


async def test_who_waits_for_a_unique_key_holds_up_nobody_else(
    open_postgres: OpenStore, postgres_database: str
) -> None:
    async with open_postgres() as store:
        with psycopg.connect(postgres_database) as application:
            application.execute("SELECT trioqueue.enqueue('noop', unique_key => 'report')")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(enqueue_with_key, store)
                await until_somebody_waits(postgres_database)
                with trio.fail_after(1):
                    for _ in range(5):
                        await enqueue(store)
                application.rollback()
        assert len(await everything(store)) == 6


async def enqueue_with_key(store: object) -> None:
    await enqueue(store, unique_key="report")  # type: ignore[arg-type]
