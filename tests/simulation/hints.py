"""Hints between the nodes, without sockets: lost, late or twice; and who is known to be dead."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Never

import trio

from tests.simulation.machine import Machine
from tests.simulation.plan import Plan
from tests.simulation.trace import Trace
from trioqueue.jobs.job import NodeId
from trioqueue.store.protocol import Bell, Hint

LATEST_SECONDS = 3.0


class Hub:
    """All nodes that have joined and have not left."""

    def __init__(self, plan: Plan, trace: Trace) -> None:
        self.members: dict[Machine, SimulatedNeighbours] = {}
        self.healed = False
        self._plan = plan
        self._trace = trace
        self._random = Random(f"hints {plan.seed}")

    @contextmanager
    def joined(self, machine: Machine) -> Iterator["SimulatedNeighbours"]:
        neighbours = self.members[machine] = SimulatedNeighbours(self, machine)
        try:
            yield neighbours
        finally:
            if not machine.dead:
                del self.members[machine]

    def tell(self, sender: Machine, hint: Hint) -> None:
        """Tell the others: most at once."""
        for member in list(self.members.values()):
            if member.machine is not sender and not member.machine.dead:
                for late in self._journeys(sender, member.machine):
                    member.receive(hint, late)

    def dead(self) -> list[NodeId]:
        if not self._plan.deaths_known:
            return []
        return [machine.id for machine in self.members if machine.dead]

    def forget(self, node: NodeId) -> None:
        """Take the dead with this name off the list."""
        for machine in [machine for machine in self.members if machine.dead and machine.id == node]:
            del self.members[machine]

    def _journeys(self, sender: Machine, receiver: Machine) -> list[float]:
        """How late each copy of a hint arrives."""
        if self.healed:
            return [0.0]
        plan, random = self._plan, self._random
        if sender.is_cut_off or receiver.is_cut_off or random.random() < plan.hints_lost:
            self._trace.mark("hint lost")
            return []
        copies = 1
        if random.random() < plan.hints_twice:
            self._trace.mark("hint twice")
            copies = 2
        return [self._delay() for _ in range(copies)]

    def _delay(self) -> float:
        if self._random.random() >= self._plan.hints_late:
            return 0.0
        self._trace.mark("hint late")
        return self._random.uniform(0.001, LATEST_SECONDS)


class SimulatedNeighbours:
    """One node's view of the hub."""

    def __init__(self, hub: Hub, machine: Machine) -> None:
        self.machine = machine
        self._hub = hub
        self._bells: list[Bell] = []
        self._late: list[tuple[float, Hint]] = []
        self._something_is_late = trio.Event()

    def listen(self, bell: Bell) -> None:
        self._bells.append(bell)

    def ring(self, hint: Hint) -> None:
        if self.machine.dead:
            return
        self._ring_here(hint)
        self._hub.tell(self.machine, hint)

    def dead(self) -> Sequence[NodeId]:
        return self._hub.dead()

    def forget(self, node: NodeId) -> None:
        if not self.machine.dead:
            self._hub.forget(node)

    def receive(self, hint: Hint, late: float) -> None:
        if late:
            self._late.append((trio.current_time() + late, hint))
            self._something_is_late.set()
        else:
            self._ring_here(hint)

    async def run(self) -> Never:
        while True:
            if not self._late:
                self._something_is_late = trio.Event()
                await self._something_is_late.wait()
            self._late.sort(key=lambda late: late[0])
            at, hint = self._late.pop(0)
            await trio.sleep_until(at)
            self._ring_here(hint)

    def _ring_here(self, hint: Hint) -> None:
        for bell in self._bells:
            bell(hint)
