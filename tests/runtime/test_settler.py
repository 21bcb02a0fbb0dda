"""Outcomes are recorded: together, in order, however the store behaves, and whoever listens is told."""

from collections.abc import Sequence
from itertools import pairwise
from random import Random

import pytest
import trio
from trio.testing import MockClock

from tests.runtime.troubled import ALICE, Hands
from trioqueue.events import AttemptEnded, AttemptLost
from trioqueue.jobs.job import AttemptOutcome, Job, JobId, Json, Status
from trioqueue.jobs.outcome import Completed, Failed, Outcome
from trioqueue.runtime.leases import Held
from trioqueue.runtime.settler import Ended, Settler
from trioqueue.store.protocol import Settlement


class Half(Random):
    """Waits come out as they are meant: between three quarters and five quarters."""

    def random(self) -> float:
        return 0.5


class Desk(Hands):
    """Claims in hand, and a settler that may run."""

    def __init__(self, *, lazy: bool = False, random: Random | None = None) -> None:
        super().__init__(lease_seconds=1000, lazy=lazy)
        self.settler = Settler(
            self.store,
            self.leases,
            events=self.bus,
            health=self.health,
            random=random or Half(),
            rest=self.rest,
        )

    async def end(self, outcome: Outcome, jobs: int = 1) -> list[Held]:
        """So many attempts have ended, all with this outcome."""
        held = await self.run(jobs)
        for item in held:
            self.leases.finish()
            self.settler.add(Ended(item, outcome, 3, 0.25))
        return held

    async def job(self, held: Held) -> Job:
        return await self.store.get(id_of(held))

    def store_check(self) -> str:
        (check,) = [check for check in self.health.checks() if check.name == "store"]
        return check.detail

    def last_turn(self) -> str:
        (check,) = [check for check in self.health.checks() if check.name == "loop settler"]
        return check.detail


def id_of(held: Held) -> JobId:
    return held.claim.job.id


@pytest.fixture
async def desk(autojump_clock: MockClock) -> Desk:
    return Desk()


# To record


async def test_an_outcome_is_recorded_and_told(desk: Desk, autojump_clock: MockClock) -> None:
    (held,) = await desk.end(Failed("no water", final=True))
    assert (desk.leases.settling, len(desk.leases)) == (1, 1)
    desk.settler.close()

    await desk.settler.run()

    job = await desk.job(held)
    assert (job.status, job.reason) == (Status.DEAD, "no water")
    (attempt,) = await desk.store.attempts(job.id)
    assert (attempt.outcome, attempt.worker, attempt.error) == (AttemptOutcome.FAILED, 3, "no water")
    assert desk.events == [
        AttemptEnded(
            job=job,
            node=ALICE,
            worker=3,
            outcome=AttemptOutcome.FAILED,
            status=Status.DEAD,
            error="no water",
            seconds=0.25,
        )
    ]
    assert (desk.leases.settling, len(desk.leases)) == (0, 0)
    assert desk.store_check() == "last written 0.0 s ago"


