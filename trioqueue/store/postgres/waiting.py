"""psycopg's protocol on Trio.

psycopg speaks to its server in generators that do no waiting: they yield what they want the
socket to be ready for. Everything here is that waiting.
"""

import select
from typing import Any

import psycopg
import trio
from psycopg.abc import RV, PQGen, PQGenConn
from psycopg.waiting import Ready, Wait


async def until_done(generator: PQGen[RV], socket: int) -> RV:
    """Go through with a generator and return what it returns. Lets other tasks run in any case."""
    try:
        wanted = next(generator)
    except StopIteration as done:
        await trio.lowlevel.cancel_shielded_checkpoint()
        return done.value  # type: ignore[no-any-return]
    try:
        while True:
            wanted = generator.send(await _ready(socket, wanted))
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    except (OSError, trio.ClosedResourceError) as error:
        raise psycopg.OperationalError("the connection was closed") from error


async def until_connected(generator: PQGenConn[RV]) -> RV:
    """The same for connecting and cancelling, when each step may have another socket."""
    try:
        socket, wanted = next(generator)
        while True:
            socket, wanted = generator.send(await _ready(socket, wanted))
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    except (OSError, trio.ClosedResourceError) as error:
        raise psycopg.OperationalError(str(error)) from error
    finally:
        generator.close()


def poll(socket: int, wanted: Wait) -> Ready:
    """What of it the socket is ready for now. An error counts as both: who reads or writes sees it."""
    poller = select.poll()
    poller.register(socket, (wanted & Wait.R and select.POLLIN) | (wanted & Wait.W and select.POLLOUT))
    ready = 0
    for _, event in poller.poll(0):
        ready |= Ready.R if event & ~select.POLLOUT else 0
        ready |= Ready.W if event & ~select.POLLIN else 0
    return Ready(ready & wanted)


async def _ready(socket: int, wanted: Wait) -> Ready:
    if wanted == Wait.R:
        await trio.lowlevel.wait_readable(socket)
        return Ready.R
    if ready := poll(socket, wanted):  # nearly always writable: cheaper than asking Trio
        await trio.lowlevel.checkpoint()
        return ready
    async with trio.open_nursery() as nursery:

        async def first(wait: Any) -> None:
            await wait(socket)
            nursery.cancel_scope.cancel()

        nursery.start_soon(first, trio.lowlevel.wait_writable)
        if wanted & Wait.R:
            nursery.start_soon(first, trio.lowlevel.wait_readable)
    return poll(socket, wanted)
