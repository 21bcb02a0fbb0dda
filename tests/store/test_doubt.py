"""Writes to the SQLite store that break off: were they committed? And what the next ones make of it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from random import Random
from typing import Any

import apsw
import pytest
import trio

from trioqueue.clock import run_inline
from trioqueue.errors import StoreUnavailable
from trioqueue.jobs.job import Claim, NodeId, Status
from trioqueue.jobs.outcome import Completed, Failed, Released, Snoozed
from trioqueue.store.open import open_store
from trioqueue.store.protocol import Hint, Settlement, Store
from trioqueue.store.sqlite import connection as connections
from trioqueue.store.sqlite import operations, settling
from trioqueue.store.sqlite.store import SqliteStore
from trioqueue.store.sqlite.transaction import Transaction
from trioqueue.testing.conformance import (
    ALICE,
    BOB,
    HandClock,
    claim,
    claim_one,
    enqueue,
    everything,
    new_job,
    settle,
)

in_either_case = pytest.mark.parametrize("kept", [True, False], ids=["it was kept", "it was not"])


class Cable:
    """On the way to the file: the next writes break off, after the commit (`kept`) or before."""

    def __init__(self) -> None:
        self.breaks = 0
        self.kept = True
        self.runs = 0
        self.free = trio.Event()
        self.free.set()
        """Not set: the next write waits, and those that come meanwhile will share a commit."""
        self.when_it_breaks: Callable[[], object] = lambda: None

    def loosen(self, breaks: int = 1, *, kept: bool = True) -> None:
        self.breaks = breaks
        self.kept = kept

    async def run_sync(self, function: Callable[[], Any]) -> Any:
        await self.free.wait()
        self.runs += 1
        if not self.breaks:
            return function()
        self.breaks -= 1
        if self.kept:
            function()
        self.when_it_breaks()
        raise OSError("the cable is loose")


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def cable() -> Cable:
    return Cable()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


def open_at(
    path: Path, clock: HandClock, *, cable: Cable | None = None, node: NodeId = ALICE
) -> AbstractAsyncContextManager[Store]:
    run_sync = run_inline if cable is None else cable.run_sync
    return open_store(f"sqlite:///{path}", clock=clock, random=Random(0), node=node, run_sync=run_sync)


@pytest.fixture
async def store(path: Path, clock: HandClock, cable: Cable) -> AsyncIterator[Store]:
    """Alice's, over the cable."""
    async with open_at(path, clock, cable=cable) as store:
        yield store


@pytest.fixture
async def neighbour(path: Path, clock: HandClock, store: Store) -> AsyncIterator[Store]:
    """Bob's, on the same file."""
    async with open_at(path, clock, node=BOB) as neighbour:
        yield neighbour


def doubtful() -> Any:
    return pytest.raises(StoreUnavailable, match=r"^the store is not available: no answer: .*cable is loose")


# enqueue


@in_either_case
async def test_jobs_whose_write_broke_off_are_kept_once(store: Store, cable: Cable, kept: bool) -> None:
    """The answer is lost; asked again with the same ids, the store knows."""
    cable.loosen(kept=kept)
    first, second = await store.enqueue([new_job(), new_job(unique_key="key")])
    assert (first.created, second.created) == (True, True)
    assert [job.id for job in await everything(store)] == [second.job.id, first.job.id]

    cable.loosen(kept=kept)
    [other] = await store.enqueue([new_job(unique_key="key")])
    assert not other.created


@in_either_case
async def test_two_new_jobs_of_one_broken_call_that_are_one_count_once(
    store: Store, cable: Cable, kept: bool
) -> None:
    new = new_job(unique_key="report")
    cable.loosen(kept=kept)
    answers = await store.enqueue([new, new, new_job(unique_key="report")])
    assert [answer.created for answer in answers] == [True, False, False]
    assert {answer.job.id for answer in answers} == {new.id}
    assert len(await everything(store)) == 1


async def test_jobs_that_were_kept_in_doubt_ring_for_work(store: Store, cable: Cable) -> None:
    hints: list[Hint] = []
    store.listen(hints.append)
    cable.loosen()
    await enqueue(store)
    assert hints == [Hint.WORK]


