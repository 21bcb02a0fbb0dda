"""Leases are renewed, lost or given back: what a node does about them, without the node."""

import math
from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
from trio.testing import MockClock

from tests.runtime.troubled import ALICE, Hands, rang
from trioqueue.events import ClaimsReleased
from trioqueue.jobs.job import Claim, Status
from trioqueue.jobs.outcome import Completed
from trioqueue.runtime.leases import Cause, Limit
from trioqueue.store.protocol import Renewal, Settlement

NEVER = Limit(math.inf, "")


@pytest.fixture
async def hands(autojump_clock: MockClock) -> Hands:
    return Hands()


# To renew


@pytest.mark.parametrize(("lease_seconds", "interval"), [(9, 3.0), (60, 10.0)])
async def test_leases_are_renewed_three_times_a_lease_and_every_ten_seconds(
    autojump_clock: MockClock, nursery: trio.Nursery, lease_seconds: float, interval: float
) -> None:
    hands = Hands(lease_seconds=lease_seconds)
    (held,) = await hands.run()
    scope = trio.CancelScope()
    held.begin(scope, NEVER)
    nursery.start_soon(hands.leases.run)
    await trio.sleep(3.5 * interval)
    assert hands.store.when("renew") == [interval, 2 * interval, 3 * interval]
    assert scope.deadline == pytest.approx(3 * interval + 0.8 * lease_seconds)
    (check,) = [check for check in hands.health.checks() if check.name == "loop leases"]
    assert check.detail == f"last turn {interval / 2:.1f} s ago"


@pytest.mark.parametrize(("lease_seconds", "again"), [(30, 0.5), (0.9, 0.3)])
@pytest.mark.parametrize("trouble", ["away", "busy"])
async def test_a_renewal_that_did_not_succeed_is_tried_again_soon(
    autojump_clock: MockClock, nursery: trio.Nursery, trouble: str, lease_seconds: float, again: float
) -> None:
    hands = Hands(lease_seconds=lease_seconds)
    (held,) = await hands.run()
    hands.store.away = trouble == "away"
    hands.store.busy = {held.claim.job.id}
    interval = lease_seconds / 3
    nursery.start_soon(hands.leases.run)
    await trio.sleep(interval + 2.5 * again)
    assert hands.store.when("renew") == pytest.approx([interval + number * again for number in range(3)])
    assert held.cause is None
    assert held.stop_at == 0.8 * lease_seconds  # nothing was won

    hands.store.away, hands.store.busy = False, set()
    hands.store.calls.clear()
    await trio.sleep(again + interval)
    last = interval + 3 * again
    assert hands.store.when("renew") == pytest.approx([last, last + interval])


async def test_a_store_that_does_not_answer_is_told_to_health_and_so_is_one_that_does(
    hands: Hands, autojump_clock: MockClock
) -> None:
    await hands.run()
    hands.store.away = True
    with trio.move_on_after(5):
        await hands.leases.run()
    assert hands.health.checks()[1].detail == "cut off"
    hands.store.away = False
    await hands.leases.renew()
    assert hands.health.checks()[1].ok


