"""Settles attempts, and looks in the ledger for those settlements whose answers were lost.

A settlement whose write broke off is asked for again. If it was committed, the claim does not hold
its job any more; without a look into the ledger that would read as a lost lease, and the outcome
would be reported as dropped although it is recorded.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from random import Random

from trioqueue.jobs.job import Job, JobId
from trioqueue.jobs.outcome import NAMES
from trioqueue.store.protocol import Settlement
from trioqueue.store.rows import job_from_row
from trioqueue.store.sqlite import operations
from trioqueue.store.sqlite.transaction import Transaction
from trioqueue.store.sqlite.writer import InDoubt, Writer

REMEMBERED = 10_000
"""At most so many settlements stay in doubt, the latest. A node asks again for far fewer."""

Key = tuple[JobId, int]
"""A job, and the epoch of a claim."""


class Settlements:
    """Settles, and knows of which settlements the answer was lost."""

    def __init__(self, writer: Writer, random: Random) -> None:
        self._writer = writer
        self._random = random
        self._doubtful: dict[Key, None] = {}
        """Those whose answers were lost, the oldest doubt first."""

    def __repr__(self) -> str:
        return f"<Settlements {len(self._doubtful)} in doubt>"

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Job | None]:
        """As the store's contract says."""
        settle = partial(operations.settle, settlements=settlements, random=self._random)
        doubtful = {key for key in map(_key, settlements) if key in self._doubtful}
        if doubtful:
            settle = partial(_settle_again, settlements=settlements, random=self._random, doubtful=doubtful)
        try:
            settled = await self._writer.submit(settle)
        except InDoubt:
            self._remember(map(_key, settlements))
            raise
        for key in doubtful:
            self._doubtful.pop(key, None)
        return settled

    def _remember(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._doubtful.pop(key, None)
            self._doubtful[key] = None
        for key in list(self._doubtful)[:-REMEMBERED]:
            del self._doubtful[key]


def _key(settlement: Settlement) -> Key:
    return settlement.claim.job.id, settlement.claim.epoch


def _settle_again(
    transaction: Transaction, settlements: Sequence[Settlement], random: Random, doubtful: Iterable[Key]
) -> list[Job | None]:
    """Settle each; of those in doubt that hold nothing, answer with what the ledger knows.

    Only the first of a key: one that is named twice in a call is settled once.
    """
    unanswered = set(doubtful)
    settled = []
    for settlement in settlements:
        (job,) = operations.settle(transaction, [settlement], random)
        if job is None and _key(settlement) in unanswered:
            job = _settled_before(transaction, settlement)
        unanswered.discard(_key(settlement))
        settled.append(job)
    return settled


def _settled_before(transaction: Transaction, settlement: Settlement) -> Job | None:
    values = {
        "id": settlement.claim.job.id,
        "epoch": settlement.claim.epoch,
        "node": settlement.claim.node,
        "worker": settlement.worker,
        "outcome": NAMES[type(settlement.outcome)],
    }
    for row in transaction.run("settled", values):
        return job_from_row(row[1:])
    return None
