"""What the killed service runs: handlers of every kind, which write down each start and each finish."""

import os
import time
from functools import cache
from pathlib import Path

import trio

from tests.crash.ledger import Ledger
from trioqueue import Context, Handlers

handlers = Handlers()


@handlers.handler("quick")
async def quick(ctx: Context, key: str) -> str:
    write("started", ctx)
    await trio.lowlevel.checkpoint()
    return finish(ctx, key)


@handlers.handler("slow")
async def slow(ctx: Context, key: str, seconds: float) -> str:
    write("started", ctx)
    try:
        await trio.sleep(seconds)
    except trio.Cancelled:
        write("cancelled", ctx)
        raise
    return finish(ctx, key)


@handlers.handler("threaded")
def threaded(ctx: Context, key: str) -> str:
    write("started", ctx)
    time.sleep(0.01)
    return finish(ctx, key)


@handlers.handler("snoozing")
async def snoozing(ctx: Context, key: str) -> str:
    write("started", ctx)
    if ctx.epoch == 1:
        ctx.snooze(0.3)
    return finish(ctx, key)


@handlers.handler("flaky")
async def flaky(ctx: Context, key: str) -> str:
    """Fails as long as no attempt is spent: once, however often it was killed before."""
    write("started", ctx)
    if ctx.attempt == 1:
        raise ConnectionError("the first attempt fails")
    return finish(ctx, key)


@handlers.handler("hanging")
async def hanging(ctx: Context, key: str) -> str:
    """The first run never ends: only a kill gets past it."""
    write("started", ctx)
    if ctx.epoch == 1:
        await trio.sleep_forever()
    return finish(ctx, key)


@handlers.handler("patient")
async def patient(ctx: Context, key: str) -> str:
    """The first run waits until it is stopped, and writes down that it was."""
    write("started", ctx)
    if ctx.epoch == 1:
        try:
            await trio.sleep_forever()
        finally:
            write("cancelled", ctx)
    return finish(ctx, key)


@handlers.handler("stubborn")
def stubborn(ctx: Context, key: str, seconds: float) -> str:
    """The first run is a thread that does not ask whether it should stop."""
    write("started", ctx)
    if ctx.epoch == 1:
        time.sleep(seconds)
    return finish(ctx, key)


def finish(ctx: Context, key: str) -> str:
    write("finished", ctx)
    return key


def write(fact: str, ctx: Context) -> None:
    ledger().write(fact, ctx.job.id, str(ctx.epoch), str(ctx.job.node))


@cache
def ledger() -> Ledger:
    return Ledger(Path(os.environ["CRASH_LEDGER"]))
