"""Whether the node does its work. Loops report their turns, store calls their success; probes ask.

Red means that a person or a supervisor should act: work waits, workers are free and nobody
claims; a loop has made no turn for too long; the store cannot be written.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import trio

LOOP_SECONDS = 60.0
"""A loop that has made no turn for this long is wedged. Each turns far more often: the slowest each 36 s."""

STALL_SECONDS = 10.0
"""Due work may wait this long beside free workers before nobody is said to claim it."""

RECOVERY_SECONDS = 3.0
"""So long after an outage nodes renew and settle first what they could not: nobody is taken for dead."""

STORE_SECONDS = 15.0
"""The node writes to the store each five seconds; three misses are a failure even without an error."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its honest answer."""

    name: str
    ok: bool
    detail: str


class Health:
    """Collects signs of life and answers the probes. All times are Trio's."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        """What is odd but works: settings that fell back, demo mode."""
        self.facts: dict[str, object] = {}
        """Which node this is, how many workers it has, which types it knows."""
        self.draining = False
        self.store_away = trio.Event()
        """Set while the last news of the store is that it could not be reached; then a new one."""
        self._turns: dict[str, float] = {}
        self._resting: set[str] = set()
        self._written_at: float | None = None
        self._recovered_at = -math.inf
        self._store_error: str | None = None
        self._overdue_seconds = 0.0
        self._overdue_seen_at = 0.0
        self._last_claim_at = 0.0
        self._free_workers: Callable[[], int] = lambda: 0

    def turn(self, loop: str) -> None:
        """`loop` has made a turn."""
        self._turns[loop] = trio.current_time()
        self._resting.discard(loop)

    def rests(self, loop: str) -> None:
        """`loop` has nothing to do until something happens: it is not wedged. Only where loops may rest."""
        self.turn(loop)
        self._resting.add(loop)

    def watch_workers(self, free_workers: Callable[[], int]) -> None:
        """Ask `free_workers` how many workers wait for a claim."""
        self._free_workers = free_workers
        self._last_claim_at = trio.current_time()

    def claimed(self) -> None:
        """At least one job was claimed."""
        self._last_claim_at = trio.current_time()

    def work_waits(self, overdue_seconds: float) -> None:
        """The first due job has waited this long; 0 when none is due."""
        self._overdue_seconds = overdue_seconds
        self._overdue_seen_at = trio.current_time()

    def store_written(self) -> None:
        """A write has been committed."""
        self._written_at = trio.current_time()
        self._store_error = None
        if self.store_away.is_set():
            self.store_away = trio.Event()
            self._recovered_at = trio.current_time()

    def store_failed(self, reason: str) -> None:
        """A call could not reach the store."""
        self._store_error = reason
        self.store_away.set()

    @property
    def store_error(self) -> str | None:
        """Why the store could not be reached, while that is the last news of it."""
        return self._store_error

    @property
    def is_recovering(self) -> bool:
        """Whether an outage of the store has ended only just now."""
        return trio.current_time() < self._recovered_at + RECOVERY_SECONDS

    @property
    def is_live(self) -> bool:
        """Whether restarting the process would not help: no loop is wedged."""
        return all(check.ok for check in self._loop_checks())

    @property
    def is_ready(self) -> bool:
        """Whether the node takes jobs and gets them done."""
        return all(check.ok for check in self.checks())

    def checks(self) -> list[Check]:
        """Every check, the red ones too."""
        return [self._intake(), self._store(), self._claiming(), *self._loop_checks()]

    def _intake(self) -> Check:
        return Check("intake", not self.draining, "draining" if self.draining else "open")

    def _store(self) -> Check:
        if self._store_error is not None:
            return Check("store", False, self._store_error)
        if self._written_at is None:
            return Check("store", False, "nothing has been written yet")
        age = trio.current_time() - self._written_at
        fresh = age < STORE_SECONDS or "beat" in self._resting
        return Check("store", fresh, f"last written {age:.1f} s ago")

    def _claiming(self) -> Check:
        free, overdue = self._free_workers(), self._overdue_seconds
        if overdue and "watch" in self._resting:  # nothing has happened since: it waits still
            overdue += trio.current_time() - self._overdue_seen_at
        since_claim = trio.current_time() - self._last_claim_at
        stalled = free > 0 and overdue > STALL_SECONDS and since_claim > STALL_SECONDS
        if stalled:
            detail = f"a due job waits for {overdue:.0f} s, {free} workers are free, and nobody claims"
        else:
            waits = f"; the first due job waits for {overdue:.0f} s" if overdue else ""
            detail = f"{free} workers are free{waits}"
        return Check("claiming", not stalled, detail)

    def _loop_checks(self) -> list[Check]:
        now = trio.current_time()
        return [
            Check(
                f"loop {loop}",
                now - turned < LOOP_SECONDS or loop in self._resting,
                f"last turn {now - turned:.1f} s ago",
            )
            for loop, turned in sorted(self._turns.items())
        ]
