"""The pool: a dispatcher, a channel, N workers, and the order in which they end."""

from collections.abc import Sequence
from functools import partial

import trio

from trioqueue.jobs.job import Claim
from trioqueue.runtime.dispatcher import Dispatcher
from trioqueue.runtime.leases import Cause, Leases
from trioqueue.runtime.settler import Settler
from trioqueue.runtime.supervise import Supervisor
from trioqueue.runtime.worker import Worker

LAST_SETTLES_SECONDS = 0.5
"""After the grace period, cancelled attempts have this long to be settled before they are left behind."""


class Pool:
    """Runs attempts until it is stopped; then lets those that run finish within the grace period."""

    def __init__(
        self,
        workers: Sequence[Worker],
        dispatcher: Dispatcher,
        leases: Leases,
        settler: Settler,
        supervisor: Supervisor,
        *,
        capacity: int,
    ) -> None:
        self._workers = workers
        self._dispatcher = dispatcher
        self._leases = leases
        self._settler = settler
        self._supervisor = supervisor
        self._capacity = capacity

    def __repr__(self) -> str:
        return f"<Pool {self._leases.running}/{len(self._workers)} running, {self._leases.waiting} waiting>"

    @property
    def free_workers(self) -> int:
        return len(self._workers) - self._leases.running

    async def run(
        self,
        *,
        stopping: trio.Event,
        cutting: trio.Event,
        grace_seconds: float,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run jobs until `stopping` is set, then until the last attempt has ended.

        Attempts that still run after `grace_seconds`, or once `cutting` is set, are cancelled and
        released.
        """
        send, receive = trio.open_memory_channel[Claim](self._capacity)
        async with trio.open_nursery() as cutter:
            async with trio.open_nursery() as attempts:
                attempts.start_soon(self._supervisor.keep, "settler", self._settler.run)
                async with trio.open_nursery() as workers:
                    async with receive:
                        for worker in self._workers:
                            # A worker that broke is started again on a clone of its own channel.
                            work = partial(self._work, worker, receive.clone())
                            workers.start_soon(self._supervisor.keep, f"worker {worker.number}", work)
                    async with send, trio.open_nursery() as dispatching:
                        if self._workers:
                            dispatch = partial(self._dispatcher.run, send)
                            dispatching.start_soon(self._supervisor.keep, "dispatcher", dispatch)
                        task_status.started()
                        await stopping.wait()
                        dispatching.cancel_scope.cancel()
                    # Nothing is claimed any more. The send channel is closed, so that each worker ends
                    # once the attempt that it runs has ended.
                    cutter.start_soon(self._cut, attempts.cancel_scope, cutting, grace_seconds)  # noqa: ASYNC111
                    await self._leases.release_waiting()  # they start elsewhere at once
                # No attempt is running any more. The settler ends when it has recorded them all.
                self._settler.close()
            # What could be settled has been. (The cutter outlives the attempts: it may have to cancel them.)
            cutter.cancel_scope.cancel()

    async def _work(self, worker: Worker, inbox: trio.MemoryReceiveChannel[Claim]) -> None:
        await worker.run(inbox.clone())
        inbox.close()

    async def _cut(self, attempts: trio.CancelScope, cutting: trio.Event, grace_seconds: float) -> None:
        """When the grace period is over: cancel the attempts, give them a moment to be released."""
        with trio.move_on_after(grace_seconds):
            await cutting.wait()
        self._leases.cancel_all(Cause.STOP)
        await trio.sleep(LAST_SETTLES_SECONDS)
        attempts.cancel()
