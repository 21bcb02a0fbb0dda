"""Claims jobs, and gives claims back: those that nobody has begun, and those that nobody knows of."""

from collections.abc import Sequence
from random import Random

import trio

from trioqueue.errors import StoreUnavailable
from trioqueue.jobs.job import Claim, NodeId
from trioqueue.store.postgres.database import Database
from trioqueue.store.postgres.hints import Hints
from trioqueue.store.postgres.rows import job_from_row
from trioqueue.store.protocol import Hint

PROMOTED_AT_ONCE = 1000
"""Delayed jobs that one claim makes due."""

DOUBT_SECONDS = 15.0
"""A claim whose answer was lost may still be carried out for so long: until the server ends the statement."""


class Claims:
    """Claims, and knows of which claims the answer was lost."""

    def __init__(self, database: Database, hints: Hints, random: Random) -> None:
        self._database = database
        self._hints = hints
        self._random = random
        self._doubtful: dict[tuple[NodeId, int], float] = {}
        """Node and token of those whose answers were lost, and until when they may still be carried out."""

    def __repr__(self) -> str:
        return f"<Claims {len(self._doubtful)} in doubt>"

    async def claim(
        self, *, node: NodeId, types: frozenset[str] | None, limit: int, lease_seconds: float
    ) -> Sequence[Claim]:
        """As the store's contract says."""
        await self._give_back_doubtful(node)
        token = self._random.getrandbits(63)
        values = {
            "node": node,
            "types": None if types is None else sorted(types),
            "limit": limit,
            "promoted": PROMOTED_AT_ONCE,
            "lease_seconds": lease_seconds,
            "token": token,
        }
        try:
            rows = await self._database.rows("claim", values)
        except StoreUnavailable:
            self._doubtful[node, token] = trio.current_time() + DOUBT_SECONDS
            raise
        return [Claim(job=job_from_row(row), node=node) for row in rows]

    async def release(self, claims: Sequence[Claim]) -> int:
        """As the store's contract says."""
        return await self._release(claims, NodeId(""), [])

    async def _give_back_doubtful(self, node: NodeId) -> None:
        """What the node does not know that it holds would wait for its lease, and count as a crash."""
        mine = {token: until for (holder, token), until in self._doubtful.items() if holder == node}
        if mine:
            asked_at = trio.current_time()
            await self._release([], node, list(mine))
            for token, until in mine.items():
                if until < asked_at:
                    del self._doubtful[node, token]

    async def _release(self, claims: Sequence[Claim], node: NodeId, tokens: Sequence[int]) -> int:
        values = {
            "id": [claim.job.id for claim in claims],
            "epoch": [claim.epoch for claim in claims],
            "node": node,
            "tokens": tokens,
        }
        rows = await self._database.rows("release", values)
        if rows:
            self._hints.ring(Hint.WORK, {queue for (queue,) in rows})
        return len(rows)
