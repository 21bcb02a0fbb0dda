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
from trioqueue.errors import UnknownType
from trioqueue.events import Event, Events
from trioqueue.health import Health
from trioqueue.jobs.handlers import Handlers
from trioqueue.jobs.job import NodeId
from trioqueue.node import Node, postgres_options
from trioqueue.runtime.rest import Rest
from trioqueue.service.service import Service
from trioqueue.store.memory.store import MemoryStore
from trioqueue.store.open import open_store
from trioqueue.store.protocol import Hint, Store
from trioqueue.testing.clock import TestClock, quiet
from trioqueue.testing.endings import ENDINGS
from trioqueue.testing.errors import NoHandlers, not_running
from trioqueue.testing.faults import Faults, FaultyStore
from trioqueue.testing.log import EventLog
from trioqueue.testing.place import Place
from trioqueue.testing.settings import USUAL, check_settings
from trioqueue.web.lifespan import sole_cause

T = TypeVar("T")

OBSERVER = NodeId("test")
SCRATCH = NodeId("scratch")

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
        check_settings(settings)
        self.place = place
        self.faults = Faults()
        self.events = EventLog(clock.now)
        self.handlers: Handlers | None = None
        self._clock = clock
        self._random = Random("ids")
        self._settings = {**USUAL, **settings}
        self._nursery: trio.Nursery | None = None
        self._running: list[Running] = []
        self._node_without_workers: Node | None = None
        self._service_without_node: Service | None = None
        self._rest: Rest | None = None
        """Nobody rests here; but who stirs one rest stirs all of them."""
        self._starting_for_http = trio.Lock()
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
    def registries(self) -> list[Handlers]:
        """Every registry of the test: of nodes that live, of the next node, of former nodes."""
        former = (running.node.handlers for running in self._running)
        known = (*(node.handlers for node in self.nodes), self.handlers, *former)
        return [handlers for handlers in dict.fromkeys(known) if handlers is not None]

    @property
    def types(self) -> frozenset[str]:
        """Those that some node works on; while none lives, those that the next one would."""
        working = [node.handlers for node in self.nodes] or self.registries[:1]
        return frozenset(type for handlers in working for type in handlers.types)

    async def run(
        self, function: Callable[[], Awaitable[T]], *, before_the_end: Callable[[], Awaitable[None]]
    ) -> T:
        """Call `function` while nodes can live; then `before_the_end`, and then they are cut."""
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                self._nursery, self._is_ending = nursery, False
                self._rest = Rest(Health())
                try:
                    await self.observer()  # whatever else the test does finds the file or the schema there
                    result = await function()
                except BaseException as error:  # noqa: ASYNC103
                    failure = error  # raised below: the nursery would wrap it in a group
                with trio.CancelScope(shield=True):
                    try:
                        await before_the_end()
                    finally:  # whatever happens: the stores wait for it, and the nursery for them
                        await self._end()  # noqa: ASYNC102 — shielded above
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            cause = sole_cause(group)
            if failure is None or _was_cancelled(failure) or not isinstance(cause, Exception):
                raise cause from None
            failure.add_note(f"Then its end went wrong, too: {cause!r}")
        finally:
            self._nursery = self._rest = None
            self._running.clear()
            self._stores.clear()
            self._node_without_workers = self._service_without_node = None
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
        """Start another node. Its handlers are those of the next one, too, unless that is given others."""
        nursery = self._living_in("tq.start()")
        check_settings(settings)
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
            let_through=ENDINGS,
        )
        self._running.append(Running(node))
        node.events.listen(partial(self._record, self._running[-1]))
        await nursery.start(node.run)
        return node

    async def node_for_http(self) -> Node:
        """The node that clients talk to: one with workers if there is one, else one without."""
        if self.nodes:
            return self.nodes[0]
        self.check_running("tq.client")
        async with self._starting_for_http:
            if self._node_without_workers is None:
                self._node_without_workers = await self.start(worker_count=0)
        return self._node_without_workers

    async def service(self, type: str | None = None) -> Service:
        """Takes jobs in, those of `type`: that of a node which has a handler for them, if one lives.

        It needs no node, so that where nothing runs nothing costs time either. Raises `UnknownType`
        when nodes live and none of them knows the type.
        """
        for node in self.nodes:
            if type is None or type in node.handlers.types:
                return node.service
        if self.nodes and type is not None:
            raise UnknownType(type, sorted(self.types))
        idle = self._node_without_workers
        if idle is not None and idle.handlers is self.handlers:
            return idle.service
        alone = self._service_without_node
        if alone is None or alone.handlers is not self.handlers:
            alone = self._service_without_node = await self._make_service()
        return alone

    async def _make_service(self) -> Service:
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
        """Shut a node down, or all of them at once, as by SIGTERM, and wait until it has ended."""
        stopping = [node] if node is not None else self.nodes
        for each in stopping:  # all of them first: none is to take over what another gives back
            each.stop()
        for each in stopping:
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

    async def scratch_store(self) -> Store:
        """A store of the same kind that none of the nodes knows."""
        return await self._shared(SCRATCH, self.place.scratch)

    async def _shared(self, name: NodeId, place: Place) -> Store:
        self.check_running("tq")  # before the lock, which needs Trio itself
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

    def check_running(self, wish: str) -> None:
        """Raise unless this is called in the Trio run that the nodes can live in."""
        self._living_in(wish)

    def _living_in(self, wish: str) -> trio.Nursery:
        if self._nursery is None or not trio.lowlevel.in_trio_run():
            raise not_running(wish)
        return self._nursery

    def _is_at_work(self, running: Running) -> bool:
        if running.store is None or running.store.is_dead or running.node.stopped.is_set():
            return False
        return running.node.workers > 0 and not running.node.draining.is_set()


def _was_cancelled(failure: BaseException) -> bool:
    """Whether a test has ended only because something else has failed: a node for example."""
    if isinstance(failure, BaseExceptionGroup):
        return all(map(_was_cancelled, failure.exceptions))
    return isinstance(failure, trio.Cancelled)
