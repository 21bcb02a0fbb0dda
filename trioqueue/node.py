"""The composition root: the only file that constructs things. Nesting is the shutdown order.

    store
    └─ upkeep: leases · beat · rescue · prune · watch        (ends last)
       └─ pool: dispatcher → channel → workers → settler     (ends first)

The HTTP server is around it or inside it, as the host has it: `web/lifespan.py` for the hypercorn
command, `web/server.py` for `trioqueue serve`. Both stop the server before they stop the node.
"""

import os
import re
import socket
from contextlib import suppress
from functools import partial
from random import Random, SystemRandom

import trio

from trioqueue.clock import Clock, current_clock, is_virtual, run_in_thread, run_inline
from trioqueue.config import Settings
from trioqueue.errors import ConfigError, StoreUnavailable
from trioqueue.events import Events, JobsPruned, JobsRescued, NodeDraining, NodeStarted, NodeStopped
from trioqueue.health import Health
from trioqueue.jobs.handlers import DemoHandlers, Handlers
from trioqueue.jobs.job import NodeId, Status
from trioqueue.logs import Logs
from trioqueue.runtime.context import Context
from trioqueue.runtime.dispatcher import Dispatcher
from trioqueue.runtime.leases import Leases
from trioqueue.runtime.pool import LAST_SETTLES_SECONDS, Pool
from trioqueue.runtime.processes import kill_orphans
from trioqueue.runtime.settler import Settler
from trioqueue.runtime.supervise import Supervisor
from trioqueue.runtime.worker import Worker
from trioqueue.service import Service
from trioqueue.store.open import open_store
from trioqueue.store.protocol import Hint, Store

BEAT_SECONDS = 5.0
RESCUE_SECONDS = 1.0
PRUNE_SECONDS = 20.0
WATCH_SECONDS = 5.0

RESCUE_BATCH = 500
PRUNE_BATCH = 1000

DEMO_WARNING = (
    "DEMO MODE: no handlers are configured, so every job is only simulated by a short sleep; "
    "set TRIOQUEUE_HANDLERS=package.module:handlers"
)

DEMO_REFUSED = (
    "real handlers have served this store, and demo mode would only pretend to run its jobs; "
    "set TRIOQUEUE_HANDLERS=package.module:handlers, or another TRIOQUEUE_STORE"
)


