"""The table of moves and the one decision."""

from datetime import UTC, datetime
from typing import Any, cast, get_args

import pytest

from tests.helpers import make_job
from trioqueue.jobs.backoff import Retry
from trioqueue.jobs.job import FINAL, Job, Json, Status
from trioqueue.jobs.lifecycle import (
    CRASHES_ALLOWED,
    MOVES,
    REDRIVABLE,
    Transition,
    after_attempt,
    after_deadline,
    after_redrive,
    diagram,
)
from trioqueue.jobs.outcome import (
    NAMES,
    Cancelled,
    Completed,
    Failed,
    Lost,
    Outcome,
    Released,
    Snoozed,
    TimedOut,
)

OUTCOMES = [
    Completed(Json(b"1")),
    Failed("boom"),
    Failed("boom", final=True),
    TimedOut("too slow"),
    Cancelled(),
    Snoozed(5),
    Released("stop"),
    Lost("node-1"),
]


def processing(**fields: object) -> Job:
    return make_job(**{"status": Status.PROCESSING, "attempt": 1, "epoch": 1, **fields})


def test_every_outcome_has_a_name_and_a_row_in_the_table() -> None:
    assert set(NAMES) == set(get_args(Outcome))
    assert set(NAMES.values()) | {"cancel requested"} == set(MOVES[Status.PROCESSING])


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: repr(outcome)[:30])
@pytest.mark.parametrize("attempt", [1, 5])
@pytest.mark.parametrize("crash_count", [0, 1, 2])
@pytest.mark.parametrize("asked", [None, datetime(2030, 1, 1, tzinfo=UTC)])
def test_no_decision_leaves_the_table(
    outcome: Outcome, attempt: int, crash_count: int, asked: datetime | None
) -> None:
    job = processing(attempt=attempt, crash_count=crash_count, cancel_requested_at=asked)

    transition = after_attempt(job, outcome, jitter=0.5)

    cause = "cancel requested" if asked and not isinstance(outcome, Completed) else NAMES[type(outcome)]
    assert transition.status in MOVES[Status.PROCESSING][cause]
    assert 0 <= transition.attempt <= job.attempt
    assert (transition.wait_seconds is None) or transition.status is Status.PENDING


def test_final_statuses_are_those_that_only_an_operator_leaves() -> None:
    assert {status for status, moves in MOVES.items() if set(moves) <= {"redrive"}} == FINAL


def test_only_dead_and_cancelled_jobs_can_be_redriven() -> None:
    assert {Status.DEAD, Status.CANCELLED} == REDRIVABLE
    assert {after_redrive().status} == MOVES[Status.DEAD]["redrive"] == MOVES[Status.CANCELLED]["redrive"]


def test_a_redriven_job_has_its_whole_budget_and_is_due_at_once() -> None:
    assert after_redrive() == Transition(status=Status.PENDING, attempt=0, crash_count=0, wait_seconds=0)


def test_the_documentation_shows_the_table(docs: str) -> None:
    assert diagram() in docs


def test_the_diagram_has_a_line_for_every_move_and_every_end() -> None:
    moves = [
        f"    {source} --> {target}: {cause}"
        for source, causes in MOVES.items()
        for cause, targets in causes.items()
        for target in targets
    ]
    ends = [f"    {status} --> [*]" for status in FINAL]
    first, second, *others = diagram().splitlines()
    assert (first, second) == ("stateDiagram-v2", "    [*] --> pending: enqueue")
    assert sorted(others) == sorted(moves + ends)


def test_what_is_no_outcome_decides_nothing() -> None:
    """An outcome that somebody adds and forgets here must not leave the job without a status."""
    with pytest.raises(AssertionError, match="half done"):
        after_attempt(processing(), cast("Any", "half done"), jitter=0)


def test_a_completed_job_keeps_its_result() -> None:
    job = processing(attempt=2, crash_count=1, reason="KeyError: 'x'")
    assert after_attempt(job, Completed(Json(b"1")), jitter=0) == Transition(
        status=Status.COMPLETED, attempt=2, crash_count=1, reason=None, result=Json(b"1")
    )


def test_a_failed_attempt_counts_and_waits() -> None:
    job = processing(attempt=2, crash_count=1)
    assert after_attempt(job, Failed("Traceback …", summary="KeyError: 'x'"), jitter=0.0) == Transition(
        status=Status.PENDING, attempt=2, crash_count=1, wait_seconds=4.0, reason="KeyError: 'x'"
    )


