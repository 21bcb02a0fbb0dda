"""The world of one seed: machines in their places, one store, and a judge who sees every commit."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import trio

from tests.simulation import evidence, invariants
from tests.simulation.clocks import microseconds_at
from tests.simulation.handlers import handlers
from tests.simulation.hints import Hub
from tests.simulation.ledger import Execution, Ledger, Wish
from tests.simulation.machine import Machine
from tests.simulation.observer import COUNTED, AttemptRow, History, JobRow, Observer
from tests.simulation.plan import Plan
from tests.simulation.report import Report, Violation
from tests.simulation.trace import Trace
from trioqueue.config import Settings
from trioqueue.jobs.job import FINAL, JobId, NewJob
from trioqueue.store.protocol import Enqueued

MOST_CALLS = 20_000
"""Of the store, in one virtual second. More is a loop that nothing stops."""


class World:
    """Everything that is outside of the nodes."""

    def __init__(self, plan: Plan, path: Path, trace: Trace, nursery: trio.Nursery) -> None:
        self.plan = plan
        self.path = path
        self.trace = trace
        self.nursery = nursery
        self.report = Report(plan.seed)
        self.ledger = Ledger()
        self.observer = Observer()
        self.hub = Hub(plan, trace)
        self.handlers = handlers
        self.settings = _settings(plan)
        self.machines: dict[str, Machine] = {}
        """By the ids of their nodes."""
        self.all_machines: list[Machine] = []
        """That there ever were: with a planted bug, two may have the same id."""
        self.places: list[Machine | None] = [None] * plan.nodes
        self.scope = trio.CancelScope()
        """What happens in the world. Cancelled at the first violation."""
        self.healed = False
        self.closing = False
        self.out_until = 0.0
        self._random = Random(f"world {plan.seed}")
        self._second = 0.0
        self._calls = 0

    @property
    def is_out(self) -> bool:
        """Nobody reaches the store."""
        return self.out_until > trio.current_time()

    @property
    def up(self) -> list[Machine]:
        """Those that would answer a client."""
        return [machine for machine in self.places if machine is not None and machine.is_up and machine.ready]

    def violate(self, invariant: str, detail: str) -> None:
        """Something that must hold did not: the run is over."""
        if not self.report.violations:
            self.trace.add(f"VIOLATION of {invariant}: {detail}")
        self.report.violations.append(Violation(invariant, detail, trio.current_time()))
        self.scope.cancel()

    async def inhabit(self, place: int) -> None:
        """One place for a machine: whenever its node has ended, another one is started there."""
        incarnation = 0
        while not self.closing:
            incarnation += 1
            machine = self.places[place] = Machine(self, place, incarnation)
            self.machines[machine.id] = machine
            self.all_machines.append(machine)
            await machine.live()
            long = not self.healed and self._random.random() < 0.1
            await trio.sleep(self._random.uniform(0.2, 40.0 if long else 2.0))

    def heal(self) -> None:
        """From now on nothing fails any more, but what handlers do."""
        self.trace.add("the world heals")
        self.healed = self.hub.healed = True
        self.out_until = 0.0
        for machine in self.all_machines:
            machine.fuse = 0
            machine.cut_off_until = 0.0
            machine.fate_at_commit = None
            machine.disturb()

    def confirm_cancelled(self, job_id: JobId) -> None:
        """A client was told that a job is cancelled, and that nothing of it runs any more."""
        self.ledger.cancelled.add(job_id)
        for execution in self.ledger.running.get(job_id, ()):
            if execution.is_trusted:
                self.violate(
                    "i10_cancelled_stays_cancelled", f"confirmed, and runs on {execution.machine.id}"
                )

    def called(self) -> None:
        """The store is called."""
        self.report.calls += 1
        now = trio.current_time()
        if now > self._second + 1:
            self._second, self._calls = now, 0
        self._calls += 1
        if self._calls == MOST_CALLS:
            self.violate("no loop runs wild", f"{MOST_CALLS} calls of the store within a second")

    def begun(self, execution: Execution) -> None:
        """A handler has begun. One of a dead machine has not: that is its disposal."""
        if execution.machine.frozen or execution.machine.dead:
            return
        self.report.executions += 1
        self.trace.add(f"{execution.machine.id} #{execution.ticket} e{execution.epoch} begins")
        job = self.observer.by_id[execution.job_id].row
        if execution.is_trusted and (job.epoch != execution.epoch or job.status != "processing"):
            self.violate(
                "i4_one_trusted_executor", f"{execution.machine.id} begins epoch {execution.epoch} of {job}"
            )
        if job.type != "plain":  # a thread begins when there is one, and cannot be told to stop
            self._begun_in_time(execution, job)

    def _begun_in_time(self, execution: Execution, job: JobRow) -> None:
        held, now = execution.held, trio.current_time()
        if held.stop_at <= now:
            self.violate("nothing begins on a stale lease", f"{execution.machine.id} begins {job}")
        if held.limit.at <= now:
            self.violate("nothing begins after its limit", f"{execution.machine.id} begins {job}")
        elif held.cause is not None:
            self.violate("nothing begins that was cancelled", f"{execution.machine.id} begins {job}")

    def ended(self, machine: Machine) -> None:
        """A node has ended by itself. When it was told to, it was soon, and nothing is left of it."""
        now = trio.current_time()
        self.trace.add(f"{machine.id} has ended")
        if machine.stopping_at is not None:
            self._ended_soon(machine, now - machine.stopping_at)
        left = [self.observer.jobs[seq].row for seq in sorted(self.observer.processing)]
        left = [job for job in left if job.node == machine.id]
        if not left:
            self.trace.mark("ended and left nothing")
            return
        self.trace.mark("ended and left claims")
        # A claim that was committed, and whose answer was lost, is nobody's until its lease ends.
        if machine.stopping_at is not None and now - machine.disturbed_at > self.plan.lease_seconds + 5:
            self.violate("a graceful stop leaves nothing", f"{machine.id} left {left}")

    def _ended_soon(self, machine: Machine, seconds: float) -> None:
        """Unless a handler resisted, or the store was slow: within the grace period and two seconds."""
        assert machine.stopping_at is not None
        limit = self.plan.grace_seconds + 2
        resisted = machine.resisted_at > machine.stopping_at + self.plan.grace_seconds
        disturbed = machine.disturbed_at >= machine.stopping_at or self.plan.slow > 0
        if seconds > limit and not resisted and not disturbed:
            self.violate("a stop ends in time", f"{machine.id} took {seconds:.3f} s")

    def judge(self, by: Machine) -> None:
        """Ask the invariants about everything that has just been committed."""
        changes = self.observer.committed()
        if not changes:
            return
        now = microseconds_at(trio.current_time())
        for _, table, before, after in changes:
            if table == "jobs":
                self._judge_job(
                    None if before is None else JobRow._make(before),
                    None if after is None else JobRow._make(after),
                    by,
                    now,
                )
            elif after is not None and before is None:
                self._judge_attempt(AttemptRow._make(after), by)

    def check(self) -> None:
        """Ask what must hold at any instant, committed or not."""
        alive = [machine for machine in self.places if machine is not None and not machine.down.is_set()]
        scene = evidence.Scene(self.observer, self.ledger, alive)
        for invariant in evidence.OF_THE_WORLD:
            for problem in invariant(scene):
                self.violate(invariant.__name__, problem)

    def compare(self) -> None:
        """Look whether the file is what has been seen of it, and its counters are true."""
        for problem in self.observer.differences(self.path):
            self.violate("the file is what was committed", problem)

    def check_enqueued(self, jobs: Sequence[NewJob], answers: Sequence[Enqueued]) -> None:
        """I7: who is told that his job was there before is told of a job with the same key."""
        for job, answer in zip(jobs, answers, strict=True):
            if answer.created and answer.job.id != job.id:
                self.violate("i7_one_live_job_per_key", f"asked for {job}, and {answer} was created")
            if not answer.created:
                self.trace.mark("enqueued: there already")
                if job.unique_key is None or answer.job.unique_key != job.unique_key:
                    self.violate("i7_one_live_job_per_key", f"asked for {job}, told of {answer}")

    def _judge_job(self, before: JobRow | None, after: JobRow | None, by: Machine, now: int) -> None:
        row = after or before
        assert row is not None
        change = invariants.Change(
            before=before,
            after=after,
            history=self.observer.jobs.get(row.seq),
            by=by,
            now=now,
            observer=self.observer,
            ledger=self.ledger,
            machines=self.machines,
            plan=self.plan,
            wish=self._wish_of(row) if before is None else None,
        )
        for invariant in invariants.OF_JOBS:
            problem = invariant(change)
            if problem is not None:
                self.violate(invariant.__name__, f"job {row.seq}: {problem}")
        self.observer.keep(before, after)
        self._tell(before, after, by)

    def _judge_attempt(self, attempt: AttemptRow, by: Machine) -> None:
        history = self.observer.jobs[attempt.seq]
        ended = evidence.Ended(
            attempt=attempt,
            history=history,
            execution=self.ledger.executions.get((history.row.id, attempt.epoch)),
            machines=self.machines,
            plan=self.plan,
        )
        for invariant in evidence.OF_ATTEMPTS:
            problem = invariant(ended)
            if problem is not None:
                self.violate(invariant.__name__, f"job {attempt.seq}: {problem}")
        history.outcomes.append((attempt.epoch, attempt.outcome))
        history.spent += attempt.outcome in COUNTED
        history.lost += attempt.outcome == "lost"
        self.trace.mark(f"attempt {attempt.outcome}{' by rescue' if attempt.worker is None else ''}")
        self.trace.add(f"{by.id} job {attempt.seq} e{attempt.epoch} of {attempt.node} {attempt.outcome}")

    def _wish_of(self, row: JobRow) -> Wish:
        ticket: int = msgspec.json.decode(row.payload)["ticket"]
        return self.ledger.wishes[ticket]

    def _tell(self, before: JobRow | None, after: JobRow | None, by: Machine) -> None:
        """For the trace. Renewals, and what is seen to be due, are not worth a line."""
        row = after or before
        assert row is not None
        was = "new" if before is None else before.status
        now = "deleted" if after is None else after.status
        if was != now or (before and after and before.epoch != after.epoch):
            self.trace.add(f"{by.id} job {row.seq} {was} to {now} e{row.epoch} a{row.attempt} v{row.version}")
            self._mark(was, now, row)

    def _mark(self, was: str, now: str, row: JobRow) -> None:
        self.trace.mark(f"{was} to {now}")
        if now == "dead":
            self.trace.mark("dead: crashed" if row.reason == "crashed" else "dead: otherwise")
        if now == "completed" and row.cancel_requested_at is not None:
            self.trace.mark("completed before it could be cancelled")
        if now == "processing" and row.crash_count:
            self.trace.mark("claimed after a crash")


def _settings(plan: Plan) -> Settings:
    settings: dict[str, Any] = {
        "store": "memory:",  # not opened: nodes are given the simulated one
        "worker_count": plan.workers,
        "job_queue_capacity": plan.capacity,
        "lease_seconds": plan.lease_seconds,
        "grace_seconds": plan.grace_seconds,
        "poll_seconds": plan.poll_seconds,
        "retention": dict.fromkeys(sorted(FINAL), timedelta(seconds=plan.retention_seconds)),
        "log_level": "error",
        "log_format": "json",
    }
    return Settings(**settings)


def outcomes(history: History) -> str:
    """A job's life in one line."""
    return ", ".join(f"e{epoch} {outcome}" for epoch, outcome in history.outcomes)
