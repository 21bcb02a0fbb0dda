"""What the tests of the suite are made of; useful for tests of your own store, too."""

from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from trioqueue.errors import LeaseLost
from trioqueue.jobs.job import (
    Claim,
    Job,
    Json,
    NewJob,
    NodeId,
    new_job_id,
)
from trioqueue.jobs.outcome import Outcome
from trioqueue.store.protocol import (
    JobFilter,
    Settlement,
    Store,
)

ALICE = NodeId("alice")

BOB = NodeId("bob")

SECOND = timedelta(seconds=1)


class HandClock:
    """A clock that stands still until it is moved."""

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        self._now = start

    def now(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


_ids = Random(0)


def new_job(**fields: object) -> NewJob:
    """A new job of type "noop" with an empty payload; `fields` say what is different."""
    job_id = new_job_id(datetime(2030, 1, 1, tzinfo=UTC), _ids)
    return NewJob(**{"id": job_id, "type": "noop", "payload": Json(b"{}"), **fields})  # type: ignore[arg-type]


async def enqueue(store: Store, **fields: object) -> Job:
    (enqueued,) = await store.enqueue([new_job(**fields)])
    return enqueued.job


async def claim(
    store: Store,
    limit: int = 100,
    *,
    node: NodeId = ALICE,
    types: frozenset[str] | None = None,
    lease_seconds: float = 30,
) -> list[Claim]:
    return list(await store.claim(node=node, types=types, limit=limit, lease_seconds=lease_seconds))


async def claim_one(store: Store, **options: object) -> Claim:
    (claimed,) = await claim(store, 1, **options)  # type: ignore[arg-type]
    return claimed


async def settle(store: Store, claimed: Claim, outcome: Outcome, *, worker: int | None = None) -> Job:
    """Settle one claim; `LeaseLost` when it does not hold its job any more."""
    (job,) = await store.settle([Settlement(claimed, outcome, worker)])
    if job is None:
        raise LeaseLost(claimed.job.id, claimed.epoch)
    return job


async def run_once(store: Store, outcome: Outcome) -> Job:
    """Claim the next job and settle it."""
    return await settle(store, await claim_one(store), outcome)


async def everything(store: Store) -> list[Job]:
    return (await store.list(JobFilter(), limit=1000)).jobs


@pytest.mark.trio
class Conformance:
    """What the parts of the suite share. `store` must be overridden; it must be empty and go by `clock`."""

    @pytest.fixture
    def clock(self) -> HandClock:
        return HandClock()