def test_jitter_makes_a_retry_wait_longer() -> None:
    assert after_attempt(processing(attempt=2), TimedOut("too slow"), jitter=1.0).wait_seconds == 5.0


def test_the_last_failed_attempt_makes_the_job_dead() -> None:
    job = processing(attempt=5, max_attempts=5, crash_count=1)
    assert after_attempt(job, TimedOut("timed out after 3 s"), jitter=0) == Transition(
        status=Status.DEAD, attempt=5, crash_count=1, reason="timed out after 3 s"
    )


def test_a_final_failure_is_not_tried_again() -> None:
    assert after_attempt(processing(), Failed("bad payload", final=True), jitter=0) == Transition(
        status=Status.DEAD, attempt=1, crash_count=0, reason="bad payload"
    )


@pytest.mark.parametrize("attempt", [1, 3])
@pytest.mark.parametrize(
    ("outcome", "wait_seconds", "reason"),
    [
        (Snoozed(60, "rate limit"), 60, "rate limit"),
        (Snoozed(60), 60, "snoozed"),
        (Released("stop"), None, "stop"),  # it keeps its place in the queue
    ],
)
def test_a_snoozed_or_released_job_keeps_its_attempt(
    outcome: Outcome, wait_seconds: float | None, reason: str, attempt: int
) -> None:
    assert after_attempt(processing(attempt=attempt, crash_count=1), outcome, jitter=0) == Transition(
        status=Status.PENDING, attempt=attempt - 1, crash_count=1, wait_seconds=wait_seconds, reason=reason
    )


@pytest.mark.parametrize("attempt", [1, 3])
def test_a_cancelled_attempt_does_not_count(attempt: int) -> None:
    assert after_attempt(processing(attempt=attempt, crash_count=1), Cancelled(), jitter=0) == Transition(
        status=Status.CANCELLED, attempt=attempt - 1, crash_count=1, reason="cancelled"
    )


@pytest.mark.parametrize(
    ("crash_count", "wait_seconds"),
    [(0, None), (1, 2.0)],  # the first keeps its place in the queue
)
@pytest.mark.parametrize("attempt", [1, 3])
def test_a_crash_costs_no_attempt(attempt: int, crash_count: int, wait_seconds: float | None) -> None:
    job = processing(attempt=attempt, crash_count=crash_count)
    assert after_attempt(job, Lost("n1"), jitter=0) == Transition(
        status=Status.PENDING,
        attempt=attempt - 1,
        crash_count=crash_count + 1,
        wait_seconds=wait_seconds,
        reason="node n1 went silent",
    )


def test_three_crashes_make_a_job_dead() -> None:
    job = processing(crash_count=CRASHES_ALLOWED - 1)
    assert after_attempt(job, Lost("node-1"), jitter=0) == Transition(
        status=Status.DEAD, attempt=0, crash_count=CRASHES_ALLOWED, reason="crashed"
    )


def test_completing_beats_a_request_to_cancel() -> None:
    job = processing(cancel_requested_at=datetime(2030, 1, 1, tzinfo=UTC))
    assert after_attempt(job, Completed(), jitter=0).status is Status.COMPLETED


@pytest.mark.parametrize("outcome", [Failed("x"), Released("stop"), Snoozed(1), Lost("n"), TimedOut("x")])
def test_a_job_that_was_asked_to_stop_never_comes_back(outcome: Outcome) -> None:
    job = processing(cancel_requested_at=datetime(2030, 1, 1, tzinfo=UTC))
    assert after_attempt(job, outcome, jitter=0).status is Status.CANCELLED


@pytest.mark.parametrize(
    ("before", "reason"),
    [(None, "deadline passed"), ("KeyError: 'x'", "deadline passed; KeyError: 'x'")],
)
def test_a_job_past_its_deadline_is_dead_and_says_what_went_before(before: str | None, reason: str) -> None:
    assert after_deadline(make_job(attempt=1, crash_count=1, reason=before)) == Transition(
        status=Status.DEAD, attempt=1, crash_count=1, reason=reason
    )


def test_a_failure_waits_by_its_own_policy_and_at_least_as_long_as_its_error_asked() -> None:
    slow = Retry(base_seconds=10)
    assert after_attempt(processing(attempt=2), Failed("no", retry=slow), 0).wait_seconds == 20
    assert after_attempt(processing(attempt=2), TimedOut("slow", slow), 0).wait_seconds == 20
    assert after_attempt(processing(), Failed("no", retry=slow, not_before_seconds=99), 0).wait_seconds == 99
    assert after_attempt(processing(), Failed("no", retry=slow, not_before_seconds=5), 0).wait_seconds == 10
