"""One worker: takes claims from the channel, runs an attempt of each, has its outcome recorded."""

from contextlib import suppress
from random import Random

import trio

from trioqueue.clock import Clock
from trioqueue.errors import LeaseLost, StoreUnavailable
from trioqueue.events import AttemptEnded, AttemptLost, AttemptStarted, Events
from trioqueue.health import Health
from trioqueue.jobs.handlers import Handlers
from trioqueue.jobs.job import Claim, Job
from trioqueue.jobs.outcome import NAMES, Failed, Outcome, error_of
from trioqueue.runtime.attempt import run_attempt
from trioqueue.runtime.context import Context
from trioqueue.runtime.leases import Held, Leases
from trioqueue.store.protocol import Store

LONGEST_WAIT_SECONDS = 2.0
"""Between two tries to record an outcome while the store is away."""


class Worker:
    """Runs one attempt at a time until the channel is closed and empty."""

    def __init__(
        self,
        number: int,
        *,
        store: Store,
        handlers: Handlers,
        leases: Leases,
        threads: trio.CapacityLimiter,
        max_result_bytes: int,
        clock: Clock,
        events: Events,
        health: Health,
        random: Random,
    ) -> None:
        self.number = number
        self._store = store
        self._handlers = handlers
        self._leases = leases
        self._threads = threads
        self._max_result_bytes = max_result_bytes
        self._clock = clock
        self._events = events
        self._health = health
        self._random = random

    async def run(self, claims: trio.MemoryReceiveChannel[Claim], settling: trio.Nursery) -> None:
        """Run attempts until the send channel is closed: the whole of a worker's life.

        Each outcome is recorded by a task in `settling`, so that the next attempt does not wait for
        the commit and many outcomes share one.
        """
        async with claims:
            async for claim in claims:
                await self._attempt(claim, settling)
                with suppress(trio.WouldBlock, trio.EndOfChannel):
                    # What is in the channel already needs no wake-up; at most its capacity.
                    while True:
                        await self._attempt(claims.receive_nowait(), settling)

    async def _attempt(self, claim: Claim, settling: trio.Nursery) -> None:
        held = self._leases.begin(claim)
        if held is None:
            return  # it was given back while it waited in the channel
        started = trio.current_time()
        self._events.publish(
            AttemptStarted(job=claim.job, node=claim.node, worker=self.number, at=self._clock.now())
        )
        context = Context(claim, held, self.number, self._store, self._clock)
        try:
            outcome = await run_attempt(
                held,
                context,
                self._handlers,
                clock=self._clock,
                threads=self._threads,
                max_result_bytes=self._max_result_bytes,
            )
        finally:
            self._leases.finish()
        settling.start_soon(self._settle, held, outcome, started)

    async def _settle(self, held: Held, outcome: Outcome, started: float) -> None:
        """Record the outcome, then let go of the claim.

        Cancelled meanwhile, as when the node gives up, the claim stays in hand and is counted as left.
        """
        claim = held.claim
        settled = await self._record(claim, outcome)
        self._leases.end(held)
        if settled is None:
            dropped = NAMES[type(outcome)]
            self._events.publish(
                AttemptLost(job=claim.job, node=claim.node, worker=self.number, outcome=dropped)
            )
            return
        self._health.store_written()
        self._events.publish(
            AttemptEnded(
                job=settled,
                node=claim.node,
                worker=self.number,
                outcome=NAMES[type(outcome)],
                status=settled.status,
                error=error_of(outcome),
                seconds=trio.current_time() - started,
            )
        )

    async def _record(self, claim: Claim, outcome: Outcome) -> Job | None:
        """The job after the commit, however often the store fails; None when the outcome is dropped."""
        wait = 0.05
        while True:
            try:
                return await self._store.settle(claim, outcome, worker=self.number)
            except LeaseLost:
                return None
            except StoreUnavailable as error:
                self._health.store_failed(error.reason)
                await trio.sleep(wait * (0.75 + 0.5 * self._random.random()))
                wait = min(wait * 2, LONGEST_WAIT_SECONDS)
            except Exception as error:  # an outcome that this store cannot keep must not end the node
                if isinstance(outcome, Failed) and outcome.final:
                    return None  # not even that; the lease ends by itself
                outcome = Failed(f"the outcome could not be recorded: {type(error).__name__}", final=True)
