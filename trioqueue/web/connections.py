"""One connection of hypercorn's workers, with an end to everything that a client can drag out."""

import asyncio
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import trio
from hypercorn.asyncio.tcp_server import TCPServer as AsyncioServer
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.tcp_server import TCPServer as TrioServer

from trioqueue.web.limits import Limits

log = logging.getLogger(__name__)

CHUNK_BYTES = 64 * 1024
HASTE = 0.8
"""Of hypercorn's graceful timeout: we hang up first, for hypercorn cancels and leaves tracebacks."""

UNWIND_SECONDS = 0.1
"""After hanging up, hypercorn's tasks may end by themselves; but some wait for data that cannot come."""

LINGER_SECONDS = 0.5
"""So that a client that is turned away can read why, before its unread request resets the connection."""

FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Refused(Exception):
    """The client wants a protocol that is not spoken here; it has its answer, if there is one."""


ORDINARY = (Refused, OSError, trio.BrokenResourceError, trio.ClosedResourceError)
"""Ends of a connection that nobody needs to read of."""


@dataclass(frozen=True)
class HeadBegun(Event):
    """The first bytes of a request head have come."""


class Doors:
    """Counts the open connections."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._open = 0

    @contextmanager
    def entered(self) -> Iterator[bool]:
        """Whether there was room for this connection."""
        self._open += 1
        try:
            yield self._open <= self._capacity
        finally:
            self._open -= 1


class Patience:
    """How long a connection may wait for the client, when no request is in progress."""

    def __init__(self, now: float, *, idle_seconds: float, head_seconds: float) -> None:
        self._idle_seconds = idle_seconds
        self._head_seconds = head_seconds
        self._ends_at = now + idle_seconds
        self._head_has_begun = False

    def note(self, event: Event, now: float) -> None:
        match event:
            case Updated(idle=True):
                self._ends_at = now + self._idle_seconds
                self._head_has_begun = False
            case Updated(idle=False):
                self._ends_at = math.inf
            case HeadBegun() if not self._head_has_begun:
                self._ends_at = now + self._head_seconds
                self._head_has_begun = True

    @property
    def is_busy(self) -> bool:
        return self._ends_at == math.inf

    def left(self, now: float) -> float:
        """Seconds until the connection is to be closed, or to be looked at again."""
        return min(self._ends_at - now, self._idle_seconds, self._head_seconds)


class GuardedTrioServer(TrioServer):
    """One connection of hypercorn's Trio worker."""

    def __init__(self, limits: Limits, doors: Doors, *args: Any) -> None:
        super().__init__(*args)
        self._limits = limits
        self._doors = doors
        self._patience = _patience(self.config, limits, trio.current_time())
        self._allowance = trio.CancelScope()

    async def run(self) -> None:
        try:
            with self._doors.entered() as welcome:
                if not welcome:
                    await self._turn_away()
                    return
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._keep)
                    with self._allowance:
                        await super().run()
                    nursery.cancel_scope.cancel()
        except* Exception as errors:
            _report(errors)
        finally:
            await trio.aclose_forcefully(self.stream)

    async def protocol_send(self, event: Event) -> None:
        match event:
            case RawData(data=data):
                await self._write(data)
            case Updated() | HeadBegun():
                self._patience.note(event, trio.current_time())
            case _:
                await super().protocol_send(event)

    async def _write(self, data: bytes) -> None:
        async with self.send_lock:
            try:
                for start in range(0, len(data), CHUNK_BYTES):
                    with trio.CancelScope(shield=True), trio.fail_after(self._limits.write_seconds):
                        await self.stream.send_all(data[start : start + CHUNK_BYTES])
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                await self._hang_up()
                await self.protocol.handle(Closed())

    async def _hang_up(self) -> None:
        self._allowance.deadline = min(self._allowance.deadline, trio.current_time() + UNWIND_SECONDS)
        await trio.aclose_forcefully(self.stream)

    async def _close(self) -> None:
        await super()._close()
        await self._hang_up()

    async def _keep(self) -> None:
        """Close the connection when patience ends, or a moment after the server has."""
        while not self.context.terminated.is_set() and (left := self._patience.left(trio.current_time())) > 0:
            with trio.move_on_after(left):
                await self.context.terminated.wait()
        if self._patience.is_busy:
            await trio.sleep(self.config.graceful_timeout * HASTE)
        await self._hang_up()

    async def _idle_timeout(self) -> None:
        """`_keep` does this, in one task for the whole connection instead of one for each request."""

    async def _turn_away(self) -> None:
        with trio.move_on_after(LINGER_SECONDS), suppress(trio.BrokenResourceError, AttributeError):
            await self.stream.send_all(FULL)
            await self.stream.send_eof()
            while await self.stream.receive_some(CHUNK_BYTES):
                pass


