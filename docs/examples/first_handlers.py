"""The README's first handlers.

TRIOQUEUE_HANDLERS=first_handlers:handlers hypercorn trioqueue.app:app
"""

import trio

from trioqueue import Context, Handlers

handlers = Handlers()


@handlers.handler("brew", timeout_seconds=600)
async def brew(ctx: Context, tea: str, cups: int = 1) -> str:
    for done in range(cups):
        await ctx.progress(done, cups)
        await trio.sleep(60)
    return f"{cups} × {tea}"
