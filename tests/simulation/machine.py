"""One machine with one node on it, from its start until its node has ended or its power is gone."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Never, TypeVar

import outcome
import trio

from tests.simulation.clocks import TrueClock, WrongClock
from tests.simulation.kernel import MACHINE, Power
from tests.simulation.ledger import Execution
from tests.simulation.port import Port
from trioqueue import node as product
from trioqueue.errors import LoopDied, StoreUnavailable
from trioqueue.events import AttemptLost, Event, JobsExpired, JobsPruned, LoopFailed, NodeStarted
from trioqueue.node import Node
from trioqueue.runtime.context import Context
from trioqueue.service.service import Service
from trioqueue.store.protocol import Store
from trioqueue.store.sqlite.store import open_sqlite

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")

UNDISTURBED_SECONDS = 15.0
"""A node that nothing has disturbed for so long has no excuse."""


class Gone(Exception):
    """Nobody answers: the machine is dead, or too slow."""


class Machine(Power):
    """What a node has of the world: power, a clock, randomness, a way to the store."""

    def __init__(self, world: "World", slot: int, incarnation: int) -> None:
        super().__init__()
        self.random = Random(f"machine {world.plan.seed} {slot} {incarnation}")
        self.id = product.new_node_id(f"n{slot}", incarnation, self.random)
        self.node: Node | None = None
        offset = world.plan.clock_offset
        drift = world.plan.clock_drift
        self.clock = WrongClock(self.random.uniform(-offset, offset), self.random.uniform(-drift, drift))
        self.down = trio.Event()
        """The node has ended, or the power is gone."""
        self.ready = False
        self.stopping_at: float | None = None
        self.resisted_at = 0.0
        """When the last handler ended that cannot be told to stop."""
        self.started_at = self.disturbed_at = trio.current_time()
        self.ended_at: float | None = None
        """When its node ended by itself."""
        self.cut_off_until = 0.0
        self.fate_at_commit: str | None = None
        """What befalls its next commit: it dies or the write breaks off, before or after."""
        self._world = world
        self._callers: set[trio.Event] = set()

    def __repr__(self) -> str:
        return f"<Machine {self.id}>"

    @property
    def is_cut_off(self) -> bool:
        """It cannot reach the store, nor anybody else."""
        return self.cut_off_until > trio.current_time()

    @property
    def is_up(self) -> bool:
        return not self.down.is_set() and not self.frozen

    @property
    def is_healthy(self) -> bool:
        """It is up, and nothing has kept it from its work for a while."""
        since = trio.current_time() - max(self.disturbed_at, self.cut_off_until)
        return self.ready and self.is_up and self.stopping_at is None and since > UNDISTURBED_SECONDS

    def disturb(self) -> None:
        self.disturbed_at = trio.current_time()

    async def live(self) -> None:
        """Start the node; returns when it has ended, or the power is gone."""
        self._world.trace.add(f"{self.id} starts")
        self._world.nursery.start_soon(self._run)
        await self.down.wait()
        self._world.report.node_seconds += trio.current_time() - self.started_at

    def crash(self, why: str) -> None:
        """The power is cut at this instant."""
        if self.dead or self.down.is_set():
            return
        self.lose_power()
        lost = self._world.ledger.cut(self)
        self._world.report.crashes += 1
        self._world.trace.mark(f"crash {why}")
        self._world.trace.add(f"{self.id} loses its power {why}, running {lost}")
        self.down.set()
        for caller in self._callers:
            caller.set()

    def blow(self) -> None:
        self.crash("between two steps")

    def pause(self) -> None:
        """As SIGSTOP does, or a suspended virtual machine: it stands still while time goes on."""
        self.disturb()
        self.freeze()
        self._world.trace.add(f"{self.id} stands still")

    def resume(self) -> None:
        if not self.dead:
            self.disturb()
            self._world.trace.add(f"{self.id} goes on")
            self.thaw()

    def stop(self) -> None:
        """As SIGTERM does."""
        if self.node is not None and self.is_up and self.stopping_at is None:
            self.stopping_at = trio.current_time()
            self._world.trace.add(f"{self.id} is told to stop")
            self.node.stop()

    async def ask(self, call: Callable[[Service], Awaitable[T]], *, patience: float, hang_up: bool) -> T:
        """What the node answers to a client. Raises what it raises, or `Gone` after so many seconds.

        `hang_up`: a client that has lost its patience takes its request with it.
        """
        answered = trio.Event()
        answers: list[outcome.Outcome[T]] = []
        scope = trio.CancelScope()

        async def serve() -> None:
            MACHINE.set(self)
            with scope:
                node = self.node
                assert node is not None
                answer = await outcome.acapture(call, node.service)
                if not self.dead:
                    answers.append(answer)
                    answered.set()

        self._callers.add(answered)
        self._world.nursery.start_soon(serve)
        with trio.move_on_after(patience):
            await answered.wait()
        self._callers.discard(answered)
        if answers:
            return answers[0].unwrap()
        if hang_up:
            scope.cancel()
        raise Gone

    def begin(self, context: Context, ticket: int) -> Execution:
        """A handler begins."""
        execution = self._world.ledger.start(context, self, ticket)
        self._world.begun(execution)
        return execution

    def end(self, execution: Execution, ending: str) -> None:
        """A handler has ended."""
        if self._world.ledger.end(execution, ending):
            if self._world.ledger.wishes[execution.ticket].kind in ("stubborn", "plain"):
                self.resisted_at = trio.current_time()
            self._world.trace.add(f"{self.id} #{execution.ticket} e{execution.epoch} {ending}")

    def executions_of(self, ticket: int) -> int:
        return self._world.ledger.begun[ticket]

    def check(self) -> None:
        """What ports ask first: those of a dead machine lead nowhere."""
        if self.dead:
            raise StoreUnavailable("the machine has no power")

    async def run_sync(self, function: Callable[[], T]) -> T:
        """The way to the file, for what writes: right here, and perhaps not all of the way."""
        await trio.lowlevel.checkpoint()
        self.check()
        fate, self.fate_at_commit = self.fate_at_commit, None
        if fate is not None and fate.endswith("before"):
            await self._suffer(fate)
        value = function()
        self._world.judge(self)
        if fate is not None and fate.endswith("after"):
            await self._suffer(fate)
        return value

    async def _suffer(self, fate: str) -> Never:
        when = f"{fate.split()[1]} a commit"
        if fate.startswith("dies"):
            await self._die(when)
        self.disturb()
        self._world.trace.mark(f"broken off {when}")
        raise OSError("simulated: no answer")

    async def _die(self, why: str) -> Never:
        self.crash(why)
        await self.never()
        raise StoreUnavailable("the machine has no power")

    async def _run(self) -> None:
        MACHINE.set(self)
        world = self._world
        node = self.node = Node(
            world.settings,
            world.handlers,
            id=self.id,
            clock=self.clock,
            random=self.random,
            spawner=SimulatedSpawner(self),
            open_store=self._open_store,
            lazy=False,
        )
        node.events.listen(self._notice)
        try:
            await node.run()
        except StoreUnavailable:
            world.trace.mark("node ended without a store")
        except LoopDied as error:
            if not self.dead:
                world.violate("the node lives", f"{self.id}: {error}")
        except Exception as error:
            if not self.dead:
                world.violate("the node lives", f"{self.id}: {error!r}")
        if not self.dead:
            self.ended_at = trio.current_time()
            world.ended(self)
            self.down.set()
        self.ready = False

    @asynccontextmanager
    async def _open_store(self, node: Node) -> AsyncIterator[Store]:
        world = self._world
        async with open_sqlite(
            world.path,
            url="simulated:",
            clock=TrueClock(),
            random=self.random,
            node=self.id,
            run_sync=self.run_sync,
            flushed=False,
            neighbours=world.hub.joined(self),
        ) as store:
            yield Port(store, self, world)

    def _notice(self, event: Event) -> None:
        trace = self._world.trace
        match event:
            case NodeStarted():
                self.ready = True
            case LoopFailed(loop=loop, error=error) if not self.dead:
                self._world.violate("no loop ever fails", f"{self.id} {loop}: {error}")
            case AttemptLost():
                trace.mark("outcome dropped")
            case JobsExpired():
                trace.mark("deadline passed")
            case JobsPruned():
                trace.mark("pruned")
            case _:
                pass


class SimulatedSpawner:
    """Threads that take virtual time and cannot be cancelled. There are no processes."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def run_in_thread(self, call: Callable[[], T], *, limiter: trio.CapacityLimiter) -> T:
        async with limiter:
            with trio.CancelScope(shield=True):
                await trio.sleep(self._machine.random.expovariate(1 / 2.0))
            return call()

    async def run_process(
        self,
        command: Sequence[object],
        *,
        stdin: bytes,
        check: bool,
        cwd: object,
        env: Mapping[str, str] | None,
        in_a_hurry: Callable[[], bool],
    ) -> Never:
        raise NotImplementedError("no handler of the simulation starts a process")

    def kill_orphans(self) -> None:
        """There are none."""
