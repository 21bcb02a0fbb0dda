"""More that must hold: the attempts ledger says what was seen, and nothing stands still for ever."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import trio

from tests.simulation.clocks import microseconds_at
from tests.simulation.ledger import Execution, Ledger
from tests.simulation.machine import Machine
from tests.simulation.observer import AttemptRow, History, Observer
from tests.simulation.plan import Plan

SECOND = 1_000_000
STUCK_SECONDS = 15.0
ENDINGS = {"completed": "returned", "failed": "raised", "snoozed": "snoozed"}
"""How a handler must have ended for an outcome."""

Problem = str | None


@dataclass(frozen=True, slots=True)
class Ended:
    """One new row of `attempts`, and the job at that moment."""

    attempt: AttemptRow
    history: History
    execution: Execution | None
    """What was seen of its handler. None: it never began."""
    machines: Mapping[str, Machine]
    plan: Plan


def i2_fenced(ended: Ended) -> Problem:
    """I2: an attempt ends under the epoch and the node that hold the job, and no attempt ends twice."""
    attempt, job = ended.attempt, ended.history.row
    if (job.status, job.epoch, job.node) != ("processing", attempt.epoch, attempt.node):
        return f"{attempt} of a job that is {job.status} under epoch {job.epoch} of {job.node}"
    if any(epoch == attempt.epoch for epoch, _ in ended.history.outcomes):
        return f"{attempt} is the second end of its epoch"
    return None


def outcomes_are_founded(ended: Ended) -> Problem:
    """An outcome is what the handler did, under this epoch and on this node."""
    attempt, execution = ended.attempt, ended.execution
    expected = ENDINGS.get(attempt.outcome)
    if attempt.worker is None and expected is None:
        return None  # nobody claims to know
    if execution is None:
        return None if expected is None else f"{attempt}, and no handler began"
    if execution.machine.id != attempt.node:
        return f"{attempt}, and the handler ran on {execution.machine.id}"
    if execution.ending is None or (expected is not None and execution.ending != expected):
        return f"{attempt}, and the handler has {execution.ending or 'not ended'}"
    return None


def leases_are_not_lost_in_peace(ended: Ended) -> Problem:
    """Only a node that is dead, or was kept from the store, loses a lease."""
    attempt = ended.attempt
    machine = ended.machines[attempt.node]
    until = trio.current_time() if machine.ended_at is None else machine.ended_at
    since = until - 2 * ended.plan.lease_seconds - STUCK_SECONDS
    if attempt.outcome != "lost" or machine.frozen or machine.disturbed_at >= since:
        return None
    return f"{attempt}, and nothing has disturbed {machine.id} since {machine.disturbed_at:.3f}"


OF_ATTEMPTS: tuple[Callable[[Ended], Problem], ...] = (
    i2_fenced,
    outcomes_are_founded,
    leases_are_not_lost_in_peace,
)


@dataclass(frozen=True, slots=True)
class Scene:
    """The whole world at one instant."""

    observer: Observer
    ledger: Ledger
    machines: list[Machine]
    """Those that have power."""


def i4_trust_ends_before_the_lease(scene: Scene) -> Iterator[str]:
    """I4: a handler is told to stop before its lease ends in the store, and knows when it was lost."""
    for executions in scene.ledger.running.values():
        for execution in executions:
            if not execution.is_trusted:
                continue
            job = scene.observer.by_id[execution.job_id].row
            trusted_until = microseconds_at(execution.held.stop_at)
            if job.epoch != execution.epoch or job.status != "processing":
                yield f"{execution.machine.id} runs epoch {execution.epoch} of {job}"
            elif trusted_until > (job.lease_until or 0):
                yield f"{execution.machine.id} trusts itself until {trusted_until}, beyond the lease of {job}"


def i12_nobody_waits_for_the_dead(scene: Scene) -> Iterator[str]:
    """A lease that has ended is noticed within 15 seconds as long as there is one healthy node."""
    if not any(machine.is_healthy for machine in scene.machines):
        return
    late = microseconds_at(trio.current_time()) - round(STUCK_SECONDS * SECOND)
    for seq in sorted(scene.observer.processing):
        job = scene.observer.jobs[seq].row
        if (job.lease_until or 0) < late:
            yield f"its lease ended at {job.lease_until}, long ago: {job}"


OF_THE_WORLD: tuple[Callable[[Scene], Iterator[str]], ...] = (
    i4_trust_ends_before_the_lease,
    i12_nobody_waits_for_the_dead,
)