async def test_what_ends_during_a_commit_goes_into_the_next_one(
    desk: Desk, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    desk.store.seconds = 1
    nursery.start_soon(desk.settler.run)
    await trio.sleep(5)
    (first,) = await desk.end(Completed())
    await trio.sleep(0.5)
    second = await desk.end(Completed(), 2)
    third = await desk.end(Completed())
    assert repr(desk.settler) == "<Settler 4 waiting>"
    assert desk.leases.settling == 4
    await trio.sleep(2)
    assert desk.store.what("settle") == [[id_of(first)], [id_of(held) for held in (*second, *third)]]
    assert desk.leases.settling == 0
    ended = [event.job.id for event in desk.events if isinstance(event, AttemptEnded)]
    assert ended == [id_of(held) for held in (first, *second, *third)]


async def test_what_its_own_transaction_has_settled_is_only_told(
    desk: Desk, autojump_clock: MockClock
) -> None:
    (held,) = await desk.run()
    (job,) = await desk.store.settle([Settlement(held.claim, Completed())])
    assert job is not None
    desk.store.calls.clear()
    held.settle(job)
    desk.leases.finish()

    desk.settler.add(Ended(held, Completed(), 3, 0.25))

    (event,) = desk.events
    assert isinstance(event, AttemptEnded)
    assert (event.job, event.status) == (job, Status.COMPLETED)
    assert desk.leases.settling == 0
    desk.settler.close()
    await desk.settler.run()
    assert desk.store.calls == []


async def test_an_outcome_that_comes_too_late_is_dropped_and_told_as_lost(
    desk: Desk, autojump_clock: MockClock
) -> None:
    late, punctual = await desk.end(Completed(), 2)
    await desk.overtake(id_of(late))
    desk.settler.close()
    await desk.settler.run()
    lost, ended = desk.events
    assert lost == AttemptLost(job=late.claim.job, node=ALICE, worker=3, outcome=AttemptOutcome.COMPLETED)
    assert isinstance(ended, AttemptEnded)
    assert ended.job.id == id_of(punctual)
    assert desk.leases.settling == 0
    assert (await desk.job(late)).status is Status.PROCESSING


# To end


async def test_it_ends_when_everything_is_recorded_and_not_before_it_is_told_to(
    desk: Desk, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    ended: list[float] = []

    async def run() -> None:
        await desk.settler.run()
        ended.append(trio.current_time())

    desk.store.seconds = 1
    nursery.start_soon(run)
    await trio.sleep(50)
    await desk.end(Completed())
    await trio.sleep(9)
    assert ended == []
    await desk.end(Completed())
    desk.settler.close()
    await trio.sleep(0.9)
    assert ended == []
    await trio.sleep(0.2)
    assert ended == [60]


async def test_an_idle_one_ends_at_once(desk: Desk, autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async with trio.open_nursery() as settling:
        settling.start_soon(desk.settler.run)
        await trio.sleep(5)
        desk.settler.close()
    assert trio.current_time() == 5


async def test_what_is_not_recorded_when_it_is_cut_stays_in_hand(
    desk: Desk, autojump_clock: MockClock
) -> None:
    """The node then counts it as left behind, and somebody rescues it."""
    await desk.end(Completed())
    desk.store.away = True
    with trio.move_on_after(20):
        await desk.settler.run()
    assert (desk.leases.settling, len(desk.leases), desk.events) == (1, 1, [])


async def test_a_store_that_forgets_to_answer_for_an_attempt_leaves_none_in_hand(
    desk: Desk, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What became of them is not known, which is told as lost; a claim kept for ever would stop the node."""
    settle = desk.store.settle

    async def short(settlements: Sequence[Settlement]) -> Sequence[Job | None]:
        return (await settle(settlements))[: max(len(settlements) - 1, 1)]

    monkeypatch.setattr(desk.store, "settle", short)
    held = await desk.end(Completed(), 2)
    desk.settler.close()
    await desk.settler.run()
    assert desk.leases.settling == 0
    assert [type(event) for event in desk.events] == [AttemptLost, AttemptLost]
    assert {(await desk.job(item)).status for item in held} == {Status.COMPLETED}


# To wait


async def test_an_idle_one_shows_every_ten_seconds_that_it_lives(
    desk: Desk, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    nursery.start_soon(desk.settler.run)
    await trio.sleep(9)
    assert desk.last_turn() == "last turn 9.0 s ago"
    await trio.sleep(2)
    assert desk.last_turn() == "last turn 1.0 s ago"


async def test_a_store_that_is_away_is_asked_again_less_and_less_often(
    desk: Desk, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    (held,) = await desk.end(Completed())
    desk.store.away = True
    nursery.start_soon(desk.settler.run)
    await trio.sleep(8)
    tries = desk.store.when("settle")
    waits = [later - earlier for earlier, later in pairwise(tries)]
    assert waits == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2, 2])
    assert desk.store_check() == "cut off"
    assert desk.last_turn() != "last turn 8.0 s ago"  # it is not wedged: it tries
    desk.store.away = False
    await trio.sleep(2)
    assert (await desk.job(held)).status is Status.COMPLETED
    assert desk.store_check() != "cut off"


@pytest.mark.parametrize(("drawn", "wait"), [(0.0, 0.0375), (1.0, 0.0625)])
async def test_nodes_do_not_come_back_to_a_store_together(
    autojump_clock: MockClock, nursery: trio.Nursery, drawn: float, wait: float
) -> None:
    class Drawn(Random):
        def random(self) -> float:
            return drawn

    desk = Desk(random=Drawn())
    await desk.end(Completed())
    desk.store.away = True
    nursery.start_soon(desk.settler.run)
    await trio.sleep(0.07)
    first, second, *_ = desk.store.when("settle")
    assert second - first == pytest.approx(wait)


# Jobs that somebody else's transaction holds


@pytest.mark.parametrize("others", [1, 2])
async def test_a_job_that_somebody_holds_keeps_nobody_waiting(
    desk: Desk, autojump_clock: MockClock, nursery: trio.Nursery, others: int
) -> None:
    busy, *free = await desk.end(Completed(), 1 + others)
    desk.store.busy = {id_of(busy)}
    nursery.start_soon(desk.settler.run)
    await trio.sleep(0.1)
    assert {(await desk.job(held)).status for held in free} == {Status.COMPLETED}
    assert (await desk.job(busy)).status is Status.PROCESSING
    assert desk.leases.settling == 1
    assert desk.store_check() == "last written 0.1 s ago"  # the store itself is well


async def test_a_job_that_somebody_holds_is_tried_again_every_two_seconds(
    desk: Desk, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    busy = await desk.end(Completed(), 2)
    desk.store.busy = {id_of(held) for held in busy}
    nursery.start_soon(desk.settler.run)
    await trio.sleep(1.5)
    await desk.end(Completed())  # news of others is no reason to try earlier
    await trio.sleep(3.5)
    for held in busy:
        tries = [at for at, _, ids in desk.store.calls if ids == [id_of(held)]]
        assert tries == [0, 2, 4]
    desk.store.busy = set()
    await trio.sleep(1.5)
    for held in busy:
        assert (await desk.job(held)).status is Status.COMPLETED
    assert desk.leases.settling == 0
    tried = len(desk.store.calls)
    await trio.sleep(20)
    assert len(desk.store.calls) == tried


async def test_what_ends_when_a_job_is_to_be_tried_again_is_recorded_with_it(
    desk: Desk, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    (busy,) = await desk.end(Completed())
    desk.store.busy = {id_of(busy)}
    nursery.start_soon(desk.settler.run)
    await trio.sleep(1.5)
    desk.store.busy, desk.store.seconds = set(), 1
    await desk.end(Completed())
    await trio.sleep(0.7)
    (last,) = await desk.end(Completed())  # its turn comes when the busy one's has come, too
    await trio.sleep(2)
    assert desk.store.what("settle")[-1] == [id_of(last), id_of(busy)]
    assert desk.leases.settling == 0


async def test_it_does_not_end_before_a_job_that_somebody_holds_is_recorded(
    desk: Desk, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    (held,) = await desk.end(Completed())
    desk.store.busy = {id_of(held)}
    desk.settler.close()
    async with trio.open_nursery() as settling:
        settling.start_soon(desk.settler.run)
        await trio.sleep(3)
        desk.store.busy = set()
    assert trio.current_time() == 4
    assert (await desk.job(held)).status is Status.COMPLETED


async def test_in_virtual_time_it_rests_until_something_ends_or_is_to_be_tried_again(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    desk = Desk(lazy=True)
    nursery.start_soon(desk.settler.run)
    await trio.sleep(1000)
    assert desk.last_turn() == "last turn 1000.0 s ago"
    assert desk.health.is_live  # it is known to rest
    (held,) = await desk.end(Completed())
    desk.store.busy = {id_of(held)}
    await trio.sleep(4.5)
    assert desk.store.when("settle") == [1000, 1002, 1004]


# Outcomes that the store cannot keep


class Picky(Desk):
    """Its store refuses some outcomes, as a driver may."""

    def __init__(self, *refused: Outcome) -> None:
        super().__init__()
        settle = self.store.settle

        async def refuse(settlements: Sequence[Settlement]) -> Sequence[Job | None]:
            if any(settlement.outcome in refused for settlement in settlements):
                self.store._note("settle", [settlement.claim for settlement in settlements])
                raise OverflowError("too large")
            return await settle(settlements)

        self.store.settle = refuse  # type: ignore[method-assign]


async def test_an_outcome_that_the_store_cannot_keep_harms_no_other(autojump_clock: MockClock) -> None:
    poison = Completed(Json(b'"poison"'))
    desk = Picky(poison)
    good = await desk.end(Completed(), 2)
    (bad,) = await desk.end(poison)
    good += await desk.end(Completed())
    desk.settler.close()

    await desk.settler.run()

    assert {(await desk.job(held)).status for held in good} == {Status.COMPLETED}
    job = await desk.job(bad)
    assert (job.status, job.reason) == (Status.DEAD, "the outcome could not be recorded: OverflowError")
    told = [(event.job.id, event.status) for event in desk.events if isinstance(event, AttemptEnded)]
    assert told == [
        (id_of(good[0]), Status.COMPLETED),
        (id_of(good[1]), Status.COMPLETED),
        (id_of(bad), Status.DEAD),
        (id_of(good[2]), Status.COMPLETED),
    ]
    assert desk.leases.settling == 0


async def test_a_failure_that_the_store_cannot_keep_is_recorded_in_other_words(
    autojump_clock: MockClock,
) -> None:
    poison = Failed("poison")
    desk = Picky(poison)
    (held,) = await desk.end(poison)
    desk.settler.close()
    await desk.settler.run()
    assert (await desk.job(held)).reason == "the outcome could not be recorded: OverflowError"


async def test_if_not_even_that_can_be_kept_the_lease_ends_by_itself(autojump_clock: MockClock) -> None:
    poison = Completed(Json(b'"poison"'))
    desk = Picky(poison, Failed("the outcome could not be recorded: OverflowError", final=True))
    (bad,) = await desk.end(poison)
    (good,) = await desk.end(Completed())
    desk.settler.close()

    await desk.settler.run()

    assert (await desk.job(good)).status is Status.COMPLETED
    assert (await desk.job(bad)).status is Status.PROCESSING
    lost = [event for event in desk.events if isinstance(event, AttemptLost)]
    assert [event.job.id for event in lost] == [id_of(bad)]
    assert (desk.leases.settling, len(desk.leases)) == (0, 0)
