"""Promises of claim, expire, next_due_in and next_upkeep_in."""

import trio

from trioqueue.jobs.job import (
    JobId,
    Json,
    NodeId,
    Status,
)
from trioqueue.jobs.outcome import Completed, Failed, Released, Snoozed, TimedOut
from trioqueue.store.protocol import (
    NextUpkeep,
    Store,
)
from trioqueue.testing.conformance.tools import (
    ALICE,
    BOB,
    SECOND,
    Conformance,
    HandClock,
    claim,
    claim_one,
    enqueue,
    new_job,
    run_once,
    settle,
)


class ClaimConformance(Conformance):
    # claim

    async def test_a_claim_takes_the_job_under_a_lease(self, store: Store, clock: HandClock) -> None:
        job = await enqueue(store)
        clock.advance(1)
        claimed = await claim_one(store, node=ALICE, lease_seconds=30)
        assert claimed.job.id == job.id
        assert claimed.job.status is Status.PROCESSING
        assert (claimed.epoch, claimed.job.attempt) == (1, 1)
        assert (claimed.node, claimed.job.node) == (ALICE, ALICE)
        assert claimed.job.started_at == clock.now()
        assert claimed.job.lease_until == clock.now() + 30 * SECOND
        assert claimed.job.version == job.version + 1
        assert await store.get(job.id) == claimed.job

    async def test_a_claimed_job_cannot_be_claimed(self, store: Store) -> None:
        await enqueue(store)
        assert len(await claim(store)) == 1
        assert await claim(store, node=BOB) == []

    async def test_claims_made_at_once_share_no_job(self, store: Store) -> None:
        await store.enqueue([new_job() for _ in range(40)])
        taken: list[JobId] = []

        async def take(node: NodeId) -> None:
            for _ in range(10):
                taken.extend(claimed.job.id for claimed in await claim(store, 3, node=node))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, ALICE)
            nursery.start_soon(take, BOB)
        assert len(taken) == 40
        assert len(set(taken)) == 40

    async def test_claims_go_by_priority_then_run_at_then_acceptance(
        self, store: Store, clock: HandClock
    ) -> None:
        now = clock.now()
        late = await enqueue(store, priority=1, run_at=now - 9 * SECOND)
        newer = await enqueue(store, run_at=now - SECOND, type="other")
        oldest = await enqueue(store, run_at=now - 2 * SECOND, queue="other")
        second = await enqueue(store, run_at=now - SECOND)
        first = await enqueue(store, priority=-1)
        order = [claimed.job.id for claimed in await claim(store)]
        assert order == [job.id for job in (first, oldest, newer, second, late)]

    async def test_a_claim_takes_no_more_than_its_limit(self, store: Store) -> None:
        ids = [(await enqueue(store)).id for _ in range(5)]
        assert [claimed.job.id for claimed in await claim(store, 2)] == ids[:2]
        assert [claimed.job.id for claimed in await claim(store, 2)] == ids[2:4]

    async def test_a_delayed_job_is_claimed_when_its_time_has_come(
        self, store: Store, clock: HandClock
    ) -> None:
        job = await enqueue(store, run_at=clock.now() + 10 * SECOND)
        clock.advance(9.999_999)
        assert await claim(store) == []
        clock.advance(0.000_001)
        assert (await claim_one(store)).job.id == job.id

    async def test_a_delayed_job_that_has_come_due_is_claimed_in_its_order(
        self, store: Store, clock: HandClock
    ) -> None:
        urgent = await enqueue(store, run_at=clock.now() + SECOND, priority=-1)
        await enqueue(store)
        clock.advance(1)
        assert (await claim_one(store)).job.id == urgent.id

    async def test_a_node_claims_only_the_types_that_it_names(self, store: Store) -> None:
        await enqueue(store, type="unknown", priority=-1)
        mine = [(await enqueue(store, type=type)).id for type in ("mail", "noop", "mail")]
        await enqueue(store, type="unknown")
        types = frozenset({"noop", "mail", "absent"})
        assert [claimed.job.id for claimed in await claim(store, types=types)] == mine
        assert await claim(store, types=frozenset()) == []
        assert len(await claim(store, types=None)) == 2

    async def test_a_claim_forgets_the_progress_of_the_attempt_before(
        self, store: Store, clock: HandClock
    ) -> None:
        await enqueue(store)
        first = await claim_one(store)
        await store.progress(first, Json(b"0.5"))
        await settle(store, first, Snoozed(1))
        clock.advance(1)
        assert (await claim_one(store)).job.progress is None

    async def test_no_two_claims_share_an_epoch(self, store: Store, clock: HandClock) -> None:
        await enqueue(store, max_attempts=100)
        epochs: list[int] = []
        for outcome in (Snoozed(0), Released("stopping"), Failed("no"), TimedOut("slow"), Completed()):
            claimed = await claim_one(store)
            epochs.append(claimed.epoch)
            await store.release([claimed])
            claimed = await claim_one(store)
            epochs.append(claimed.epoch)
            await settle(store, claimed, outcome)
            clock.advance(10_000)
        assert epochs == list(range(1, 11))

    async def test_a_job_past_its_deadline_never_runs(self, store: Store, clock: HandClock) -> None:
        late = await enqueue(store, deadline_at=clock.now() + SECOND)
        good = await enqueue(store, deadline_at=clock.now() + 2 * SECOND)
        clock.advance(1)
        assert [claimed.job.id for claimed in await claim(store)] == [good.id]
        (dead,) = await store.expire(limit=10)
        assert dead == await store.get(late.id)
        assert dead.status is Status.DEAD
        assert dead.reason is not None
        assert "deadline" in dead.reason
        assert dead.finished_at == clock.now()
        assert dead.attempt == 0
        assert await store.attempts(late.id) == []

    async def test_jobs_past_their_deadline_do_not_use_up_the_limit(
        self, store: Store, clock: HandClock
    ) -> None:
        await store.enqueue([new_job(deadline_at=clock.now()) for _ in range(5)])
        good = await enqueue(store)
        assert (await claim_one(store)).job.id == good.id

    # expire

    async def test_a_job_that_waits_past_its_deadline_ends_although_it_is_not_due(
        self, store: Store, clock: HandClock
    ) -> None:
        job = await enqueue(store, deadline_at=clock.now() + 2 * SECOND)
        await run_once(store, Snoozed(100, "later"))
        clock.advance(1.999_999)
        assert await store.expire(limit=10) == []
        clock.advance(0.000_001)
        (dead,) = await store.expire(limit=10)
        assert (dead.id, dead.status, dead.reason) == (job.id, Status.DEAD, "deadline passed; later")
        assert await store.expire(limit=10) == []
        assert await store.next_due_in(None) is None

    async def test_jobs_expire_in_the_order_of_their_deadlines(self, store: Store, clock: HandClock) -> None:
        ids = [(await enqueue(store, deadline_at=clock.now() + n * SECOND)).id for n in (3, 1, 2)]
        clock.advance(3)
        assert [job.id for job in await store.expire(limit=2)] == [ids[1], ids[2]]
        assert [job.id for job in await store.expire(limit=2)] == [ids[0]]

    async def test_a_processing_job_does_not_expire(self, store: Store, clock: HandClock) -> None:
        await enqueue(store, deadline_at=clock.now() + SECOND)
        claimed = await claim_one(store)
        clock.advance(2)
        assert await store.expire(limit=10) == []
        assert (await settle(store, claimed, Completed())).status is Status.COMPLETED

    # next_due_in

    async def test_a_store_tells_how_soon_the_first_pending_job_is_due(
        self, store: Store, clock: HandClock
    ) -> None:
        assert await store.next_due_in(None) is None
        await enqueue(store, run_at=clock.now() + 5 * SECOND)
        await enqueue(store, run_at=clock.now() + 3 * SECOND, type="mail", priority=9)
        clock.advance(0.5)
        assert await store.next_due_in(None) == 2.5
        assert await store.next_due_in(frozenset({"noop"})) == 4.5
        assert await store.next_due_in(frozenset({"absent"})) is None

    async def test_a_job_that_has_been_due_for_long_counts_below_zero(
        self, store: Store, clock: HandClock
    ) -> None:
        await enqueue(store, priority=1)
        clock.advance(3600)
        await enqueue(store, priority=0)
        assert await store.next_due_in(None) == -3600

    async def test_a_processing_job_is_not_due(self, store: Store) -> None:
        await enqueue(store)
        await claim_one(store)
        assert await store.next_due_in(None) is None

    # next_upkeep_in

    async def test_a_store_tells_when_there_will_be_something_to_rescue_to_expire_and_to_prune(
        self, store: Store, clock: HandClock
    ) -> None:
        retention = {Status.COMPLETED: 20 * SECOND, Status.CANCELLED: 5 * SECOND, Status.DEAD: 90 * SECOND}
        assert await store.next_upkeep_in(retention) == NextUpkeep()
        for outcome in (Completed(), Failed("no", final=True)):
            await enqueue(store)
            await run_once(store, outcome)
        clock.advance(1)
        await store.cancel((await enqueue(store, priority=9)).id)
        assert await store.next_upkeep_in(retention) == NextUpkeep(prune=5)
        await enqueue(store, priority=-1)
        await claim_one(store, lease_seconds=30)
        await enqueue(store, deadline_at=clock.now() + 40 * SECOND)
        await enqueue(store, deadline_at=clock.now() + 45 * SECOND)
        assert await store.next_upkeep_in(retention) == NextUpkeep(rescue=30, expire=40, prune=5)
        del retention[Status.CANCELLED]
        assert (await store.next_upkeep_in(retention)).prune == 19
        clock.advance(41)
        assert await store.next_upkeep_in(retention) == NextUpkeep(rescue=-11, expire=-1, prune=-22)

    async def test_what_was_foretold_is_found_at_that_very_moment(
        self, store: Store, clock: HandClock
    ) -> None:
        retention = {Status.COMPLETED: 3 * SECOND}
        await enqueue(store)
        await claim_one(store, lease_seconds=1)
        await enqueue(store, deadline_at=clock.now() + 2 * SECOND)
        await enqueue(store, priority=-1)
        await run_once(store, Completed())

        clock.advance(1)
        assert (await store.next_upkeep_in(retention)).rescue == 0
        assert len(await store.rescue(limit=10)) == 1
        clock.advance(1)
        assert (await store.next_upkeep_in(retention)).expire == 0
        assert len(await store.expire(limit=10)) == 1
        clock.advance(1)
        assert (await store.next_upkeep_in(retention)).prune == 0
        assert await store.prune(retention, limit=10) == 1
        assert await store.next_upkeep_in(retention) == NextUpkeep()

    async def test_a_processing_job_with_a_deadline_will_not_expire(
        self, store: Store, clock: HandClock
    ) -> None:
        await enqueue(store, deadline_at=clock.now() + SECOND)
        await claim_one(store, lease_seconds=30)
        assert await store.next_upkeep_in({}) == NextUpkeep(rescue=30)
