"""The nodes of one test, on one store, inside of one Trio run: they start, stop, and die.

Nodes live in the nursery of `Cluster.run`, which is around the whole test. Each has a store of its
own, in a task of its own, so that a node can vanish while its store stays as it was.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, TypeVar

import trio

from trioqueue.clock import WallClock
from trioqueue.config import load_settings
from trioqueue.events import Event, Events
from trioqueue.health import Health
from trioqueue.jobs.handlers import Handlers
from trioqueue.jobs.job import NodeId
from trioqueue.node import Node, postgres_options
from trioqueue.runtime.rest import Rest
from trioqueue.service import Service
from trioqueue.store.memory import MemoryStore
from trioqueue.store.open import open_store
from trioqueue.store.protocol import Hint, Store
from trioqueue.testing.clock import TestClock, quiet
from trioqueue.testing.errors import NoHandlers, NotRunning
from trioqueue.testing.faults import Faults, FaultyStore
from trioqueue.testing.log import EventLog
from trioqueue.testing.place import Place
from trioqueue.web.lifespan import sole_cause

T = TypeVar("T")

USUAL: Mapping[str, Any] = {
    "grace_seconds": 0,
    "log_level": "error",  # the events are written down already
    "relaxed_durability": True,
    "retention": "5000d",  # a test that lives for years asks at its end what has become of the jobs
}
"""What is else than in a service."""

OBSERVER = NodeId("test")
ASIDE = NodeId("aside")

CLOSING_SECONDS = 60.0
"""A store that has not closed by then is left to the end of the Trio run."""


@dataclass(slots=True)
class Opened:
    """A store that is open until somebody sets `closing`."""

    store: Store
    closing: trio.Event
    closed: trio.Event


@dataclass(slots=True)
class Running:
    """A node, and the store through which faults reach it."""

    node: Node
    store: FaultyStore | None = None


class Cluster:
    """Every node that a test has started."""

    def __init__(self, place: Place, clock: TestClock, *, settings: Mapping[str, Any]) -> None:
        self.place = place
        self.faults = Faults()
        self.events = EventLog(clock.now)
        self.handlers: Handlers | None = None
        self._clock = clock
        self._random = Random("ids")
        self._settings = {**USUAL, **settings}
        self._nursery: trio.Nursery | None = None
        self._running: list[Running] = []
        self._front: Node | None = None
        self._door: Service | None = None
        self._rest: Rest | None = None
        """Nobody rests here; but who stirs one rest stirs all of them."""
        self._starting_front = trio.Lock()
        self._opening_shared = trio.Lock()
        self._stores: dict[str, Opened] = {}
        self._memory: MemoryStore | None = None
        self._numbers = 0
        self._is_ending = False
        """What happens from now on is no part of the test."""

    def __repr__(self) -> str:
        return f"<Cluster {', '.join(node.id for node in self.nodes) or 'at rest'}>"

    @property
    def nodes(self) -> list[Node]:
        """Those that have workers and live, in the order in which they were started."""
        return [running.node for running in self._running if self._is_at_work(running)]

    @property
    def types(self) -> frozenset[str]:
        """The types that there are handlers for."""
        return frozenset() if self.handlers is None else frozenset(self.handlers.types)

    async def run(
        self, function: Callable[[], Awaitable[T]], *, before_the_end: Callable[[], Awaitable[None]]
    ) -> T:
        """Call `function` while nodes can live; then `before_the_end`, and then they are cut."""
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                self._nursery, self._is_ending = nursery, False
                self._rest = Rest(Health())
                await self.observer()  # whatever else the test does finds the file or the schema there
                try:
                    result = await function()
                except BaseException as error:  # noqa: ASYNC103
                    failure = error  # raised below: the nursery would wrap it in a group
                with trio.CancelScope(shield=True):
                    await before_the_end()
                    await self._end()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise sole_cause(group) from None
        finally:
            if self._rest is not None:
                self._rest.close()
            self._nursery = self._rest = None
            self._running.clear()
            self._stores.clear()
            self._front = self._door = None
        if failure is not None:
            raise failure
        return result

    async def _end(self) -> None:
        self._is_ending = True
        for running in self._running:
            running.node.cut()
        for running in self._running:
            await running.node.stopped.wait()
        # No node runs any more; what is open are the stores of those that were killed, and ours.
        for opened in self._stores.values():
            opened.closing.set()
        for opened in list(self._stores.values()):
            await opened.closed.wait()

    async def start(self, handlers: Handlers | None = None, **settings: Any) -> Node:
        """Start another node. Its handlers are those of the cluster from now on."""
        nursery = self._living_in("tq.start()")
        if handlers is not None:
            self.handlers = handlers
        if self.handlers is None:
            raise NoHandlers
        self._numbers += 1
        node_id = NodeId(f"node-{self._numbers}")
        chosen = load_settings(**{**self._settings, **settings, **self.place.settings})
        node = Node(
            chosen,
            self.handlers,
            id=node_id,
            clock=self._clock.of_nodes(),
            random=Random(node_id),
            open_store=self._open_faulty,
        )
        self._running.append(Running(node))
        node.events.listen(partial(self._record, self._running[-1]))
        await nursery.start(node.run)
        return node

    async def face(self) -> Node:
        """The node that clients talk to: one with workers if there is one, else one without."""
        if self.nodes:
            return self.nodes[0]
        async with self._starting_front:
            if self._front is None:
                self._front = await self.start(worker_count=0)
        return self._front

    async def door(self) -> Service:
        """Where jobs come in. It needs no node, so that where nothing runs nothing costs time either."""
        if self.nodes or self._front is not None:
            return (await self.face()).service
        if self._door is None or self._door.handlers is not self.handlers:
            self._door = await self._make_door()
        return self._door

    async def _make_door(self) -> Service:
        if self.handlers is None:
            raise NoHandlers
        events = Events()
        events.listen(self.events.record)
        return Service(
            FaultyStore(await self.observer(), self.faults, OBSERVER),
            self.handlers,
            node=OBSERVER,
            events=events,
            clock=self._clock,
            random=self._random,
            draining=trio.Event(),
            max_payload_bytes=self.setting("max_payload_bytes"),
        )

    def setting(self, name: str) -> Any:
        """A setting as nodes of this test have it unless they are started with another."""
        return getattr(load_settings(**self._settings), name)

    async def stop(self, node: Node | None = None) -> None:
        """Shut a node down, as by SIGTERM, and wait until it has ended."""
        for each in [node] if node is not None else self.nodes:
            each.stop()
            await each.stopped.wait()

    async def kill(self, node: Node | None = None) -> None:
        """End a node so that nothing more of it is heard."""
        doomed = [node] if node is not None else self.nodes
        for running in self._running:
            if running.node in doomed and running.store is not None:
                running.store.is_dead = True
                running.node.cut()
        await quiet()

    def stir(self) -> None:
        """Let every node look what there is to do: somebody else may have changed something."""
        if self._rest is not None:
            self._rest.stir()
        for store in self.stores:
            store.ring(Hint.WORK)

    @property
    def stores(self) -> list[FaultyStore]:
        """Those of the nodes that live."""
        return [running.store for running in self._running if running.store and not running.store.is_dead]

    async def observer(self) -> Store:
        """The store as it is, past every fault."""
        return await self._shared(OBSERVER, self.place)

    async def aside(self) -> Store:
        """A store of the same kind that none of the nodes knows."""
        return await self._shared(ASIDE, self.place.aside)

    async def _shared(self, name: NodeId, place: Place) -> Store:
        async with self._opening_shared:
            if name not in self._stores:
                await self._open(name, place)
        return self._stores[name].store

    @asynccontextmanager
    async def _open_faulty(self, node: Node) -> AsyncIterator[Store]:
        """What a node is given as its store. That of a killed node stays open: nobody said farewell."""
        opened = await self._open(node.id, self.place)
        faulty = FaultyStore(opened.store, self.faults, node.id)
        for running in self._running:
            if running.node is node:
                running.store = faulty
        try:
            yield faulty
        finally:
            if not faulty.is_dead:
                opened.closing.set()
                with trio.move_on_after(CLOSING_SECONDS, shield=True):
                    await opened.closed.wait()

    async def _open(self, node: NodeId, place: Place) -> Opened:
        nursery = self._living_in("the store of a test")
        opened: Opened = await nursery.start(self._keep_open, node, place)
        self._stores[node] = opened
        return opened

    async def _keep_open(self, node: NodeId, place: Place, *, task_status: trio.TaskStatus[Opened]) -> None:
        closed = trio.Event()
        try:
            async with self._opening(node, place) as store:
                opened = Opened(store, trio.Event(), closed)
                task_status.started(opened)
                with trio.CancelScope(shield=True):
                    await opened.closing.wait()
        finally:
            closed.set()

    @asynccontextmanager
    async def _opening(self, node: NodeId, place: Place) -> AsyncIterator[Store]:
        clock = self._clock.of_nodes() or WallClock()
        random = Random(f"store of {node}")
        if place is self.place and place.url == "memory:":
            if self._memory is None:
                self._memory = MemoryStore(clock, random)
            yield self._memory
            return
        settings = load_settings(**{**self._settings, **place.settings})
        async with open_store(
            place.url,
            clock=clock,
            random=random,
            node=node,
            postgres=postgres_options(settings),
        ) as store:
            yield store

    def _record(self, running: Running, event: Event) -> None:
        if not self._is_ending and (running.store is None or not running.store.is_dead):
            self.events.record(event)

    def _living_in(self, wish: str) -> trio.Nursery:
        if self._nursery is None or not trio.lowlevel.in_trio_run():
            raise NotRunning(wish)
        return self._nursery

    def _is_at_work(self, running: Running) -> bool:
        if running.store is None or running.store.is_dead or running.node.stopped.is_set():
            return False
        return running.node.workers > 0 and not running.node.draining.is_set()
