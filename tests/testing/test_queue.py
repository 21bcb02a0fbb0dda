"""What tests ask of `tq`: enqueue, assert, perform, drain, events and HTTP. On the store that is chosen."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import trio

from tests.testing.handlers import charge, count, handlers, import_rows, poll, remind
from trioqueue import Context, Handlers
from trioqueue.errors import InvalidJob, UnknownType
from trioqueue.events import AttemptEnded, AttemptStarted, JobEnqueued
from trioqueue.testing import ANYTHING, QueueUnderTest
from trioqueue.testing.drain import NotDrained


@pytest.fixture
def tq_handlers() -> Handlers:
    return handlers


# Enqueued


async def test_an_enqueued_job_is_kept_and_does_not_run_by_itself(tq: QueueUnderTest) -> None:
    job = await tq.enqueue("remind", {"user": 7}, tags=["mail"], priority=-3)
    await trio.sleep(3600)
    assert (await tq.job(job)).status == "pending"
    assert (job.payload, job.tags, job.priority) == ({"user": 7}, ("mail",), -3)


async def test_the_door_is_that_of_the_service(tq: QueueUnderTest) -> None:
    with pytest.raises(InvalidJob, match="/payload/user"):
        await tq.enqueue("remind", {"user": "seven"})
    with pytest.raises(UnknownType, match="known types: charge, count, import, poll, remind"):
        await tq.enqueue("rewind", {})
    await tq.refute_enqueued()


async def test_jobs_are_found_by_what_they_are_like(tq: QueueUnderTest) -> None:
    for user in (1, 2, 3):
        await tq.enqueue(
            remind, {"user": user, "tags": ["a", "b"]}, queue="mail", tags=["x", "y"], delay="3d"
        )

    job = await tq.assert_enqueued(remind, {"user": 2}, queue="mail", tags=["y"], run_in="3d", count=1)
    assert job.payload["tags"] == ["a", "b"]
    await tq.assert_enqueued("remind", {"tags": ["a", ANYTHING]}, count=3)
    await tq.assert_enqueued(run_at=datetime(2030, 1, 4, tzinfo=UTC))
    await tq.assert_enqueued(remind, run_in="71h", tolerance="1h")
    assert [job.payload["user"] for job in await tq.jobs(remind)] == [3, 2, 1]

    await tq.refute_enqueued(remind, {"user": 4})
    await tq.refute_enqueued(remind, {"tags": ["a"]})
    await tq.refute_enqueued(remind, run_in="71h")
    await tq.refute_enqueued(remind, queue="default")
    await tq.refute_enqueued(remind, tags=["z"])
    await tq.refute_enqueued(charge)


async def test_a_job_counts_whatever_has_become_of_it(tq: QueueUnderTest) -> None:
    await tq.enqueue("remind", {"user": 7})
    await tq.drain()
    await tq.clock.advance("52w")
    await tq.assert_enqueued("remind")
    await tq.assert_enqueued("remind", status="completed")
    await tq.refute_enqueued("remind", status="pending")


async def test_what_is_missing_is_told_with_what_comes_nearest(tq: QueueUnderTest) -> None:
    await tq.enqueue("remind", {"user": 7}, queue="mail")
    await tq.enqueue("import", {"seconds": 1})
    with pytest.raises(AssertionError) as caught:
        await tq.assert_enqueued("remind", {"user": 8, "urgent": True})
    lines = str(caught.value).splitlines()
    assert lines[0] == "expected a job: type='remind', payload={'user': 8, 'urgent': True}"
    assert lines[3].startswith("  remind ")
    assert lines[3].endswith(": payload.user is 7, payload.urgent is missing")
    assert lines[4].startswith("  import ")
    with pytest.raises(AssertionError, match=r"(?s)expected 2 of these jobs: type='remind'.*There is 1 of"):
        await tq.assert_enqueued("remind", count=2)
    with pytest.raises(AssertionError, match=r"(?s)expected no such job: queue='mail'.*remind +mail"):
        await tq.refute_enqueued(queue="mail")


async def test_a_misspelt_question_is_refused(tq: QueueUnderTest) -> None:
    with pytest.raises(TypeError, match="nothing is known of user; a payload is one dict"):
        await tq.refute_enqueued("remind", user=7)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="say run_at or run_in, not both"):
        await tq.refute_enqueued("remind", run_in=3, run_at=datetime.now(UTC))


# Performed


async def test_perform_runs_one_attempt_and_leaves_no_job(tq: QueueUnderTest) -> None:
    performed = await tq.perform(remind, {"user": 7})
    assert (performed.outcome, performed.status, performed.result) == ("completed", "completed", "reminded 7")
    assert performed.progress == {"done": 1, "total": 2}
    assert performed.next_in is None
    await tq.refute_enqueued()


@pytest.mark.parametrize(("attempt", "next_in"), [(1, 2), (2, 4), (3, 8)])
async def test_perform_tells_when_the_next_attempt_would_be(
    tq: QueueUnderTest, attempt: int, next_in: int
) -> None:
    performed = await tq.perform("charge", {"order": 1}, attempt=attempt)
    assert (performed.outcome, performed.status, performed.next_in) == ("failed", "pending", next_in)
    assert performed.reason == "ConnectionError: the bank is closed"
    assert "in charge\n" in str(performed.error)


async def test_the_last_attempt_leaves_the_job_dead(tq: QueueUnderTest) -> None:
    performed = await tq.perform("charge", {"order": 1}, attempt=4)
    assert (performed.status, performed.next_in) == ("dead", None)


async def test_perform_in_virtual_time(tq: QueueUnderTest) -> None:
    performed = await tq.perform(import_rows, {"seconds": 3000})  # longer than many leases
    assert (performed.outcome, performed.seconds) == ("completed", 3000)
    performed = await tq.perform(import_rows, {"seconds": 5000})
    assert (performed.outcome, performed.seconds) == ("timed_out", 3600)
    performed = await tq.perform(import_rows, {"seconds": 5000}, timeout_seconds=60)
    assert (performed.reason, performed.next_in) == ("timed out after 60 s", 2)
    performed = await tq.perform(poll, {"until": "2031"})
    assert (performed.outcome, performed.next_in, performed.reason) == ("snoozed", 3600, "not yet")


async def test_perform_runs_plain_functions_in_threads(tq: QueueUnderTest) -> None:
    assert (await tq.perform(count, {"to": 1000})).result == 1000
    assert trio.current_time() == 0


async def test_perform_takes_a_function_that_nobody_has_registered(tq: QueueUnderTest) -> None:
    @dataclass
    class Point:
        x: int
        at: datetime

    async def move(ctx: Context, point: Point, by: timedelta) -> Point:
        return Point(point.x + ctx.attempt, point.at + by)

    payload = {"point": {"x": 1, "at": "2030-01-01T00:00:00Z"}, "by": "P1D"}
    performed = await tq.perform(move, payload, attempt=2)
    assert performed.result == {"x": 3, "at": "2030-01-02T00:00:00Z"}  # through JSON and back
    with pytest.raises(InvalidJob, match="/payload/point"):
        await tq.perform(move, {"by": "P1D"})


# Drained


async def test_drain_runs_what_is_due_and_no_more(tq: QueueUnderTest) -> None:
    for user in range(20):
        await tq.enqueue("remind", {"user": user})
    await tq.enqueue("remind", {"user": 99}, delay="1s")
    await tq.enqueue("charge", {"order": 1})
    report = await tq.drain()
    assert (report.completed, report.failures, report.dead, report.attempts) == (20, 1, 0, 21)
    await tq.assert_enqueued("remind", {"user": 99}, status="pending")
    assert trio.current_time() == 0
    assert tq.nodes == []


async def test_drain_with_delayed_goes_on_to_the_end(tq: QueueUnderTest) -> None:
    await tq.enqueue("remind", {"user": 7}, delay="3d")
    await tq.enqueue("charge", {"order": 1})
    await tq.enqueue("poll", {"until": "2030-01-02"})
    report = await tq.drain(with_delayed=True)
    assert (report.completed, report.dead, report.failures) == (2, 1, 4)
    assert report.by_type["charge"].attempts == 4
    assert report.by_type["poll"].snoozes == 24
    assert tq.clock.now() == pytest.approx(datetime(2030, 1, 4, tzinfo=UTC), abs=timedelta(seconds=1))


async def test_drain_runs_children_too(tq: QueueUnderTest) -> None:
    more = Handlers()

    @more.handler("fan-out")
    async def fan_out(ctx: Context, depth: int) -> None:
        for _ in range(2 if depth else 0):
            await tq.enqueue("fan-out", {"depth": depth - 1}, parent_id=ctx.job.id)

    await tq.start(more)
    await tq.enqueue("fan-out", {"depth": 3})
    assert (await tq.drain()).completed == 15


async def test_what_never_ends_is_not_drained(tq: QueueUnderTest) -> None:
    await tq.enqueue("poll", {"until": "2199"})
    with pytest.raises(
        NotDrained, match=r"(?s)not drained after 7 days of virtual time; left:.*1 poll pending"
    ):
        await tq.drain(with_delayed=True, within="1w")


async def test_a_deadline_that_passes_is_counted(tq: QueueUnderTest) -> None:
    await tq.enqueue("remind", {"user": 7}, delay=60, deadline_at=tq.clock.now() + timedelta(seconds=90))
    await tq.clock.advance("2m")
    report = await tq.drain(with_delayed=True)
    assert (report.dead, report.attempts, report.by_type["remind"].dead) == (1, 0, 1)


# Running


async def test_a_started_node_works_as_time_goes_by(tq: QueueUnderTest) -> None:
    await tq.start(worker_count=1)
    first = await tq.enqueue("import", {"seconds": 100})
    second = await tq.enqueue("import", {"seconds": 100})
    await tq.clock.advance("100s")
    assert (await tq.job(first)).status == "completed"
    assert (await tq.job(second)).status == "processing"
    assert (await tq.finished(second)).result == "imported for 100 s"
    assert trio.current_time() == 200


async def test_finished_gives_up_when_it_is_told_to(tq: QueueUnderTest) -> None:
    job = await tq.enqueue("remind", {"user": 7})
    with pytest.raises(trio.TooSlowError):
        await tq.finished(job, within="1w")


async def test_events_are_recorded_and_can_be_waited_for(tq: QueueUnderTest) -> None:
    await tq.start()
    job = await tq.enqueue("charge", {"order": 1})
    starts = [await tq.wait_for(AttemptStarted, job=job) for _ in range(4)]
    assert [start.job.attempt for start in starts] == [1, 2, 3, 4]
    assert (await tq.wait_for(AttemptEnded, type="charge", status="dead")).outcome == "failed"
    with pytest.raises(trio.TooSlowError):
        await tq.wait_for(AttemptStarted, job=job, within="1d")
    assert len(tq.events.of(AttemptEnded, outcome="failed")) == 4
    assert [event.job.type for event in tq.events.of(JobEnqueued)] == ["charge"]


async def test_http_is_answered_in_process(tq: QueueUnderTest) -> None:
    answer = await tq.client.post("/jobs", json={"type": "import", "payload": {"seconds": 50}})
    assert answer.status_code == 201
    job = await answer.get_json()
    refused = await tq.client.post("/jobs", json={"type": "import", "payload": {"seconds": "x"}})
    assert refused.status_code == 422
    assert trio.current_time() == 0  # nobody waits for a refusal
    assert (await tq.drain()).completed == 1
    answer = await tq.client.get(f"/jobs/{job['id']}")
    assert (await answer.get_json())["result"] == "imported for 50 s"


async def test_http_talks_to_a_node_that_lives(tq: QueueUnderTest) -> None:
    first, second = await tq.start(), await tq.start()
    for node in (first, second):
        answer = await tq.client.get("/readyz?verbose")
        assert (answer.status_code, (await answer.get_json())["node"]) == (200, node.id)
        await tq.stop(node)
    answer = await tq.client.get("/readyz?verbose")
    assert (await answer.get_json())["workers"] == 0


@pytest.mark.trioqueue(settings={"worker_count": 3, "max_payload_bytes": 100})
async def test_settings_of_all_nodes_come_from_a_marker(tq: QueueUnderTest) -> None:
    assert (await tq.start()).workers == 3
    answer = await tq.client.post(
        "/jobs", json={"type": "remind", "payload": {"user": 7, "tags": ["x" * 99]}}
    )
    assert answer.status_code == 413
