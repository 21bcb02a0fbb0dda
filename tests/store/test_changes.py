"""What each call makes of a job, field by field: the stores keep what comes out."""

from datetime import timedelta

import pytest

from tests.helpers import NOON, job_id, make_job
from trioqueue.jobs.job import Attempt, AttemptOutcome, Claim, Job, Json, NewJob, NodeId, Status
from trioqueue.jobs.lifecycle import Transition
from trioqueue.jobs.outcome import Failed, Lost, Outcome, Released
from trioqueue.store import changes
from trioqueue.store.protocol import Refusal

ALICE = NodeId("alice")
SECOND = timedelta(seconds=1)
LATER = NOON + 60 * SECOND
ASKED = LATER - SECOND


def processing(**fields: object) -> Job:
    """A job in the second attempt of its life, and in its third version."""
    held = {"status": Status.PROCESSING, "node": ALICE, "lease_until": LATER, "started_at": NOON}
    return make_job(**{**held, "version": 3, "epoch": 2, "attempt": 2, "progress": Json(b"0.5"), **fields})


def test_a_job_is_accepted_as_it_was_asked_for() -> None:
    asked = {
        "id": job_id(1),
        "type": "mail",
        "payload": Json(b"[1]"),
        "queue": "slow",
        "priority": -1,
        "run_at": LATER,
        "max_attempts": 7,
        "timeout_seconds": 2.5,
        "deadline_at": LATER + SECOND,
        "unique_key": "key",
        "tags": ("a", "b"),
        "parent_id": job_id(2),
        "root_id": job_id(3),
        "schedule": "nightly",
        "traceparent": "00-1-2-01",
    }
    assert changes.accepted(NewJob(**asked), NOON) == make_job(**asked)  # type: ignore[arg-type]


def test_a_job_without_a_time_and_a_parent_is_due_now_and_its_own_root() -> None:
    new = NewJob(id=job_id(1), type="work", payload=Json(b"{}"))
    assert changes.accepted(new, NOON) == make_job(id=job_id(1), root_id=job_id(1))


def test_a_delay_counts_from_when_the_job_was_accepted() -> None:
    new = NewJob(id=job_id(), type="work", payload=Json(b"{}"), delay_seconds=1)
    assert changes.accepted(new, NOON).run_at == NOON + SECOND


def test_a_claim_begins_a_new_epoch_and_an_attempt() -> None:
    job = make_job(version=2, epoch=1, attempt=1, progress=Json(b"0.5"), started_at=NOON - SECOND)
    assert changes.claimed(job, ALICE, NOON, LATER) == processing(progress=None)


def test_a_renewal_moves_the_lease_alone() -> None:
    assert changes.renewed(processing(), LATER + SECOND) == processing(version=4, lease_until=LATER + SECOND)


def test_progress_changes_nothing_else() -> None:
    assert changes.progressed(processing(), Json(b"0.9")) == processing(version=4, progress=Json(b"0.9"))


@pytest.mark.parametrize(
    ("transition", "fields"),
    [
        (
            Transition(status=Status.COMPLETED, attempt=2, crash_count=0, result=Json(b"1")),
            {"attempt": 2, "result": Json(b"1"), "finished_at": LATER},
        ),
        (
            Transition(status=Status.PENDING, attempt=2, crash_count=0, wait_seconds=1, reason="no"),
            {"attempt": 2, "reason": "no", "run_at": LATER + SECOND},
        ),
        (
            Transition(status=Status.PENDING, attempt=1, crash_count=1, reason="node alice went silent"),
            {"attempt": 1, "crash_count": 1, "reason": "node alice went silent"},
        ),
    ],
    ids=["ended", "to be tried again", "back in its place"],
)
def test_a_settled_job_is_what_the_transition_says(transition: Transition, fields: dict[str, object]) -> None:
    expected = processing(version=4, status=transition.status, node=None, lease_until=None, **fields)
    assert changes.settled(processing(reason="before"), transition, LATER) == expected


def test_a_released_job_is_as_if_it_had_not_been_claimed() -> None:
    assert changes.released(processing(), NOON - SECOND, LATER) == processing(
        version=4, status=Status.PENDING, attempt=1, node=None, lease_until=None, started_at=NOON - SECOND
    )


