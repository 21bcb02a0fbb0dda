"""A network between the service and its database that breaks when it is told to.

with start_proxy(server.port) as proxy:
    url = f"postgresql://postgres@127.0.0.1:{proxy.port}/jobs"
    proxy.black_hole()
    proxy.heal()

It runs in a thread of its own, so that tests without Trio can use it. Public methods may be called
from any other thread.
"""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue

import trio

CHUNK = 65536
CHUNKS_ON_THE_WAY = 64
LINGER_NOT = struct.pack("ii", 1, 0)
"""SO_LINGER: whoever closes this socket sends a reset."""


@dataclass(slots=True)
class Counts:
    """Since the proxy began."""

    accepted: int = 0
    """Connections, also those that were never answered."""
    open: int = 0
    """Connections that there are now."""
    reset: int = 0
    bytes_carried: int = 0


@dataclass(eq=False)
class Connection:
    """A client, and after a while the server that it wanted."""

    client: trio.SocketStream
    server: trio.SocketStream | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def reset(self) -> None:
        for stream in (self.client, self.server):
            if stream is not None and stream.socket.fileno() != -1:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        self.scope.cancel()


@dataclass(eq=False)
class Proxy:
    """Passes bytes on, as long as nothing else was said."""

    target_port: int
    port: int = 0
    latency_seconds: float = 0.0
    """For each piece of data, in each direction. May be set at any time."""
    counts: Counts = field(default_factory=Counts)
    _connections: set[Connection] = field(default_factory=set)
    _passable: trio.Event = field(default_factory=trio.Event)
    _token: trio.lowlevel.TrioToken | None = None

    def black_hole(self) -> None:
        """Connections stay open and silent: nothing arrives, nobody is told.

        New ones are accepted and never answered. What was on its way is kept and arrives after `heal`,
        as retransmitted packets do. Data that is sent is still acknowledged by the kernel, so that
        only who waits for an answer can find out.
        """
        self._tell(self._close)

    def heal(self) -> None:
        """No black hole, no latency. What is on its way arrives, in order and late."""
        self.latency_seconds = 0.0
        self._tell(self._passable.set)

    def reset_all(self) -> None:
        """Each connection that there is now ends with a reset, on both sides."""
        self._tell(self._reset)

    async def serve(self, started: Callable[[], None]) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._passable.set()
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1000)
        self.port = listener.socket.getsockname()[1]
        started()
        await trio.serve_listeners(self._serve_client, [listener])

    def stop(self, main: trio.CancelScope) -> None:
        self._tell(main.cancel)

    def _tell(self, action: Callable[[], object]) -> None:
        """Done when this returns."""
        done: SimpleQueue[None] = SimpleQueue()

        def act() -> None:
            action()
            done.put(None)

        assert self._token is not None
        self._token.run_sync_soon(act)
        done.get()

    def _close(self) -> None:
        if self._passable.is_set():
            self._passable = trio.Event()

    def _reset(self) -> None:
        for connection in self._connections:
            connection.reset()
        self.counts.reset += len(self._connections)

    async def _serve_client(self, client: trio.SocketStream) -> None:
        connection = Connection(client)
        self._connections.add(connection)
        self.counts.accepted += 1
        self.counts.open += 1
        try:
            with connection.scope:
                await self._connect(connection)
        except* (OSError, trio.BrokenResourceError):
            connection.reset()  # one side is gone, or there is no server: the other side is told
        finally:
            for stream in (client, connection.server):
                if stream is not None:
                    stream.socket.close()
            self._connections.discard(connection)
            self.counts.open -= 1

    async def _connect(self, connection: Connection) -> None:
        await self._passable.wait()
        client = connection.client
        server = connection.server = await trio.open_tcp_stream("127.0.0.1", self.target_port)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry, client, server)
            nursery.start_soon(self._carry, server, client)

    async def _carry(self, source: trio.SocketStream, target: trio.SocketStream) -> None:
        """One direction, until its end of file."""
        send, receive = trio.open_memory_channel[tuple[float, bytes]](CHUNKS_ON_THE_WAY)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take, source, send)
            async with receive:
                async for due, data in receive:
                    await trio.sleep_until(due)
                    await self._wait_passable()
                    await target.send_all(data)
                    self.counts.bytes_carried += len(data)
            await self._wait_passable()
            await target.send_eof()

    async def _take(
        self, source: trio.SocketStream, send: trio.MemorySendChannel[tuple[float, bytes]]
    ) -> None:
        async with send:
            while True:
                await self._wait_passable()
                data = await source.receive_some(CHUNK)
                if not data:
                    return
                await send.send((trio.current_time() + self.latency_seconds, bytes(data)))

    async def _wait_passable(self) -> None:
        while not self._passable.is_set():
            await self._passable.wait()


@contextmanager
def start_proxy(target_port: int) -> Iterator[Proxy]:
    """A proxy on a free port of 127.0.0.1 before `target_port`, until the block ends."""
    proxy, scope, started = Proxy(target_port), trio.CancelScope(), threading.Event()

    async def main() -> None:
        with scope:
            await proxy.serve(started.set)

    thread = threading.Thread(target=trio.run, args=(main,), name="proxy", daemon=True)
    thread.start()
    assert started.wait(10), "the proxy did not start"
    try:
        yield proxy
    finally:
        proxy.stop(scope)
        thread.join()
