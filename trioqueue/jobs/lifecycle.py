"""Every status, every allowed move, and which outcome causes which.

The law of this file: everything that decides a job's next status is here. Workers, the
rescuer and operators all go through it; stores only apply what it returns.
"""

from dataclasses import dataclass
from typing import assert_never

from trioqueue.jobs.backoff import DEFAULT_RETRY
from trioqueue.jobs.job import FINAL, AttemptOutcome, Job, Json, Status
from trioqueue.jobs.outcome import Cancelled, Completed, Failed, Lost, Outcome, Released, Snoozed, TimedOut

CRASHES_ALLOWED = 3
"""After this many nodes went silent with a job in hand, the job is taken for the cause."""

MOVES: dict[Status, dict[str, frozenset[Status]]] = {
    # from                 by                          to
    Status.PENDING: {
        "claim": frozenset({Status.PROCESSING}),
        "cancel": frozenset({Status.CANCELLED}),
        "deadline passed": frozenset({Status.DEAD}),
    },
    Status.PROCESSING: {
        AttemptOutcome.COMPLETED: frozenset({Status.COMPLETED}),
        AttemptOutcome.FAILED: frozenset({Status.PENDING, Status.DEAD}),
        AttemptOutcome.TIMED_OUT: frozenset({Status.PENDING, Status.DEAD}),
        AttemptOutcome.CANCELLED: frozenset({Status.CANCELLED}),
        AttemptOutcome.SNOOZED: frozenset({Status.PENDING}),
        AttemptOutcome.RELEASED: frozenset({Status.PENDING}),
        AttemptOutcome.LOST: frozenset({Status.PENDING, Status.DEAD}),
        # Asked to stop, the attempt ended in some other way than completed.
        "cancel requested": frozenset({Status.CANCELLED}),
    },
    Status.COMPLETED: {},
    Status.CANCELLED: {"redrive": frozenset({Status.PENDING})},
    Status.DEAD: {"redrive": frozenset({Status.PENDING})},
}

REDRIVABLE = frozenset(status for status, moves in MOVES.items() if "redrive" in moves)
"""Out of these an operator can put a job back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """What becomes of a job once an attempt has ended. A store applies it as it is."""

    status: Status
    attempt: int
    """The job's `attempt` from now on."""
    crash_count: int
    wait_seconds: float | None = None
    """The job is due again this long after now, by the store's clock; None keeps its `run_at`."""
    reason: str | None = None
    result: Json | None = None


def after_attempt(job: Job, outcome: Outcome, jitter: float) -> Transition:
    """What becomes of `job` after an attempt that came to `outcome`.

    `jitter` is a random number from 0 to 1, for the backoff. No clock: a transition says how long
    to wait, and the store, whose clock decides what is due, turns that into a time.
    """
    if job.cancel_requested_at is not None and not isinstance(outcome, Completed):
        outcome = Cancelled()
    match outcome:
        case Completed(result):
            return _end(job, Status.COMPLETED, reason=None, result=result)
        case Cancelled():
            return _end(job, Status.CANCELLED, reason="cancelled", attempt=job.attempt - 1)
        case Failed(final=True):
            return _end(job, Status.DEAD, reason=outcome.reason)
        case Failed(retry=retry, not_before_seconds=not_before_seconds):
            wait_seconds = max(retry.wait_seconds(job.attempt, jitter), not_before_seconds)
            return _after_failure(job, outcome.reason, wait_seconds)
        case TimedOut(error, retry):
            return _after_failure(job, error, retry.wait_seconds(job.attempt, jitter))
        case Snoozed(seconds, reason):
            return _again(job, seconds, reason=reason or "snoozed")
        case Released(why):
            return _again(job, None, reason=why)
        case Lost(node):
            return _after_crash(job, node, jitter)
        case _:
            assert_never(outcome)


def after_deadline(job: Job) -> Transition:
    """What becomes of a pending job whose `deadline_at` has come: it never runs again."""
    return _end(
        job, Status.DEAD, reason=f"deadline passed; {job.reason}" if job.reason else "deadline passed"
    )


def after_redrive() -> Transition:
    """What becomes of a dead or cancelled job that an operator puts back: due at once, its budget full."""
    return Transition(status=Status.PENDING, attempt=0, crash_count=0, wait_seconds=0)


def _after_failure(job: Job, reason: str, wait_seconds: float) -> Transition:
    if job.attempt >= job.max_attempts:
        return _end(job, Status.DEAD, reason=reason)
    return Transition(
        status=Status.PENDING,
        attempt=job.attempt,
        crash_count=job.crash_count,
        wait_seconds=wait_seconds,
        reason=reason,
    )


def _after_crash(job: Job, node: str, jitter: float) -> Transition:
    crashes = job.crash_count + 1
    dead = crashes >= CRASHES_ALLOWED
    # The first crash is most often a deploy or a power cut: the job keeps its place in the queue.
    wait_seconds = DEFAULT_RETRY.wait_seconds(crashes - 1, jitter) if crashes > 1 else None
    return Transition(
        status=Status.DEAD if dead else Status.PENDING,
        attempt=max(job.attempt - 1, 0),
        crash_count=crashes,
        wait_seconds=None if dead else wait_seconds,
        reason="crashed" if dead else f"node {node} went silent",
    )


def _again(job: Job, wait_seconds: float | None, *, reason: str) -> Transition:
    """Back to pending; the attempt does not count."""
    return Transition(
        status=Status.PENDING,
        attempt=max(job.attempt - 1, 0),
        crash_count=job.crash_count,
        wait_seconds=wait_seconds,
        reason=reason,
    )


def _end(
    job: Job, status: Status, *, reason: str | None, result: Json | None = None, attempt: int | None = None
) -> Transition:
    return Transition(
        status=status,
        attempt=job.attempt if attempt is None else max(attempt, 0),
        crash_count=job.crash_count,
        reason=reason,
        result=result,
    )


def diagram() -> str:
    """The table above as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", "    [*] --> pending: enqueue"]
    for source, moves in MOVES.items():
        for cause, targets in moves.items():
            lines += [f"    {source} --> {target}: {cause}" for target in sorted(targets)]
    lines += [f"    {status} --> [*]" for status in MOVES if status in FINAL]
    return "\n".join(lines) + "\n"
