"""Promises of enqueue, get, attempts and list."""

from datetime import UTC, datetime, timedelta

import pytest

from trioqueue.errors import InvalidFilter, JobNotFound
from trioqueue.jobs.job import (
    JobId,
    Json,
    Status,
)
from trioqueue.jobs.outcome import Cancelled, Completed, Failed, Outcome
from trioqueue.store.protocol import (
    Hint,
    JobFilter,
    Store,
)
from trioqueue.testing.conformance.tools import (
    SECOND,
    Conformance,
    HandClock,
    claim_one,
    enqueue,
    everything,
    new_job,
    run_once,
)


class EnqueueConformance(Conformance):
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