class GuardedAsyncioServer(AsyncioServer):
    """One connection of hypercorn's asyncio and uvloop workers."""

    def __init__(self, limits: Limits, doors: Doors, *args: Any) -> None:
        super().__init__(*args)
        self._limits = limits
        self._doors = doors
        self._patience = _patience(self.config, limits, self.loop.time())
        self._allowance = asyncio.timeout(None)

    async def run(self) -> None:
        try:
            with self._doors.entered() as welcome:
                if not welcome:
                    await self._turn_away()
                    return
                keeper = self.loop.create_task(self._keep())
                try:
                    async with self._allowance:
                        await super().run()
                finally:
                    keeper.cancel()
        except* Exception as errors:
            _report(errors)
        finally:
            self.writer.transport.abort()

    async def protocol_send(self, event: Event) -> None:
        match event:
            case RawData(data=data):
                await self._write(data)
            case Updated() | HeadBegun():
                self._patience.note(event, self.loop.time())
            case _:
                await super().protocol_send(event)

    async def _write(self, data: bytes) -> None:
        async with self.send_lock:
            try:
                for start in range(0, len(data), CHUNK_BYTES):
                    if self.writer.is_closing():
                        raise ConnectionAbortedError
                    async with asyncio.timeout(self._limits.write_seconds):
                        self.writer.write(data[start : start + CHUNK_BYTES])
                        await self.writer.drain()
            except (OSError, RuntimeError):  # a TimeoutError is an OSError
                self._hang_up()
                await self.protocol.handle(Closed())

    def _hang_up(self) -> None:
        self.writer.transport.abort()
        if self._allowance.when() is None:
            self._allowance.reschedule(self.loop.time() + UNWIND_SECONDS)

    async def _keep(self) -> None:
        """Close the connection when patience ends, or a moment after the server has."""
        terminated = self.context.terminated
        while not terminated.is_set() and (left := self._patience.left(self.loop.time())) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await terminated.wait()
        if not self._patience.is_busy:
            self.writer.close()
        await asyncio.sleep(self.config.graceful_timeout * HASTE)
        self._hang_up()

    async def _idle_timeout(self) -> None:
        """`_keep` does this, in one task for the whole connection instead of one for each request."""

    async def _close(self) -> None:
        # TLS has no half-closed state, which asyncio says with NotImplementedError.
        with suppress(NotImplementedError, OSError, RuntimeError):
            self.writer.write_eof()
        self.writer.close()
        with suppress(OSError, RuntimeError):
            async with asyncio.timeout(self._limits.write_seconds):
                await self.writer.wait_closed()
        self._hang_up()

    async def _turn_away(self) -> None:
        with suppress(OSError, RuntimeError):
            async with asyncio.timeout(LINGER_SECONDS):
                self.writer.write(FULL)
                self.writer.write_eof()
                while await self.reader.read(CHUNK_BYTES):
                    pass


def _patience(config: Config, limits: Limits, now: float) -> Patience:
    return Patience(now, idle_seconds=config.keep_alive_timeout, head_seconds=limits.head_seconds)


def _report(errors: ExceptionGroup[Exception]) -> None:
    for error in errors.exceptions:
        if isinstance(error, ExceptionGroup):
            _report(error)
        elif not isinstance(error, ORDINARY):
            log.warning("ended one connection: %.200s", repr(error))
