"""The other processes on the same file: hints between them, and which of them are dead.

Every open store binds a Unix datagram socket in a directory beside the database, and the
directory is the list of who is there. A hint is one byte sent to every other socket. The kernel
refuses a datagram for a socket whose process has ended, however it ended and even across a
restart of the machine: so a refusal is the proof of a death, at once and without a timeout.

Nothing here is needed for correctness. Where sockets cannot be had, nodes poll and leases expire.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote

import trio

from trioqueue.jobs.job import NodeId
from trioqueue.store.protocol import Bell, Hint

HINTS = {Hint.WORK: b"w", Hint.CANCEL: b"c"}
PROBE = b"?"
"""Tells nothing; sending it shows whether anybody is there."""

ADDRESS_BYTES = 107
"""The longest path that fits into a Unix socket address."""


class Neighbours(Protocol):
    """The other processes on the same file, as one store sees them."""

    def listen(self, bell: Bell) -> None:
        """Ring `bell` for every hint from now on, our own and those of others."""

    def ring(self, hint: Hint) -> None:
        """Ring here at once, and soon elsewhere."""

    def dead(self) -> Sequence[NodeId]:
        """The nodes whose process has ended without leaving. They stay dead: a restart is a new node."""

    def forget(self, node: NodeId) -> None:
        """Take a node off the list."""

    async def run(self) -> None:
        """Ring the bells for the hints of others, for ever."""


class SocketNeighbours:
    """One node's socket among the others in `directory`."""

    def __init__(self, directory: Path, node: NodeId) -> None:
        self._directory = directory
        self._name = quote(node, safe="")
        self._bells: list[Bell] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._descriptor: int | None = None
        self._bound = False
        self._untold: set[Hint] = set()

    def __repr__(self) -> str:
        return f"<Neighbours in {self._directory}{'' if self._bound else ', not listening'}>"

    def join(self) -> None:
        """Let the others find this node."""
        with suppress(OSError):
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self._descriptor = os.open(self._directory, os.O_DIRECTORY | os.O_CLOEXEC)
            (self._directory / self._name).unlink(missing_ok=True)
            self._socket.bind(self._address(self._name))
            self._bound = True

    def leave(self) -> None:
        """Tell what is still untold, and be gone. The file goes first: a closed socket looks like a death."""
        self._tell_now()
        if self._bound:
            self.forget(NodeId(unquote(self._name)))
        self._socket.close()
        if self._descriptor is not None:
            os.close(self._descriptor)

    def listen(self, bell: Bell) -> None:
        self._bells.append(bell)

    def ring(self, hint: Hint) -> None:
        """Elsewhere it rings when the tasks that run now have had their turn: once for all."""
        self._ring_here(hint)
        self._untold.add(hint)
        trio.lowlevel.current_trio_token().run_sync_soon(self._tell_now, idempotent=True)

    def dead(self) -> list[NodeId]:
        return [NodeId(unquote(name)) for name in self._others() if self._is_dead(name)]

    def forget(self, node: NodeId) -> None:
        with suppress(OSError):
            (self._directory / quote(node, safe="")).unlink()

    async def run(self) -> None:
        if not self._bound:
            return
        receiver = trio.socket.from_stdlib_socket(self._socket)
        while True:
            heard = {await receiver.recv(1)}
            with suppress(BlockingIOError):
                while True:
                    heard.add(self._socket.recv(1))
            for hint, byte in HINTS.items():
                if byte in heard:
                    self._ring_here(hint)

    def _ring_here(self, hint: Hint) -> None:
        for bell in self._bells:
            bell(hint)

    def _tell_now(self) -> None:
        hints, self._untold = self._untold, set()
        if hints:
            for name in self._others():
                for hint in hints:
                    # Full: it has hints to read already. Refused: rescue() will see to it.
                    with suppress(OSError):
                        self._socket.sendto(HINTS[hint], self._address(name))

    def _is_dead(self, name: str) -> bool:
        try:
            self._socket.sendto(PROBE, self._address(name))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False  # it is slow, or has just left: only its leases can tell
        return False

    def _others(self) -> list[str]:
        try:
            return [file.name for file in self._directory.iterdir() if file.name != self._name]
        except OSError:
            return []

    def _address(self, name: str) -> str:
        """The path of a socket; a long one through the open directory, which Linux lists as a short path."""
        path = os.fspath(self._directory / name)
        if len(os.fsencode(path)) <= ADDRESS_BYTES:
            return path
        return f"/proc/self/fd/{self._descriptor}/{name}"


@contextmanager
def open_neighbours(directory: Path, node: NodeId) -> Iterator[SocketNeighbours]:
    """Be a neighbour of the others in `directory` while the block runs."""
    neighbours = SocketNeighbours(directory, node)
    neighbours.join()
    try:
        yield neighbours
    finally:
        neighbours.leave()
