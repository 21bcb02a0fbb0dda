"""A shop's jobs: a reminder three days after the sign-up, and a bank that is not always open.

TRIOQUEUE_HANDLERS=reminders:handlers hypercorn trioqueue.app:app
"""

import trio

from trioqueue import Context, Handlers

handlers = Handlers()


class Bank:
    """Somebody else's service."""

    def __init__(self) -> None:
        self.is_open = True
        self.charged: set[str] = set()

    async def charge(self, order: int, *, key: str) -> str:
        await trio.sleep(0.2)
        if not self.is_open:
            raise ConnectionError("the bank is closed")
        self.charged.add(key)
        return f"paid order {order}"


bank = Bank()


@handlers.handler("remind", timeout_seconds=30)
async def remind(ctx: Context, user: str) -> str:
    return f"reminded {user}"


@handlers.handler("charge", timeout_seconds=10, max_attempts=40)
async def charge(ctx: Context, order: int) -> str:
    return await bank.charge(order, key=ctx.idempotency_key)


@handlers.handler("report", timeout_seconds=3600)
async def report(ctx: Context, rows: int) -> int:
    for row in range(rows):
        await ctx.progress(row, rows)
        await trio.sleep(1)
    return rows
