"""Where loops wait that only look whether there is something to do.

In real time they look again after a few seconds, whatever happens. Under virtual time nobody waits,
but each look costs real time, and a year has thirty million seconds. There a loop rests until
something has happened in this Trio run (an event of some node, a claim), or until the moment at
which it knows to be due. So what is idle costs nothing, and what is not goes on as in real time.
"""

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from trioqueue.clock import is_virtual
from trioqueue.health import Health

_RESTS: trio.lowlevel.RunVar["list[Rest]"] = trio.lowlevel.RunVar("trioqueue_rests")
"""Those of every node in the Trio run: what one of them does may concern the others."""


class Rest:
    """How the loops of one node wait. Make it inside of the Trio run, and use it while it is `shared`."""

    def __init__(self, health: Health, *, lazy: bool | None = None) -> None:
        """`lazy`: rest as long as nothing happens. None: under virtual time only."""
        self.lazy = is_virtual() if lazy is None else lazy
        self._health = health
        self._stirs = 0
        self._seen: dict[str, int] = {}
        """How often something had happened when this loop woke up last: what came later, it must look at."""
        self._resting: dict[trio.CancelScope, tuple[float, float]] = {}
        """The scope that each waits in; it looks so many seconds after a stir, from that time on."""

    def __repr__(self) -> str:
        return f"<Rest of {len(self._resting)} loops{', lazy' if self.lazy else ''}>"

    def stir(self, _: object = None) -> None:
        """Something has happened: whoever rests, on any node of this run, looks again soon."""
        for rest in _RESTS.get([]):
            if rest.lazy:
                rest._stir_here()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """While the block runs, hear what happens on the other nodes of this Trio run."""
        _RESTS.set([*_RESTS.get([]), self])
        try:
            yield
        finally:
            _RESTS.set([rest for rest in _RESTS.get([]) if rest is not self])

    def _stir_here(self) -> None:
        self._stirs += 1
        now = trio.current_time()
        for scope, (seconds, not_before) in self._resting.items():
            if now >= not_before:
                scope.deadline = min(scope.deadline, now + seconds)

    async def wait(
        self,
        loop: str,
        seconds: float,
        *,
        due_in: float | None = None,
        until: Callable[[], Awaitable[object]] = trio.sleep_forever,
        at_once: bool = False,
        alone: bool = False,
    ) -> bool:
        """Wait for `until`, but only `due_in` seconds, and only `seconds`; whether `until` has returned.

        What is due already, and has just been looked at, waits for `seconds` like everything else.
        A lazy one lets the `seconds` begin when something happens. With `at_once` it returns when
        something happens after them; `alone`, it does not care what happens elsewhere.
        """
        now = trio.current_time()
        due_at = math.inf if due_in is None else now + (due_in if due_in > 0 else seconds)
        stirred = self._stirs != self._seen.get(loop, -1)
        if not self.lazy or (stirred and not at_once and not alone):
            due_at = min(due_at, now + seconds)
        with trio.CancelScope(deadline=due_at) as scope:
            if not alone:
                self._resting[scope] = (0.0, now + seconds) if at_once else (seconds, now)
            if self.lazy and due_at > now + seconds:
                self._health.rests(loop)
            try:
                await until()
            finally:
                self._resting.pop(scope, None)
                self._seen[loop] = self._stirs
                self._health.turn(loop)
        return not scope.cancelled_caught
