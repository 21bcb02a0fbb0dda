"""The composition root: the only file that constructs things. Nesting is the shutdown order.

    store
    └─ leases · upkeep (beat, rescue, prune, watch)          (ends last)
       └─ pool: dispatcher → channel → workers → settler     (ends first)

The HTTP server is around it or inside it, as the host has it: `web/lifespan.py` for the hypercorn
command, `web/server.py` for `trioqueue serve`. Both stop the server before they stop the node.
"""

import os
import re
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from random import Random, SystemRandom

import trio

from trioqueue.clock import Clock, current_clock, is_virtual, run_in_thread, run_inline
from trioqueue.config import Settings
from trioqueue.errors import ConfigError, StoreUnavailable
from trioqueue.events import (
    AttemptStarted,
    Event,
    Events,
    JobsPruned,
    NodeDraining,
    NodeStarted,
    NodeStopped,
    StoreFailed,
)
from trioqueue.health import Health
from trioqueue.jobs.handlers import DemoHandlers, Handlers
from trioqueue.jobs.job import NodeId
from trioqueue.logs import Logs
from trioqueue.metrics import Metrics
from trioqueue.runtime.context import Context
from trioqueue.runtime.dispatcher import Dispatcher
from trioqueue.runtime.leases import Leases
from trioqueue.runtime.pool import LAST_SETTLES_SECONDS, Pool
from trioqueue.runtime.rest import Rest
from trioqueue.runtime.settler import Settler
from trioqueue.runtime.spawner import MachineSpawner, Spawner
from trioqueue.runtime.supervise import Supervisor
from trioqueue.runtime.upkeep import Upkeep
from trioqueue.runtime.worker import Worker
from trioqueue.service.service import Service
from trioqueue.store.open import open_store
from trioqueue.store.options import PostgresOptions
from trioqueue.store.protocol import Hint, NodeFacts, Store

DEMO_WARNING = (
    "DEMO MODE: no handlers are configured, so every job is only simulated by a short sleep; "
    "set TRIOQUEUE_HANDLERS=package.module:handlers"
)

DEMO_REFUSED = (
    "real handlers have served this store, and demo mode would only pretend to run its jobs; "
    "set TRIOQUEUE_HANDLERS=package.module:handlers, or another TRIOQUEUE_STORE"
)


OpenStore = Callable[["Node"], AbstractAsyncContextManager[Store]]
"""Opens the store for a node, until the block ends."""


