"""Those who want work to be done: they ask one node after another until somebody says that it is kept."""

from random import Random

import trio

from tests.simulation.clocks import instant_at
from tests.simulation.ledger import Wish
from tests.simulation.machine import Gone, Machine
from tests.simulation.world import World
from trioqueue.errors import Draining, InvalidJob, JobNotFound, StoreUnavailable, WrongStatus
from trioqueue.jobs.job import JobId, Status
from trioqueue.store.protocol import Enqueued
from trioqueue.wire.jobs import JobRequest

TRIES = 6

MOST_WAITING = 15
"""Jobs for each worker: more would take longer than the ten minutes in which all must come to its end."""


class Clients:
    """A crowd, as far as it can be told apart from outside."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = Random(f"clients {world.plan.seed}")
        self._keys = [f"key {number}" for number in range(4)]
        self._poison_left = 3
        self._kinds = list(world.plan.kinds)
        self._weights = list(world.plan.kinds.values())

    async def run(self) -> None:
        """Want things until cancelled."""
        plan, random = self._world.plan, self._random
        while True:
            await trio.sleep(random.expovariate(plan.wishes_per_second))
            if self._world.observer.unfinished > MOST_WAITING * plan.nodes * plan.workers:
                continue
            crowd = random.randint(5, 40) if random.random() < plan.burst else 1
            for _ in range(crowd):
                self._world.nursery.start_soon(self._want, self._wish())

    def _wish(self) -> Wish:
        plan, random, now = self._world.plan, self._random, trio.current_time()
        [kind] = random.choices(self._kinds, self._weights)
        if kind == "poison":
            self._poison_left -= 1
            if self._poison_left < 0:
                kind = "quick"
        wish = self._world.ledger.wish(kind)
        if random.random() < plan.delayed:
            if random.random() < 0.5:
                wish.delay_seconds = round(random.uniform(0.1, 40), 3)
            else:
                wish.run_at = round(now + random.uniform(-5, 40), 3)
        if random.random() < plan.deadlines:
            due = max(now + (wish.delay_seconds or 0), wish.run_at or 0)
            wish.deadline_at = round(due + random.uniform(0.5, 20), 3)
        if random.random() < plan.unique:
            common = random.random() < 0.5
            wish.unique_key = random.choice(self._keys) if common else f"ticket {wish.ticket}"
        return wish

    def _request(self, wish: Wish) -> JobRequest:
        random = self._random
        payload: dict[str, object] = {"ticket": wish.ticket}
        if (seconds := self._seconds(wish.kind)) is not None:
            payload["seconds"] = round(seconds, 3)
        return JobRequest(
            type=wish.kind,
            payload=payload,
            queue=random.choice(["default", "default", "mail"]),
            priority=random.choice([-1, 0, 0, 0, 1]),
            delay_seconds=wish.delay_seconds,
            run_at=None if wish.run_at is None else instant_at(wish.run_at),
            deadline_at=None if wish.deadline_at is None else instant_at(wish.deadline_at),
            unique_key=wish.unique_key,
        )

    def _seconds(self, kind: str) -> float | None:
        """How long a handler of this kind takes, drawn anew for each."""
        lease, random = self._world.plan.lease_seconds, self._random
        match kind:
            case "sleep" | "progress" | "fail" | "wild":
                return random.expovariate(1 / 1.5)
            case "long":
                return min(lease * random.uniform(0.5, 2.5), 70)
            case "stubborn":
                return min(lease, 10) * random.uniform(0.2, 1.5)
            case "nap" | "poison":
                return random.uniform(0, 5)
            case _:
                return None

    async def _want(self, wish: Wish) -> None:
        """Ask until it is acknowledged, or patience is at its end."""
        request = self._request(wish)
        for _ in range(TRIES):
            enqueued = await self._enqueue(request)
            if enqueued is not None:
                self._world.ledger.acknowledge(wish, enqueued.job.id)
                await self._go_on(enqueued.job.id)
                return
            await trio.sleep(self._random.uniform(0.1, 3))

    async def _enqueue(self, request: JobRequest) -> Enqueued | None:
        """The acknowledgement, if there was one."""
        world = self._world
        machine = self._any_machine()
        if machine is None:
            return None
        try:
            return await machine.ask(
                lambda service: service.enqueue(request), patience=15.0, hang_up=self._random.random() < 0.5
            )
        except (StoreUnavailable, Draining, Gone) as error:
            world.trace.mark(f"client: {type(error).__name__}")
        except InvalidJob as error:
            if error.pointer != "/deadline_at":
                world.violate("a good request is accepted", f"{request}: {error}")
            world.trace.mark("client: too late by the node's clock")
        return None

    async def _go_on(self, job_id: JobId) -> None:
        random, plan = self._random, self._world.plan
        if random.random() < plan.cancels:
            await trio.sleep(random.choice([0.0, random.expovariate(1 / 3.0)]))
            await self._cancel(job_id)
        elif random.random() < 0.02:
            await trio.sleep(random.expovariate(1 / 20.0))
            await self._look(job_id)

    async def _cancel(self, job_id: JobId) -> None:
        world, random = self._world, self._random
        machine = self._any_machine()
        if machine is None:
            return
        wait_seconds = random.choice([0.0, 2.0, 10.0])
        try:
            receipt = await machine.ask(
                lambda service: service.cancel(job_id, wait_seconds=wait_seconds), patience=30.0, hang_up=True
            )
        except (StoreUnavailable, Gone, WrongStatus):
            return
        except JobNotFound:
            self._look_for_pruned(job_id)
            return
        if receipt.confirmed and receipt.job.status is Status.CANCELLED:
            world.trace.mark("client: cancel confirmed")
            world.confirm_cancelled(job_id)

    async def _look(self, job_id: JobId) -> None:
        machine = self._any_machine()
        if machine is None:
            return
        try:
            job, _ = await machine.ask(lambda service: service.get(job_id), patience=10.0, hang_up=True)
        except (StoreUnavailable, Gone):
            return
        except JobNotFound:
            self._look_for_pruned(job_id)
            return
        assert job.id == job_id

    def _look_for_pruned(self, job_id: JobId) -> None:
        """I6: what was acknowledged is there until its retention is over."""
        if job_id not in self._world.observer.deleted:
            self._world.violate("i6_kept_until_retention", f"{job_id} was acknowledged, and is not found")

    def _any_machine(self) -> Machine | None:
        up = self._world.up
        return self._random.choice(up) if up else None
