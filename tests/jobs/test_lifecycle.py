"""The table of moves and the one decision."""

from datetime import UTC, datetime
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import make_job
from trioqueue.jobs.backoff import CAP_SECONDS, backoff_seconds
from trioqueue.jobs.job import FINAL, Job, Json, Status
from trioqueue.jobs.lifecycle import CRASHES_ALLOWED, MOVES, after_attempt, after_deadline, diagram
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
    error_of,
    failed_from,
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


def test_final_statuses_are_those_that_nothing_leaves() -> None:
    assert {status for status, moves in MOVES.items() if not moves} == FINAL


def test_the_documentation_shows_the_table(docs: str) -> None:
    assert diagram() in docs


def test_a_failed_attempt_counts_and_waits() -> None:
    transition = after_attempt(
        processing(attempt=2), Failed("Traceback …", summary="KeyError: 'x'"), jitter=0.0
    )

    assert transition.status is Status.PENDING
    assert transition.attempt == 2
    assert transition.wait_seconds == 4.0
    assert transition.reason == "KeyError: 'x'"


def test_the_last_failed_attempt_makes_the_job_dead() -> None:
    transition = after_attempt(
        processing(attempt=5, max_attempts=5), TimedOut("timed out after 3 s"), jitter=0
    )
    assert (transition.status, transition.reason) == (Status.DEAD, "timed out after 3 s")


def test_a_final_failure_is_not_tried_again() -> None:
    assert after_attempt(processing(), Failed("bad payload", final=True), jitter=0).status is Status.DEAD


@pytest.mark.parametrize("outcome", [Snoozed(60), Released("stop")])
def test_a_snoozed_or_released_job_keeps_its_attempt(outcome: Outcome) -> None:
    transition = after_attempt(processing(attempt=3), outcome, jitter=0)
    assert (transition.status, transition.attempt) == (Status.PENDING, 2)


def test_a_released_job_keeps_its_place_in_the_queue() -> None:
    assert after_attempt(processing(), Released("stop"), jitter=0).wait_seconds is None


def test_a_first_crash_keeps_its_place_and_costs_no_attempt() -> None:
    transition = after_attempt(processing(attempt=1), Lost("node-1"), jitter=0.5)
    assert (transition.attempt, transition.crash_count, transition.wait_seconds) == (0, 1, None)


def test_three_crashes_make_a_job_dead() -> None:
    transition = after_attempt(processing(crash_count=CRASHES_ALLOWED - 1), Lost("node-1"), jitter=0)
    assert (transition.status, transition.reason) == (Status.DEAD, "crashed")


def test_completing_beats_a_request_to_cancel() -> None:
    job = processing(cancel_requested_at=datetime(2030, 1, 1, tzinfo=UTC))
    assert after_attempt(job, Completed(), jitter=0).status is Status.COMPLETED


@pytest.mark.parametrize("outcome", [Failed("x"), Released("stop"), Snoozed(1), Lost("n"), TimedOut("x")])
def test_a_job_that_was_asked_to_stop_never_comes_back(outcome: Outcome) -> None:
    job = processing(cancel_requested_at=datetime(2030, 1, 1, tzinfo=UTC))
    assert after_attempt(job, outcome, jitter=0).status is Status.CANCELLED


def test_a_job_past_its_deadline_is_dead_and_says_what_went_before() -> None:
    transition = after_deadline(make_job(reason="KeyError: 'x'"))
    assert (transition.status, transition.reason) == (Status.DEAD, "deadline passed; KeyError: 'x'")


@given(attempt=st.integers(1, 10_000), jitter=st.floats(0, 1))
def test_backoff_grows_and_stays_within_its_bounds(attempt: int, jitter: float) -> None:
    wait = backoff_seconds(attempt, jitter)
    assert 2 <= wait <= CAP_SECONDS * 1.25
    assert backoff_seconds(attempt + 1, jitter) >= wait


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


@pytest.mark.parametrize(
    "error", [Unspeakable(), ValueError("nul \x00 and \ud800"), SystemExit(3), ValueError("x" * 100_000)]
)
def test_recording_a_failure_can_never_fail(error: BaseException) -> None:
    text = failed_from(error).error
    assert "\x00" not in text
    assert len(text.encode("utf-8")) < 40_000


def test_a_group_with_one_error_is_named_by_it() -> None:
    group = ExceptionGroup("nursery", [ExceptionGroup("inner", [KeyError("x")])])
    assert failed_from(group).error.strip().endswith("KeyError: 'x'")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no water\nin the kettle"), "ValueError: no water"),
        (ValueError(), "ValueError"),
        (KeyError("x"), "KeyError: 'x'"),
        (Unspeakable(), "Unspeakable (its text could not be read)"),
        (ValueError("x" * 100_000), "ValueError: " + "x" * 488),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else type(value).__name__,
)
def test_a_reason_is_the_error_and_its_first_line(error: BaseException, reason: str) -> None:
    assert failed_from(error).reason == reason


def test_the_ledger_says_why() -> None:
    assert error_of(Snoozed(5, "rate limit")) == "rate limit"
    assert error_of(Completed()) is None
    assert error_of(Lost("n1")) == "node n1 went silent"