def test_a_released_job_that_somebody_wants_to_stop_is_cancelled() -> None:
    assert changes.released(processing(cancel_requested_at=ASKED), None, LATER) == processing(
        version=4,
        status=Status.CANCELLED,
        reason="cancelled",
        attempt=1,
        node=None,
        lease_until=None,
        started_at=None,
        cancel_requested_at=ASKED,
        finished_at=LATER,
    )


def test_a_pending_job_is_cancelled_at_once() -> None:
    assert changes.cancelled(make_job(version=1), NOON) == make_job(
        version=2, status=Status.CANCELLED, reason="cancelled", cancel_requested_at=NOON, finished_at=NOON
    )


def test_a_processing_job_is_asked_to_stop() -> None:
    assert changes.cancelled(processing(), LATER) == processing(version=4, cancel_requested_at=LATER)


@pytest.mark.parametrize(
    "job",
    [
        processing(cancel_requested_at=ASKED),
        make_job(status=Status.COMPLETED),
        make_job(status=Status.CANCELLED),
        make_job(status=Status.DEAD),
    ],
    ids=["asked already", "completed", "cancelled", "dead"],
)
def test_to_cancel_where_that_changes_nothing_gives_the_same_job(job: Job) -> None:
    """The very same: the stores do not write it, and its version stays."""
    assert changes.cancelled(job, LATER) is job


def test_a_redriven_job_is_as_new_but_for_its_history() -> None:
    ended = {"status": Status.DEAD, "attempt": 5, "crash_count": 2, "reason": "no", "run_at": NOON}
    dead = make_job(
        **{
            **ended,
            "epoch": 7,
            "version": 9,
            "finished_at": NOON,
            "cancel_requested_at": NOON,
            "started_at": NOON,
        }
    )
    assert changes.redriven(dead, LATER) == make_job(run_at=LATER, epoch=7, version=10, started_at=NOON)


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"status": Status.DEAD}, None),
        ({"status": Status.CANCELLED, "deadline_at": LATER}, None),
        ({"status": Status.CANCELLED, "deadline_at": NOON}, Refusal.DEADLINE),
        ({"status": Status.COMPLETED}, Refusal.STATUS),
        ({"status": Status.PROCESSING}, Refusal.STATUS),
    ],
)
def test_what_stands_against_a_redrive(fields: dict[str, object], refusal: Refusal | None) -> None:
    assert changes.refusal(make_job(**fields), NOON) is refusal


@pytest.mark.parametrize(
    ("stopping", "outcome"),
    [(False, Lost("alice")), (True, Released("node alice was stopped, and gave up on it"))],
)
def test_what_a_silent_node_leaves_is_lost_unless_it_had_been_told_to_stop(
    stopping: bool, outcome: Outcome
) -> None:
    assert changes.left_behind(processing(), stopping=stopping) == outcome


def test_the_ledger_keeps_the_attempt() -> None:
    assert changes.ended(processing(), Failed("Traceback …", summary="no"), 5, LATER) == Attempt(
        number=2,
        epoch=2,
        node=ALICE,
        worker=5,
        started_at=NOON,
        ended_at=LATER,
        outcome=AttemptOutcome.FAILED,
        error="Traceback …",
    )


@pytest.mark.parametrize("fields", [{"node": None}, {"started_at": None}])
def test_an_attempt_that_nobody_has_begun_cannot_end(fields: dict[str, None]) -> None:
    with pytest.raises(AssertionError):
        changes.ended(processing(**fields), Lost("alice"), None, LATER)


@pytest.mark.parametrize(
    ("deadline_at", "late"), [(None, False), (NOON + SECOND, False), (NOON, True), (NOON - SECOND, True)]
)
def test_a_job_is_late_from_its_deadline_on(deadline_at: object, late: bool) -> None:
    assert changes.is_late(make_job(deadline_at=deadline_at), NOON) is late


@pytest.mark.parametrize(
    ("now", "holds"),
    [
        ({}, True),
        ({"version": 9, "lease_until": LATER + SECOND}, True),
        ({"epoch": 3}, False),
        ({"epoch": 1}, False),
        ({"status": Status.PENDING}, False),
        ({"status": Status.COMPLETED}, False),
    ],
)
def test_the_fence_is_the_epoch_of_a_processing_job(now: dict[str, object], holds: bool) -> None:
    assert changes.holds(Claim(job=processing(), node=ALICE), processing(**now)) is holds
