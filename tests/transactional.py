"""A store with transactions and no server: the memory store, and a list that rolls back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from trioqueue.errors import LeaseLost
from trioqueue.jobs.job import Claim
from trioqueue.jobs.outcome import Completed
from trioqueue.store.memory.store import MemoryStore
from trioqueue.store.protocol import Completion, Settlement


class TransactionalStore(MemoryStore):
    """What a block appends to its `connection` is in `rows` once the block has been committed."""

    rows: tuple[object, ...] = ()

    @asynccontextmanager
    async def transaction(self, claim: Claim, *, worker: int | None) -> AsyncIterator[Completion]:
        await trio.lowlevel.checkpoint()
        self.shelf.held_or_lost(claim)
        written: list[object] = []
        completion = Completion(written)
        yield completion
        [completion.job] = await self.settle([Settlement(claim, Completed(completion.result), worker)])
        if completion.job is None:
            raise LeaseLost(claim.job.id, claim.epoch)
        self.rows = (*self.rows, *written)
