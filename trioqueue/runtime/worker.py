"""One worker: takes claims from the channel and runs an attempt of each.

An attempt is a pipeline of named steps: resolve the handler → set the deadline → call → name the
outcome → settle. Whatever a handler raises is the end of the attempt, never of the worker.
"""

import math
from contextlib import suppress
from functools import partial
from random import Random

import trio

from trioqueue.clock import Clock, held_clock
from trioqueue.errors import InvalidInput, LeaseLost, MalformedJson, StoreUnavailable
from trioqueue.events import AttemptEnded, AttemptLost, AttemptStarted, Events
from trioqueue.health import Health
from trioqueue.jobs import codec
from trioqueue.jobs.handlers import Handler, Handlers, encode_result
from trioqueue.jobs.job import Claim, Job
from trioqueue.jobs.outcome import (
    NAMES,
    Cancelled,
    Completed,
    Failed,
    Outcome,
    Released,
    Snoozed,
    TimedOut,
    error_of,
    failed_from,
)
from trioqueue.runtime.context import Context, SnoozeRequested
from trioqueue.runtime.leases import Cause, Held, Leases
from trioqueue.store.protocol import Store


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
        try:
            outcome = await self._outcome(held)
        finally:
            self._leases.finish()
        settling.start_soon(self._settle, held, outcome, started)

    async def _outcome(self, held: Held) -> Outcome:
        """What the attempt comes to. Raises nothing but the cancellation of the node itself."""
        job = held.claim.job
        try:
            handler = self._handlers.find(job.type)
            arguments = handler.parse(codec.decode_kept(job.payload))
        except InvalidInput as error:  # it fitted at the door: the handler has changed since
            return Failed(str(error), final=True)
        context = Context(held.claim, held, self.number, self._store, self._clock)
        scope = trio.CancelScope()
        held.begin(scope, self._limit_at(job))
        try:
            with scope:
                return _completed(await self._call(handler, context, arguments))
        except SnoozeRequested as snooze:
            outcome: Outcome = Snoozed(snooze.seconds, snooze.reason)
        except LeaseLost:
            return Released("the lease was lost")
        except BaseException as error:  # noqa: ASYNC103
            # SystemExit, groups, a Cancelled from some other scope: all end the attempt only.
            if trio.current_effective_deadline() == -math.inf:
                raise
            outcome = failed_from(error)
        else:
            outcome = Released("stopped")
        return self._name_cancellation(held) or outcome if scope.cancel_called else outcome

    def _name_cancellation(self, held: Held) -> Outcome | None:
        """Why the scope was cancelled: by somebody, by the node, or by one of its deadlines."""
        match held.cause:
            case Cause.CANCEL:
                return Cancelled()
            case Cause.STOP:
                return Released("the node stopped")
            case Cause.LOST:
                return Released("the lease was lost")
            case None if trio.current_time() >= held.limit_at:
                return TimedOut(self._timeout_text(held.claim.job))
            case None:
                return Released("the lease could not be renewed in time")

    async def _call(self, handler: Handler, context: Context, arguments: dict[str, object]) -> object:
        if handler.is_async:
            return await handler.function(context, **arguments)  # type: ignore[misc]
        call = partial(handler.function, context, **arguments)
        with held_clock():
            return await trio.to_thread.run_sync(call, limiter=self._threads)

    async def _settle(self, held: Held, outcome: Outcome, started: float) -> None:
        """Record the outcome, then let go of the claim."""
        try:
            settled = await self._record(held.claim, outcome)
        finally:
            self._leases.end(held)
        if settled is None:
            dropped = NAMES[type(outcome)]
            self._events.publish(
                AttemptLost(job=held.claim.job, node=held.claim.node, worker=self.number, outcome=dropped)
            )
            return
        self._health.store_written()
        self._events.publish(
            AttemptEnded(
                job=settled,
                node=held.claim.node,
                worker=self.number,
                outcome=NAMES[type(outcome)],
                status=settled.status,
                error=error_of(outcome),
                seconds=trio.current_time() - started,
            )
        )

    async def _record(self, claim: Claim, outcome: Outcome) -> Job | None:
        """The job after the commit, however often the store fails; None when the lease was lost."""
        wait = 0.05
        while True:
            try:
                return await self._store.settle(claim, outcome, worker=self.number)
            except LeaseLost:
                return None
            except StoreUnavailable as error:
                self._health.store_failed(error.reason)
                await trio.sleep(wait * (0.75 + 0.5 * self._random.random()))
                wait = min(wait * 2, 2.0)

    def _limit_at(self, job: Job) -> float:
        """The earlier of timeout and deadline, in Trio time."""
        limit_at = math.inf
        if job.timeout_seconds is not None:
            limit_at = trio.current_time() + job.timeout_seconds
        if job.deadline_at is not None:
            until_deadline = (job.deadline_at - self._clock.now()).total_seconds()
            limit_at = min(limit_at, trio.current_time() + until_deadline)
        return limit_at

    def _timeout_text(self, job: Job) -> str:
        if job.deadline_at is not None and self._clock.now() >= job.deadline_at:
            return f"stopped at its deadline, {job.deadline_at.isoformat()}"
        return f"timed out after {job.timeout_seconds:g} s"


def _completed(result: object) -> Completed | Failed:
    """What a handler's return value makes of the attempt; one that is not JSON will not be next time."""
    try:
        return Completed(encode_result(result))
    except MalformedJson as error:
        return Failed(str(error), final=True)