@in_either_case
async def test_a_caller_who_is_cancelled_in_doubt_learns_that_the_job_is_kept(
    store: Store, cable: Cable, kept: bool
) -> None:
    cable.loosen(kept=kept)
    with trio.CancelScope() as scope:
        cable.when_it_breaks = scope.cancel
        [answer] = await store.enqueue([new_job()])
    assert answer.created
    assert not scope.cancelled_caught
    assert await everything(store) == [answer.job]


async def test_a_second_try_that_breaks_off_leaves_the_doubt(store: Store, cable: Cable) -> None:
    cable.loosen(2, kept=False)
    with doubtful():
        await enqueue(store)
    assert await everything(store) == []


async def test_a_second_try_that_certainly_failed_leaves_the_doubt_of_the_first(
    path: Path, store: Store, cable: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_wait_for_writer", lambda waited: False)
    with closing(apsw.Connection(str(path))) as other:
        cable.loosen()
        cable.when_it_breaks = lambda: other.execute("BEGIN IMMEDIATE")
        with doubtful():
            await enqueue(store)
    assert len(await everything(store)) == 1


# settle


@in_either_case
async def test_an_outcome_whose_write_broke_off_is_recorded_once(
    store: Store, cable: Cable, kept: bool
) -> None:
    await enqueue(store)
    settlement = Settlement(await claim_one(store), Completed(), worker=3)
    cable.loosen(kept=kept)
    with doubtful():
        await store.settle([settlement])

    (job,) = await store.settle([settlement])
    assert job is not None
    assert job == await store.get(job.id)
    assert job.status is Status.COMPLETED
    assert [(attempt.outcome, attempt.worker) for attempt in await store.attempts(job.id)] == [
        ("completed", 3)
    ]
    # That was the answer. From now on the claim is as lost as any other that was settled before.
    assert await store.settle([settlement]) == [None]


@in_either_case
async def test_an_outcome_is_in_doubt_until_there_is_an_answer(
    store: Store, cable: Cable, kept: bool
) -> None:
    await enqueue(store)
    settlement = Settlement(await claim_one(store), Completed(), worker=3)
    cable.loosen(4, kept=kept)
    for _ in range(4):
        with doubtful():
            await store.settle([settlement])
    (job,) = await store.settle([settlement])
    assert job is not None


@in_either_case
async def test_of_a_broken_call_each_is_answered_once_and_a_lost_one_stays_lost(
    store: Store, cable: Cable, clock: HandClock, kept: bool
) -> None:
    for _ in range(3):
        await enqueue(store)
    late = await claim_one(store, lease_seconds=1)
    good, other = await claim(store, 2)
    clock.advance(1)
    await store.rescue(limit=1)
    both = [Settlement(late, Completed(), 1), Settlement(good, Completed(), 1)]
    cable.loosen(kept=kept)
    with doubtful():
        await store.settle(both)

    answers = await store.settle([*both, both[1], Settlement(other, Completed(), 1)])
    assert [job and job.id for job in answers] == [None, good.job.id, None, other.job.id]


async def test_a_job_that_is_due_again_rings_when_its_doubt_ends(store: Store, cable: Cable) -> None:
    await enqueue(store)
    settlement = Settlement(await claim_one(store), Snoozed(0), worker=3)
    cable.loosen()
    with doubtful():
        await store.settle([settlement])
    hints: list[Hint] = []
    store.listen(hints.append)
    await store.settle([settlement])
    assert hints == [Hint.WORK]


async def test_an_outcome_in_doubt_is_answered_with_the_job_as_it_is_now(
    store: Store, neighbour: Store, cable: Cable
) -> None:
    await enqueue(store)
    settlement = Settlement(await claim_one(store), Snoozed(0), worker=3)
    cable.loosen()
    with doubtful():
        await store.settle([settlement])
    again = await claim_one(neighbour, node=BOB)
    (job,) = await store.settle([settlement])
    assert job == again.job


async def test_what_a_rescuer_recorded_is_not_taken_for_the_outcome_in_doubt(
    store: Store, neighbour: Store, cable: Cable, clock: HandClock
) -> None:
    await enqueue(store)
    await store.beat(ALICE, stopping=True)
    settlement = Settlement(await claim_one(store, lease_seconds=1), Released("stopping"), worker=3)
    cable.loosen(kept=False)
    with doubtful():
        await store.settle([settlement])
    clock.advance(1)
    (job,) = await neighbour.rescue(limit=1)
    assert [attempt.outcome for attempt in await store.attempts(job.id)] == ["released"]
    assert await store.settle([settlement]) == [None]


async def test_an_earlier_attempt_with_the_same_outcome_is_not_the_one_in_doubt(
    store: Store, neighbour: Store, cable: Cable, clock: HandClock
) -> None:
    await enqueue(store)
    await store.settle([Settlement(await claim_one(store), Snoozed(0), worker=3)])
    settlement = Settlement(await claim_one(store, lease_seconds=1), Snoozed(0), worker=3)
    cable.loosen(kept=False)
    with doubtful():
        await store.settle([settlement])
    clock.advance(1)
    await neighbour.rescue(limit=1)
    assert await store.settle([settlement]) == [None]


async def test_another_outcome_than_the_one_that_was_recorded_is_lost(store: Store, cable: Cable) -> None:
    await enqueue(store)
    claimed = await claim_one(store)
    cable.loosen()
    with doubtful():
        await store.settle([Settlement(claimed, Completed(), 3)])
    assert await store.settle([Settlement(claimed, Failed("no", final=True), 3)]) == [None]


async def test_the_outcome_that_another_node_recorded_under_the_epoch_is_not_ours(
    store: Store, neighbour: Store, cable: Cable
) -> None:
    """No node can come by this claim in earnest; the ledger's node is part of the fence all the same."""
    await enqueue(store)
    claimed = await claim_one(neighbour, node=BOB)
    forged = Settlement(Claim(job=claimed.job, node=ALICE), Completed())
    cable.loosen(kept=False)
    with doubtful():
        await store.settle([forged])
    await settle(neighbour, claimed, Completed())
    assert await store.settle([forged]) == [None]


async def test_outcomes_in_doubt_take_up_no_more_room_than_they_may(
    store: Store, cable: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "REMEMBERED", 2)
    for _ in range(3):
        await enqueue(store)
    settlements = [Settlement(claimed, Completed(), 1) for claimed in await claim(store, 3)]
    for settlement in [settlements[1], *settlements]:
        cable.loosen()
        with doubtful():
            await store.settle([settlement])
    answers = await store.settle(settlements)
    assert [job is not None for job in answers] == [False, True, True]  # the latest are remembered


# claim


@in_either_case
async def test_a_claim_whose_answer_is_lost_costs_the_job_nothing(
    store: Store, cable: Cable, kept: bool
) -> None:
    job = await enqueue(store)
    cable.loosen(kept=kept)
    with doubtful():
        await claim_one(store)
    assert ((await store.get(job.id)).status is Status.PROCESSING) is kept

    claimed = await claim_one(store)
    assert claimed.job.id == job.id
    assert (claimed.job.attempt, claimed.job.crash_count, claimed.epoch) == (1, 0, 1 + kept)
    assert await store.attempts(job.id) == []
    await settle(store, claimed, Completed())


async def test_what_is_given_back_and_not_claimed_again_rings_for_the_others(
    store: Store, neighbour: Store, cable: Cable
) -> None:
    await enqueue(store)
    cable.loosen()
    with doubtful():
        await claim_one(store)
    hints: list[Hint] = []
    store.listen(hints.append)
    assert await claim(store, types=frozenset({"mail"})) == []
    assert hints == [Hint.WORK]
    assert len(await claim(neighbour, node=BOB)) == 1


@in_either_case
async def test_claims_may_break_off_again_and_again(store: Store, cable: Cable, kept: bool) -> None:
    jobs = [await enqueue(store) for _ in range(3)]
    cable.loosen(5, kept=kept)
    for _ in range(5):
        with doubtful():
            await claim(store, 2)
    cable.loosen(kept=not kept)
    with doubtful():
        await claim(store, 2)
    claims = await claim(store)
    assert [claimed.job.id for claimed in claims] == [job.id for job in jobs]
    assert {claimed.job.attempt for claimed in claims} == {1}


async def test_who_claimed_a_job_meanwhile_under_the_same_epoch_keeps_it(
    store: Store, neighbour: Store, cable: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    await enqueue(store)

    def undo() -> Any:
        """Alice's commit is lost after she has read what she would take."""
        assert isinstance(store, SqliteStore)
        raise apsw.IOError("the cable is loose")

    with monkeypatch.context() as patched:
        patched.setattr("trioqueue.store.sqlite.transaction.Transaction.write_counters", lambda _: undo())
        with doubtful():
            await claim_one(store)
    theirs = await claim_one(neighbour, node=BOB)
    assert theirs.epoch == 1  # as Alice's would be

    assert await claim(store) == []
    assert (await store.get(theirs.job.id)).node == BOB
    await settle(neighbour, theirs, Completed())


async def test_of_claims_at_the_same_time_none_gives_back_what_another_took(
    store: Store, cable: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    await enqueue(store)
    with monkeypatch.context() as patched:

        def fail(_: object) -> None:
            raise apsw.IOError("the cable is loose")

        patched.setattr("trioqueue.store.sqlite.transaction.Transaction.write_counters", fail)
        with doubtful():
            await claim_one(store)

    taken: list[Claim] = []

    async def take() -> None:
        taken.extend(await claim(store))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(take)
    (claimed,) = taken
    assert (await settle(store, claimed, Completed())).status is Status.COMPLETED


async def test_a_claim_that_runs_twice_for_a_guilty_neighbour_takes_each_job_once(
    store: Store, cable: Cable
) -> None:
    jobs = [await enqueue(store) for _ in range(2)]
    taken: list[Claim] = []

    async def take() -> None:
        taken.extend(await claim(store))

    def spoil(transaction: Transaction) -> None:
        operations.beat(transaction, BOB, None, False)
        raise RuntimeError("half done")

    async def be_guilty() -> None:
        assert isinstance(store, SqliteStore)
        with pytest.raises(RuntimeError):
            await store._writer.submit(spoil)

    cable.free = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.beat, ALICE)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(be_guilty)
        await trio.testing.wait_all_tasks_blocked()
        cable.free.set()
    assert [claimed.job.id for claimed in taken] == [job.id for job in jobs]


async def test_who_asked_to_stop_a_job_that_nobody_knew_of_is_heard(store: Store, cable: Cable) -> None:
    job = await enqueue(store)
    cable.loosen()
    with doubtful():
        await claim_one(store)
    await store.cancel(job.id)
    assert await claim(store) == []
    assert (await store.get(job.id)).status is Status.CANCELLED


async def test_a_claim_in_doubt_outlives_a_foreign_lock(
    path: Path, store: Store, cable: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await enqueue(store)
    monkeypatch.setattr(connections, "_wait_for_writer", lambda waited: False)
    cable.loosen()
    with doubtful():
        await claim_one(store)
    assert isinstance(store, SqliteStore)
    connections.close(store._writer._connection)  # it would wait as long as ever
    store._writer._connection = None
    with closing(apsw.Connection(str(path))) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await claim_one(store)
    assert (await claim_one(store)).job.id == job.id


async def test_a_store_gives_back_what_is_in_doubt_when_it_is_closed(
    path: Path, clock: HandClock, cable: Cable
) -> None:
    hints: list[Hint] = []
    async with open_at(path, clock, cable=cable) as store:
        store.listen(hints.append)
        job = await enqueue(store)
        cable.loosen()
        with doubtful():
            await claim_one(store)
        hints.clear()
    assert hints == [Hint.WORK]
    async with open_at(path, clock, node=BOB) as neighbour:
        assert await neighbour.nodes() == []
        claimed = await claim_one(neighbour, node=BOB)
        assert (claimed.job.id, claimed.job.attempt, claimed.job.crash_count) == (job.id, 1, 0)


async def test_a_store_that_breaks_off_while_it_is_closed_is_closed(
    path: Path, clock: HandClock, cable: Cable
) -> None:
    async with open_at(path, clock, cable=cable) as store:
        await enqueue(store)
        cable.loosen(2)
        with doubtful():
            await claim_one(store)
    assert cable.breaks == 0


async def test_where_nothing_is_in_doubt_no_write_looks_for_it(
    path: Path, clock: HandClock, cable: Cable
) -> None:
    async with open_at(path, clock, cable=cable) as store:
        await enqueue(store)
        before = cable.runs
        await settle(store, await claim_one(store), Completed())
        assert cable.runs == before + 2
    assert cable.runs == before + 4  # the node is forgotten, and the connection closed


async def test_what_is_in_doubt_shows(store: SqliteStore, cable: Cable) -> None:
    """To whoever debugs a store that is in trouble."""
    await enqueue(store)
    claimed = await claim_one(store)
    cable.loosen()
    with doubtful():
        await settle(store, claimed, Completed())
    cable.loosen()
    with doubtful():
        await claim(store)
    assert repr(store._settlements) == "<Settlements 1 in doubt>"
    assert repr(store._claims) == "<Claims 0 in doubt>"
