"""What can be made to go wrong: the store, a node, a lease, the clock. And a year that passes."""

import math
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from threading import Event

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.testing.handlers import handlers
from trioqueue import Handlers
from trioqueue.clock import held_clock, is_held, jumping_clock, run_in_thread
from trioqueue.errors import StoreUnavailable
from trioqueue.events import AttemptEnded, AttemptLost, AttemptStarted, JobsRescued, StoreFailed
from trioqueue.testing import Place, QueueUnderTest, TestClock
from trioqueue.testing.clock import seconds_of
from trioqueue.testing.cluster import Cluster


@pytest.fixture
def tq_handlers() -> Handlers:
    return handlers


async def outcomes(tq: QueueUnderTest, job: str) -> list[str]:
    return [str(attempt.outcome) for attempt in await tq.attempts(job)]


# The store


async def test_a_commit_that_fails_is_told_to_whoever_asked(tq: QueueUnderTest) -> None:
    tq.faults.fail_next("commit")
    with pytest.raises(StoreUnavailable, match="the test let enqueue fail"):
        await tq.enqueue("remind", {"user": 7})
    await tq.refute_enqueued()
    await tq.enqueue("remind", {"user": 7})
    tq.faults.fail_next("enqueue")
    answer = await tq.client.post("/jobs", json={"type": "remind", "payload": {"user": 8}})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


async def test_an_answer_that_is_lost_does_not_undo_the_commit(tq: QueueUnderTest) -> None:
    tq.faults.fail_next("enqueue", after_commit=True)
    with pytest.raises(StoreUnavailable, match="the test lost the answer"):
        await tq.enqueue("remind", {"user": 7})
    await tq.assert_enqueued("remind", {"user": 7}, count=1)


async def test_outcomes_are_recorded_however_often_that_fails(tq: QueueUnderTest) -> None:
    tq.faults.fail_next("settle", 5)
    tq.faults.fail_next("settle", after_commit=True)
    job = await tq.enqueue("remind", {"user": 7})
    assert (await tq.drain()).completed == 1
    assert await outcomes(tq, job.id) == ["completed"]


async def test_a_claim_whose_answer_is_lost_is_rescued(tq: QueueUnderTest) -> None:
    tq.faults.fail_next("claim", after_commit=True)
    job = await tq.enqueue("remind", {"user": 7})
    await tq.start(lease_seconds=30)
    await tq.finished(job)
    assert await outcomes(tq, job.id) == ["lost", "completed"]
    assert trio.current_time() == pytest.approx(30, abs=5)


async def test_a_slow_claim_delays_what_it_claims(tq: QueueUnderTest) -> None:
    tq.faults.delay("claim", "2m")
    job = await tq.enqueue("remind", {"user": 7})
    await tq.drain()
    assert [attempt.ended_at for attempt in await tq.attempts(job)] == [
        datetime(2030, 1, 1, 0, 2, tzinfo=UTC)
    ]


async def test_during_an_outage_nothing_is_lost(tq: QueueUnderTest) -> None:
    node = await tq.start()
    job = await tq.enqueue("import", {"seconds": 5})
    await tq.wait_for(AttemptStarted, job=job)
    with tq.faults.outage():
        await tq.clock.advance("20s")
        assert not node.health.is_ready
    await tq.finished(job)
    assert tq.events.of(StoreFailed)
    assert await outcomes(tq, job.id) == ["completed"]


async def test_a_fault_that_nobody_needs_any_more_is_cleared(tq: QueueUnderTest) -> None:
    tq.faults.fail_next("commit", 100)
    tq.faults.clear()
    await tq.enqueue("remind", {"user": 7})
    await tq.assert_enqueued("remind", {"user": 7}, count=1)


async def test_an_outage_that_was_cleared_is_over(tq: QueueUnderTest) -> None:
    with tq.faults.outage():
        tq.faults.clear()
        await tq.enqueue("remind", {"user": 7})
    outage = tq.faults.outage()
    outage.__enter__()
    tq.faults.clear()
    assert not outage.__exit__(None, None, None)


async def test_of_two_outages_each_ends_by_itself(tq: QueueUnderTest) -> None:
    with tq.faults.outage():
        with tq.faults.outage():
            tq.faults.fail_next("enqueue")
        with pytest.raises(StoreUnavailable):
            await tq.enqueue("remind", {"user": 7})
    with pytest.raises(StoreUnavailable):
        await tq.enqueue("remind", {"user": 7})
    await tq.enqueue("remind", {"user": 7})


