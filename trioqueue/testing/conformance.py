"""The public conformance suite: one test for each promise of `trioqueue.store.protocol`.

For whoever writes a store. Subclass it in a test module and say how a fresh store is opened:

    class TestMyStore(StoreConformance):
        @pytest.fixture
        async def store(self, clock: HandClock) -> AsyncIterator[Store]:
            async with open_my_store(clock=clock) as store:
                yield store

Needs pytest and pytest-trio. No test sleeps: time passes when a test moves the clock by hand.
For readable failures call `pytest.register_assert_rewrite("trioqueue.testing.conformance")` in
a conftest.py before the import.
"""

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
import trio

from trioqueue.errors import InvalidFilter, JobNotFound, LeaseLost, NotSupported
from trioqueue.jobs.backoff import Retry
from trioqueue.jobs.job import (
    AttemptOutcome,
    Claim,
    Job,
    JobId,
    Json,
    NewJob,
    NodeId,
    Status,
    new_job_id,
)
from trioqueue.jobs.lifecycle import CRASHES_ALLOWED
from trioqueue.jobs.outcome import Cancelled, Completed, Failed, Outcome, Released, Snoozed, TimedOut
from trioqueue.store.protocol import (
    SILENT_SECONDS,
    Hint,
    JobFilter,
    NextUpkeep,
    NodeFacts,
    Redriven,
    Refusal,
    Running,
    Settlement,
    Store,
)

ALICE = NodeId("alice")
BOB = NodeId("bob")
SECOND = timedelta(seconds=1)


