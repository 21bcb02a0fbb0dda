"""One order of events for a seed, virtual time without waiting, and machines that stand still or go dark.

The law of this file: a machine that is frozen takes no step. Whatever would have woken one of its
tasks is kept and happens when the machine goes on, which for one without power is after the end.
"""

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

import trio
from trio._core import _run
from trio._core._traps import WaitTaskRescheduled

T = TypeVar("T")


class Closable(Protocol):
    def close(self) -> None: ...


LONGEST_SILENCE = 20
"""Tenths of a real second without a task that could run, or a time to wait for."""


class VirtualClock(trio.abc.Clock):
    """Time that jumps to the next deadline whenever no task can run.

    What `MockClock` with its `autojump_threshold` does in two turns of the loop.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._in_vain = 0

    def start_clock(self) -> None:
        """It stands until somebody waits."""

    def current_time(self) -> float:
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        if deadline == math.inf:  # Trio itself, which wakes up by a socket when the run ends
            self._in_vain += 1
            if self._in_vain > LONGEST_SILENCE:
                raise RuntimeError("every task of the simulation waits for another one")
            return 0.1
        self._now = max(self._now, deadline)
        return 0.0


class Power:
    """What a machine's tasks run on. Every task carries its machine in a context variable."""

    def __init__(self) -> None:
        self.frozen = False
        self.dead = False
        self.fuse = 0
        """The machine loses its power when so many of its tasks have been woken; 0: there is no fuse."""
        self.files: list[Closable] = []
        """What it has opened. Without power, the system closes it."""
        self._aside: list[tuple[trio.lowlevel.Task, Any]] = []
        """What would have woken its tasks, while it is frozen."""
        self._wrecked = trio.Event()

    def freeze(self) -> None:
        """From this instant on no task of the machine takes a step."""
        self.frozen = True
        for task in list(_runner().tasks):
            # `next_send_fn`: it was woken already, and would take its step in this turn or the next.
            if task._next_send_fn is not None and task.context.get(MACHINE) is self:
                task._next_send_fn = self._withhold(task)

    def thaw(self) -> None:
        """The machine goes on, and learns at once of all that it has missed."""
        self.frozen = False
        aside, self._aside = self._aside, []
        for task, message in aside:
            _runner().reschedule(task, message)

    def lose_power(self) -> None:
        """Nothing of the machine ever happens again."""
        self.dead = True
        self.fuse = 0
        if not self.frozen:
            self.freeze()
        for file in self.files:  # no transaction is open between two steps
            file.close()

    def wreck(self) -> None:
        """After the end: let the tasks of a dead machine find out, so that they can be disposed of."""
        assert self.dead
        self._wrecked.set()
        self.thaw()

    async def never(self) -> None:
        """What follows a loss of power, for the task that has seen it."""
        with trio.CancelScope(shield=True):
            await self._wrecked.wait()

    def blow(self) -> None:
        """What a burnt fuse does."""
        self.lose_power()

    def put_aside(self, task: trio.lowlevel.Task, message: Any) -> None:
        task._abort_func = None
        task.custom_sleep_data = None
        self._aside.append((task, message))

    def _withhold(self, task: trio.lowlevel.Task) -> Callable[[Any], Any]:
        step = task._next_send_fn
        assert step is not None

        def withheld(message: Any) -> Any:
            if not self.frozen:
                return step(message)
            self._aside.append((task, message))
            return WaitTaskRescheduled(_refuse)

        return withheld


MACHINE: ContextVar[Power | None] = ContextVar("machine", default=None)
"""Of the task that runs now; None: it is the world outside."""


def run(main: Callable[[], Awaitable[T]], seed: str) -> T:
    """Run `main` in virtual time, in the one order that belongs to `seed`."""
    with _one_order(seed), _machines():
        return trio.run(main, clock=VirtualClock())


def _refuse(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


def _runner() -> _run.Runner:
    runner: _run.Runner = _run.GLOBAL_RUN_CONTEXT.runner
    return runner


@contextmanager
def _one_order(seed: str) -> Iterator[None]:
    """Trio's own switch for tests: tasks that can run are sorted by age, then shuffled by `_r`."""
    allowed, state = _run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r.getstate()
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r.seed(seed)
    try:
        yield
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = allowed  # type: ignore[misc]
        _run._r.setstate(state)


@contextmanager
def _machines() -> Iterator[None]:
    """Everything that wakes a task goes through `Runner.reschedule`."""
    original = _run.Runner.reschedule

    def reschedule(self: _run.Runner, task: _run.Task, next_send: Any = _run._NO_SEND) -> None:
        machine = task.context.get(MACHINE)
        if machine is not None:
            if machine.fuse:
                machine.fuse -= 1
                if not machine.fuse:
                    machine.blow()
            if machine.frozen:
                machine.put_aside(task, next_send)
                return
        original(self, task, next_send)

    _run.Runner.reschedule = reschedule  # type: ignore[method-assign]
    try:
        yield
    finally:
        _run.Runner.reschedule = original  # type: ignore[method-assign]
