"""Counts the steps of an attempt's tasks, and freezes them where a cut falls: no line of them runs then.

Trio tells an instrument before it resumes a task, and does not mind when the instrument exchanges what
it is about to send into the coroutine. So a frozen task that would be resumed waits for the thaw
instead, with what it was to be sent kept aside. That leans on internals of Trio; the tests would
notice if they changed.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import trio
from trio._core import _run
from trio._core._traps import WaitTaskRescheduled

Resumption = tuple[Callable[[Any], object] | None, Any]
"""How Trio was going to resume a task, and with what."""

MOST_STEPS = 100_000
"""A run of a job that takes more than this does not end, as far as anybody can tell."""

IDLE_SECONDS = 10.0
"""So long, in real time, nothing may happen in a run that is not working in a thread."""

IGNORED = "the task goes on though it was cancelled"


class Subtree:
    """The tasks of one attempt: the one that runs the handler, and whatever it has started."""

    def __init__(self) -> None:
        self.root: trio.lowlevel.Task | None = None
        self.newest: trio.lowlevel.Task | None = None
        """Which of them made the latest step that counted."""
        self.ended = False
        self.halted = trio.Event()
        """The attempt has ended, or the cut has fallen."""
        self.frozen = False
        self.root_parked = trio.Event()
        self._parked: dict[trio.lowlevel.Task, Resumption] = {}

    def park(self, task: trio.lowlevel.Task) -> None:
        """Let `task`, which is about to be resumed, wait for the thaw."""
        self._parked[task] = (task._next_send_fn, task._next_send)
        task._next_send_fn, task._next_send = _park, None
        if task is self.root:
            self.root_parked.set()

    def thaw(self) -> None:
        """Let every task go on as if nothing had been."""
        self.frozen = False
        for task, (send, value) in self._parked.items():
            trio.lowlevel.reschedule(task)
            task._next_send_fn, task._next_send = send, value
        self._parked.clear()


class Steps(trio.abc.Instrument):
    """The steps of a job's attempts, counted over the whole of its life. Step 1 begins the first attempt.

    After step number `cut_after` of those that count, the attempt is frozen.
    """

    def __init__(self, cut_after: int | None) -> None:
        self.taken = 0
        self.ends: list[int] = []
        """The steps with which an attempt ended."""
        self.counting = True
        self.stuck: str | None = None
        """Why this run was given up."""
        self.give_up: Callable[[], None] = lambda: None
        self._cut_after = cut_after
        self._of: dict[trio.lowlevel.Task, Subtree] = {}
        self._adopting: Subtree | None = None
        self._all = 0
        self._busy_at = time.monotonic()

    def adopt_next(self, subtree: Subtree) -> None:
        """The task that is spawned next is the root of `subtree`."""
        self._adopting = subtree

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        subtree: Subtree | None
        if self._adopting is not None:
            subtree, self._adopting = self._adopting, None
            subtree.root = task
        else:
            nursery = task.parent_nursery
            subtree = None if nursery is None else self._of.get(nursery.parent_task)
        if subtree is not None:
            self._of[task] = subtree

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        subtree = self._of.get(task)
        if subtree is not None and subtree.frozen:
            subtree.park(task)
        elif subtree is not None and self._all > 3 * MOST_STEPS:
            task._next_send_fn = _break
        elif subtree is not None and self._all > 2 * MOST_STEPS:  # cancelled long ago, and goes on
            task._next_send_fn, task._next_send = task.coro.throw, RuntimeError(IGNORED)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        subtree = self._of.get(task)
        if subtree is None or subtree.frozen:
            return
        self._busy_at = time.monotonic()
        self._all += 1
        if self._all == MOST_STEPS:
            self._stop(f"it had taken {MOST_STEPS} steps and not ended")
        if self.counting:
            self.taken += 1
            subtree.newest = task
            if subtree.ended:
                self.ends.append(self.taken)
            if self.taken == self._cut_after:
                subtree.frozen = True
                self.counting = False
                subtree.halted.set()
        if subtree.ended:
            subtree.halted.set()

    def before_io_wait(self, timeout: float) -> None:
        if time.monotonic() - self._busy_at > IDLE_SECONDS:
            self._stop("nothing happened any more")

    def _stop(self, why: str) -> None:
        if self.stuck is None:
            self.stuck = why
            self.give_up()


@contextmanager
def determinism() -> Iterator[None]:
    """Trio, and the global random generator, make the same choices in every run within."""
    before = (_run._r, _run._ALLOW_DETERMINISTIC_SCHEDULING, random.getstate())
    random.seed(0)
    _set(Random(0), True)
    try:
        yield
    finally:
        _set(before[0], before[1])
        random.setstate(before[2])


def _set(generator: Random, deterministic: bool) -> None:
    _run._r = generator
    _run._ALLOW_DETERMINISTIC_SCHEDULING = deterministic  # type: ignore[misc]


def _park(_: object) -> WaitTaskRescheduled:
    """What a coroutine says that waits and cannot be cancelled."""
    return WaitTaskRescheduled(lambda _: trio.lowlevel.Abort.FAILED)


def _break(_: object) -> object:
    raise RuntimeError(IGNORED)
