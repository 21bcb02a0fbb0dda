"""What the stories about `tq` enqueue."""

import trio

from trioqueue import Context, Handlers

handlers = Handlers()


@handlers.handler("remind")
async def remind(ctx: Context, user: int, tags: list[str] | None = None, urgent: bool = False) -> str:
    await ctx.progress(1, 2)
    return f"reminded {user}"


@handlers.handler("charge", max_attempts=4)
async def charge(ctx: Context, order: int) -> None:
    raise ConnectionError("the bank is closed")


@handlers.handler("import", timeout_seconds=3600)
async def import_rows(ctx: Context, seconds: float) -> str:
    await trio.sleep(seconds)
    return f"imported for {seconds:g} s"


@handlers.handler("poll")
async def poll(ctx: Context, until: str) -> str:
    if ctx._clock.now().isoformat() < until:
        ctx.snooze(3600, "not yet")
    return "there"


@handlers.handler("count")
def count(ctx: Context, to: int) -> int:
    return sum(1 for _ in range(to))
