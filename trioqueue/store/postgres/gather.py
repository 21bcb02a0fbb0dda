"""Enqueueing for many callers at once: whatever is asked for while a statement runs goes into the next one.

A statement costs the server and the network far more than a job in it. No timer makes anybody wait for
company; a caller alone is served at once.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import cast

import outcome
import trio

from trioqueue.errors import StoreUnavailable
from trioqueue.jobs.job import NewJob
from trioqueue.store.protocol import Enqueued

MOST_JOBS = 1000
"""In one statement, so that it stays short. A single call may bring more."""

Send = Callable[[Sequence[NewJob], float], Awaitable[list[Enqueued]]]
"""Enqueues all of these jobs or none, and answers before an instant of Trio's clock."""


@dataclass(slots=True, eq=False)
class _Call:
    """One caller's jobs, the task that waits for the answer, and when it must have one."""

    jobs: Sequence[NewJob]
    task: trio.lowlevel.Task
    deadline: float


class Gatherer:
    """Sends the jobs of many calls together."""

    def __init__(self, send: Send, *, within: float) -> None:
        self._send = send
        self._within = within
        self._calls: deque[_Call] = deque()
        self._news = trio.Event()
        self._closing = False

    def __repr__(self) -> str:
        return f"<Gatherer {len(self._calls)} waiting>"

    async def submit(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """Enqueue these, all or none. Cancelled before it was sent, the call is withdrawn."""
        if self._closing:
            raise StoreUnavailable("it is closed")
        call = _Call(jobs, trio.lowlevel.current_task(), trio.current_time() + self._within)
        self._calls.append(call)
        self._news.set()

        def withdraw(_: object) -> trio.lowlevel.Abort:
            if call not in self._calls:
                return trio.lowlevel.Abort.FAILED
            self._calls.remove(call)
            return trio.lowlevel.Abort.SUCCEEDED

        return cast(list[Enqueued], await trio.lowlevel.wait_task_rescheduled(withdraw))

    # An interrupt that hit this loop would leave tasks waiting for ever; Trio raises it elsewhere.
    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Send until `close()`, and until nobody waits any more."""
        with trio.CancelScope(shield=True):
            while self._calls or not self._closing:
                if self._calls:
                    await self._send_next()
                else:
                    self._news = trio.Event()
                    await self._news.wait()

    def close(self) -> None:
        """Take nothing more; `run()` ends when those who wait have been answered."""
        self._closing = True
        self._news.set()

    async def _send_next(self) -> None:
        calls = [self._calls.popleft()]
        jobs = list(calls[0].jobs)
        while self._calls and len(jobs) + len(self._calls[0].jobs) <= MOST_JOBS:
            calls.append(self._calls.popleft())
            jobs += calls[-1].jobs
        try:
            answers = await self._send(jobs, calls[0].deadline)
        except StoreUnavailable as error:
            for call in calls:
                _answer(call, outcome.Error(StoreUnavailable(error.reason)))
        except Exception as error:  # whatever it is, those who wait must be told
            if len(calls) == 1:
                return _answer(calls[0], outcome.Error(error))
            for call in reversed(calls):  # one by one, so that only the guilty one fails
                self._calls.appendleft(call)
            await self._send_alone(len(calls))
        else:
            for call in calls:
                _answer(call, outcome.Value(answers[: len(call.jobs)]))
                del answers[: len(call.jobs)]

    async def _send_alone(self, count: int) -> None:
        for _ in range(count):
            if self._calls:
                call = self._calls.popleft()
                answer = await outcome.acapture(self._send, call.jobs, call.deadline)
                _answer(call, answer)


def _answer(call: _Call, answer: outcome.Outcome[list[Enqueued]]) -> None:
    trio.lowlevel.reschedule(call.task, answer)
