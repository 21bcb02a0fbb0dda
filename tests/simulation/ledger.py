"""What handlers did and what clients were told: kept outside of the store, to be compared with it.

The law of this file: a machine that is frozen or dead writes nothing here.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from trioqueue.jobs.job import JobId
from trioqueue.runtime.context import Context
from trioqueue.runtime.leases import Held

if TYPE_CHECKING:
    from tests.simulation.machine import Machine


@dataclass(slots=True, eq=False)
class Execution:
    """One run of a handler, from outside."""

    ticket: int
    job_id: JobId
    epoch: int
    machine: "Machine"
    held: Held
    started_at: float
    ended_at: float | None = None
    ending: str | None = None
    """How it left the handler: returned, raised, snoozed, lost, cancelled. None: it runs, or was cut."""

    @property
    def is_awake(self) -> bool:
        """Whether it can do anything right now."""
        return self.ended_at is None and not self.machine.frozen

    @property
    def is_trusted(self) -> bool:
        """Whether its node still believes that it may run: nothing has told it to stop."""
        scope = self.held.scope
        if not self.is_awake or scope is None:
            return False
        return scope.deadline > trio.current_time() and not scope.cancel_called


@dataclass(slots=True, eq=False)
class Wish:
    """What a client wants to be done. It may have to ask more than once, and so get more than one job."""

    ticket: int
    kind: str
    asked_at: float
    delay_seconds: float | None = None
    run_at: float | None = None
    """In seconds since the beginning of time, as `deadline_at`."""
    deadline_at: float | None = None
    unique_key: str | None = None
    jobs: list[JobId] = field(default_factory=list)
    """Those that were acknowledged."""


class Ledger:
    """Executions by job, wishes by ticket, and what was promised to whom."""

    def __init__(self) -> None:
        self.wishes: list[Wish] = []
        self.executions: dict[tuple[JobId, int], Execution] = {}
        self.running: defaultdict[JobId, list[Execution]] = defaultdict(list)
        self.acknowledged: set[JobId] = set()
        self.cancelled: set[JobId] = set()
        """Confirmed to a client as cancelled."""
        self.begun: Counter[int] = Counter()
        """Executions by ticket."""
        self.ended = 0

    def wish(self, kind: str) -> Wish:
        wish = Wish(ticket=len(self.wishes), kind=kind, asked_at=trio.current_time())
        self.wishes.append(wish)
        return wish

    def acknowledge(self, wish: Wish, job_id: JobId) -> None:
        wish.jobs.append(job_id)
        self.acknowledged.add(job_id)

    def start(self, context: Context, machine: "Machine", ticket: int) -> Execution:
        job = context.job
        execution = Execution(
            ticket=ticket,
            job_id=job.id,
            epoch=job.epoch,
            machine=machine,
            held=context._held,
            started_at=trio.current_time(),
        )
        if machine.frozen:
            return execution
        self.begun[ticket] += 1
        self.executions[job.id, job.epoch] = execution
        self.running[job.id].append(execution)
        return execution

    def end(self, execution: Execution, ending: str) -> bool:
        """Whether anybody could see it."""
        if execution.machine.frozen:
            return False
        execution.ended_at = trio.current_time()
        execution.ending = ending
        self.ended += 1
        self._forget(execution)
        return True

    def cut(self, machine: "Machine") -> int:
        """The machine has lost its power; returns how many handlers ran on it."""
        lost = [
            execution
            for executions in self.running.values()
            for execution in executions
            if execution.machine is machine
        ]
        for execution in lost:
            self._forget(execution)
        return len(lost)

    def _forget(self, execution: Execution) -> None:
        executions = self.running[execution.job_id]
        executions.remove(execution)
        if not executions:
            del self.running[execution.job_id]
