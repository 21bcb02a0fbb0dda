"""What must hold at every instant, whatever fails. Each is a function that says what is wrong, or nothing.

The numbers are those of the documentation. All are asked about every committed change of a job.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.simulation.clocks import microseconds_at
from tests.simulation.ledger import Ledger, Wish
from tests.simulation.machine import Machine
from tests.simulation.observer import History, JobRow, Observer
from tests.simulation.plan import Plan
from trioqueue.jobs.lifecycle import CRASHES_ALLOWED

SECOND = 1_000_000
MOVES = {
    "pending": {"pending", "processing", "cancelled", "dead"},
    "processing": {"processing", "pending", "completed", "cancelled", "dead"},
}


@dataclass(frozen=True, slots=True)
class Change:
    """One row of `jobs` (before: None when it is new, after: None when it is deleted), and who did it."""

    before: JobRow | None
    after: JobRow | None
    history: History | None
    by: Machine
    now: int
    """The store's time of the commit, in microseconds."""
    observer: Observer
    ledger: Ledger
    machines: Mapping[str, Machine]
    plan: Plan
    wish: Wish | None
    """What the client asked for whose job this is; only for new jobs."""

    @property
    def is_claim(self) -> bool:
        return (
            self.after is not None
            and self.after.status == "processing"
            and (self.before is None or self.before.status != "processing")
        )


Problem = str | None


def i1_final_only_once(change: Change) -> Problem:
    """I1: a job that has ended never changes again; the others move as the lifecycle allows."""
    before, after = change.before, change.after
    if before is None or after is None:
        return None
    if before.is_final:
        return f"it was {before.status}, and became {after}"
    if after.status not in MOVES[before.status]:
        return f"from {before.status} to {after.status}"
    return None


def i2_only_the_holder_settles(change: Change) -> Problem:
    """I2: who does not hold a job may only ask it to stop, until its lease has ended or its node is dead."""
    before, after = change.before, change.after
    if before is None or after is None or before.status != "processing" or before.node == change.by.id:
        return None
    asked = before._replace(cancel_requested_at=after.cancel_requested_at, version=after.version)
    holder = change.machines[str(before.node)]
    if asked == after or (before.lease_until or 0) <= change.now or holder.dead:
        return None
    return f"{change.by.id} changed what {before.node} holds until {before.lease_until}: {before} to {after}"


def i3_epochs_only_grow(change: Change) -> Problem:
    """I3: the epoch grows by one with each claim, and never otherwise."""
    if change.after is None:
        return None
    expected = 0 if change.before is None else change.before.epoch + change.is_claim
    return None if change.after.epoch == expected else f"epoch {change.after.epoch}, not {expected}"


def i4_one_trusted_executor(change: Change) -> Problem:
    """I4: when a job is claimed, or leaves its holder, nobody who runs it still trusts himself to."""
    before, after = change.before, change.after
    if after is None or not (change.is_claim or (before is not None and before.status == "processing")):
        return None
    if after.status == "processing" and not change.is_claim:
        return None
    for execution in change.ledger.running.get(after.id, ()):
        if execution.is_trusted:
            return (
                f"epoch {execution.epoch} runs on {execution.machine.id}, trusted until "
                f"{execution.held.stop_at:.3f}, and the job is {after.status} under epoch {after.epoch} "
                f"by {change.by.id}"
            )
    return None


def i5_budgets(change: Change) -> Problem:
    """I5: only failures spend attempts and only silent nodes count as crashes; both within their limits."""
    after = change.after
    if after is None:
        return None
    spent, lost = (change.history.spent, change.history.lost) if change.history else (0, 0)
    running = after.status in ("processing", "completed")
    forgiven = after.status == "cancelled"
    if spent > after.max_attempts:
        return f"{spent} failures of {after.max_attempts}"
    if after.attempt != spent + running and not (forgiven and after.attempt == spent - 1):
        return f"attempt {after.attempt} after {spent} failures, while {after.status}"
    if after.crash_count != lost and not (forgiven and after.crash_count == lost - 1):
        return f"crash count {after.crash_count} after {lost} lost attempts"
    if (after.crash_count >= CRASHES_ALLOWED) != (after.reason == "crashed"):
        return f"{after.status}, {after.reason!r}, after {after.crash_count} crashes"
    if after.status != "dead":
        return None
    late = after.deadline_at is not None and after.deadline_at <= change.now
    if not (late or after.reason == "crashed" or spent == after.max_attempts):
        return f"dead, {after.reason!r}, after {spent} failures of {after.max_attempts}"
    return None


