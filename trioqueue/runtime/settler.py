"""Records outcomes: whatever came in while the last commit ran goes into the next one.

So a worker's next attempt does not wait for a commit, and many outcomes share one flush. An outcome
that is not recorded yet is like an attempt that still runs: its lease is renewed, and if the process
dies the job runs again.
"""

from random import Random
from typing import NamedTuple

import trio

from trioqueue.errors import StoreBusy, StoreUnavailable
from trioqueue.events import AttemptEnded, AttemptLost, Events
from trioqueue.health import Health
from trioqueue.jobs.job import Job
from trioqueue.jobs.outcome import NAMES, Failed, Outcome, error_of
from trioqueue.runtime.leases import Held, Leases
from trioqueue.runtime.rest import Rest
from trioqueue.runtime.wakeup import Wakeup
from trioqueue.store.protocol import Settlement, Store

LONGEST_WAIT_SECONDS = 2.0
"""Between two tries to record outcomes while the store is away."""

BUSY_SECONDS = 2.0
"""So long one that somebody else's transaction holds is left alone."""

LONGEST_REST_SECONDS = 10.0
"""Without news it looks, and shows that it lives, at least this often."""


class Ended(NamedTuple):
    """An attempt that has ended, and what it came to."""

    held: Held
    outcome: Outcome
    worker: int
    seconds: float


class Settler:
    """Settles ended attempts, in the order in which they ended."""

    def __init__(
        self, store: Store, leases: Leases, *, events: Events, health: Health, random: Random, rest: Rest
    ) -> None:
        self._store = store
        self._leases = leases
        self._events = events
        self._health = health
        self._random = random
        self._rest = rest
        self._ended: list[Ended] = []
        self._busy: list[Ended] = []
        """Those whose jobs somebody else's transaction holds."""
        self._look_again_at = 0.0
        self._news = Wakeup()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Settler {len(self._ended)} waiting>"

    def add(self, ended: Ended) -> None:
        """Have this outcome recorded. As many may wait as claims can be held."""
        if ended.held.settled is not None:  # by the handler's own transaction
            self._finish(ended, ended.held.settled)
            return
        self._ended.append(ended)
        self._news.ring()

    def close(self) -> None:
        """Nothing more comes; `run` ends when all that waits has been recorded."""
        self._closed = True
        self._news.ring()

    async def run(self) -> None:
        """Record until `close`. Cancelled, what is not recorded stays in hand and is counted as left."""
        while self._ended or self._busy or not self._closed:
            self._health.turn("settler")
            look_again_in: float | None = None
            if self._busy:
                look_again_in = self._look_again_at - trio.current_time()
                if look_again_in <= 0:
                    self._ended += self._busy
                    self._busy = []
            if not self._ended:
                await self._rest.wait(
                    "settler", LONGEST_REST_SECONDS, due_in=look_again_in, until=self._news.wait, alone=True
                )
                continue
            batch = list(self._ended)
            for ended, job in await self._record(batch):
                self._finish(ended, job)
            del self._ended[: len(batch)]

    async def _record(self, batch: list[Ended]) -> list[tuple[Ended, Job | None]]:
        """The jobs after the commit, however often the store fails; None where the lease was lost.

        One that somebody else's transaction holds is missing, and tried again later.
        """
        wait = 0.05
        while True:
            self._health.turn("settler")
            try:
                settlements = [Settlement(ended.held.claim, ended.outcome, ended.worker) for ended in batch]
                jobs = await self._store.settle(settlements)
                self._health.store_written()
                return list(zip(batch, jobs, strict=True))
            except StoreBusy:
                if len(batch) > 1:
                    return [pair for ended in batch for pair in await self._record([ended])]
                self._busy += batch  # the others shall not wait with it
                self._look_again_at = trio.current_time() + BUSY_SECONDS
                return []
            except StoreUnavailable as error:
                self._health.store_failed(error.reason)
                await trio.sleep(wait * (0.75 + 0.5 * self._random.random()))
                wait = min(wait * 2, LONGEST_WAIT_SECONDS)
            except Exception as error:  # an outcome that this store cannot keep must not end the node
                if len(batch) > 1:
                    return [pair for ended in batch for pair in await self._record([ended])]
                return await self._record_failure(batch[0], error)

    async def _record_failure(self, ended: Ended, error: Exception) -> list[tuple[Ended, Job | None]]:
        """Keep at least that there was an outcome. If not even that, the lease ends by itself."""
        if isinstance(ended.outcome, Failed) and ended.outcome.final:
            return [(ended, None)]
        failed = Failed(f"the outcome could not be recorded: {type(error).__name__}", final=True)
        return await self._record([ended._replace(outcome=failed)])

    def _finish(self, ended: Ended, job: Job | None) -> None:
        """It is recorded, or lost: the claim leaves our hands, and whoever listens is told."""
        self._leases.end(ended.held)
        claim, outcome = ended.held.claim, NAMES[type(ended.outcome)]
        if job is None:
            lost = AttemptLost(job=claim.job, node=claim.node, worker=ended.worker, outcome=outcome)
            self._events.publish(lost)
            return
        self._events.publish(
            AttemptEnded(
                job=job,
                node=claim.node,
                worker=ended.worker,
                outcome=outcome,
                status=job.status,
                error=error_of(ended.outcome),
                seconds=ended.seconds,
            )
        )
