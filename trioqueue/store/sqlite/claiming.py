"""Claims jobs, and gives back those claims that nobody knows of.

A claim whose write broke off may have been committed: then its jobs are processing on a living node
that has never heard of them. Left alone, they would wait for the end of a lease that nobody renews,
and that would count as a crash.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import trio

from trioqueue.jobs.job import Claim, JobId, NodeId
from trioqueue.store.protocol import Hint
from trioqueue.store.sqlite import operations
from trioqueue.store.sqlite.neighbours import Neighbours
from trioqueue.store.sqlite.transaction import Transaction
from trioqueue.store.sqlite.writer import InDoubt, Writer


class Claims:
    """Claims, and knows of which claims the answer was lost."""

    def __init__(self, writer: Writer, neighbours: Neighbours) -> None:
        self._writer = writer
        self._neighbours = neighbours
        self._doubtful: dict[tuple[JobId, int, NodeId], Claim] = {}
        """What was taken by calls that were not answered, if it was taken. Each stands there once."""
        self._turn = trio.Lock()
        """One call after another: a later one must know what an earlier one may have taken. Else it
        could give back, under the same epoch, what its neighbour in the same batch has just claimed."""

    def __repr__(self) -> str:
        return f"<Claims {len(self._doubtful)} in doubt>"

    async def claim(
        self, *, node: NodeId, types: frozenset[str] | None, limit: int, lease_seconds: float
    ) -> Sequence[Claim]:
        """As the store's contract says."""
        async with self._turn:
            taken: list[Claim] = []
            take = partial(operations.claim, node=node, types=types, limit=limit, lease_seconds=lease_seconds)
            doubtful = list(self._doubtful.values())
            try:
                released = await self._writer.submit(
                    partial(_claim, take=take, taken=taken, doubtful=doubtful)
                )
            except InDoubt:
                self._doubtful |= {(claim.job.id, claim.epoch, claim.node): claim for claim in taken}
                raise
            self._end_doubts(released)
            return taken

    async def give_back_doubtful(self) -> None:
        """For a node that ends, and will not claim again. Writes nothing where nothing is in doubt."""
        async with self._turn:
            if self._doubtful:
                give_back = partial(_give_back, claims=list(self._doubtful.values()))
                self._end_doubts(await self._writer.submit(give_back))

    def _end_doubts(self, released: int) -> None:
        self._doubtful.clear()
        if released:
            self._neighbours.ring(Hint.WORK)


def _claim(
    transaction: Transaction,
    take: partial[list[Claim]],
    taken: list[Claim],
    doubtful: Iterable[Claim],
) -> int:
    """Give back what is in doubt, then claim; returns how many were given back.

    `taken` belongs to the caller, who learns from it what was claimed even when the commit is not
    answered. It is filled anew by each run.
    """
    released = _give_back(transaction, doubtful)
    taken[:] = take(transaction)
    return released


def _give_back(transaction: Transaction, claims: Iterable[Claim]) -> int:
    """Release those that were committed. If a claim was not, another node may have the job by now,
    and under the same epoch: so the node belongs to this fence."""
    return operations.release(transaction, [claim for claim in claims if _is_held(transaction, claim)])


def _is_held(transaction: Transaction, claim: Claim) -> bool:
    held = transaction.run("holder", {"id": claim.job.id, "epoch": claim.epoch})
    return [node for (node,) in held] == [claim.node]
