"""Hints between the nodes on one server, by NOTIFY and LISTEN.

Law: nothing here is needed for correctness, so nothing here fails, blocks or is retried. Whoever
listens also polls. A notification is never part of the transaction that it tells of: committing it
takes a lock that all notifying transactions of a server share.
"""

import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from random import Random

import psycopg
import structlog
import trio
from psycopg import generators, sql

from trioqueue.clock import is_virtual
from trioqueue.errors import StoreUnavailable
from trioqueue.jobs.job import Job
from trioqueue.store.postgres.connection import TrioConnection
from trioqueue.store.postgres.pool import Pool
from trioqueue.store.protocol import Bell, Hint

GAP_SECONDS = 0.05
"""The same is told at most once in so long."""

TELL_SECONDS = 2.0
"""How long telling and LISTEN may take."""

PROOF_SECONDS = 10.0
"""So often the listener proves that it hears, plus or minus a fifth."""

HEARD_WITHIN_SECONDS = 3.0

SHORTEST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
DEAF_PAUSE_SECONDS = 60.0
DEAF_ROUNDS = 3
"""After so many rounds without hearing anything it is no accident."""

PING = "PING"
TELL = "SELECT pg_notify(%s, payload) FROM unnest(%s::text[]) AS payload"

DEAF = (
    "hints of other nodes are not heard, so jobs that they enqueue are found by polling alone; "
    "LISTEN does not work through a pooler in transaction mode"
)


class Hints:
    """Rings bells, here and on the other nodes that use the same `channel` of the same database."""

    def __init__(
        self, pool: Pool, connect: Callable[[], Awaitable[TrioConnection]], *, channel: str, random: Random
    ) -> None:
        """`pool` tells; `connect` opens the connection that listens."""
        self._pool = pool
        self._connect = connect
        self._channel = channel
        self._random = random
        self._bells: list[Bell] = []
        self._origin = secrets.token_hex(8)  # not from `random`: two nodes may have the same seed
        self._untold: set[str] = set()
        self._told_at: dict[str, float] = {}
        self._something_to_tell = trio.Event()
        self._pings = 0
        self._heard = trio.Event()
        """The last ping."""
        self._proven = False
        """The connection that listens now has heard one."""

    def listen(self, bell: Bell) -> None:
        """Ring `bell` for every hint from now on, our own and those of others."""
        self._bells.append(bell)

    def ring(self, hint: Hint, queues: Iterable[str] = ()) -> None:
        """Ring here at once, and elsewhere soon: once for all that is rung meanwhile.

        The names of `queues` travel along, each at its own pace, so that a busy queue never delays the
        news of a quiet one.
        """
        self._ring_here(hint)
        told = {f"{self._origin} {hint.name} {queue}" for queue in set(queues) or {""}}
        if not told <= self._untold:
            self._untold |= told
            self._something_to_tell.set()

    def ring_for(self, due: Sequence[Job]) -> None:
        """Ring for these due jobs, if there are any."""
        if due:
            self.ring(Hint.WORK, {job.queue for job in due})

    async def run(self) -> None:
        """Tell others and hear them, whatever the server does. Returns at once in virtual time."""
        if is_virtual():
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_others)
            nursery.start_soon(self._hear_others)

    def _ring_here(self, hint: Hint) -> None:
        for bell in self._bells:
            bell(hint)

    async def _tell_others(self) -> None:
        while True:
            await self._something_to_tell.wait()
            self._something_to_tell = trio.Event()
            now = trio.current_time()
            self._told_at = {told: at for told, at in self._told_at.items() if now < at + GAP_SECONDS}
            if ripe := self._untold - self._told_at.keys():
                self._untold -= ripe
                self._told_at |= dict.fromkeys(ripe, now)
                await self._notify(sorted(ripe))
            if early := self._untold & self._told_at.keys():
                with trio.move_on_at(min(self._told_at[told] for told in early) + GAP_SECONDS):
                    await self._something_to_tell.wait()
                self._something_to_tell.set()

    async def _notify(self, payloads: list[str]) -> bool:
        with suppress(StoreUnavailable, psycopg.Error):
            async with self._pool.connection(TELL_SECONDS) as connection:
                await connection.execute(TELL, [self._channel, payloads])
            return True
        return False

    async def _hear_others(self) -> None:
        pause, deaf_rounds = SHORTEST_PAUSE_SECONDS, 0
        while True:
            self._proven = False
            deaf = await self._hear_on_one_connection()
            if self._proven:
                pause, deaf_rounds = SHORTEST_PAUSE_SECONDS, 0
            elif deaf:
                deaf_rounds += 1
                if deaf_rounds == DEAF_ROUNDS:
                    structlog.stdlib.get_logger("trioqueue.store").warning(DEAF)
            await trio.sleep(pause * self._random.uniform(0.5, 1))
            longest = DEAF_PAUSE_SECONDS if deaf_rounds >= DEAF_ROUNDS else LONGEST_PAUSE_SECONDS
            pause = min(longest, 2 * pause)

    async def _hear_on_one_connection(self) -> bool:
        """Hear until the connection ends; true when it did not, but proved to be deaf."""
        try:
            connection = await self._connect()
        except StoreUnavailable:
            return False
        deaf = False
        try:
            with trio.fail_after(TELL_SECONDS):
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
            for hint in Hint:  # whatever was told before this moment may have been missed
                self._ring_here(hint)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear, connection, nursery.cancel_scope)
                await self._until_deaf()
                deaf = True
                nursery.cancel_scope.cancel()
        except (psycopg.Error, trio.TooSlowError):
            pass
        finally:
            connection.discard()
        return deaf

    async def _hear(self, connection: TrioConnection, lost: trio.CancelScope) -> None:
        with suppress(psycopg.Error):
            while True:
                notified = await connection.wait(generators.notifies(connection.pgconn))
                self._receive([each.extra.decode("utf8", "replace") for each in notified])
        lost.cancel()

    async def _until_deaf(self) -> None:
        """Prove again and again that notifications arrive; returns when one does not."""
        while True:
            self._pings, self._heard = self._pings + 1, trio.Event()
            if await self._notify([f"{self._origin} {PING} {self._pings}"]):
                with trio.move_on_after(HEARD_WITHIN_SECONDS):
                    await self._heard.wait()
                if not self._heard.is_set():
                    return
                self._proven = True
            await trio.sleep(PROOF_SECONDS * self._random.uniform(0.8, 1.2))

    def _receive(self, payloads: list[str]) -> None:
        hints = set()
        for payload in payloads:
            origin, _, rest = payload.partition(" ")
            name, _, detail = rest.partition(" ")
            if origin != self._origin and name in Hint.__members__:
                hints.add(Hint[name])
            elif origin == self._origin and name == PING and detail == str(self._pings):
                self._heard.set()
        for hint in sorted(hints, key=lambda hint: hint.value):
            self._ring_here(hint)
