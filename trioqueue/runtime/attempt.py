"""One attempt: resolve the handler → set the limit → call → name the outcome.

The law of this file: whatever a handler does comes out as an `Outcome`. Only the cancellation of
the node itself passes through.
"""

import math
from collections.abc import Iterator
from functools import partial

import trio

from trioqueue.clock import Clock, held_clock
from trioqueue.errors import InvalidInput, LeaseLost, MalformedJson
from trioqueue.jobs import codec
from trioqueue.jobs.handlers import Handler, Handlers, encode_result
from trioqueue.jobs.job import Job
from trioqueue.jobs.outcome import (
    Cancelled,
    Completed,
    Failed,
    Outcome,
    Released,
    Snoozed,
    TimedOut,
    failed_from,
    storable,
)
from trioqueue.runtime.context import Context, SnoozeRequested
from trioqueue.runtime.leases import Cause, Held, Limit


async def run_attempt(
    held: Held,
    context: Context,
    handlers: Handlers,
    *,
    clock: Clock,
    threads: trio.CapacityLimiter,
    max_result_bytes: int,
) -> Outcome:
    """Run the handler of the claim's job within its limit and its lease; returns what it came to."""
    job = held.claim.job
    scope = trio.CancelScope()
    try:
        handler = handlers.find(job.type)
        arguments = handler.parse(codec.decode_kept(job.payload))
    except InvalidInput as error:  # it fitted at the door: the handler has changed since
        return Failed(storable(str(error)), final=True)
    held.begin(scope, limit_of(job, clock))
    try:
        with scope:
            return _completed(await _call(handler, context, arguments, threads), max_result_bytes)
    except BaseException as error:  # noqa: ASYNC103
        # SystemExit, groups, a Cancelled from some other scope: all end the attempt only. Where the
        # node itself is being cancelled, its own Cancelled comes from the checkpoint.
        if trio.current_effective_deadline() == -math.inf:
            await trio.lowlevel.checkpoint()  # noqa: ASYNC102
        outcome: Outcome = _name(error)
    else:
        outcome = Released("stopped")
    return _name_cancellation(held) if scope.cancel_called else outcome


async def _call(
    handler: Handler, context: Context, arguments: dict[str, object], threads: trio.CapacityLimiter
) -> object:
    if handler.is_async:
        return await handler.function(context, **arguments)  # type: ignore[misc]
    call = partial(handler.function, context, **arguments)
    with held_clock():
        return await trio.to_thread.run_sync(call, limiter=threads)


def limit_of(job: Job, clock: Clock) -> Limit:
    """The earlier of the job's timeout and its deadline, and how to say that it was reached."""
    limits = [Limit(math.inf, "")]
    now = trio.current_time()
    if job.timeout_seconds is not None:
        limits.append(Limit(now + job.timeout_seconds, f"timed out after {job.timeout_seconds:g} s"))
    if job.deadline_at is not None:
        left = (job.deadline_at - clock.now()).total_seconds()
        limits.append(Limit(now + left, f"stopped at its deadline, {job.deadline_at.isoformat()}"))
    return min(limits)


def _completed(result: object, max_bytes: int) -> Completed | Failed:
    """What a handler's return value makes of the attempt; one that cannot be kept will not be next time."""
    try:
        text = encode_result(result)
    except MalformedJson as error:
        return Failed(storable(str(error)), final=True)
    if text is not None and len(text) > max_bytes:
        return Failed(
            f"the handler's result cannot be kept: {len(text)} bytes, and at most {max_bytes} are accepted; "
            "keep large data elsewhere and return a reference to it",
            final=True,
        )
    return Completed(text)


def _name(error: BaseException) -> Outcome:
    """What an error that left the handler means. Nurseries wrap what is raised inside of them."""
    leaves = list(_leaves(error))
    for leaf in leaves:
        if isinstance(leaf, SnoozeRequested) and _all(leaves, SnoozeRequested):
            return Snoozed(leaf.seconds, leaf.reason)
    if _all(leaves, LeaseLost):
        return Released("the lease was lost")
    return failed_from(error)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    rest = [error]
    while rest:
        error = rest.pop()
        if isinstance(error, BaseExceptionGroup):
            rest += reversed(error.exceptions)
        else:
            yield error


def _all(leaves: list[BaseException], kind: type[BaseException]) -> bool:
    """Whether there is nothing but errors of this kind, and the cancellations that they caused."""
    others = [leaf for leaf in leaves if not isinstance(leaf, trio.Cancelled)]
    return bool(others) and all(isinstance(leaf, kind) for leaf in others)


def _name_cancellation(held: Held) -> Outcome:
    """Why the scope was cancelled: by somebody, by the node, or by one of its deadlines."""
    match held.cause:
        case Cause.CANCEL:
            return Cancelled()
        case Cause.STOP:
            return Released("the node stopped")
        case Cause.LOST:
            return Released("the lease was lost")
        case None if trio.current_time() >= held.limit.at:
            return TimedOut(held.limit.words)
        case None:
            return Released("the lease could not be renewed in time")
