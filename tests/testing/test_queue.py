"""What tests ask of `tq`: enqueue, assert, perform, drain, events and HTTP. On the store that is chosen."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio

from tests.helpers import make_job
from tests.testing.handlers import charge, count, handlers, import_rows, poll, remind
from trioqueue import Context, Handlers
from trioqueue.errors import InvalidJob, JobNotFound, UnknownType, WrongStatus
from trioqueue.events import AttemptEnded, AttemptStarted, JobEnqueued, JobRedriven, JobsRescued
from trioqueue.jobs.job import NodeId, Status
from trioqueue.testing import ANYTHING, NeverHappened, NotDrained, QueueUnderTest, waiting
from trioqueue.testing.log import line


@pytest.fixture
def tq_handlers() -> Handlers:
    return handlers


# Enqueued


async def test_an_enqueued_job_is_kept_and_does_not_run_by_itself(tq: QueueUnderTest) -> None:
    job = await tq.enqueue("remind", {"user": 7}, tags=["mail"], priority=-3)
    await trio.sleep(3600)
    assert (await tq.job(job)).status == "pending"
    assert (job.payload, job.tags, job.priority) == ({"user": 7}, ("mail",), -3)


async def test_what_is_enqueued_is_checked_as_the_service_does(tq: QueueUnderTest) -> None:
    with pytest.raises(InvalidJob, match="/payload/user"):
        await tq.enqueue("remind", {"user": "seven"})
    with pytest.raises(UnknownType, match="known types: charge, count, import, poll, remind"):
        await tq.enqueue("rewind", {})
    await tq.refute_enqueued()


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"priority": 10**9}, "/priority"),
        ({"priority": "high"}, "/priority"),
        ({"tags": "mail"}, "/tags"),
        ({"tags": [""]}, "/tags/0"),
        ({"max_attempts": 0}, "/max_attempts"),
        ({"delay": -5}, "/delay_seconds"),
        ({"timeout_seconds": -1}, "/timeout_seconds"),
        ({"timeout_seconds": "5s"}, "/timeout_seconds"),
        ({"queue": "no spaces allowed"}, "/queue"),
        ({"unique_key": ""}, "/unique_key"),
        ({"traceparent": "x"}, "/traceparent"),
        ({"parent_id": "x"}, "/parent_id"),
        ({"run_at": datetime(1999, 1, 1, tzinfo=UTC)}, "/run_at"),
        ({"run_at": datetime(2030, 2, 1)}, "/run_at: a time zone is missing"),  # noqa: DTZ001
        ({"run_at": datetime(2030, 2, 1, tzinfo=UTC), "delay": "1h"}, "/delay_seconds"),
    ],
)
async def test_what_http_refuses_is_refused(tq: QueueUnderTest, fields: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidJob, match=pointer):
        await tq.enqueue("remind", {"user": 7}, **fields)
    await tq.refute_enqueued()


async def test_what_http_takes_is_taken(tq: QueueUnderTest) -> None:
    job = await tq.enqueue("remind", {"user": 7, "tags": ("a",)}, run_at="2030-02-01T00:00:00Z", tags=("x",))
    assert (job.run_at, job.tags) == (datetime(2030, 2, 1, tzinfo=UTC), ("x",))
    assert job.payload["tags"] == ["a"]


async def test_a_misspelt_field_of_a_job_is_refused(tq: QueueUnderTest) -> None:
    with pytest.raises(TypeError, match=r"nothing is known of dely; did you mean delay\? A payload"):
        await tq.enqueue("remind", {"user": 7}, dely="3d")
    with pytest.raises(TypeError, match=r"nothing is known of user\. A payload is one dict"):
        await tq.enqueue("remind", user=7)
    with pytest.raises(ValueError, match="say delay or delay_seconds, not both"):
        await tq.enqueue("remind", {"user": 7}, delay=1, delay_seconds=2)


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
    with pytest.raises(TypeError, match=r"nothing is known of user\. A payload is one dict"):
        await tq.refute_enqueued("remind", user=7)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="say run_at or run_in, not both"):
        await tq.refute_enqueued("remind", run_in=3, run_at=datetime.now(UTC))


async def test_a_question_that_no_job_could_answer_is_refused(tq: QueueUnderTest) -> None:
    async def unregistered(ctx: Context) -> None: ...

    await tq.enqueue("remind", {"user": 7})
    with pytest.raises(ValueError, match="'complete' is no status; there are pending, processing, completed"):
        await tq.refute_enqueued("remind", status="complete")
    with pytest.raises(UnknownType, match="no handler has the type 'rewind'; known types: charge"):
        await tq.refute_enqueued("rewind")
    with pytest.raises(UnknownType, match="'unregistered'"):
        await tq.jobs(unregistered)
    with pytest.raises(TypeError, match=r"tags are a list, like \['mail'\]"):
        await tq.refute_enqueued("remind", tags="mail")
    with pytest.raises(TypeError, match="priority='high' is no int"):
        await tq.refute_enqueued("remind", priority="high")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a payload is one dict, not 'ann'"):
        await tq.refute_enqueued("remind", "ann")
    with pytest.raises(ValueError, match="has no time zone"):
        await tq.refute_enqueued("remind", run_at="2030-01-01T00:00:00")
    with pytest.raises(TypeError, match=r"nothing is known of delay; did you mean run_in\? A payload"):
        await tq.assert_enqueued("remind", delay="3d")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="count=0: that there is none is said by refute_enqueued"):
        await tq.assert_enqueued("remind", count=0)


async def test_a_payload_is_found_by_the_values_that_it_was_made_of(tq: QueueUnderTest) -> None:
    @dataclass
    class Item:
        sku: str
        size: int = 1

    more = Handlers()

    @more.handler("ship")
    async def ship(ctx: Context, items: list[Item], at: datetime, weights: dict[str, float]) -> None: ...

    await tq.start(more)
    payload = {"items": (Item("x"), Item("y", 2)), "at": tq.clock.now(), "weights": {7: 1.5}}
    await tq.enqueue(ship, payload, delay="1h")
    await tq.assert_enqueued(ship, payload)
    await tq.assert_enqueued(ship, {"items": [{"sku": "x"}, ANYTHING], "weights": {7: ANYTHING}})
    await tq.assert_enqueued(ship, ANYTHING, run_at="2030-01-01T01:00:00Z")
    await tq.refute_enqueued(ship, {"items": [Item("x", 3), ANYTHING]})
    await tq.refute_enqueued(ship, {"at": tq.clock.now() + timedelta(seconds=1)})


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


async def test_an_attempt_that_there_cannot_be_is_refused(tq: QueueUnderTest) -> None:
    for attempt in (0, -1, 5):
        with pytest.raises(ValueError, match=f"attempt={attempt} is not from 1 to 4, the job's max_attempts"):
            await tq.perform("charge", {"order": 1}, attempt=attempt)
    assert (await tq.perform("charge", {"order": 1}, attempt=5, max_attempts=6)).status == "pending"
    with pytest.raises(ValueError, match="max_attempts=0 is not from 1 to 1000"):
        await tq.perform("charge", {"order": 1}, max_attempts=0)
    with pytest.raises(ValueError, match="timeout_seconds=0 must be positive"):
        await tq.perform("charge", {"order": 1}, timeout_seconds=0)


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


async def test_performs_at_the_same_time_run_each_its_own_job(tq: QueueUnderTest) -> None:
    results: dict[int, object] = {}

    async def perform(user: int) -> None:
        results[user] = (await tq.perform("remind", {"user": user})).result

    async with trio.open_nursery() as nursery:
        for user in range(8):
            nursery.start_soon(perform, user)
    assert results == {user: f"reminded {user}" for user in range(8)}


@pytest.mark.parametrize("checkpoints", range(1, 12))
async def test_a_perform_that_was_cancelled_leaves_nothing_to_the_next(
    tq: QueueUnderTest, checkpoints: int
) -> None:
    await tq.perform("remind", {"user": 0})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tq.perform, "remind", {"user": 1})
        for _ in range(checkpoints):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert (await tq.perform("remind", {"user": 2})).result == "reminded 2"


async def test_what_is_performed_looks_like_any_other_job(tq: QueueUnderTest) -> None:
    async def look(ctx: Context) -> list[object]:
        return [ctx.job.type, ctx.job.priority, ctx.attempt]

    assert (await tq.perform(look, attempt=3)).result == ["look", 0, 3]


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


async def test_nodes_may_have_different_handlers(tq: QueueUnderTest) -> None:
    other = other_handlers()
    paint = other.find("paint").function
    await tq.start()
    node = await tq.start(other)
    await tq.enqueue(remind, {"user": 7}, delay="1h")
    await tq.enqueue(paint, delay="2h")
    await tq.enqueue("paint", delay="3h")
    await tq.clock.advance("2h")
    await tq.drain()
    await tq.assert_enqueued(remind, status="completed")
    await tq.assert_enqueued(paint, status="completed", count=1)
    assert (await tq.drain(with_delayed=True)).completed == 1
    assert (await tq.perform("paint")).result == "painted"
    with pytest.raises(UnknownType, match="known types: charge, count, import, paint, poll, remind"):
        await tq.enqueue("rewind")
    await tq.stop(node)
    with pytest.raises(UnknownType, match="known types: charge, count, import, poll, remind"):
        await tq.enqueue(paint)


async def test_what_never_ends_is_not_drained(tq: QueueUnderTest) -> None:
    await tq.enqueue("poll", {"until": "2199"})
    with pytest.raises(
        NotDrained, match=r"(?s)not drained after 7 days of virtual time; left:.*1 poll pending"
    ):
        await tq.drain(with_delayed=True, within="1w")


@pytest.mark.trioqueue(real_time=True)
async def test_in_real_time_too_it_is_said_how_long_that_was(tq: QueueUnderTest) -> None:
    await tq.enqueue("import", {"seconds": 60})
    with pytest.raises(NotDrained, match=r"not drained after 0\.05 seconds; left:"):
        await tq.drain(within=0.05)


async def test_a_job_that_was_to_stop_when_its_node_died_is_counted_as_cancelled(tq: QueueUnderTest) -> None:
    await tq.start(lease_seconds=30)
    job = await tq.enqueue("import", {"seconds": 600})
    await tq.wait_for(AttemptStarted, job=job)
    await tq.kill()
    await tq.client.post(f"/jobs/{job.id}/cancel", json={"wait_seconds": 0})
    report = await tq.drain()
    assert (await tq.job(job)).status == "cancelled"
    assert (report.attempts, report.cancelled, report.by_type["import"].cancelled) == (1, 1, 1)
    [rescued] = tq.events.of(JobsRescued)
    assert (rescued.cancelled_ids, rescued.dead_ids) == ([job.id], [])


def test_events_name_their_jobs_in_few_words() -> None:
    job = make_job(status=Status.DEAD)
    named = f"{job.type} {job.id[-12:]}"
    assert line(JobRedriven(job=job)) == f"JobRedriven job={named}"
    rescued = line(JobsRescued(node=NodeId("alice"), jobs=[job, job]))
    assert rescued == f"JobsRescued node=alice jobs=[{named}, {named}]"


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
    job = await tq.enqueue("remind", {"user": 7}, delay="3d")
    said = r"is pending, due 2030-01-04 00:00:00, after 7 days of virtual time; no node is working: `await tq"
    with pytest.raises(NeverHappened, match=said):
        await tq.finished(job, within="1w")
    node = await tq.start()
    job = await tq.enqueue("poll", {"until": "2199"})
    with pytest.raises(trio.TooSlowError, match=r"\(poll\) is pending, due .* after 1 day of virtual time$"):
        await tq.finished(job, within="1d")
    await tq.stop(node)
    await tq.start(other_handlers())
    with pytest.raises(NeverHappened, match="; no node that works has a handler for poll"):
        await tq.finished(job, within="1d")


def other_handlers() -> Handlers:
    other = Handlers()

    @other.handler("paint")
    async def paint(ctx: Context) -> str:
        return "painted"

    return other


async def test_what_never_happens_is_told_with_what_did(tq: QueueUnderTest) -> None:
    with pytest.raises(
        NeverHappened, match="is no AttemptStarted, after 36,500 days of virtual time; no node"
    ):
        await tq.wait_for(AttemptStarted)
    await tq.start()
    job = await tq.enqueue("remind", {"user": 7})
    await tq.wait_for(AttemptEnded, job=job)
    with pytest.raises(NeverHappened, match=f"no other AttemptEnded with job='{job.id}', after 1 day"):
        await tq.wait_for(AttemptEnded, job=job, within="1d")
    with pytest.raises(NeverHappened, match="no AttemptEnded with type='count', and 1 that are not like"):
        await tq.wait_for(AttemptEnded, type="count", within="1d")


@pytest.mark.trioqueue(real_time=True)
async def test_in_real_time_nobody_waits_for_a_century(
    tq: QueueUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "REAL_SECONDS", 0.05)
    job = await tq.enqueue("remind", {"user": 7})
    with pytest.raises(NeverHappened, match=r"after 0\.05 seconds; no node is working"):
        await tq.finished(job)
    with pytest.raises(NeverHappened, match=r"after 0\.05 seconds; no node is working"):
        await tq.wait_for(AttemptStarted)


async def test_a_job_is_cancelled_wherever_it_is(tq: QueueUnderTest) -> None:
    pending = await tq.enqueue("import", {"seconds": 600})
    assert (await tq.cancel(pending)).status == "cancelled"
    await tq.start()
    await tq.start()
    running = await tq.enqueue("import", {"seconds": 600})
    await tq.wait_for(AttemptStarted, job=running)
    assert (await tq.cancel(running.id, wait="5s")).status == "cancelled"
    done = await tq.enqueue("remind", {"user": 7})
    await tq.finished(done)
    with pytest.raises(WrongStatus, match="is completed; it cannot be cancelled"):
        await tq.cancel(done)
    with pytest.raises(JobNotFound):
        await tq.cancel("nope")


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


async def test_events_are_found_by_parts_of_what_their_jobs_hold(tq: QueueUnderTest) -> None:
    await tq.start()
    await tq.enqueue("remind", {"user": 7, "urgent": True})
    ended = await tq.wait_for(AttemptEnded, payload={"user": 7}, result="reminded 7")
    assert tq.events.of(AttemptEnded, payload={"user": ANYTHING}, progress={"total": 2}) == [ended]
    assert tq.events.of(AttemptEnded, payload=ended.job.payload) == [ended]
    assert tq.events.of(AttemptEnded, payload={"user": 8}) == []
    assert tq.events.of(AttemptEnded, payload={"users": 7}) == []


async def test_a_question_that_no_event_could_answer_is_refused(tq: QueueUnderTest) -> None:
    with pytest.raises(TypeError, match=r"of AttemptEnded nothing is known of outcom; did you mean outcome"):
        tq.events.of(AttemptEnded, outcom="failed")
    with pytest.raises(TypeError, match="of JobsRescued nothing is known of type"):
        await tq.wait_for(JobsRescued, type="remind")
    with pytest.raises(ValueError, match="'fail' is no outcome; there are completed, failed"):
        tq.events.of(AttemptEnded, outcome="fail")
    with pytest.raises(ValueError, match="'complete' is no status; there are pending"):
        await tq.wait_for(AttemptStarted, status="complete")
    with pytest.raises(TypeError, match="'AttemptStarted' is no event; there are NodeStarted"):
        await tq.wait_for("AttemptStarted")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="int is no event"):
        tq.events.of(int)  # type: ignore[type-var]


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
