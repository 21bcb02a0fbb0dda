"""Those who break things: power cuts, pauses, partitions, outages, deploys, clocks set wrong."""

import math
from collections.abc import Awaitable, Callable
from random import Random

import trio

from tests.simulation.machine import Machine
from tests.simulation.world import World

STEPS = (1.0, 10.0, 60.0, 3600.0, 86_400.0)


class Chaos:
    """Trouble, until it is cancelled."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = Random(f"chaos {world.plan.seed}")

    async def run(self) -> None:
        plan = self._world.plan
        troubles: list[tuple[float, int, Callable[[], Awaitable[None]]]] = [
            (plan.crash_every, plan.nodes, self._crash),
            (plan.pause_every, plan.nodes, self._pause),
            (plan.partition_every, plan.nodes, self._partition),
            (plan.outage_every, 1, self._outage),
            (plan.deploy_every, plan.nodes, self._deploy),
            (plan.step_every, plan.nodes, self._step),
        ]
        async with trio.open_nursery() as nursery:
            for every, nodes, trouble in troubles:
                if every < math.inf:
                    nursery.start_soon(self._make, every / nodes, trouble)

    async def _make(self, every: float, trouble: Callable[[], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self._random.expovariate(1 / every))
                nursery.start_soon(trouble)

    async def _crash(self) -> None:
        """At this instant, or when the node is in the middle of something."""
        machine = self._victim()
        if machine is None:
            return
        if self._random.random() < 0.3:
            machine.crash("at rest")
        else:
            machine.fuse = self._random.randint(1, 120)

    async def _pause(self) -> None:
        machine = self._victim()
        if machine is None:
            return
        world = self._world
        lease = world.plan.lease_seconds
        seconds = self._random.choice([self._random.uniform(0.01, 2), lease * self._random.uniform(0.2, 3)])
        machine.pause()
        world.report.pauses += 1
        world.trace.mark("paused for longer than a lease" if seconds > lease else "paused")
        try:
            await trio.sleep(seconds)
        finally:
            machine.resume()
            world.check()

    async def _partition(self) -> None:
        machine = self._victim()
        if machine is not None:
            self._world.report.partitions += 1
            seconds = self._world.plan.lease_seconds * self._random.uniform(0.1, 3)
            machine.cut_off_until = trio.current_time() + seconds
            self._world.trace.add(f"{machine.id} is cut off for {seconds:.3f} s")

    async def _outage(self) -> None:
        world = self._world
        seconds = self._random.choice([self._random.uniform(0.1, 5), self._random.uniform(5, 60)])
        world.out_until = trio.current_time() + seconds
        world.trace.mark("outage")
        world.trace.add(f"nobody reaches the store for {seconds:.3f} s")

    async def _deploy(self) -> None:
        machine = self._victim()
        if machine is not None and machine.ready:
            self._world.report.stops += 1
            machine.stop()
            if self._random.random() < 0.1:
                await trio.sleep(self._random.uniform(0, 5))
                if machine.node is not None and machine.is_up:
                    self._world.trace.mark("told twice to stop")
                    machine.node.cut()

    async def _step(self) -> None:
        machine = self._victim()
        if machine is not None:
            seconds = self._random.choice(STEPS) * self._random.choice([1, -1])
            self._world.report.clock_steps += 1
            self._world.trace.mark("clock set forward" if seconds > 0 else "clock set back")
            machine.clock.step(seconds)

    def _victim(self) -> Machine | None:
        """One that stands and runs."""
        machines = [machine for machine in self._world.places if machine is not None and machine.is_up]
        return self._random.choice(machines) if machines else None