class HandClock:
    """A clock that stands still until it is moved."""

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        self._now = start

    def now(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


_ids = Random(0)


def new_job(**fields: object) -> NewJob:
    """A new job of type "noop" with an empty payload; `fields` say what is different."""
    job_id = new_job_id(datetime(2030, 1, 1, tzinfo=UTC), _ids)
    return NewJob(**{"id": job_id, "type": "noop", "payload": Json(b"{}"), **fields})  # type: ignore[arg-type]


async def enqueue(store: Store, **fields: object) -> Job:
    (enqueued,) = await store.enqueue([new_job(**fields)])
    return enqueued.job


async def claim(
    store: Store,
    limit: int = 100,
    *,
    node: NodeId = ALICE,
    types: frozenset[str] | None = None,
    lease_seconds: float = 30,
) -> list[Claim]:
    return list(await store.claim(node=node, types=types, limit=limit, lease_seconds=lease_seconds))


async def claim_one(store: Store, **options: object) -> Claim:
    (claimed,) = await claim(store, 1, **options)  # type: ignore[arg-type]
    return claimed


async def settle(store: Store, claimed: Claim, outcome: Outcome, *, worker: int | None = None) -> Job:
    """Settle one claim; `LeaseLost` when it does not hold its job any more."""
    (job,) = await store.settle([Settlement(claimed, outcome, worker)])
    if job is None:
        raise LeaseLost(claimed.job.id, claimed.epoch)
    return job


async def run_once(store: Store, outcome: Outcome) -> Job:
    """Claim the next job and settle it."""
    return await settle(store, await claim_one(store), outcome)


async def everything(store: Store) -> list[Job]:
    return (await store.list(JobFilter(), limit=1000)).jobs


@pytest.mark.trio
class StoreConformance:
    """One test for each promise. `store` must be overridden; it must be empty and go by `clock`."""

    @pytest.fixture
    def clock(self) -> HandClock:
        return HandClock()

    # enqueue

    async def test_a_new_job_is_pending_and_untouched(self, store: Store, clock: HandClock) -> None:
        job = await enqueue(store, tags=("a", "b"), priority=-3, queue="mail", timeout_seconds=2.5)
        assert job.status is Status.PENDING
        assert (job.epoch, job.attempt, job.crash_count, job.version) == (0, 0, 0, 1)
        assert (job.run_at, job.created_at) == (clock.now(), clock.now())
        assert (job.tags, job.priority, job.queue, job.timeout_seconds) == (("a", "b"), -3, "mail", 2.5)
        assert (job.started_at, job.finished_at, job.node, job.lease_until) == (None, None, None, None)

    async def test_every_field_comes_back_as_it_was_given(self, store: Store, clock: HandClock) -> None:
        parent = await enqueue(store)
        microsecond = timedelta(microseconds=1)
        job = await enqueue(
            store,
            type="mail.send:v2",
            payload=Json('{"to":"Zoë 🚲","n":[1,2.5,null]}'.encode()),
            queue="später",
            priority=1_000_000,
            run_at=clock.now() + microsecond,
            max_attempts=7,
            timeout_seconds=0.001,
            deadline_at=datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            unique_key="key with 'quotes' and ümlaut",
            tags=('"', "\\", "tag, with comma"),
            parent_id=parent.id,
            root_id=parent.root_id,
            schedule="nightly",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        assert await store.get(job.id) == job
        assert job.payload == Json('{"to":"Zoë 🚲","n":[1,2.5,null]}'.encode())
        assert job.run_at == clock.now() + microsecond
        assert job.tags == ('"', "\\", "tag, with comma")
        assert (job.parent_id, job.root_id) == (parent.id, parent.id)

    async def test_a_job_without_a_parent_is_its_own_root(self, store: Store) -> None:
        job = await enqueue(store)
        assert job.root_id == job.id

    async def test_answers_come_in_the_order_of_the_jobs(self, store: Store) -> None:
        new = [new_job() for _ in range(5)]
        answers = await store.enqueue(new)
        assert [answer.job.id for answer in answers] == [job.id for job in new]

    async def test_enqueueing_again_after_a_lost_answer_changes_nothing(self, store: Store) -> None:
        new = new_job()
        (first,) = await store.enqueue([new])
        (second,) = await store.enqueue([new])
        assert (first.created, second.created) == (True, False)
        assert second.job == first.job
        assert len(await everything(store)) == 1

    async def test_a_known_id_is_answered_with_the_job_as_it_is_now(self, store: Store) -> None:
        new = new_job()
        await store.enqueue([new])
        done = await run_once(store, Completed())
        (again,) = await store.enqueue([new])
        assert not again.created
        assert again.job == done

    async def test_a_unique_key_is_taken_while_its_job_is_pending(self, store: Store) -> None:
        first = await enqueue(store, unique_key="report")
        (second,) = await store.enqueue([new_job(unique_key="report")])
        assert not second.created
        assert second.job == first

    async def test_a_unique_key_is_taken_while_its_job_is_processing(self, store: Store) -> None:
        await enqueue(store, unique_key="report")
        claimed = await claim_one(store)
        (second,) = await store.enqueue([new_job(unique_key="report")])
        assert not second.created
        assert second.job == claimed.job

    @pytest.mark.parametrize("outcome", [Completed(), Failed("no", final=True), Cancelled()])
    async def test_a_unique_key_is_free_again_when_its_job_has_ended(
        self, store: Store, outcome: Outcome
    ) -> None:
        await enqueue(store, unique_key="report")
        await run_once(store, outcome)
        (second,) = await store.enqueue([new_job(unique_key="report")])
        assert second.created

    async def test_two_jobs_of_one_call_can_collide(self, store: Store) -> None:
        new = new_job(unique_key="report")
        answers = await store.enqueue([new, new, new_job(unique_key="report")])
        assert [answer.created for answer in answers] == [True, False, False]
        assert {answer.job.id for answer in answers} == {new.id}

    async def test_an_enqueued_due_job_rings_for_work(self, store: Store) -> None:
        hints: list[Hint] = []
        store.listen(hints.append)
        await enqueue(store)
        assert Hint.WORK in hints

    async def test_a_delayed_job_does_not_ring(self, store: Store, clock: HandClock) -> None:
        hints: list[Hint] = []
        store.listen(hints.append)
        await enqueue(store, run_at=clock.now() + SECOND)
        assert hints == []

    async def test_a_delay_counts_from_the_acceptance_by_the_stores_clock(
        self, store: Store, clock: HandClock
    ) -> None:
        clock.advance(1000)
        hints: list[Hint] = []
        store.listen(hints.append)
        job = await enqueue(store, delay_seconds=2.5)
        assert (job.run_at, job.created_at) == (clock.now() + 2.5 * SECOND, clock.now())
        assert hints == []
        clock.advance(2.5)
        assert (await claim_one(store)).job.id == job.id

    async def test_a_job_without_a_delay_is_due_at_once(self, store: Store, clock: HandClock) -> None:
        assert (await enqueue(store, delay_seconds=0.0)).run_at == clock.now()

    async def test_nothing_to_enqueue_is_no_error(self, store: Store) -> None:
        assert await store.enqueue([]) == []

    # get, attempts, list

    async def test_an_unknown_job_is_not_found(self, store: Store) -> None:
        nobody = JobId("00000000-0000-7000-8000-000000000000")
        with pytest.raises(JobNotFound):
            await store.get(nobody)
        with pytest.raises(JobNotFound):
            await store.attempts(nobody)
        with pytest.raises(JobNotFound):
            await store.cancel(nobody)

    async def test_a_list_shows_the_last_accepted_first(self, store: Store) -> None:
        ids = [(await enqueue(store, priority=priority)).id for priority in (5, -5, 0)]
        assert [job.id for job in await everything(store)] == ids[::-1]

    async def test_pages_neither_repeat_nor_skip_while_jobs_come_and_change(self, store: Store) -> None:
        ids = [(await enqueue(store)).id for _ in range(7)]
        first = await store.list(JobFilter(), limit=3)
        await enqueue(store)
        await run_once(store, Completed())
        second = await store.list(JobFilter(), limit=3, cursor=first.next_cursor)
        third = await store.list(JobFilter(), limit=3, cursor=second.next_cursor)
        assert [job.id for page in (first, second, third) for job in page.jobs] == ids[::-1]
        assert third.next_cursor is None

    async def test_a_page_that_is_just_full_is_the_last(self, store: Store) -> None:
        for _ in range(3):
            await enqueue(store)
        assert (await store.list(JobFilter(), limit=3)).next_cursor is None

    async def test_a_cursor_that_no_page_returned_is_refused(self, store: Store) -> None:
        for cursor in ("", "x", "-1", "1.5", " 1", "١", "9" * 40, "1; DROP TABLE jobs"):
            with pytest.raises(InvalidFilter):
                await store.list(JobFilter(), limit=3, cursor=cursor)

    async def test_every_filter_that_is_set_must_match(self, store: Store) -> None:
        plain = await enqueue(store)
        mail = await enqueue(store, type="mail", queue="slow", tags=("a", "b"))
        tagged = await enqueue(store, tags=("a",))
        await claim_one(store)

        async def ids(filter: JobFilter) -> set[JobId]:
            return {job.id for job in (await store.list(filter, limit=10)).jobs}

        assert await ids(JobFilter(status=Status.PROCESSING)) == {plain.id}
        assert await ids(JobFilter(type="mail")) == {mail.id}
        assert await ids(JobFilter(queue="default")) == {plain.id, tagged.id}
        assert await ids(JobFilter(tag="a")) == {mail.id, tagged.id}
        assert await ids(JobFilter(tag="a", queue="slow", type="mail", status=Status.PENDING)) == {mail.id}
        assert await ids(JobFilter(tag="b", queue="default")) == set()

    async def test_pages_of_a_filter_go_on_from_their_cursor(self, store: Store) -> None:
        ids = [(await enqueue(store, tags=("t",) if n % 2 else ())).id for n in range(6)]
        for filter, expected in ((JobFilter(tag="t"), ids[::-2]), (JobFilter(type="noop"), ids[::-1])):
            seen, cursor = list[JobId](), None
            while True:
                page = await store.list(filter, limit=2, cursor=cursor)
                seen += [job.id for job in page.jobs]
                cursor = page.next_cursor
                if cursor is None:
                    break
            assert seen == expected

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

    # counts

    async def test_the_counts_are_exact_after_every_kind_of_change(
        self, store: Store, clock: HandClock
    ) -> None:
        async def agree() -> None:
            counted = {(count.queue, count.type, count.status): count.jobs for count in await store.counts()}
            listed: dict[tuple[str, str, Status], int] = {}
            for job in await everything(store):
                key = (job.queue, job.type, job.status)
                listed[key] = listed.get(key, 0) + 1
            assert counted == listed

        await agree()
        await store.enqueue([new_job(queue=queue, type=type) for queue in "ab" for type in "xyz"])
        await agree()
        await enqueue(store, deadline_at=clock.now() + SECOND, run_at=clock.now() + SECOND)
        clock.advance(1)
        claims = await claim(store, lease_seconds=1)
        await agree()
        await settle(store, claims[0], Completed())
        await settle(store, claims[1], Failed("no"))
        await settle(store, claims[2], Failed("no", final=True))
        await store.cancel(claims[1].job.id)
        await store.release(claims[3:4])
        await agree()
        clock.advance(1)
        await store.rescue(limit=10)
        await agree()
        clock.advance(1)
        await store.prune(dict.fromkeys(Status, timedelta(0)), limit=2)
        await agree()

    # beat, nodes

    async def test_a_store_that_nobody_uses_has_no_nodes(self, store: Store) -> None:
        assert await store.nodes() == []

    async def test_a_node_is_there_since_its_first_beat_and_seen_at_its_last(
        self, store: Store, clock: HandClock
    ) -> None:
        started_at = clock.now()
        await store.beat(ALICE, facts=NodeFacts(workers=3, types=("mail", "noop")))
        clock.advance(5)
        await store.beat(ALICE, facts=NodeFacts(workers=4, types=("mail",)))
        seen_at = clock.now()
        clock.advance(2.5)
        (node,) = await store.nodes()
        assert (node.node, node.workers, node.types) == (ALICE, 4, ("mail",))
        assert (node.started_at, node.seen_at, node.silent_seconds) == (started_at, seen_at, 2.5)
        assert (node.stopping, node.running) == (False, [])

    async def test_a_beat_without_facts_keeps_those_said_before(self, store: Store) -> None:
        await store.beat(ALICE, facts=NodeFacts(workers=3, types=None))
        await store.beat(ALICE)
        (node,) = await store.nodes()
        assert (node.workers, node.types) == (3, None)

    async def test_a_node_that_has_said_nothing_has_no_workers_and_no_types(self, store: Store) -> None:
        await store.beat(ALICE)
        (node,) = await store.nodes()
        assert (node.workers, node.types) == (0, ())

    async def test_a_node_that_stops_is_said_to_for_good(self, store: Store) -> None:
        await store.beat(ALICE, facts=NodeFacts(workers=3, types=("mail",)))
        await store.beat(ALICE, stopping=True)
        await store.beat(ALICE)
        (node,) = await store.nodes()
        assert (node.stopping, node.workers) == (True, 3)

    async def test_nodes_stand_in_the_order_of_their_first_beat(self, store: Store, clock: HandClock) -> None:
        for names in ("dc", "ba"):
            for name in names:
                await store.beat(NodeId(name))
            clock.advance(1)
        await store.beat(NodeId("c"))
        assert [node.node for node in await store.nodes()] == ["c", "d", "a", "b"]

    async def test_a_node_shows_what_it_runs_in_the_order_of_the_claims(
        self, store: Store, clock: HandClock
    ) -> None:
        await store.beat(ALICE)
        await store.beat(BOB)
        second, third = await enqueue(store, priority=2), await enqueue(store, priority=1)
        first = await enqueue(store, type="mail", queue="slow")
        await claim(store, types=frozenset({"mail"}), lease_seconds=30)
        claimed_at = clock.now()
        clock.advance(1)
        for _ in range(2):  # by priority: the third comes first
            await claim_one(store)
        await store.cancel(first.id)
        alice, bob = await store.nodes()
        assert bob.running == []
        assert [running.job_id for running in alice.running] == [first.id, second.id, third.id]
        assert alice.running[0] == Running(
            job_id=first.id,
            type="mail",
            queue="slow",
            epoch=1,
            started_at=claimed_at,
            lease_until=claimed_at + 30 * SECOND,
            cancel_requested=True,
        )
        assert not alice.running[1].cancel_requested

    async def test_a_node_that_never_beat_is_there_while_it_holds_jobs(
        self, store: Store, clock: HandClock
    ) -> None:
        await store.enqueue([new_job(), new_job()])
        await claim_one(store, node=BOB)
        started_at = clock.now()
        clock.advance(2)
        last = await claim_one(store, node=BOB)
        clock.advance(3)
        (node,) = await store.nodes()
        assert (node.node, node.workers, node.types, node.stopping) == (BOB, 0, (), False)
        assert (node.started_at, node.seen_at) == (started_at, last.job.started_at)
        assert node.silent_seconds == 3
        for running in node.running:
            await store.cancel(running.job_id)
        clock.advance(30)
        await store.rescue(limit=10)
        assert await store.nodes() == []

    async def test_a_node_that_was_silent_for_long_is_forgotten(self, store: Store, clock: HandClock) -> None:
        await store.beat(ALICE, stopping=True)
        await store.beat(BOB)
        clock.advance(1)
        await store.beat(BOB)
        clock.advance(SILENT_SECONDS - 1)
        await store.rescue(limit=10)
        assert [node.node for node in await store.nodes()] == [ALICE, BOB]
        clock.advance(0.000_001)
        assert await store.rescue(limit=10) == []
        assert [node.node for node in await store.nodes()] == [BOB]
        await store.beat(ALICE)
        (_, alice) = await store.nodes()
        assert (alice.node, alice.started_at, alice.stopping) == (ALICE, clock.now(), False)

    async def test_a_silent_node_is_not_forgotten_while_it_holds_a_job(
        self, store: Store, clock: HandClock
    ) -> None:
        await store.beat(ALICE, stopping=True)
        await store.enqueue([new_job(), new_job()])
        await claim(store, lease_seconds=SILENT_SECONDS)
        clock.advance(SILENT_SECONDS + 1)
        for left in (1, 0):
            (rescued,) = await store.rescue(limit=1)
            assert rescued.crash_count == 0  # it was told to stop, and that is still known
            assert len(await store.nodes()) == left

    # every call

    async def test_every_change_makes_the_version_one_higher(self, store: Store) -> None:
        job = await enqueue(store)
        versions = [job.version]

        async def note() -> None:
            versions.append((await store.get(job.id)).version)

        claimed = await claim_one(store)
        await note()
        await store.renew([claimed], lease_seconds=60)
        await note()
        await store.progress(claimed, Json(b"1"))
        await note()
        await store.cancel(job.id)
        await note()
        await settle(store, claimed, Cancelled())
        await note()
        assert versions == [1, 2, 3, 4, 5, 6]

    async def test_a_call_that_is_cancelled_before_it_began_changes_nothing(self, store: Store) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await enqueue(store)
        assert scope.cancelled_caught
        assert await everything(store) == []

    # dedicate

    async def test_demo_mode_may_not_have_a_store_that_real_handlers_have_served(self, store: Store) -> None:
        assert await store.dedicate(demo=True)
        assert await store.dedicate(demo=True)
        assert await store.dedicate(demo=False)
        assert not await store.dedicate(demo=True)
        assert await store.dedicate(demo=False)

    async def test_demo_mode_claims_nothing_any_more_once_real_handlers_have_come(
        self, store: Store, clock: HandClock
    ) -> None:
        await store.dedicate(demo=True)
        await enqueue(store)
        await enqueue(store, delay_seconds=1)
        await store.dedicate(demo=False)
        clock.advance(1)
        assert await claim(store, types=None) == []
        assert len(await claim(store, types=frozenset({"noop"}))) == 2

    async def test_a_store_says_where_it_is(self, store: Store) -> None:
        assert ":" in store.url


class TransactionConformance(StoreConformance):
    """The promises of `transaction`, too: for a store that has it.

    What its connection writes is the affair of the store's own tests.
    """

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
