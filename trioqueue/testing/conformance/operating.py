"""Promises of cancel, redrive, rescue and prune."""

from datetime import timedelta

import pytest

from trioqueue.errors import JobNotFound
from trioqueue.jobs.job import (
    AttemptOutcome,
    JobId,
    Status,
)
from trioqueue.jobs.lifecycle import CRASHES_ALLOWED
from trioqueue.jobs.outcome import Completed, Failed
from trioqueue.store.protocol import (
    Hint,
    JobFilter,
    Redriven,
    Refusal,
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


class OperateConformance(Conformance):
    # cancel

    async def test_a_pending_job_is_cancelled_at_once(self, store: Store, clock: HandClock) -> None:
        pending = await enqueue(store)
        job = await store.cancel(pending.id)
        assert (job.status, job.reason, job.finished_at) == (Status.CANCELLED, "cancelled", clock.now())
        assert job.version == pending.version + 1
        assert await store.get(job.id) == job
        assert await claim(store) == []

    async def test_cancelling_a_waiting_retry_keeps_its_attempts(self, store: Store) -> None:
        await enqueue(store)
        waiting = await run_once(store, Failed("no"))
        assert (await store.cancel(waiting.id)).attempt == 1

    async def test_a_processing_job_is_asked_to_stop_once(self, store: Store, clock: HandClock) -> None:
        await enqueue(store)
        claimed = await claim_one(store)
        hints: list[Hint] = []
        store.listen(hints.append)
        clock.advance(1)
        asked = await store.cancel(claimed.job.id)
        assert asked.status is Status.PROCESSING
        assert asked.cancel_requested_at == clock.now()
        assert Hint.CANCEL in hints
        clock.advance(1)
        assert await store.cancel(claimed.job.id) == asked

    async def test_cancelling_a_job_that_has_ended_changes_nothing(self, store: Store) -> None:
        await enqueue(store)
        done = await run_once(store, Completed())
        assert await store.cancel(done.id) == done

    # redrive

    async def test_a_dead_job_is_redriven_with_a_full_budget_and_its_history(
        self, store: Store, clock: HandClock
    ) -> None:
        await enqueue(store, max_attempts=2)
        await run_once(store, Failed("no"))
        clock.advance(60)
        dead = await run_once(store, Failed("no"))
        ledger = await store.attempts(dead.id)
        hints: list[Hint] = []
        store.listen(hints.append)
        clock.advance(1)
        [answer] = await store.redrive([dead.id])
        job = await store.get(dead.id)
        assert answer == Redriven(job)
        assert (job.status, job.run_at, job.attempt, job.crash_count) == (Status.PENDING, clock.now(), 0, 0)
        assert (job.reason, job.result, job.finished_at) == (None, None, None)
        assert (job.epoch, job.version) == (dead.epoch, dead.version + 1)
        assert await store.attempts(job.id) == ledger
        assert Hint.WORK in hints
        [count] = await store.counts()
        assert (count.status, count.jobs) == (Status.PENDING, 1)

    async def test_a_redriven_job_runs_under_a_new_epoch(self, store: Store) -> None:
        await enqueue(store)
        old = await claim_one(store)
        dead = await settle(store, old, Failed("no", final=True))
        await store.redrive([dead.id])
        claimed = await claim_one(store)
        assert (claimed.job.epoch, claimed.job.attempt) == (dead.epoch + 1, 1)
        assert (await settle(store, claimed, Completed())).status is Status.COMPLETED
        assert [attempt.epoch for attempt in await store.attempts(dead.id)] == [1, 2]

    async def test_a_cancelled_job_is_redriven_and_not_asked_to_stop_any_more(self, store: Store) -> None:
        job = await store.cancel((await enqueue(store, tags=("a",))).id)
        [answer] = await store.redrive([job.id])
        assert answer.job is not None
        assert (answer.job.status, answer.job.cancel_requested_at) == (Status.PENDING, None)
        [renewal] = await store.renew([await claim_one(store)], lease_seconds=30)
        assert not renewal.cancel_requested
        assert (await store.list(JobFilter(tag="a"), limit=1)).jobs[0].status is Status.PROCESSING

    async def test_only_dead_and_cancelled_jobs_are_redriven(self, store: Store) -> None:
        nobody = JobId("00000000-0000-7000-8000-000000000000")
        await enqueue(store)
        done = await run_once(store, Completed())
        await enqueue(store)
        processing = (await claim_one(store)).job
        pending = await enqueue(store)
        dead = await store.cancel((await enqueue(store)).id)
        answers = await store.redrive([done.id, nobody, dead.id, processing.id, pending.id])
        assert [answer.refusal for answer in answers] == [
            Refusal.STATUS,
            Refusal.NOT_FOUND,
            None,
            Refusal.STATUS,
            Refusal.STATUS,
        ]
        assert answers[0].job == done
        assert answers[1].job is None
        assert await store.get(processing.id) == processing

    async def test_a_job_past_its_deadline_is_not_redriven(self, store: Store, clock: HandClock) -> None:
        job = await store.cancel((await enqueue(store, deadline_at=clock.now() + SECOND)).id)
        clock.advance(1)
        assert await store.redrive([job.id]) == [Redriven(job, Refusal.DEADLINE)]
        assert await store.get(job.id) == job

    async def test_a_job_whose_unique_key_is_in_use_is_not_redriven(self, store: Store) -> None:
        first = await store.cancel((await enqueue(store, unique_key="report")).id)
        second = await store.cancel((await enqueue(store, unique_key="report")).id)
        answers = await store.redrive([second.id, first.id])
        assert [answer.refusal for answer in answers] == [None, Refusal.UNIQUE_KEY]
        assert await store.get(first.id) == first
        (third,) = await store.enqueue([new_job(unique_key="report")])
        assert third.job.id == second.id

    async def test_nothing_to_redrive_is_no_error(self, store: Store) -> None:
        assert list(await store.redrive([])) == []

    # rescue

    async def test_an_expired_job_is_rescued_and_runs_again_at_once(
        self, store: Store, clock: HandClock
    ) -> None:
        await enqueue(store)
        claimed = await claim_one(store, node=ALICE, lease_seconds=30)
        clock.advance(29.999_999)
        assert await store.rescue(limit=10) == []
        hints: list[Hint] = []
        store.listen(hints.append)
        clock.advance(0.000_001)
        (job,) = await store.rescue(limit=10)
        assert (job.status, job.attempt, job.crash_count) == (Status.PENDING, 0, 1)
        assert job.run_at <= clock.now()
        assert (job.node, job.lease_until, job.epoch) == (None, None, 1)
        assert await store.get(job.id) == job
        assert hints == [Hint.WORK]
        (attempt,) = await store.attempts(job.id)
        assert (attempt.outcome, attempt.node, attempt.worker) == (AttemptOutcome.LOST, ALICE, None)
        assert (await claim_one(store, node=BOB)).epoch == claimed.epoch + 1

    async def test_what_a_stopping_node_left_behind_is_released_and_no_crash(
        self, store: Store, clock: HandClock
    ) -> None:
        job = await enqueue(store)
        claimed = await claim_one(store, lease_seconds=30)
        await store.beat(claimed.node, stopping=True)
        await store.beat(claimed.node)
        clock.advance(31)
        (rescued,) = await store.rescue(limit=10)
        assert (rescued.status, rescued.attempt, rescued.crash_count) == (Status.PENDING, 0, 0)
        (attempt,) = await store.attempts(job.id)
        assert attempt.outcome == "released"

    async def test_a_rescue_takes_no_more_than_its_limit(self, store: Store, clock: HandClock) -> None:
        await store.enqueue([new_job() for _ in range(5)])
        await claim(store, lease_seconds=1)
        clock.advance(1)
        assert [len(await store.rescue(limit=2)) for _ in range(4)] == [2, 2, 1, 0]

    async def test_a_job_that_takes_its_nodes_down_dies(self, store: Store, clock: HandClock) -> None:
        await enqueue(store)
        for _ in range(CRASHES_ALLOWED):
            await claim_one(store, lease_seconds=1)
            clock.advance(1)
            (job,) = await store.rescue(limit=10)
            clock.advance(3600)
        assert (job.status, job.crash_count) == (Status.DEAD, CRASHES_ALLOWED)
        assert await claim(store) == []

    async def test_a_rescued_job_that_was_asked_to_stop_is_cancelled(
        self, store: Store, clock: HandClock
    ) -> None:
        await enqueue(store)
        claimed = await claim_one(store, lease_seconds=1)
        await store.cancel(claimed.job.id)
        clock.advance(1)
        (job,) = await store.rescue(limit=10)
        assert job.status is Status.CANCELLED

    # prune

    async def test_jobs_are_pruned_after_their_retention(self, store: Store, clock: HandClock) -> None:
        for outcome in (Completed(), Failed("no", final=True)):
            await enqueue(store, tags=("t",))
            await run_once(store, outcome)
        retention = {Status.COMPLETED: 10 * SECOND, Status.DEAD: 20 * SECOND}
        clock.advance(9.999_999)
        assert await store.prune(retention, limit=10) == 0
        clock.advance(0.000_001)
        assert await store.prune(retention, limit=10) == 1
        (dead,) = await everything(store)
        assert dead.status is Status.DEAD
        assert [job.id for job in (await store.list(JobFilter(tag="t"), limit=9)).jobs] == [dead.id]

    async def test_a_pruned_job_is_gone_with_all_that_belonged_to_it(
        self, store: Store, clock: HandClock
    ) -> None:
        new = new_job(tags=("t",), unique_key="k")
        await store.enqueue([new])
        await run_once(store, Completed())
        clock.advance(1)
        assert await store.prune({Status.COMPLETED: timedelta(0)}, limit=10) == 1
        with pytest.raises(JobNotFound):
            await store.get(new.id)
        with pytest.raises(JobNotFound):
            await store.attempts(new.id)
        (again,) = await store.enqueue([new])
        assert again.created
        assert await store.attempts(new.id) == []
        assert len((await store.list(JobFilter(tag="t"), limit=9)).jobs) == 1

    async def test_live_jobs_are_never_pruned(self, store: Store, clock: HandClock) -> None:
        await store.enqueue([new_job(), new_job()])
        await claim_one(store)
        clock.advance(10_000)
        assert await store.prune(dict.fromkeys(Status, timedelta(0)), limit=10) == 0

    async def test_statuses_that_the_retention_does_not_name_are_kept(
        self, store: Store, clock: HandClock
    ) -> None:
        await store.cancel((await enqueue(store)).id)
        clock.advance(10_000)
        assert await store.prune({Status.COMPLETED: timedelta(0)}, limit=10) == 0

    async def test_pruning_takes_the_oldest_up_to_its_limit(self, store: Store, clock: HandClock) -> None:
        ids = [(await enqueue(store)).id for _ in range(5)]
        for _ in ids:
            await run_once(store, Completed())
            clock.advance(1)
        assert await store.prune({Status.COMPLETED: timedelta(0)}, limit=3) == 3
        assert [job.id for job in await everything(store)] == ids[:2:-1]

    async def test_the_limit_of_pruning_is_for_all_statuses_together(
        self, store: Store, clock: HandClock
    ) -> None:
        for outcome in (Completed(), Completed(), Failed("no", final=True), Failed("no", final=True)):
            await enqueue(store)
            await run_once(store, outcome)
        clock.advance(1)
        retention = {Status.COMPLETED: timedelta(0), Status.DEAD: timedelta(0)}
        assert [await store.prune(retention, limit=3) for _ in range(3)] == [3, 1, 0]
