"""Handlers that behave well and badly, for the shutdown matrix. Starts and ends go to a file."""

import os
import threading
from pathlib import Path

import trio

from trioqueue import Context, Handlers

handlers = Handlers()


def note(word: str, ctx: Context) -> None:
    with Path(os.environ["TEST_LEDGER"]).open("a") as ledger:
        ledger.write(f"{word} {ctx.job.id}\n")


@handlers.handler("work")
async def work(ctx: Context, seconds: float) -> None:
    note("start", ctx)
    await trio.sleep(seconds)
    note("end", ctx)


@handlers.handler("swallow")
async def swallow(ctx: Context) -> None:
    """Ignores being cancelled, for ever."""
    note("start", ctx)
    while True:
        try:
            await trio.sleep(0.01)
        except trio.Cancelled:
            await trio.lowlevel.cancel_shielded_checkpoint()


@handlers.handler("leak")
async def leak(ctx: Context) -> None:
    """Leaves a thread behind that Python would wait for."""
    threading.Thread(target=threading.Event().wait, args=(1000,)).start()
    note("start", ctx)
    note("end", ctx)


@handlers.handler("unwind")
async def unwind(ctx: Context) -> None:
    """Cleans up for longer than a cut attempt has for being settled in the ordinary way."""
    note("start", ctx)
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.6)


@handlers.handler("block")
def block(ctx: Context) -> None:
    """A thread that never asks whether it was cancelled."""
    note("start", ctx)
    threading.Event().wait(1000)