class Node:
    """One running trioqueue. Make it inside a Trio run, `run` it once."""

    def __init__(
        self,
        settings: Settings,
        handlers: Handlers | None = None,
        *,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        self.id = _new_node_id()
        self.draining = trio.Event()
        self.stopped = trio.Event()
        self.grace_seconds = settings.grace_seconds
        self.health = Health()
        self.events = Events()
        self.handlers = (
            handlers if handlers is not None else DemoHandlers(partial(_simulate, settings.demo_seconds))
        )
        self.is_demo = handlers is None
        self._settings = settings
        self._clock = clock or current_clock()
        self._random = random or Random()
        self._id_random = random or SystemRandom()
        """Ids must not be guessable; jitter may be."""
        self._stopping = trio.Event()
        self._cutting = trio.Event()
        self._ended = False
        self._service: Service | None = None
        self._leases: Leases | None = None
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
        run_sync = run_inline if is_virtual() else partial(run_in_thread, limiter=trio.CapacityLimiter(1))
        opening = open_store(
            settings.store, clock=self._clock, random=self._random, node=self.id, run_sync=run_sync
        )
        async with opening as store:
            await self._take(store)
            supervisor = Supervisor(self.id, self.health, self.events, self._random)
            leases = self._leases = Leases(
                store, self.id, lease_seconds=settings.lease_seconds, health=self.health, events=self.events
            )
            dispatcher = self._dispatcher(store, leases)
            settler = Settler(store, leases, events=self.events, health=self.health, random=self._random)
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
            try:
                async with trio.open_nursery() as upkeep:
                    upkeep.start_soon(supervisor.keep, "leases", leases.run)
                    upkeep.start_soon(supervisor.every, BEAT_SECONDS, "beat", partial(self._beat, store))
                    upkeep.start_soon(
                        supervisor.every, RESCUE_SECONDS, "rescue", partial(self._rescue, store)
                    )
                    upkeep.start_soon(supervisor.every, PRUNE_SECONDS, "prune", partial(self._prune, store))
                    upkeep.start_soon(supervisor.every, WATCH_SECONDS, "watch", partial(self._look, store))
                    upkeep.start_soon(self._say_that_it_stops, store, supervisor)
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
                    upkeep.cancel_scope.cancel()
            finally:
                # No handler runs any more, however it came to that: nobody shall wait for a lease.
                with trio.move_on_after(LAST_SETTLES_SECONDS, shield=True), suppress(StoreUnavailable):
                    await leases.give_back()
        # Nothing uses the store now.
        self.events.publish(NodeStopped(node=self.id, leases_left=self.leases_left))

    async def _take(self, store: Store) -> None:
        """Show that the store can be written, and that it is one for this node."""
        if not await store.dedicate(demo=self.is_demo):
            raise ConfigError([f"{store.url}: {DEMO_REFUSED}"])
        await store.beat(self.id)
        self.health.store_written()
        kill_orphans()  # before their jobs run again

    @property
    def _types(self) -> frozenset[str] | None:
        return None if self.is_demo else frozenset(self.handlers.types)

    def _workers(self, store: Store, leases: Leases, settler: Settler) -> list[Worker]:
        count = self._settings.worker_count
        threads = trio.CapacityLimiter(max(count, 1))
        return [
            Worker(
                number,
                store=store,
                handlers=self.handlers,
                leases=leases,
                settler=settler,
                threads=threads,
                max_result_bytes=self._settings.max_payload_bytes,
                clock=self._clock,
                events=self.events,
            )
            for number in range(1, count + 1)
        ]

    def _dispatcher(self, store: Store, leases: Leases) -> Dispatcher:
        return Dispatcher(
            node=self.id,
            store=store,
            leases=leases,
            types=self._types,
            workers=self._settings.worker_count,
            capacity=self._settings.job_queue_capacity,
            poll_seconds=self._settings.poll_seconds,
            clock=self._clock,
            health=self.health,
            random=self._random,
        )

    def _make_service(self, store: Store) -> Service:
        return Service(
            store,
            self.handlers,
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
            "workers": self._settings.worker_count,
            "types": "any" if self.is_demo else self.handlers.types,
        }
        self.health.warnings = [*self._settings.warnings, *([DEMO_WARNING] if self.is_demo else [])]
        self.events.publish(
            NodeStarted(
                node=self.id,
                store=store.url,
                workers=self._settings.worker_count,
                types=self.handlers.types,
                demo=self.is_demo,
                warnings=self.health.warnings,
            )
        )

    async def _beat(self, store: Store) -> None:
        await store.beat(self.id)
        self.health.store_written()

    async def _say_that_it_stops(self, store: Store, supervisor: Supervisor) -> None:
        """What a stopped node must leave behind, because a handler would not end, is no crash."""
        await self._stopping.wait()
        await supervisor.reach("beat", partial(store.beat, self.id, stopping=True))

    async def _rescue(self, store: Store) -> None:
        jobs = await store.rescue(limit=RESCUE_BATCH)
        if jobs:
            kill_orphans()
            dead = [job.id for job in jobs if job.status is Status.DEAD]
            self.events.publish(JobsRescued(node=self.id, job_ids=[job.id for job in jobs], dead_ids=dead))

    async def _prune(self, store: Store) -> None:
        pruned = await store.prune(self._settings.retention, limit=PRUNE_BATCH)
        if pruned:
            self.events.publish(JobsPruned(node=self.id, pruned=pruned))
        while pruned == PRUNE_BATCH:
            self.health.turn("prune")
            pruned = await store.prune(self._settings.retention, limit=PRUNE_BATCH)

    async def _look(self, store: Store) -> None:
        """How long the first due job has waited: health tells whether that is too long."""
        due_at = await store.next_due_at(self._types)
        overdue = 0.0 if due_at is None else (self._clock.now() - due_at).total_seconds()
        self.health.work_waits(max(overdue, 0.0))


async def _simulate(seconds: float, ctx: Context, *, payload: object) -> None:
    """What demo mode runs for every type."""
    await trio.sleep(seconds)


def _new_node_id() -> NodeId:
    """New at every start: a restarted process must never pass for the one that held the leases."""
    host = re.sub(r"[^a-zA-Z0-9]+", "-", socket.gethostname())[:40].strip("-") or "node"
    return NodeId(f"{host}-{os.getpid()}-{SystemRandom().getrandbits(32):08x}")


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that says what broke; nurseries wrap what loops raise, often more than once."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        rest = [item for item in error.exceptions if not isinstance(item, trio.Cancelled)]
        error = (rest or list(error.exceptions))[0]
    return error
