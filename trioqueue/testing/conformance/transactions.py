"""Promises of transaction, for a store that has it; what its connection writes is not tested here."""

import pytest
import trio

from trioqueue.errors import LeaseLost
from trioqueue.jobs.job import (
    AttemptOutcome,
    Json,
    Status,
)
from trioqueue.jobs.outcome import Completed, Failed
from trioqueue.store.protocol import (
    Store,
)
from trioqueue.testing.conformance.tools import BOB, Conformance, HandClock, claim_one, enqueue, settle


class TransactionPromises(Conformance):
    async def test_a_transaction_ends_with_the_completion_of_its_job(
        self, store: Store, clock: HandClock
    ) -> None:
        await enqueue(store)
        claimed = await claim_one(store)
        await store.progress(claimed, Json(b"0.5"))
        clock.advance(2)
        async with store.transaction(claimed, worker=4) as completion:
            assert completion.connection is not None
            completion.result = Json(b'{"n":1}')
        job = completion.job
        assert job is not None
        assert await store.get(job.id) == job
        assert (job.status, job.result, job.progress) == (Status.COMPLETED, b'{"n":1}', b"0.5")
        assert (job.node, job.lease_until, job.finished_at) == (None, None, clock.now())
        (attempt,) = await store.attempts(job.id)
        assert (attempt.outcome, attempt.worker, attempt.epoch) == (AttemptOutcome.COMPLETED, 4, 1)
        counted = {(count.status, count.jobs) for count in await store.counts()}
        assert counted == {(Status.COMPLETED, 1)}

    async def test_a_transaction_without_a_result_completes_without_one(self, store: Store) -> None:
        await enqueue(store)
        async with store.transaction(await claim_one(store), worker=None) as completion:
            pass
        assert completion.job is not None
        assert completion.job.result is None

    async def test_nothing_of_a_transaction_is_seen_before_its_end(self, store: Store) -> None:
        await enqueue(store)
        claimed = await claim_one(store)
        async with store.transaction(claimed, worker=1):
            assert await store.get(claimed.job.id) == claimed.job

    async def test_an_error_inside_of_a_transaction_settles_nothing(self, store: Store) -> None:
        await enqueue(store)
        claimed = await claim_one(store)
        with pytest.raises(ZeroDivisionError):
            async with store.transaction(claimed, worker=1) as completion:
                raise ZeroDivisionError
        assert completion.job is None
        assert await store.get(claimed.job.id) == claimed.job
        assert (await settle(store, claimed, Failed("no"))).status is Status.PENDING

    async def test_a_cancellation_inside_of_a_transaction_settles_nothing(self, store: Store) -> None:
        await enqueue(store)
        claimed = await claim_one(store)
        with trio.CancelScope() as scope:
            async with store.transaction(claimed, worker=1) as completion:
                scope.cancel()
        assert scope.cancelled_caught
        assert completion.job is None
        assert await store.get(claimed.job.id) == claimed.job
        assert (await settle(store, claimed, Completed())).status is Status.COMPLETED

    async def test_a_lease_is_renewed_in_the_middle_of_a_transaction(
        self, store: Store, clock: HandClock
    ) -> None:
        await enqueue(store)
        claimed = await claim_one(store, lease_seconds=30)
        async with store.transaction(claimed, worker=1) as completion:
            clock.advance(20)
            with trio.fail_after(10):
                (renewal,) = await store.renew([claimed], lease_seconds=30)
            assert renewal.renewed
            clock.advance(20)
            assert await store.rescue(limit=10) == []
        assert completion.job is not None

    async def test_a_claim_that_was_lost_before_has_no_transaction(
        self, store: Store, clock: HandClock
    ) -> None:
        await enqueue(store)
        late = await claim_one(store, lease_seconds=1)
        clock.advance(1)
        await store.rescue(limit=10)
        current = await claim_one(store, node=BOB)
        with pytest.raises(LeaseLost):
            async with store.transaction(late, worker=1):
                pass
        assert await store.get(late.job.id) == current.job

    async def test_a_claim_that_is_lost_meanwhile_rolls_its_transaction_back(
        self, store: Store, clock: HandClock
    ) -> None:
        await enqueue(store)
        late = await claim_one(store, lease_seconds=1)

        async def overtake() -> None:
            clock.advance(1)
            await store.rescue(limit=10)
            await claim_one(store, node=BOB)

        with pytest.raises(LeaseLost):
            async with store.transaction(late, worker=1) as completion:
                await overtake()
        assert completion.job is None
        now = await store.get(late.job.id)
        assert (now.status, now.epoch, now.node) == (Status.PROCESSING, 2, BOB)
        assert [attempt.outcome for attempt in await store.attempts(late.job.id)] == [AttemptOutcome.LOST]

    async def test_a_job_that_was_completed_by_a_transaction_is_settled(self, store: Store) -> None:
        await enqueue(store)
        claimed = await claim_one(store)
        async with store.transaction(claimed, worker=1) as completion:
            pass
        assert [renewal.renewed for renewal in await store.renew([claimed], lease_seconds=9)] == [False]
        with pytest.raises(LeaseLost):
            await settle(store, claimed, Failed("late"))
        with pytest.raises(LeaseLost):
            async with store.transaction(claimed, worker=1):
                pass
        assert await store.get(claimed.job.id) == completion.job

    async def test_a_transaction_that_completes_in_spite_of_a_cancel_is_kept(self, store: Store) -> None:
        await enqueue(store)
        claimed = await claim_one(store)
        async with store.transaction(claimed, worker=1) as completion:
            await store.cancel(claimed.job.id)
        assert completion.job is not None
        assert completion.job.status is Status.COMPLETED
