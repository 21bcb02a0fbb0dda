"""One worker: takes claims from the channel, runs an attempt of each, has its outcome recorded."""

from contextlib import suppress

import trio

from trioqueue.clock import Clock
from trioqueue.events import AttemptStarted, Events
from trioqueue.jobs.handlers import Handlers
from trioqueue.jobs.job import Claim, Job
from trioqueue.jobs.outcome import failed_from
from trioqueue.runtime.attempt import run_attempt
from trioqueue.runtime.context import Context
from trioqueue.runtime.leases import Leases
from trioqueue.runtime.settler import Ended, Settler
from trioqueue.runtime.spawner import Spawner
from trioqueue.store.protocol import Store

RUN_ON = 48
"""Attempts without a wake-up between them, so that very short ones share its cost."""


class Worker:
    """Runs one attempt at a time until the channel is closed and empty."""

    def __init__(
        self,
        number: int,
        *,
        store: Store,
        handlers: Handlers,
        leases: Leases,
        settler: Settler,
        spawner: Spawner,
        threads: trio.CapacityLimiter,
        max_result_bytes: int,
        clock: Clock,
        events: Events,
        let_through: tuple[type[BaseException], ...] = (),
    ) -> None:
        self.number = number
        self._store = store
        self._handlers = handlers
        self._leases = leases
        self._settler = settler
        self._spawner = spawner
        self._threads = threads
        self._max_result_bytes = max_result_bytes
        self._let_through = let_through
        self._clock = clock
        self._events = events

    async def run(self, claims: trio.MemoryReceiveChannel[Claim]) -> None:
        """Run attempts until the send channel is closed: the whole of a worker's life."""
        async with claims:
            async for claim in claims:
                await self._attempt(claim)
                with suppress(trio.WouldBlock, trio.EndOfChannel):
                    # What is in the channel already needs no wake-up; others get their turn in between.
                    for _ in range(RUN_ON):
                        await self._attempt(claims.receive_nowait())

    async def _attempt(self, claim: Claim) -> None:
        held = self._leases.begin(claim)
        if held is None:
            return  # it was given back while it waited in the channel
        started = trio.current_time()
        self._events.publish(
            AttemptStarted(
                job=claim.job,
                node=claim.node,
                worker=self.number,
                at=self._clock.now(),
                waited_seconds=_waited_until_claimed(claim.job) + started - held.held_at,
            )
        )
        context = Context(
            claim,
            held,
            self.number,
            self._store,
            self._clock,
            self._spawner,
            max_result_bytes=self._max_result_bytes,
        )
        try:
            outcome = await run_attempt(
                held,
                context,
                self._handlers,
                spawner=self._spawner,
                threads=self._threads,
                max_result_bytes=self._max_result_bytes,
                let_through=self._let_through,
            )
        except Exception as error:  # a mistake of ours; every claim that was begun must be settled
            outcome = failed_from(error)
        finally:
            self._leases.finish()
        self._settler.add(Ended(held, outcome, self.number, trio.current_time() - started))


def _waited_until_claimed(job: Job) -> float:
    """From `run_at` on, both as the store's clock has them."""
    if job.started_at is None:
        return 0.0
    return max((job.started_at - job.run_at).total_seconds(), 0.0)