async def test_a_misspelt_fault_is_refused(tq: QueueUnderTest) -> None:
    with pytest.raises(ValueError, match="'comit' is no call of a store; use commit, enqueue, claim"):
        tq.faults.fail_next("comit")


# A node


async def test_a_killed_node_is_heard_of_no_more_and_its_job_runs_elsewhere(tq: QueueUnderTest) -> None:
    first = await tq.start(lease_seconds=30)
    job = await tq.enqueue("import", {"seconds": 90})
    await tq.wait_for(AttemptStarted, job=job)
    await tq.clock.advance("10s")
    await tq.kill(first)
    killed_at = len(tq.events)
    assert (await tq.job(job)).status == "processing"

    second = await tq.start()
    rescued = await tq.wait_for(JobsRescued, job=job)
    assert (await tq.finished(job)).crash_count == 1
    assert await outcomes(tq, job.id) == ["lost", "completed"]
    assert rescued.node == second.id
    assert not [event for event in tq.events.since(killed_at) if getattr(event, "node", None) == first.id]
    assert tq.events.of(AttemptStarted, job=job)[1].at >= datetime(2030, 1, 1, 0, 0, 30, tzinfo=UTC)


async def test_a_stopped_node_gives_its_job_back_at_once(tq: QueueUnderTest) -> None:
    await tq.start()
    job = await tq.enqueue("import", {"seconds": 90})
    await tq.wait_for(AttemptStarted, job=job)
    await tq.stop()
    assert await outcomes(tq, job.id) == ["released"]
    assert trio.current_time() < 1
    assert (await tq.drain()).completed == 1


async def test_nodes_that_stop_together_do_not_hand_their_jobs_to_each_other(tq: QueueUnderTest) -> None:
    first = await tq.start(worker_count=1)
    job = await tq.enqueue("import", {"seconds": 90})
    await tq.wait_for(AttemptStarted, job=job)
    second = await tq.start(worker_count=1)
    await tq.stop()
    assert first.stopped.is_set()
    assert second.stopped.is_set()
    assert await outcomes(tq, job.id) == ["released"]


async def test_nodes_can_be_killed_and_started_all_day(tq: QueueUnderTest) -> None:
    random = Random(1)
    jobs = [await tq.enqueue("import", {"seconds": random.randrange(60)}) for _ in range(30)]
    for _ in range(5):
        await tq.start(worker_count=2)
        await tq.clock.advance(random.randrange(30))
        await tq.kill(random.choice(tq.nodes))
    await tq.drain(with_delayed=True)
    assert {(await tq.job(job)).status for job in jobs} <= {"completed", "dead"}


# A lease


async def test_a_lost_lease_stops_the_attempt_and_drops_its_outcome(tq: QueueUnderTest) -> None:
    await tq.start(lease_seconds=30)
    job = await tq.enqueue("import", {"seconds": 90})
    await tq.wait_for(AttemptStarted, job=job)
    await tq.lose_lease(job.id)
    lost = await tq.wait_for(AttemptLost, job=job)
    assert trio.current_time() == 0
    assert lost.outcome == "released"
    await tq.finished(job)
    assert await outcomes(tq, job.id) == ["lost", "completed"]


async def test_only_a_job_that_is_processing_has_a_lease_to_lose(tq: QueueUnderTest) -> None:
    job = await tq.enqueue("remind", {"user": 7})
    with pytest.raises(ValueError, match="is pending: there is no lease to lose"):
        await tq.lose_lease(job)


# The clock


def test_durations_are_written_as_in_the_settings() -> None:
    assert [seconds_of(text) for text in ("90", "90s", "5m", "12h", "3d", "1w", 1.5)] == [
        90, 90, 300, 43_200, 259_200, 604_800, 1.5,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="write a number of seconds, 30s, 5m"):
        seconds_of("3 days")


async def test_a_wall_clock_that_steps_forward_makes_jobs_due(tq: QueueUnderTest) -> None:
    await tq.start()
    job = await tq.enqueue("remind", {"user": 7}, delay="1h")
    tq.clock.jump("1h")
    await tq.finished(job)
    assert trio.current_time() < 5
    assert tq.clock.now().hour == 1


async def test_a_wall_clock_that_steps_back_makes_jobs_wait(tq: QueueUnderTest) -> None:
    await tq.start()
    job = await tq.enqueue("remind", {"user": 7}, delay="1h")
    tq.clock.jump(-7200)
    await tq.clock.advance("2h")
    assert (await tq.job(job)).status == "pending"
    await tq.finished(job)
    assert trio.current_time() == pytest.approx(3 * 3600, abs=5)


