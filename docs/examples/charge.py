"""A handler that may charge a card twice, and the same handler mended.

TRIOQUEUE_HANDLERS=charge:handlers
"""

from trioqueue import Context, Handlers

handlers = Handlers()


class Bank:
    """The client of a bank. Given the same key again, the bank charges nothing and repeats its answer."""

    async def charge(self, card: str, cents: int, *, key: str | None = None) -> str:
        raise NotImplementedError("the client of your bank belongs here")


bank = Bank()


@handlers.handler("charge")
async def charge(ctx: Context, card: str, cents: int) -> str:
    await ctx.progress(0, 1, "asking the bank")
    receipt = await bank.charge(card, cents)
    await ctx.progress(1, 1)
    return receipt


@handlers.handler("charge_once")
async def charge_once(ctx: Context, card: str, cents: int) -> str:
    await ctx.progress(0, 1, "asking the bank")
    receipt = await bank.charge(card, cents, key=ctx.idempotency_key)
    await ctx.progress(1, 1)
    return receipt
