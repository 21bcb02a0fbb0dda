"""What the commands enqueue."""

import trio

from trioqueue import Context, Handlers

handlers = Handlers()


@handlers.handler("remind")
async def remind(ctx: Context, user: int) -> str:
    return f"reminded {user}"


@handlers.handler("charge", max_attempts=1)
async def charge(ctx: Context) -> None:
    raise ConnectionError("the bank is \x1b[31mclosed")


@handlers.handler("import")
async def import_rows(ctx: Context) -> None:
    await trio.sleep_forever()