async def test_a_request_to_cancel_is_looked_for_at_once(
    hands: Hands, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    (held,) = await hands.run()
    scope = trio.CancelScope()
    held.begin(scope, NEVER)
    nursery.start_soon(hands.leases.run)
    await trio.sleep(1)
    await hands.store.cancel(held.claim.job.id)
    hands.leases.look_for_cancels()
    await trio.sleep(0.1)
    assert (held.cause, scope.cancel_called) == (Cause.CANCEL, True)
    # It still has its lease: there is time to unwind.
    assert held.stop_at == pytest.approx(9.0)


async def test_nothing_in_hand_asks_nothing_of_the_store(hands: Hands, autojump_clock: MockClock) -> None:
    assert await hands.leases.renew()
    assert hands.store.calls == []


async def test_in_virtual_time_renewals_go_on_while_something_is_in_hand_and_rest_when_nothing_is(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    hands = Hands(lease_seconds=9, lazy=True)
    nursery.start_soon(hands.leases.run)
    await trio.sleep(1000)
    (check,) = [check for check in hands.health.checks() if check.name == "loop leases"]
    assert check.ok
    ago = float(check.detail.split()[2])
    assert 990 < ago <= 1000  # it has looked once, and then waited for news
    with hands.rest.shared():
        await hands.run()
        await trio.sleep(9.5)
    assert hands.store.when("renew") == [1003, 1006, 1009]


async def test_in_virtual_time_what_is_to_be_given_back_is_given_back(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    hands = Hands(lease_seconds=9, lazy=True)
    await hands.claim()
    hands.store.away = True
    await hands.leases.release_waiting()
    nursery.start_soon(hands.leases.run)
    await trio.sleep(10)
    hands.store.away = False
    await trio.sleep(10)
    assert len(hands.leases) == 0


async def test_a_lost_lease_stops_its_attempt_and_nothing_else(
    hands: Hands, autojump_clock: MockClock
) -> None:
    lost, kept = await hands.run(2)
    await trio.sleep(2)
    await hands.overtake(lost.claim.job.id)
    assert await hands.leases.renew()
    assert (lost.cause, kept.cause) == (Cause.LOST, None)
    assert (lost.stop_at, kept.stop_at) == (8.0, 10.0)
    assert len(hands.leases) == 2  # until it has unwound
    await hands.leases.renew()
    assert hands.store.what("renew")[1] == [kept.claim.job.id]


async def test_a_lost_claim_that_no_worker_has_begun_is_dropped_and_leaves_room(
    hands: Hands, autojump_clock: MockClock
) -> None:
    (claim,) = await hands.claim()
    await hands.overtake(claim.job.id)
    await hands.leases.renew()
    assert len(hands.leases) == 0
    assert await rang(hands.leases.ended)
    assert hands.leases.begin(claim) is None


async def test_a_busy_job_costs_the_others_no_renewal(hands: Hands, autojump_clock: MockClock) -> None:
    busy, free = await hands.run(2)
    await trio.sleep(2)
    hands.store.busy = {busy.claim.job.id}
    assert not await hands.leases.renew()
    assert (busy.stop_at, free.stop_at) == (8.0, 10.0)
    assert (busy.cause, free.cause) == (None, None)


async def test_a_store_that_forgets_to_answer_for_a_claim_is_found_out(
    hands: Hands, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else that attempt would stop itself, renewal after renewal, and nobody would know why."""
    held = await hands.run(2)

    async def short(claims: Sequence[Claim], **_: object) -> list[Renewal]:
        await trio.lowlevel.checkpoint()
        return [Renewal(claims[0], renewed=True)]

    monkeypatch.setattr(hands.store, "renew", short)
    with pytest.raises(ValueError, match="shorter"):
        await hands.leases.renew()
    assert held[1].cause is None


async def test_what_its_own_transaction_has_settled_is_not_renewed(
    hands: Hands, autojump_clock: MockClock
) -> None:
    settled, running = await hands.run(2)
    settled.settle(settled.claim.job)
    await hands.leases.renew()
    assert hands.store.what("renew") == [[running.claim.job.id]]


async def during_a_renewal(hands: Hands, act: Callable[[], Awaitable[object]]) -> None:
    """The store has looked for the leases, found some gone, and `act` comes before its answer."""
    hands.store.seconds = 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hands.leases.renew)
        await trio.sleep(0.5)
        await act()


async def test_what_is_settled_during_a_renewal_is_gone_and_not_lost(
    hands: Hands, autojump_clock: MockClock
) -> None:
    (held,) = await hands.run()
    await hands.store.settle([Settlement(held.claim, Completed())])
    hands.leases.finish()

    async def end() -> None:
        hands.leases.end(held)

    await during_a_renewal(hands, end)
    assert held.cause is None


async def test_what_its_own_transaction_settles_during_a_renewal_is_not_lost(
    hands: Hands, autojump_clock: MockClock
) -> None:
    (held,) = await hands.run()
    await hands.store.settle([Settlement(held.claim, Completed())])

    async def commit() -> None:
        held.settle(held.claim.job)

    await during_a_renewal(hands, commit)
    assert held.cause is None


# To give back


async def test_claims_that_nobody_has_begun_are_given_back_and_cost_nothing(
    hands: Hands, autojump_clock: MockClock
) -> None:
    first, second, begun = await hands.claim(3)
    hands.begin(begun)

    await hands.leases.release_waiting()

    assert hands.events == [ClaimsReleased(node=ALICE, released=2)]
    assert await rang(hands.leases.ended)
    for claim in (first, second):
        job = await hands.store.get(claim.job.id)
        assert (job.status, job.attempt) == (Status.PENDING, 0)
    assert len(hands.leases) == 1


async def test_claims_that_have_waited_for_less_are_kept(hands: Hands, autojump_clock: MockClock) -> None:
    (old,) = await hands.claim()
    await trio.sleep(1)
    (new,) = await hands.claim()
    await hands.leases.release_waiting(older_than=1)
    assert hands.store.what("release") == [[old.job.id]]
    assert hands.begin(new).claim is new


async def test_nothing_to_give_back_tells_nobody(hands: Hands, autojump_clock: MockClock) -> None:
    await hands.run()
    await hands.leases.release_waiting()
    assert (hands.store.calls, hands.events) == ([], [])
    assert not await rang(hands.leases.ended)


async def test_what_cannot_be_given_back_now_is_given_back_when_the_store_answers(
    hands: Hands, autojump_clock: MockClock
) -> None:
    hands.store.away = True
    claims = []
    for _ in range(2):
        claims += await hands.claim()
        await hands.leases.release_waiting()
    assert (len(hands.leases), hands.events) == (2, [])
    assert hands.health.checks()[1].detail == "cut off"
    assert hands.leases.begin(claims[0]) is None

    hands.store.away = False
    hands.store.calls.clear()
    for _ in range(2):
        await hands.leases.renew()
    assert len(hands.leases) == 0
    assert hands.store.what("release") == [[claim.job.id for claim in claims]]
    for claim in claims:
        assert (await hands.store.get(claim.job.id)).status is Status.PENDING


async def test_what_comes_while_others_are_given_back_is_given_back_next(
    hands: Hands, autojump_clock: MockClock
) -> None:
    first, second = await hands.claim(2)
    for claim in (first, second):
        hands.leases._held[claim.job.id, claim.epoch].stop_at = 0  # a pause of the process
    assert hands.leases.begin(first) is None
    hands.store.seconds = 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hands.leases.renew)
        await trio.sleep(0.5)
        assert hands.leases.begin(second) is None
    await hands.leases.renew()
    assert hands.store.what("release") == [[first.job.id], [second.job.id]]
    assert len(hands.leases) == 0


async def test_a_node_that_ends_releases_whatever_is_left(hands: Hands, autojump_clock: MockClock) -> None:
    running, settled = await hands.run(2)
    settled.settle(settled.claim.job)
    (stale,) = await hands.claim()
    hands.store.away = True
    await hands.leases.release_waiting()
    hands.store.away = False

    await hands.leases.give_back()

    assert hands.store.what("settle") == [[running.claim.job.id]]
    assert len(hands.leases) == 0
    assert hands.leases._held == {}
    (attempt,) = await hands.store.attempts(running.claim.job.id)
    assert (attempt.outcome, attempt.error) == ("released", "the node stopped")
    for claim in (running.claim, stale):
        assert (await hands.store.get(claim.job.id)).status is Status.PENDING


async def test_a_node_that_holds_nothing_ends_without_a_word_to_the_store(
    hands: Hands, autojump_clock: MockClock
) -> None:
    await hands.leases.give_back()
    assert hands.store.calls == []
