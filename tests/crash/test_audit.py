"""The audit finds each kind of fault: a harness that can only say "clean" proves nothing."""

import pytest

from tests.crash.audit import (
    Attempt,
    Job,
    Kill,
    Kind,
    Promises,
    Runs,
    check_job,
    check_promises,
    check_rescues,
    check_runs,
    rescue_seconds,
)


def attempt(epoch: int, outcome: str, started_at: float) -> Attempt:
    return Attempt(epoch, outcome, "node", started_at, started_at + 1)


def job(status: str, *outcomes: str, crash_count: int = 0, spent: int = 1, reason: str | None = None) -> Job:
    attempts = [attempt(epoch, outcome, epoch * 10.0) for epoch, outcome in enumerate(outcomes, 1)]
    return Job("id", "key", status, spent, len(outcomes), crash_count, False, reason, attempts)


HEALTHY = [
    job("completed", "completed"),
    job("completed", "lost", "snoozed", "completed", crash_count=1),
    job("completed", "failed", "completed", spent=2),
    job("dead", "lost", "lost", "lost", crash_count=3, reason="crashed"),
    job("cancelled"),
]

FAULTY: list[tuple[Kind, Job]] = [
    ("stuck", job("pending")),
    ("stuck", job("processing", "lost", crash_count=1)),
    ("lost", job("dead", "lost", crash_count=1, reason="crashed")),
    ("settled twice", job("completed", "completed", "completed")),
    ("settled twice", job("completed", "completed", "lost", crash_count=1)),
    ("settled twice", job("cancelled", "completed")),
    ("settled twice", job("completed")),
    ("miscounted", job("completed", "lost", "completed", crash_count=1, spent=2)),
    ("miscounted", job("completed", "lost", "completed")),
]


@pytest.mark.parametrize("job", HEALTHY, ids=str)
def test_a_healthy_job_passes(job: Job) -> None:
    assert list(check_job(job)) == []


@pytest.mark.parametrize(("kind", "job"), FAULTY, ids=str)
def test_a_faulty_job_is_found(kind: Kind, job: Job) -> None:
    assert [violation.kind for violation in check_job(job)] == [kind]


def test_attempts_that_overlap_are_found() -> None:
    overlapping = job("completed", "lost", "completed", crash_count=1)
    overlapping.attempts[1] = attempt(2, "completed", started_at=10.5)
    assert [violation.kind for violation in check_job(overlapping)] == ["zombie"]


def test_an_epoch_that_ran_twice_is_found() -> None:
    runs = Runs(started=[("id", 1), ("id", 1)], finished={("id", 1)})
    assert [violation.kind for violation in check_runs(runs, [])] == ["zombie"]


def test_a_settle_after_the_job_was_claimed_anew_is_found() -> None:
    stale = job("completed", "completed")
    stale.epoch = 2
    assert [violation.kind for violation in check_job(stale)] == ["stale settle"]


def test_a_settle_after_the_next_attempt_began_is_found() -> None:
    runs = Runs(started=[("id", 1), ("id", 2)], finished={("id", 1)})
    assert [violation.kind for violation in check_runs(runs, [job("completed", "completed")])] == [
        "stale settle"
    ]


def test_a_completion_that_no_handler_reached_is_found() -> None:
    runs = Runs(started=[("id", 1)])
    assert [violation.kind for violation in check_runs(runs, [job("completed", "completed")])] == [
        "unfounded"
    ]


@pytest.mark.parametrize(
    ("kind", "promises"),
    [
        ("lost", Promises(asked={"key", "other"}, acknowledged={"other": "id of other"})),
        ("lost", Promises(asked={"key"}, cancelled={"key"})),
        ("lost", Promises(asked={"key"}, stopping={"key"})),
        ("unexplained", Promises(asked={"key"}, refused={"key"})),
        ("unexplained", Promises()),
    ],
)
def test_a_broken_promise_is_found(kind: Kind, promises: Promises) -> None:
    found = check_promises(promises, [job("completed", "completed")])
    assert [violation.kind for violation in found] == [kind]


@pytest.mark.parametrize(
    ("kinds", "kills"),
    [([], [Kill(10.5, 10.6)]), (["late"], [Kill(0.0, 10.1)]), (["unexplained"], [Kill(12.0, 12.1)])],
)
def test_a_late_or_unexplained_loss_is_found(kinds: list[Kind], kills: list[Kill]) -> None:
    lost = job("completed", "lost", "completed", crash_count=1)
    found = check_rescues(list(rescue_seconds([lost], kills)))
    assert [violation.kind for violation in found] == kinds


def test_a_kill_explains_only_the_losses_of_its_process() -> None:
    lost = Attempt(1, "lost", "kitchen-4711-9b74ee1d", 10.0, 11.0)
    assert Kill(10.5, 10.6, pid=4711).explains(lost)
    assert Kill(10.5, 10.6).explains(lost)
    assert not Kill(10.5, 10.6, pid=4712).explains(lost)


def test_a_refused_job_may_be_kept_when_its_store_was_away() -> None:
    promises = Promises(asked={"key"}, refused={"key"}, doubtful={"key"})
    assert list(check_promises(promises, [job("completed", "completed")])) == []
