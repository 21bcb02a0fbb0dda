"""A few connections for many callers.

Law: a call is either cancelled before anything happened, or it runs to its end or its deadline.
Connecting belongs to the pool and not to a caller, so that nobody's deadline cuts it short for the
next one. Who gets what is decided in `_serve()`, which never waits.
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import psycopg
import trio

from trioqueue.clock import held_clock
from trioqueue.errors import StoreUnavailable
from trioqueue.store.postgres.connection import TrioConnection, unavailable

SHORTEST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 1.0
"""How long nobody connects after a failure: twice as long each time, with jitter."""


@dataclass(eq=False, slots=True)
class _Waiter:
    """A caller who waits, and then has one of the two answers."""

    answered: trio.Event = field(default_factory=trio.Event)
    connection: TrioConnection | None = None
    refused: StoreUnavailable | None = None


class Pool:
    """At most `size` connections, each opened when it is needed. Serves while `run()` runs."""

    def __init__(
        self, connect: Callable[[], Awaitable[TrioConnection]], *, size: int, random: Random
    ) -> None:
        self._connect = connect
        self._size = size
        self._random = random
        self._nursery: trio.Nursery | None = None
        self._waiters: deque[_Waiter] = deque()
        self._idle: list[TrioConnection] = []
        """The last one used is the next one used: what it led to is most likely still there."""
        self._lent = 0
        self._connecting = 0
        self._refused: StoreUnavailable | None = None
        """Why connecting failed; None after a success."""
        self._pause_seconds = 0.0
        self._paused_until = 0.0
        self._waking = False
        """A task waits for the end of the pause."""

    def __repr__(self) -> str:
        return (
            f"<Pool of {self._size}: {self._lent} lent, {len(self._idle)} idle, "
            f"{self._connecting} connecting, {len(self._waiters)} waiting>"
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, then close every connection: one that is lent, when it comes back."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None
                self._drop_idle()
                self._serve()

    @asynccontextmanager
    async def connection(self, within: float) -> AsyncIterator[TrioConnection]:
        """A connection for the block, which must end `within` seconds from now, waiting included.

        The caller can be cancelled until the block begins; the block cannot. Raises `StoreUnavailable`
        when there is no connection, when an error in the block means that (see `unavailable`), and when
        the time is up. Then what the block did may have happened or not, its connection is closed, and
        so are the idle ones, which lead to the same silent server. Virtual time stands still meanwhile.
        """
        deadline = trio.current_time() + within
        late = StoreUnavailable(f"no answer within {within:.3g} s")
        with held_clock():
            connection = await self._acquire(deadline, late)
            connection.give_up_at = deadline
            scope = trio.CancelScope(deadline=deadline, shield=True)
            try:
                with scope:
                    yield connection
                if scope.cancelled_caught:
                    self._suspect(connection)
                    raise late
            except psycopg.Error as error:
                if scope.cancel_called:
                    self._suspect(connection)
                    raise late from error
                reason = unavailable(error)
                if connection.closed or (error.sqlstate or "").startswith("57P0"):
                    self._suspect(connection)
                    if reason is not None:  # carried out or not: nobody can know
                        reason = StoreUnavailable(f"no answer, {reason.reason}")
                if reason is None:
                    raise
                raise reason from error
            finally:
                self._take_back(connection)

    async def _acquire(self, deadline: float, late: StoreUnavailable) -> TrioConnection:
        await trio.lowlevel.checkpoint_if_cancelled()
        waiter = _Waiter()
        self._waiters.append(waiter)
        self._serve()
        try:
            if not waiter.answered.is_set():
                with trio.CancelScope(deadline=deadline) as scope:
                    await waiter.answered.wait()
                if scope.cancelled_caught:
                    raise late
        except BaseException:
            if not waiter.answered.is_set():
                self._waiters.remove(waiter)
            elif waiter.connection is not None:  # it came after the cancellation, before this task ran
                self._take_back(waiter.connection)
            raise
        if waiter.connection is None:
            assert waiter.refused is not None
            raise StoreUnavailable(waiter.refused.reason)
        waiter.connection.give_up_at = deadline
        return waiter.connection

    def _serve(self) -> None:
        """Answer those who wait, in their order, as far as can be. Called after every change."""
        while self._waiters and (connection := self._pop_idle()):
            self._lent += 1
            waiter = self._waiters.popleft()
            waiter.connection = connection
            waiter.answered.set()
        if self._nursery is None:
            self._refuse_all(StoreUnavailable("its connections are closed"))
        elif self._refused and trio.current_time() < self._paused_until:
            if self._lent == 0:  # else one will come back
                self._refuse_all(self._refused)
        else:
            free = self._size - self._lent - self._connecting
            for _ in range(min(free, len(self._waiters) - self._connecting)):
                self._connecting += 1
                self._nursery.start_soon(self._connect_one)

    def _refuse_all(self, refused: StoreUnavailable) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            waiter.refused = refused
            waiter.answered.set()

    def _pop_idle(self) -> TrioConnection | None:
        """An idle connection that the server has not ended meanwhile."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_quiet:
                return connection
            connection.discard()
        return None

    async def _connect_one(self) -> None:
        try:
            connection = await self._connect()
        except StoreUnavailable as refused:
            self._pause(refused)
        else:
            self._refused, self._pause_seconds = None, 0.0
            self._keep(connection)
        finally:
            self._connecting -= 1
        self._serve()

    def _pause(self, refused: StoreUnavailable) -> None:
        self._refused = refused
        now = trio.current_time()
        if now >= self._paused_until:  # not one of several that failed together
            wanted = max(SHORTEST_PAUSE_SECONDS, 2 * self._pause_seconds)
            self._pause_seconds = min(LONGEST_PAUSE_SECONDS, wanted)
            self._paused_until = now + self._pause_seconds * self._random.uniform(0.5, 1)

    def _take_back(self, connection: TrioConnection) -> None:
        self._lent -= 1
        self._keep(connection)
        self._serve()

    def _keep(self, connection: TrioConnection) -> None:
        if self._nursery is not None and connection.is_reusable:
            self._idle.append(connection)
        else:
            connection.discard()

    def _suspect(self, connection: TrioConnection) -> None:
        """The server has gone away or fallen silent: the idle connections are not to be trusted either."""
        connection.discard()
        self._drop_idle()

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().discard()