class Node:
    """One running trioqueue. Make it inside a Trio run, `run` it once.

    What it needs of the world comes from outside, so that a simulation can give it another one: its
    identity, the wall time, randomness, threads and subprocesses, the store. `lazy`: its loops rest
    while nothing happens, see `runtime.rest`; by default under virtual time only. `let_through`: errors
    that end the node although they were raised inside of a handler, because they are not its own.
    """

    def __init__(
        self,
        settings: Settings,
        handlers: Handlers | None = None,
        *,
        id: NodeId | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        spawner: Spawner | None = None,
        open_store: OpenStore | None = None,
        lazy: bool | None = None,
        let_through: tuple[type[BaseException], ...] = (),
    ) -> None:
        self.id = id or new_node_id(socket.gethostname(), os.getpid(), SystemRandom())
        self.draining = trio.Event()
        self.stopped = trio.Event()
        self.grace_seconds = settings.grace_seconds
        self.health = Health()
        self.events = Events()
        self.metrics = Metrics(self.id, workers=settings.worker_count, store=settings.store.partition(":")[0])
        self.handlers = (
            handlers if handlers is not None else DemoHandlers(partial(_simulate, settings.demo_seconds))
        )
        self.is_demo = handlers is None
        self._settings = settings
        self._clock = clock or current_clock()
        self._random = random or Random()
        self._id_random = random or SystemRandom()
        """Ids must not be guessable; jitter may be."""
        self._spawner = spawner or MachineSpawner()
        self._open_store = open_store or Node._open_named_store
        self._rest = Rest(self.health, lazy=lazy)
        self._let_through = let_through
        self._stopping = trio.Event()
        self._cutting = trio.Event()
        self._ended = False
        self._service: Service | None = None
        self._leases: Leases | None = None
        self.events.listen(self._notice)
        if len(self.handlers.types) == 0 and not self.is_demo:
            raise ConfigError(["the handlers registry is empty: nothing could ever run"])

    def __repr__(self) -> str:
        return f"<Node {self.id} {self._leases!r}>"

    @property
    def service(self) -> Service:
        if self._service is None:
            raise RuntimeError("the node has not started yet")
        return self._service

    @property
    def workers(self) -> int:
        return self._settings.worker_count

    @property
    def leases_left(self) -> int:
        return 0 if self._leases is None else len(self._leases)

    def close_intake(self) -> None:
        """From now on new jobs are refused with `Draining`, and readiness is red."""
        self.draining.set()
        self.health.draining = True

    def stop(self) -> None:
        """Close intake, finish what runs within the grace period, end."""
        self.close_intake()
        if not self._stopping.is_set():
            self._stopping.set()
            if self._leases is not None:
                running = self._leases.running
                self.events.publish(
                    NodeDraining(node=self.id, running=running, grace_seconds=self.grace_seconds)
                )

    def cut(self) -> None:
        """As `stop`, without the grace period."""
        self.stop()
        self._cutting.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open the store and run jobs until `stop` was called and the work has ended.

        Started once jobs are accepted. Cancelled from outside, it drains as after `stop` before it
        lets the cancellation through. Raises `ConfigError`, `StoreUnavailable` or `LoopDied`.
        """
        try:
            async with trio.open_nursery() as outside:
                outside.start_soon(self._stop_when_cancelled)
                with trio.CancelScope(shield=True):
                    try:
                        with self._rest.shared():
                            await self._run(task_status)
                    finally:
                        self._ended = True
                outside.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _first_of(group) from None
        finally:
            self.stopped.set()

    async def _stop_when_cancelled(self) -> None:
        """A cancelled host (a second signal, a server that crashed) means drain, not drop."""
        try:
            await trio.sleep_forever()
        finally:
            if not self._ended:
                self.stop()

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        settings = self._settings
        self.events.listen(Logs(settings.log_format, settings.log_level).notice)
        self.events.listen(self.metrics.notice)
        self.events.listen(self._stir)
        async with self._open_store(self) as store:
            upkeep = self._upkeep(store)
            await self._take(store, upkeep)
            supervisor = Supervisor(self.id, self.health, self.events, self._random, self._rest)
            leases = self._leases = Leases(
                store,
                self.id,
                lease_seconds=settings.lease_seconds,
                health=self.health,
                events=self.events,
                rest=self._rest,
            )
            dispatcher = self._dispatcher(store, leases)
            settler = Settler(
                store,
                leases,
                events=self.events,
                health=self.health,
                random=self._random,
                rest=self._rest,
            )
            pool = Pool(
                self._workers(store, leases, settler),
                dispatcher,
                leases,
                settler,
                supervisor,
                capacity=settings.job_queue_capacity,
            )
            self._service = self._make_service(store)
            self._watch(store, dispatcher, leases, pool)
            self.metrics.watch(
                busy=lambda: leases.running,
                counts=self._service.counts,
                due_in=partial(store.next_due_in, self._types),
            )
            try:
                async with trio.open_nursery() as background:
                    background.start_soon(supervisor.keep, "leases", leases.run)
                    background.start_soon(partial(upkeep.run, supervisor, stopping=self._stopping))
                    self._report_start(store)
                    async with trio.open_nursery() as nursery:
                        await nursery.start(
                            partial(
                                pool.run,
                                stopping=self._stopping,
                                cutting=self._cutting,
                                grace_seconds=settings.grace_seconds,
                            )
                        )
                        task_status.started()
                    # No attempt is running any more; what could be settled has been.
                    background.cancel_scope.cancel()
            finally:
                # No handler runs any more, however it came to that: nobody shall wait for a lease.
                with trio.move_on_after(LAST_SETTLES_SECONDS, shield=True), suppress(StoreUnavailable):
                    await leases.give_back()
        # Nothing uses the store now.
        self.events.publish(NodeStopped(node=self.id, leases_left=self.leases_left))

    def _open_named_store(self) -> AbstractAsyncContextManager[Store]:
        """The store that the settings name."""
        run_sync = run_inline if is_virtual() else partial(run_in_thread, limiter=trio.CapacityLimiter(1))
        return open_store(
            self._settings.store,
            clock=self._clock,
            random=self._random,
            node=self.id,
            run_sync=run_sync,
            postgres=postgres_options(self._settings),
        )

    async def _take(self, store: Store, upkeep: Upkeep) -> None:
        """Show that the store can be written, and that it is one for this node."""
        if not await store.dedicate(demo=self.is_demo):
            raise ConfigError([f"{store.url}: {DEMO_REFUSED}"])
        await upkeep.beat()
        self._spawner.kill_orphans()  # before their jobs run again

    @property
    def _types(self) -> frozenset[str] | None:
        return None if self.is_demo else frozenset(self.handlers.types)

    def _workers(self, store: Store, leases: Leases, settler: Settler) -> list[Worker]:
        count = self.workers
        threads = trio.CapacityLimiter(max(count, 1))
        return [
            Worker(
                number,
                store=store,
                handlers=self.handlers,
                leases=leases,
                settler=settler,
                spawner=self._spawner,
                threads=threads,
                max_result_bytes=self._settings.max_payload_bytes,
                clock=self._clock,
                events=self.events,
                let_through=self._let_through,
            )
            for number in range(1, count + 1)
        ]

    def _dispatcher(self, store: Store, leases: Leases) -> Dispatcher:
        return Dispatcher(
            node=self.id,
            store=store,
            leases=leases,
            types=self._types,
            workers=self.workers,
            capacity=self._settings.job_queue_capacity,
            poll_seconds=self._settings.poll_seconds,
            health=self.health,
            random=self._random,
            rest=self._rest,
        )

    def _upkeep(self, store: Store) -> Upkeep:
        types = None if self._types is None else tuple(sorted(self._types))
        return Upkeep(
            store,
            self.id,
            NodeFacts(workers=self.workers, types=types),
            retention=self._settings.retention,
            health=self.health,
            events=self.events,
            random=self._random,
            rest=self._rest,
            spawner=self._spawner,
        )

    def _make_service(self, store: Store) -> Service:
        return Service(
            store,
            self.handlers,
            node=self.id,
            events=self.events,
            clock=self._clock,
            random=self._id_random,
            draining=self.draining,
            max_payload_bytes=self._settings.max_payload_bytes,
        )

    def _watch(self, store: Store, dispatcher: Dispatcher, leases: Leases, pool: Pool) -> None:
        """Wire the store's hints to those who wait for them, and the pool to the health."""
        bells = {Hint.WORK: dispatcher.work.ring, Hint.CANCEL: leases.look_for_cancels}
        store.listen(lambda hint: bells[hint]())
        self.health.watch_workers(lambda: pool.free_workers)

    def _report_start(self, store: Store) -> None:
        self.health.facts = {
            "node": self.id,
            "workers": self.workers,
            "types": "any" if self.is_demo else self.handlers.types,
        }
        self.health.warnings = [*self._settings.warnings, *([DEMO_WARNING] if self.is_demo else [])]
        self.events.publish(
            NodeStarted(
                node=self.id,
                store=store.url,
                workers=self.workers,
                types=self.handlers.types,
                demo=self.is_demo,
                warnings=self.health.warnings,
            )
        )

    def _stir(self, event: Event) -> None:
        """Whoever rests looks again. What a claim or a prune brings about, they know already."""
        if not isinstance(event, AttemptStarted | JobsPruned):
            self._rest.stir()

    def _notice(self, event: Event) -> None:
        """Whoever could not reach the store: readiness is red before the next beat."""
        if isinstance(event, StoreFailed):
            self.health.store_failed(event.reason)


def postgres_options(settings: Settings) -> PostgresOptions:
    """What the settings say about a PostgreSQL store, besides its URL."""
    return PostgresOptions(
        schema=settings.postgres_schema,
        table_prefix=settings.postgres_table_prefix,
        channel=settings.postgres_channel,
        connections=settings.postgres_connections,
        relaxed_durability=settings.relaxed_durability,
    )


async def _simulate(seconds: float, ctx: Context, *, payload: object) -> None:
    """What demo mode runs for every type."""
    await trio.sleep(seconds)


def new_node_id(host: str, pid: int, random: Random) -> NodeId:
    """New at every start: a restarted process must never pass for the one that held the leases."""
    name = re.sub(r"[^a-zA-Z0-9]+", "-", host)[:40].strip("-") or "node"
    return NodeId(f"{name}-{pid}-{random.getrandbits(32):08x}")


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that says what broke; nurseries wrap what loops raise, often more than once."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        rest = [item for item in error.exceptions if not isinstance(item, trio.Cancelled)]
        error = (rest or list(error.exceptions))[0]
    return error
