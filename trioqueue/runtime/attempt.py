"""One attempt: resolve the handler → set the limit → call → name the outcome.

The law of this file: whatever a handler does comes out as an `Outcome`. Only the cancellation of
the node itself passes through.
"""

import math
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from trioqueue.errors import InvalidInput, LeaseLost, MalformedJson, NotSupported
from trioqueue.jobs import codec
from trioqueue.jobs.backoff import Retry
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
from trioqueue.jobs.retry_after import retry_after_seconds
from trioqueue.runtime.context import Context, SnoozeRequested
from trioqueue.runtime.leases import Cause, Held, Limit
from trioqueue.runtime.spawner import Spawner


async def run_attempt(
    held: Held,
    context: Context,
    handlers: Handlers,
    *,
    spawner: Spawner,
    threads: trio.CapacityLimiter,
    max_result_bytes: int,
    let_through: tuple[type[BaseException], ...] = (),
) -> Outcome:
    """Run the handler of the claim's job within its limit and its lease; returns what it came to.

    An error of one of the types `let_through` is not the handler's: it is raised.
    """
    job = held.claim.job
    scope = trio.CancelScope()
    try:
        handler = handlers.find(job.type)
        arguments = handler.parse(codec.decode_kept(job.payload))
    except InvalidInput as error:  # it fitted at the door: the handler has changed since
        return Failed(storable(str(error)), final=True)
    held.begin(scope, limit_of(held))
    if scope.cancel_called:  # its end came while it waited: nothing of it shall happen
        return _name_cancellation(held, handler.retry)
    call = _call(handler, context, arguments, spawner, threads)
    outcome = await _run_in(scope, held, call, handler.retry, max_result_bytes, let_through)
    if held.settled is not None:
        return _committed(held.settled, outcome, context)
    return outcome


async def _run_in(
    scope: trio.CancelScope,
    held: Held,
    call: Coroutine[Any, Any, object],
    retry: Retry,
    max_result_bytes: int,
    let_through: tuple[type[BaseException], ...],
) -> Outcome:
    try:
        with scope:
            return _completed(await call, max_result_bytes)
    except BaseException as error:  # noqa: ASYNC103
        # SystemExit, groups, a Cancelled from some other scope: all end the attempt only. Where the
        # node itself is being cancelled, its own Cancelled comes from the checkpoint.
        if trio.current_effective_deadline() == -math.inf:
            await trio.lowlevel.checkpoint()  # noqa: ASYNC102
        if any(isinstance(leaf, let_through) for leaf in _leaves(error)):
            raise
        outcome: Outcome = _name(error, retry)
    else:
        outcome = Released("stopped")
    return _name_cancellation(held, retry) if scope.cancel_called else outcome


async def _call(
    handler: Handler,
    context: Context,
    arguments: dict[str, object],
    spawner: Spawner,
    threads: trio.CapacityLimiter,
) -> object:
    if handler.is_async:
        return await handler.function(context, **arguments)  # type: ignore[misc]
    return await spawner.run_in_thread(partial(handler.function, context, **arguments), limiter=threads)


def limit_of(held: Held) -> Limit:
    """The earlier of the job's timeout and its deadline, and how to say that it was reached.

    The store said when it was claimed, by its own clock, and the node noted when it asked, by its
    own: so what is left until the deadline is known without comparing the two.
    """
    job = held.claim.job
    limits = [Limit(math.inf, "")]
    if job.timeout_seconds is not None:
        end = trio.current_time() + job.timeout_seconds
        limits.append(Limit(end, f"timed out after {job.timeout_seconds:g} s"))
    if job.deadline_at is not None and job.started_at is not None:
        left = (job.deadline_at - job.started_at).total_seconds()
        limits.append(Limit(held.held_at + left, f"stopped at its deadline, {job.deadline_at.isoformat()}"))
    return min(limits)


def _completed(result: object, max_bytes: int) -> Completed | Failed:
    """What a handler's return value makes of the attempt; one that cannot be kept will not be next time."""
    try:
        return Completed(encode_result(result, max_bytes))
    except MalformedJson as error:
        return Failed(storable(str(error)), final=True)


def _committed(settled: Job, outcome: Outcome, context: Context) -> Completed:
    """The attempt completed with its transaction; what became of the handler afterwards changes nothing."""
    match outcome:
        case Failed(error=error) | TimedOut(error=error):
            context.log.warning("failed after its transaction, which completed the job", exception=error)
        case Snoozed():
            context.log.warning("snoozed after its transaction, which completed the job: ignored")
        case Completed(result=result) if result not in (None, settled.result):
            context.log.warning("returned another result than that of its transaction: ignored")
        case _:
            pass  # it returned, or was cancelled afterwards
    return Completed(settled.result)


def _name(error: BaseException, retry: Retry) -> Outcome:
    """What an error that left the handler means. Nurseries wrap what is raised inside of them."""
    # The cancellations inside of a group are what its errors have caused.
    errors = [leaf for leaf in _leaves(error) if not isinstance(leaf, trio.Cancelled)]
    for leaf in errors:
        if isinstance(leaf, SnoozeRequested) and _all(errors, SnoozeRequested):
            return Snoozed(leaf.seconds, leaf.reason)
    if _all(errors, LeaseLost):
        return Released("the lease was lost")
    return _with_retry(failed_from(error), errors, retry)


def _with_retry(failed: Failed, errors: list[BaseException], retry: Retry) -> Failed:
    """What the handler's policy makes of it. Of several errors one that may be retried is enough, and
    the most patient of them counts: the others are as good as certain to come again before."""
    if not errors:
        return failed
    worth_it = [error for error in errors if not isinstance(error, NotSupported)]
    policies = [policy for policy in map(retry.for_error, worth_it) if policy is not None]
    if not policies:
        return replace(failed, final=True)
    return replace(
        failed,
        retry=max(policies, key=lambda policy: policy.base_seconds),
        not_before_seconds=max(map(retry_after_seconds, errors)),
    )


def _leaves(error: BaseException) -> Iterator[BaseException]:
    rest = [error]
    while rest:
        error = rest.pop()
        if isinstance(error, BaseExceptionGroup):
            rest += reversed(error.exceptions)
        else:
            yield error


def _all(errors: list[BaseException], kind: type[BaseException]) -> bool:
    """Whether there are errors, and all of this kind."""
    return bool(errors) and all(isinstance(error, kind) for error in errors)


def _name_cancellation(held: Held, retry: Retry) -> Outcome:
    """Why the scope was cancelled: by somebody, by the node, or by one of its deadlines."""
    match held.cause:
        case Cause.CANCEL:
            return Cancelled()
        case Cause.STOP:
            return Released("the node stopped")
        case Cause.LOST:
            return Released("the lease was lost")
        case None if trio.current_time() >= held.limit.at:
            return TimedOut(held.limit.words, retry)
        case _:
            return Released("the lease could not be renewed in time")
