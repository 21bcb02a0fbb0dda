"""What a node holds, without the node: deadlines, causes to stop, how it is counted."""

import math
from datetime import timedelta
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from tests.runtime.troubled import ALICE, Hands, rang
from trioqueue import Context, Handlers
from trioqueue.clock import current_clock
from trioqueue.jobs.job import Claim, Status
from trioqueue.jobs.outcome import Cancelled, Failed, TimedOut
from trioqueue.runtime.attempt import run_attempt
from trioqueue.runtime.leases import Cause, Held, Limit
from trioqueue.runtime.spawner import MachineSpawner
from trioqueue.testing.conformance import new_job

NEVER = Limit(math.inf, "")


@pytest.fixture
async def hands(autojump_clock: MockClock) -> Hands:
    return Hands()


# One claim


async def test_a_claim_that_waits_has_no_limit_and_no_cause_to_stop(
    hands: Hands, autojump_clock: MockClock
) -> None:
    (claim,) = await hands.claim()
    held = Held(claim, 1.0, 9.0)
    assert (held.claim, held.held_at, held.stop_at) == (claim, 1.0, 9.0)
    assert (held.begun, held.scope, held.limit, held.cause, held.settled) == (False, None, NEVER, None, None)


@pytest.mark.parametrize(
    ("limit", "lease", "deadline"), [(5.0, 8.0, 5.0), (9.0, 8.0, 8.0), (math.inf, 8.0, 8.0)]
)
async def test_an_attempt_ends_with_its_limit_or_with_its_lease(
    hands: Hands, autojump_clock: MockClock, limit: float, lease: float, deadline: float
) -> None:
    (claim,) = await hands.claim()
    held = Held(claim, 0.0, lease)
    scope = trio.CancelScope()

    held.begin(scope, Limit(limit, "too slow"))

    assert (scope.deadline, scope.cancel_called) == (deadline, False)
    assert (held.limit, held.scope) == (Limit(limit, "too slow"), scope)
    held.extend(7.0)
    assert scope.deadline == min(limit, 7.0)


async def test_a_lease_that_is_renewed_before_the_handler_runs_counts_too(
    hands: Hands, autojump_clock: MockClock
) -> None:
    (claim,) = await hands.claim()
    held = Held(claim, 0.0, 8.0)
    held.extend(18.0)
    scope = trio.CancelScope()
    held.begin(scope, NEVER)
    assert (held.stop_at, scope.deadline) == (18.0, 18.0)


async def test_only_its_limit_ends_an_attempt_whose_transaction_has_completed_the_job(
    hands: Hands, autojump_clock: MockClock
) -> None:
    (held,) = await hands.run()
    scope = trio.CancelScope()
    held.begin(scope, Limit(60.0, "too slow"))
    held.settle(held.claim.job)
    assert held.settled is held.claim.job
    assert scope.deadline == 60.0


async def test_what_was_cancelled_before_it_began_is_cancelled_at_once(
    hands: Hands, autojump_clock: MockClock
) -> None:
    (held,) = await hands.run()
    held.cancel(Cause.CANCEL)
    with trio.CancelScope() as scope:
        held.begin(scope, NEVER)
        await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_the_first_cause_stays(hands: Hands, autojump_clock: MockClock) -> None:
    (held,) = await hands.run()
    scope = trio.CancelScope()
    held.begin(scope, NEVER)
    held.cancel(Cause.CANCEL)
    held.cancel(Cause.STOP)
    assert held.cause is Cause.CANCEL
    assert scope.cancel_called


# In hand


async def test_a_claim_is_counted_from_the_hand_over_to_the_end(
    hands: Hands, autojump_clock: MockClock
) -> None:
    leases = hands.leases

    def counts() -> tuple[int, int, int, int, int]:
        return len(leases), leases.waiting, leases.running, leases.settling, leases.finished

    assert counts() == (0, 0, 0, 0, 0)
    first, second, _ = await hands.claim(3)
    assert counts() == (3, 3, 0, 0, 0)
    one, other = hands.begin(first), hands.begin(second)
    assert counts() == (3, 1, 2, 0, 0)
    leases.finish()
    assert counts() == (3, 1, 1, 1, 1)
    assert repr(leases) == "<Leases 1 waiting, 1 running, 1 settling>"
    leases.finish()
    assert counts() == (3, 1, 0, 2, 2)
    leases.end(one)
    assert counts() == (2, 1, 0, 1, 2)
    leases.end(other)
    assert counts() == (1, 1, 0, 0, 2)


async def test_what_its_own_transaction_has_settled_leaves_nothing_to_settle(
    hands: Hands, autojump_clock: MockClock
) -> None:
    one, _ = await hands.run(2)
    one.settle(one.claim.job)
    assert len(hands.leases) == 1


async def test_whoever_waits_for_room_hears_of_every_end(hands: Hands, autojump_clock: MockClock) -> None:
    (held,) = await hands.run()
    assert not await rang(hands.leases.ended)
    hands.leases.finish()
    assert await rang(hands.leases.ended)
    hands.leases.end(held)
    assert await rang(hands.leases.ended)


async def test_an_attempt_stops_a_fifth_of_its_lease_before_the_lease_ends(
    hands: Hands, autojump_clock: MockClock
) -> None:
    await trio.sleep(100)
    (held,) = await hands.run()
    assert (held.held_at, held.stop_at) == (100.0, 108.0)