def i6_kept_until_retention(change: Change) -> Problem:
    """I6: a job is deleted only when it ended longer ago than its retention."""
    before = change.before
    if change.after is not None or before is None:
        return None
    kept_until = (before.finished_at or 0) + round(change.plan.retention_seconds * SECOND)
    if before.is_final and kept_until <= change.now:
        return None
    return f"deleted while {before.status}, ended at {before.finished_at}, now {change.now}"


def i7_one_live_job_per_key(change: Change) -> Problem:
    """I7: of the pending and processing jobs at most one has a unique key, from its first day to its last."""
    after = change.after
    if after is None or after.unique_key is None or after.is_final:
        return None
    holder = change.observer.holders.get(after.unique_key, after.seq)
    return None if holder == after.seq else f"{after.unique_key} belongs to {holder}, and to {after.seq}"


def i10_cancelled_stays_cancelled(change: Change) -> Problem:
    """I10: who was asked to stop never runs again: it is cancelled, or had completed before it stopped."""
    before, after = change.before, change.after
    if after is None:
        return None
    if before is not None and before.cancel_requested_at not in (None, after.cancel_requested_at):
        return f"asked to stop at {before.cancel_requested_at}, then at {after.cancel_requested_at}"
    if after.cancel_requested_at is not None and (change.is_claim or after.status in ("pending", "dead")):
        return f"{after.status} although it was asked to stop"
    return None


def i11_never_before_its_time(change: Change) -> Problem:
    """I11: no claim before `run_at` or after `deadline_at`, by the store's clock, whatever the nodes' say."""
    after, before = change.after, change.before
    if after is None or not change.is_claim or before is None:
        return None
    if before.run_at > change.now:
        return f"claimed {(before.run_at - change.now) / SECOND:.6f} s early"
    if before.deadline_at is not None and before.deadline_at <= change.now:
        return f"claimed {(change.now - before.deadline_at) / SECOND:.6f} s after its deadline"
    return None


def i11_due_when_asked(change: Change) -> Problem:
    """I11: a new job is due when its client asked for, counted by the store's clock."""
    after, wish = change.after, change.wish
    if change.before is not None or after is None or wish is None:
        return None
    due = change.now + round((wish.delay_seconds or 0) * SECOND)
    if wish.run_at is not None:
        due = microseconds_at(wish.run_at)
    if after.created_at != change.now:
        return f"created at {after.created_at}, and the store's time is {change.now}"
    return None if abs(after.run_at - due) <= 1 else f"due at {after.run_at}, and {due} was asked for"


def versions_tell_changes(change: Change) -> Problem:
    """Every change that a reader can see is one version on."""
    before, after = change.before, change.after
    if before is None or after is None:
        return None
    expected = before.version + (before._replace(due=after.due) != after)
    return None if after.version == expected else f"version {after.version}, not {expected}"


def held_means_leased(change: Change) -> Problem:
    """A processing job has a node and a lease; no other has."""
    after = change.after
    if after is None or (after.status == "processing") == (after.node is not None) == (
        after.lease_until is not None
    ):
        return None
    return f"{after.status}, held by {after.node} until {after.lease_until}"


OF_JOBS: tuple[Callable[[Change], Problem], ...] = (
    i1_final_only_once,
    i2_only_the_holder_settles,
    i3_epochs_only_grow,
    i4_one_trusted_executor,
    i5_budgets,
    i6_kept_until_retention,
    i7_one_live_job_per_key,
    i10_cancelled_stays_cancelled,
    i11_never_before_its_time,
    i11_due_when_asked,
    versions_tell_changes,
    held_means_leased,
)
