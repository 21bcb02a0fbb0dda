"""The handlers of the simulation, one for each way in which work behaves, and what is seen of them."""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

import trio

from tests.simulation.kernel import MACHINE
from trioqueue import Context, Handlers
from trioqueue.errors import LeaseLost
from trioqueue.runtime.context import SnoozeRequested

if TYPE_CHECKING:
    from tests.simulation.machine import Machine

handlers = Handlers()

Body = Callable[..., Awaitable[object]]


class Broken(Exception):
    """What a handler raises that fails."""


def here() -> "Machine":
    """The machine that this code runs on."""
    machine = MACHINE.get()
    assert machine is not None
    return cast("Machine", machine)


def ending_of(error: BaseException) -> str:
    match error:
        case SnoozeRequested():
            return "snoozed"
        case LeaseLost():
            return "lost"
        case trio.Cancelled():
            return "cancelled"
        case _:
            return "raised"


def seen(type: str, **options: Any) -> Callable[[Body], Body]:
    """Register a handler whose starts and ends are written down outside of the store."""

    def register(body: Body) -> Body:
        @wraps(body)
        async def handler(ctx: Context, ticket: int, seconds: float = 0.0) -> object:
            machine = here()
            execution = machine.begin(ctx, ticket)
            try:
                result = await body(ctx, ticket, seconds)
            except BaseException as error:
                machine.end(execution, ending_of(error))
                raise
            machine.end(execution, "returned")
            return result

        del handler.__wrapped__  # the signature that counts is the handler's own
        handlers.handler(type, **options)(handler)
        return handler

    return register


@seen("quick")
async def quick(ctx: Context, ticket: int, seconds: float) -> object:
    return {"ticket": ticket}


@seen("sleep")
@seen("long")
async def sleep(ctx: Context, ticket: int, seconds: float) -> object:
    await trio.sleep(seconds)
    return None


@seen("nap")
async def nap(ctx: Context, ticket: int, seconds: float) -> object:
    """Snoozes twice, then it is awake."""
    if here().executions_of(ticket) <= 2:
        ctx.snooze(seconds)
    return None


@seen("progress")
async def progress(ctx: Context, ticket: int, seconds: float) -> object:
    for step in range(4):
        await ctx.progress(step, 4)
        await trio.sleep(seconds / 4)
    return None


@seen("fail", max_attempts=2)
async def fail(ctx: Context, ticket: int, seconds: float) -> object:
    await trio.sleep(seconds)
    raise Broken("as ever")


@seen("flaky", max_attempts=3)
async def flaky(ctx: Context, ticket: int, seconds: float) -> object:
    if ctx.attempt == 1:
        raise Broken("the first time")
    return None


@seen("wild", max_attempts=2)
async def wild(ctx: Context, ticket: int, seconds: float) -> object:
    """Raises what is no Exception, out of a nursery of its own."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, seconds + 1)
        raise SystemExit(3)


@seen("overrun", max_attempts=2, timeout_seconds=1.5)
async def overrun(ctx: Context, ticket: int, seconds: float) -> object:
    await trio.sleep(3600)
    return None


@seen("stubborn")
async def stubborn(ctx: Context, ticket: int, seconds: float) -> object:
    """Takes its time to stop, and then claims to have finished."""
    try:
        await trio.sleep(seconds)
    except trio.Cancelled:
        with trio.CancelScope(shield=True):
            await trio.sleep(min(seconds, 20))
        if ticket % 2:
            raise
    return None


@seen("poison")
async def poison(ctx: Context, ticket: int, seconds: float) -> object:
    """Takes its machine with it."""
    await trio.sleep(seconds)
    machine = here()
    machine.crash("by a handler")
    await machine.never()
    return None


@handlers.handler("plain")
def plain(ctx: Context, ticket: int, seconds: float = 0.0) -> None:
    """In a thread: nobody can stop it."""
    here().end(here().begin(ctx, ticket), "returned")
