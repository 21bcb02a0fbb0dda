"""Promises of renew, progress, settle and release."""

import pytest
import trio

from trioqueue.errors import LeaseLost, NotSupported
from trioqueue.jobs.backoff import Retry
from trioqueue.jobs.job import (
    AttemptOutcome,
    Claim,
    JobId,
    Json,
    Status,
)
from trioqueue.jobs.outcome import Completed, Failed, Released, Snoozed, TimedOut
from trioqueue.store.protocol import (
    Hint,
    Settlement,
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
    everything,
    new_job,
    run_once,
    settle,
)


class SettleConformance(Conformance):
    # renew

    async def test_renewing_moves_the_end_of_the_lease(self, store: Store, clock: HandClock) -> None:
        await enqueue(store)
        claimed = await claim_one(store, lease_seconds=30)
        clock.advance(20)
        (renewal,) = await store.renew([claimed], lease_seconds=30)
        assert renewal.renewed
        assert not renewal.cancel_requested
        assert (await store.get(claimed.job.id)).lease_until == clock.now() + 30 * SECOND

    async def test_one_lost_lease_does_not_keep_the_others_from_being_renewed(
        self, store: Store, clock: HandClock
    ) -> None:
        await store.enqueue([new_job() for _ in range(3)])
        claims = await claim(store)
        await settle(store, claims[1], Completed())
        clock.advance(10)
        renewals = await store.renew(claims, lease_seconds=30)
        assert [renewal.claim for renewal in renewals] == claims
        assert [renewal.renewed for renewal in renewals] == [True, False, True]
        assert (await store.get(claims[2].job.id)).lease_until == clock.now() + 30 * SECOND
        assert (await store.get(claims[1].job.id)).lease_until is None

    async def test_a_renewal_tells_that_somebody_asked_to_stop(self, store: Store) -> None:
        await enqueue(store)
        claimed = await claim_one(store)
        await store.cancel(claimed.job.id)
        (renewal,) = await store.renew([claimed], lease_seconds=30)
        assert renewal.renewed
        assert renewal.cancel_requested

    async def test_a_renewed_lease_is_not_rescued(self, store: Store, clock: HandClock) -> None:
        await enqueue(store)
        claimed = await claim_one(store, lease_seconds=30)
        clock.advance(20)
        await store.renew([claimed], lease_seconds=30)
        clock.advance(29)
        assert await store.rescue(limit=10) == []
        assert (await settle(store, claimed, Completed())).status is Status.COMPLETED

    # progress

    async def test_progress_is_kept_and_stays_after_the_end(self, store: Store) -> None:
        await enqueue(store)
        claimed = await claim_one(store)
        await store.progress(claimed, Json(b'{"done":3}'))
        assert (await store.get(claimed.job.id)).progress == Json(b'{"done":3}')
        assert (await settle(store, claimed, Completed())).progress == Json(b'{"done":3}')

    async def test_progress_is_fenced(self, store: Store) -> None:
        await enqueue(store)
        claimed = await claim_one(store)
        done = await settle(store, claimed, Completed())
        with pytest.raises(LeaseLost):
            await store.progress(claimed, Json(b"1"))
        assert await store.get(done.id) == done

    # settle

    async def test_a_completed_job_keeps_its_result(self, store: Store, clock: HandClock) -> None:
        await enqueue(store)
        claimed = await claim_one(store)
        clock.advance(2)
        job = await settle(store, claimed, Completed(Json(b'{"n":1}')), worker=4)
        assert job.status is Status.COMPLETED
        assert job.result == Json(b'{"n":1}')
        assert (job.node, job.lease_until) == (None, None)
        assert job.finished_at == clock.now()
        assert job.attempt == 1
        assert await store.get(job.id) == job

    async def test_the_ledger_tells_of_every_attempt(self, store: Store, clock: HandClock) -> None:
        job = await enqueue(store)
        started_at = clock.now()
        claimed = await claim_one(store, node=ALICE)
        clock.advance(2)
        await settle(store, claimed, Failed("Traceback …\nValueError: no"), worker=4)
        clock.advance(100)
        await settle(store, await claim_one(store, node=BOB), Completed(), worker=1)
        first, second = await store.attempts(job.id)
        assert (first.number, first.epoch, first.node, first.worker) == (1, 1, ALICE, 4)
        assert (first.started_at, first.ended_at) == (started_at, started_at + 2 * SECOND)
        assert (first.outcome, first.error) == (AttemptOutcome.FAILED, "Traceback …\nValueError: no")
        assert (second.number, second.epoch, second.node, second.worker) == (2, 2, BOB, 1)
        assert (second.outcome, second.error) == (AttemptOutcome.COMPLETED, None)

    async def test_a_failed_job_is_due_again_after_its_backoff(self, store: Store, clock: HandClock) -> None:
        await enqueue(store)
        job = await run_once(store, Failed("ValueError: no", retry=Retry(base_seconds=7, spread=0.5)))
        assert job.status is Status.PENDING
        assert (job.attempt, job.reason) == (1, "ValueError: no")
        assert (job.node, job.lease_until, job.finished_at) == (None, None, None)
        wait = (job.run_at - clock.now()).total_seconds()
        assert 7 <= wait <= 10.5
        assert await claim(store) == []
        clock.advance(wait)
        assert (await claim_one(store)).job.attempt == 2

    async def test_a_job_out_of_attempts_is_dead(self, store: Store, clock: HandClock) -> None:
        await enqueue(store, max_attempts=2)
        await run_once(store, TimedOut("too slow"))
        clock.advance(100)
        job = await run_once(store, Failed("ValueError: no"))
        assert (job.status, job.finished_at, job.reason) == (Status.DEAD, clock.now(), "ValueError: no")

    async def test_a_snoozed_job_keeps_its_attempt(self, store: Store, clock: HandClock) -> None:
        await enqueue(store)
        job = await run_once(store, Snoozed(60, "rate limited"))
        assert (job.status, job.attempt) == (Status.PENDING, 0)
        assert (job.run_at, job.reason) == (clock.now() + 60 * SECOND, "rate limited")

    async def test_a_released_attempt_is_due_again_at_once(self, store: Store) -> None:
        job = await enqueue(store)
        again = await run_once(store, Released("the node stops"))
        assert (again.status, again.attempt, again.run_at) == (Status.PENDING, 0, job.run_at)
        assert [attempt.outcome for attempt in await store.attempts(job.id)] == [AttemptOutcome.RELEASED]

    async def test_a_job_that_is_due_again_rings_for_work(self, store: Store) -> None:
        await enqueue(store)
        claimed = await claim_one(store)
        hints: list[Hint] = []
        store.listen(hints.append)
        await settle(store, claimed, Snoozed(0))
        assert hints == [Hint.WORK]

    async def test_a_job_that_ended_or_waits_does_not_ring(self, store: Store) -> None:
        await store.enqueue([new_job(), new_job()])
        claims = await claim(store)
        hints: list[Hint] = []
        store.listen(hints.append)
        await settle(store, claims[0], Completed())
        await settle(store, claims[1], Failed("no"))
        assert hints == []

    async def test_a_request_to_cancel_is_honoured_when_the_attempt_ends(self, store: Store) -> None:
        await enqueue(store)
        claimed = await claim_one(store)
        await store.cancel(claimed.job.id)
        job = await settle(store, claimed, Failed("interrupted"))
        assert job.status is Status.CANCELLED
        assert job.attempt == 0

    async def test_a_result_that_came_in_spite_of_a_cancel_is_kept(self, store: Store) -> None:
        await enqueue(store)
        claimed = await claim_one(store)
        await store.cancel(claimed.job.id)
        job = await settle(store, claimed, Completed(Json(b"1")))
        assert (job.status, job.result) == (Status.COMPLETED, Json(b"1"))

    async def test_a_claim_settles_only_once(self, store: Store) -> None:
        await enqueue(store)
        claimed = await claim_one(store)
        done = await settle(store, claimed, Completed(Json(b"1")))
        with pytest.raises(LeaseLost):
            await settle(store, claimed, Failed("late"))
        assert await store.get(done.id) == done
        assert len(await store.attempts(done.id)) == 1

    async def test_an_expired_claim_settles_as_long_as_nobody_rescued_the_job(
        self, store: Store, clock: HandClock
    ) -> None:
        await enqueue(store)
        claimed = await claim_one(store, lease_seconds=1)
        clock.advance(100)
        assert (await settle(store, claimed, Completed())).status is Status.COMPLETED

    async def test_an_expired_claim_cannot_settle_after_rescue(self, store: Store, clock: HandClock) -> None:
        await enqueue(store)
        late = await claim_one(store, node=ALICE, lease_seconds=1)
        clock.advance(1)
        await store.rescue(limit=10)
        current = await claim_one(store, node=BOB)
        for _ in range(2):
            with pytest.raises(LeaseLost):
                await settle(store, late, Completed(Json(b'"late"')))
            with pytest.raises(LeaseLost):
                await store.progress(late, Json(b"1"))
        assert [renewal.renewed for renewal in await store.renew([late], lease_seconds=9)] == [False]
        assert await store.release([late]) == 0
        assert await store.get(late.job.id) == current.job
        assert (await settle(store, current, Completed(Json(b'"mine"')))).result == Json(b'"mine"')

    async def test_a_lost_lease_harms_nobody_who_settles_at_the_same_time(self, store: Store) -> None:
        await store.enqueue([new_job() for _ in range(10)])
        claims = await claim(store)
        for lost in claims[::2]:
            await settle(store, lost, Completed())
        ended: dict[JobId, str] = {}

        async def try_to_settle(claimed: Claim) -> None:
            try:
                ended[claimed.job.id] = (await settle(store, claimed, Completed())).status
            except LeaseLost:
                ended[claimed.job.id] = "lost"

        async with trio.open_nursery() as nursery:
            for claimed in claims:
                nursery.start_soon(try_to_settle, claimed)
        assert [ended[claimed.job.id] for claimed in claims] == ["lost", "completed"] * 5

    async def test_settlements_of_one_call_are_fenced_one_by_one_and_answered_in_order(
        self, store: Store
    ) -> None:
        await store.enqueue([new_job() for _ in range(3)])
        first, lost, last = await claim(store, 3)
        await settle(store, lost, Completed())
        answers = await store.settle(
            [Settlement(claimed, Completed()) for claimed in (first, lost, last, first)]
        )
        assert [answer and answer.id for answer in answers] == [first.job.id, None, last.job.id, None]

    # transaction; what a store that has them promises is in TransactionConformance

    async def test_a_store_has_transactions_or_says_that_it_has_not(self, store: Store) -> None:
        await enqueue(store)
        claimed = await claim_one(store)
        try:
            async with store.transaction(claimed, worker=1):
                pass
        except NotSupported:
            assert await store.get(claimed.job.id) == claimed.job
        else:
            assert (await store.get(claimed.job.id)).status is Status.COMPLETED

    # release

    async def test_a_released_claim_leaves_no_trace_but_the_epoch(
        self, store: Store, clock: HandClock
    ) -> None:
        job = await enqueue(store)
        clock.advance(5)
        claimed = await claim_one(store)
        assert await store.release([claimed]) == 1
        again = await store.get(job.id)
        assert (again.status, again.attempt, again.epoch) == (Status.PENDING, 0, 1)
        assert (again.run_at, again.started_at) == (job.run_at, None)
        assert (again.node, again.lease_until, again.reason) == (None, None, None)
        assert await store.attempts(job.id) == []

    async def test_a_release_brings_back_when_the_attempt_before_it_started(
        self, store: Store, clock: HandClock
    ) -> None:
        await enqueue(store)
        started_at = clock.now()
        await run_once(store, Failed("ValueError: no"))
        clock.advance(100)
        await store.release([await claim_one(store)])
        (job,) = await everything(store)
        assert (job.started_at, job.attempt, job.reason) == (started_at, 1, "ValueError: no")
        assert job.version == 5  # accepted, claimed, failed, claimed, released

    async def test_a_release_passes_over_claims_that_were_lost(self, store: Store) -> None:
        await store.enqueue([new_job(), new_job()])
        claims = await claim(store)
        done = await settle(store, claims[0], Completed())
        assert await store.release(claims) == 1
        assert await store.get(done.id) == done

    async def test_a_claim_that_is_named_twice_is_released_once(self, store: Store) -> None:
        await enqueue(store)
        claimed = await claim_one(store)
        assert await store.release([claimed, claimed]) == 1
        assert (await store.get(claimed.job.id)).attempt == 0

    async def test_a_release_rings_for_work(self, store: Store) -> None:
        await enqueue(store)
        claimed = await claim_one(store)
        hints: list[Hint] = []
        store.listen(hints.append)
        await store.release([claimed])
        assert hints == [Hint.WORK]

    async def test_a_released_job_that_was_asked_to_stop_is_cancelled(
        self, store: Store, clock: HandClock
    ) -> None:
        await enqueue(store)
        claimed = await claim_one(store)
        await store.cancel(claimed.job.id)
        await store.release([claimed])
        job = await store.get(claimed.job.id)
        assert (job.status, job.attempt, job.finished_at) == (Status.CANCELLED, 0, clock.now())
        assert job.reason == "cancelled"