async def test_time_stands_still_while_it_is_held(tq: QueueUnderTest) -> None:
    await tq.start()
    await tq.enqueue("import", {"seconds": 60})
    with tq.clock.held():
        await trio.to_thread.run_sync(sum, range(1000))
    assert trio.current_time() == 0


async def advance_beside_a_thread(clock: TestClock, duration: str) -> None:
    """Begin to advance while a thread works and holds time."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_in_thread, lambda: Event().wait(0.05))
        await wait_all_tasks_blocked()
        assert is_held()
        await clock.advance(duration)


def test_time_that_is_held_is_advanced_when_it_is_let_go() -> None:
    """On a clock that does not jump by itself, too."""
    for threshold in (math.inf, 0):
        clock = MockClock(autojump_threshold=threshold)

        async def story() -> float:
            await advance_beside_a_thread(TestClock(), "10s")
            return trio.current_time()

        assert trio.run(story, clock=clock) == 10
        assert clock.autojump_threshold == threshold


def test_those_who_advance_at_once_reach_their_ends_each() -> None:
    clock = MockClock()
    reached = []

    async def advance(seconds: int) -> None:
        await TestClock().advance(seconds)
        reached.append((seconds, trio.current_time()))

    async def story() -> None:
        async with trio.open_nursery() as nursery:
            for seconds in (10, 5):
                nursery.start_soon(advance, seconds)
        await wait_all_tasks_blocked()

    trio.run(story, clock=clock)
    assert reached == [(5, 5), (10, 10)]
    assert clock.autojump_threshold == math.inf


def test_time_does_not_pass_while_it_is_held_though_somebody_advances_it() -> None:
    async def story() -> None:
        with held_clock():
            with trio.fail_after(1), jumping_clock():
                await run_in_thread(lambda: Event().wait(0.02))
            assert trio.current_time() == 0

    trio.run(story, clock=MockClock())


async def test_a_duration_that_is_none_moves_nothing(tq: QueueUnderTest) -> None:
    with pytest.raises(ValueError, match="'3 days' is no duration; write a number of seconds, 30s"):
        await tq.clock.advance("3 days")
    with pytest.raises(ValueError, match="negative"):
        await tq.clock.advance(-1)
    with pytest.raises(ValueError, match="'3 days' is no duration; write a number of seconds, 30s"):
        tq.clock.jump("3 days")
    assert trio.current_time() == 0


# The test itself


def test_a_store_that_a_test_has_broken_does_not_hide_how_the_test_failed(tmp_path: Path) -> None:
    queue = QueueUnderTest(Place(f"sqlite:///{tmp_path}/jobs.db"), handlers=handlers)

    async def story() -> None:
        await queue.enqueue("remind", {"user": 7})
        with closing(sqlite3.connect(tmp_path / "jobs.db")) as database:
            database.execute("ALTER TABLE jobs RENAME TO gone")
        raise LookupError("what the test wanted to say")

    with pytest.raises(LookupError, match="what the test wanted to say"):
        queue.run(story)
    title, text = queue.report()[0]
    assert title == "trioqueue jobs"
    assert text.startswith("the jobs cannot be listed: ")
    assert "no such table: jobs" in text


def test_whatever_goes_wrong_at_the_end_the_stores_are_closed() -> None:
    cluster = Cluster(Place("memory:"), TestClock(), settings={})

    async def story() -> None:
        await cluster.start(handlers)

    async def before_the_end() -> None:
        raise LookupError("at the end")

    with pytest.raises(LookupError, match="at the end"):
        trio.run(lambda: cluster.run(story, before_the_end=before_the_end), clock=MockClock())


# A year


async def test_a_year_of_reminders_and_a_day_of_retries(tq: QueueUnderTest) -> None:
    for day in range(365):
        await tq.enqueue("remind", {"user": day}, delay=day * 86_400)
    outage = await tq.enqueue("charge", {"order": 1}, max_attempts=30)
    report = await tq.drain(with_delayed=True)
    assert (report.completed, report.dead, report.by_type["charge"].attempts) == (365, 1, 30)
    assert tq.clock.now() == datetime(2030, 12, 31, tzinfo=UTC)
    ends = tq.events.of(AttemptEnded, job=outage)
    assert len(ends) == 30
    attempts = await tq.attempts(outage)
    assert (attempts[-1].ended_at - attempts[0].started_at).total_seconds() > 18 * 3600