async def test_a_lease_counts_from_before_the_store_was_asked(
    hands: Hands, autojump_clock: MockClock
) -> None:
    (held,) = await hands.run()
    hands.store.seconds = 3
    await hands.leases.renew()
    assert trio.current_time() == 3
    assert held.stop_at == 8.0


async def test_an_older_attempt_of_the_same_job_stops_when_its_node_holds_the_job_anew(
    hands: Hands, autojump_clock: MockClock
) -> None:
    other, old = await hands.run(2)
    await hands.overtake(old.claim.job.id)
    job = await hands.store.get(old.claim.job.id)

    hands.leases.hold([Claim(job=job, node=ALICE)], asked_at=trio.current_time())

    assert (old.cause, other.cause) == (Cause.LOST, None)
    assert len(hands.leases) == 3


async def test_to_hold_a_claim_wakes_those_who_rest(autojump_clock: MockClock) -> None:
    hands = Hands(lazy=True)
    with hands.rest.shared():
        await hands.rest.wait("a loop", 5)  # it has seen everything that has happened
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hands.rest.wait, "a loop", 5)
            await trio.sleep(100)
            await hands.claim()
    assert trio.current_time() == 110


# To begin


async def test_a_claim_that_was_given_back_is_not_begun(hands: Hands, autojump_clock: MockClock) -> None:
    (claim,) = await hands.claim()
    await hands.leases.release_waiting()
    assert hands.leases.begin(claim) is None
    assert hands.leases.running == 0
    assert len(hands.leases) == 0  # nor is it given back again


@pytest.mark.parametrize("late", [0.0, 60.0])
async def test_a_claim_whose_lease_is_no_longer_sure_is_given_back_at_once(
    hands: Hands, autojump_clock: MockClock, nursery: trio.Nursery, late: float
) -> None:
    """As after a pause of the process, which slept over its renewals."""
    (claim,) = await hands.claim()
    await trio.sleep(8 + late)

    assert hands.leases.begin(claim) is None

    assert (len(hands.leases), hands.leases.waiting, hands.leases.running) == (1, 0, 0)
    nursery.start_soon(hands.leases.run)
    await trio.sleep(0.1)
    assert len(hands.leases) == 0
    assert hands.store.what("release") == [[claim.job.id]]
    assert (await hands.store.get(claim.job.id)).status is Status.PENDING


async def test_a_claim_is_begun_as_long_as_its_lease_is_sure(hands: Hands, autojump_clock: MockClock) -> None:
    (claim,) = await hands.claim()
    await trio.sleep(7.9)
    assert hands.begin(claim).begun


# To cancel


async def test_only_what_runs_is_cancelled_with_the_node(hands: Hands, autojump_clock: MockClock) -> None:
    running, beginning = await hands.run(2)
    scope = trio.CancelScope()
    running.begin(scope, NEVER)
    hands.leases.cancel_all(Cause.STOP)
    assert (running.cause, scope.cancel_called) == (Cause.STOP, True)
    assert beginning.cause is None


@pytest.mark.parametrize("ends", ["at its deadline", "by a cancel"])
async def test_what_ended_while_it_waited_for_a_worker_never_begins(
    hands: Hands, autojump_clock: MockClock, ends: str
) -> None:
    """A handler without a checkpoint would do all its work, and the job would be completed."""
    begun: list[int] = []
    handlers = Handlers()

    @handlers.handler("noop")
    async def noop(ctx: Context) -> None:
        begun.append(ctx.epoch)

    deadline_at = current_clock().now() + timedelta(seconds=2)
    await hands.store.enqueue([new_job(deadline_at=deadline_at)])
    asked_at = trio.current_time()
    claims = await hands.store.claim(node=ALICE, types=None, limit=1, lease_seconds=10)
    hands.leases.hold(claims, asked_at=asked_at)
    if ends == "by a cancel":
        await hands.store.cancel(claims[0].job.id)
        await hands.leases.renew()
    else:
        await trio.sleep(2)
    held = hands.begin(claims[0])
    spawner = MachineSpawner()
    context = Context(claims[0], held, 1, hands.store, current_clock(), spawner, max_result_bytes=100)
    threads = trio.CapacityLimiter(1)
    outcome = await run_attempt(
        held, context, handlers, spawner=spawner, threads=threads, max_result_bytes=100
    )

    assert begun == []
    assert isinstance(outcome, Cancelled if ends == "by a cancel" else TimedOut)


async def test_an_error_that_is_not_the_handlers_own_is_let_through(
    hands: Hands, autojump_clock: MockClock
) -> None:
    """Ctrl-C in a test must not become a failed attempt, however deep the handler's nurseries are."""
    handlers = Handlers()

    @handlers.handler("noop")
    async def noop(ctx: Context) -> None:
        async with trio.open_nursery():
            raise KeyboardInterrupt

    [held] = await hands.run()
    spawner = MachineSpawner()
    context = Context(held.claim, held, 1, hands.store, current_clock(), spawner, max_result_bytes=100)
    attempt = partial(
        run_attempt,
        held,
        context,
        handlers,
        spawner=spawner,
        threads=trio.CapacityLimiter(1),
        max_result_bytes=100,
    )
    assert isinstance(await attempt(), Failed)
    with pytest.raises(BaseExceptionGroup) as caught:
        await attempt(let_through=(KeyboardInterrupt,))
    assert isinstance(caught.value.exceptions[0], KeyboardInterrupt)
