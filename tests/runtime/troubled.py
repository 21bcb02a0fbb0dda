"""A store that has trouble on request, and a node's claims in hand without the node."""

from collections.abc import Sequence
from random import Random

import trio
from msgspec.structs import replace

from trioqueue.clock import current_clock, is_virtual
from trioqueue.errors import StoreBusy, StoreUnavailable
from trioqueue.events import Event, Events
from trioqueue.health import Health
from trioqueue.jobs.job import Claim, Job, JobId, NodeId
from trioqueue.runtime.leases import Held, Leases
from trioqueue.runtime.rest import Rest
from trioqueue.runtime.wakeup import Wakeup
from trioqueue.store.memory.store import MemoryStore
from trioqueue.store.protocol import Renewal, Settlement
from trioqueue.testing.conformance import new_job

ALICE = NodeId("alice")


class TroubledStore(MemoryStore):
    """The memory store, its renewals and settlements noted, its failures at the test's command."""

    def __init__(self) -> None:
        super().__init__(current_clock(), Random(0))
        self.away = False
        """No write reaches the store."""
        self.busy: set[JobId] = set()
        """Somebody else's transaction holds these jobs."""
        self.seconds = 0.0
        """What a renewal or a settlement takes, after it has read the store."""
        self.calls: list[tuple[float, str, list[JobId]]] = []
        """Each renewal, settlement and release that was tried: when, which, of what."""

    def when(self, call: str) -> list[float]:
        return [at for at, name, _ in self.calls if name == call]

    def what(self, call: str) -> list[list[JobId]]:
        return [ids for _, name, ids in self.calls if name == call]

    def _note(self, call: str, claims: Sequence[Claim]) -> None:
        self.calls.append((trio.current_time(), call, [claim.job.id for claim in claims]))
        if self.away:
            raise StoreUnavailable("cut off")

    async def renew(self, claims: Sequence[Claim], *, lease_seconds: float) -> Sequence[Renewal]:
        self._note("renew", claims)
        renewals = await super().renew(claims, lease_seconds=lease_seconds)
        await trio.sleep(self.seconds)
        return [
            Renewal(renewal.claim, renewed=False, busy=True) if renewal.claim.job.id in self.busy else renewal
            for renewal in renewals
        ]

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Job | None]:
        claims = [settlement.claim for settlement in settlements]
        self._note("settle", claims)
        if any(claim.job.id in self.busy for claim in claims):
            raise StoreBusy("locked")
        jobs = await super().settle(settlements)
        await trio.sleep(self.seconds)
        return jobs

    async def release(self, claims: Sequence[Claim]) -> int:
        self._note("release", claims)
        released = await super().release(claims)
        await trio.sleep(self.seconds)
        return released


class Hands:
    """What a node holds, and who is told of it."""

    def __init__(self, *, lease_seconds: float = 10, lazy: bool = False) -> None:
        assert is_virtual(), "a test that uses this must name autojump_clock"
        self.store = TroubledStore()
        self.health = Health()
        self.bus = Events()
        self.events: list[Event] = []
        self.bus.listen(self.events.append)
        self.rest = Rest(self.health, lazy=lazy)
        self.leases = Leases(
            self.store,
            ALICE,
            lease_seconds=lease_seconds,
            health=self.health,
            events=self.bus,
            rest=self.rest,
        )

    async def claim(self, jobs: int = 1) -> list[Claim]:
        """Claims of new jobs, in hand; no worker has begun them."""
        await self.store.enqueue([new_job() for _ in range(jobs)])
        asked_at = trio.current_time()
        claims = await self.store.claim(
            node=ALICE, types=None, limit=jobs, lease_seconds=self.leases.lease_seconds
        )
        self.leases.hold(claims, asked_at=asked_at)
        return list(claims)

    async def run(self, jobs: int = 1) -> list[Held]:
        """New jobs whose handlers run, each in its scope."""
        return [self.begin(claim) for claim in await self.claim(jobs)]

    def begin(self, claim: Claim) -> Held:
        held = self.leases.begin(claim)
        assert held is not None
        return held

    async def overtake(self, job_id: JobId) -> None:
        """The lease of this job has expired, and another node has it."""
        job = await self.store.get(job_id)
        self.store.shelf.jobs[job_id] = replace(job, epoch=job.epoch + 1, node=NodeId("bob"))


async def rang(bell: Wakeup) -> bool:
    """Whether it has rung since somebody heard it last."""
    return await bell.wait_at_most(0.001)
