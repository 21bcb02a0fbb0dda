"""Trio as a guest of hypercorn's asyncio worker, which `hypercorn trioqueue.app:app` selects.

The lifespan starts a Trio run on the asyncio loop that is there; each request becomes one Trio task
of it. Both loops share one thread, so either side may call the other's synchronous functions.
Under hypercorn's Trio worker everything passes straight through.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import outcome
import trio

from trioqueue.web.asgi import NOT_RUNNING, App, Message, Receive, Scope, Send, answer
from trioqueue.web.process import ExitCode

T = TypeVar("T")

log = logging.getLogger(__name__)

HIGH_WATER = 16
"""Messages that the app may be ahead of the client."""

READ_AHEAD_SECONDS = 0.005
"""A small body has arrived with its head; waiting this long takes it along in the same wake-up."""

WATCH_DELAY_SECONDS = 0.02
"""After the body only a disconnect can follow; a request shorter than this never looks for one."""

CANCEL_SECONDS = 0.5
"""How long a request that hypercorn cuts may take to end."""


def is_guest() -> bool:
    """Whether this Trio run lives on an asyncio loop. Asked from a Trio task."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Guest:
    """The same app for hypercorn's Trio, asyncio and uvloop workers."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._nursery: trio.Nursery | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if trio.lowlevel.in_trio_task():
            await self._app(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._host(scope, receive, send)
        elif self._nursery is not None:
            await _Exchange(self._app, scope, receive, send).run(self._nursery)
        elif scope["type"] == "http":
            await answer(send, NOT_RUNNING, close=True)
        else:
            await send({"type": "websocket.close", "code": 1013})

    async def _host(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The Trio run, for as long as the lifespan lasts."""
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[outcome.Outcome[None]] = loop.create_future()
        scope_of_all = trio.CancelScope()
        last_words: list[Message] = []

        async def send_from_trio(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await _on_asyncio(loop, lambda: send(message))
            else:  # hypercorn ends the worker upon the others, so they wait until the Trio run is over
                last_words.append(message)

        async def run() -> None:
            with scope_of_all:
                async with trio.open_nursery() as self._nursery:
                    await self._app(scope, lambda: _on_asyncio(loop, receive), send_from_trio)
                    self._nursery.cancel_scope.cancel()

        log.info("Trio runs as a guest of hypercorn's asyncio worker")
        trio.lowlevel.start_guest_run(
            run,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=loop.call_soon,
            done_callback=finished.set_result,
            host_uses_signal_set_wakeup_fd=True,
        )
        try:
            result = await asyncio.shield(finished)
        except asyncio.CancelledError:
            scope_of_all.cancel()
            await finished  # noqa: ASYNC102
            raise
        finally:
            self._nursery = None
        if isinstance(result, outcome.Error):
            log.critical("the Trio run ended", exc_info=result.error)
        if isinstance(result, outcome.Error) or _has_failed(last_words):
            raise SystemExit(ExitCode.CRASHED)  # hypercorn would go on answering, with nobody at work
        for message in last_words:
            await send(message)


def _has_failed(last_words: list[Message]) -> bool:
    return any(message["type"] == "lifespan.shutdown.failed" for message in last_words)


class _Exchange:
    """One request: an asyncio task that talks to hypercorn and a Trio task that runs the app.

    What the app sends is buffered, so a short response costs one switch between the loops.
    """

    def __init__(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[Message] = deque()
        self._outbox: deque[Message] = deque()
        self._news = asyncio.Event()  # something is in the outbox, or the app has returned
        self._room = trio.Event()
        self._cancel_scope = trio.CancelScope()
        self._is_complete = False
        self._result: outcome.Outcome[None] | None = None

    async def run(self, nursery: trio.Nursery) -> None:
        """The asyncio side."""
        await self._read_ahead()
        nursery.start_soon(self._call_app)
        try:
            await self._flush()
        except BaseException:
            self._cancel_scope.cancel()
            with suppress(TimeoutError):
                # asyncio cancels once, so this may wait; it has its own limit.
                async with asyncio.timeout(CANCEL_SECONDS):  # noqa: ASYNC102
                    await self._discard()  # noqa: ASYNC102
            raise
        assert self._result is not None
        self._result.unwrap()

    async def _read_ahead(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(READ_AHEAD_SECONDS):
                while not self._is_complete and len(self._inbox) < HIGH_WATER:
                    self._inbox.append(await self._next())

    async def _flush(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._outbox:
                await self._send(self._outbox.popleft())
                if len(self._outbox) < HIGH_WATER:
                    self._room.set()
            if self._result is not None:
                return

    async def _discard(self) -> None:
        while self._result is None:
            await self._news.wait()
            self._news.clear()
            self._outbox.clear()
            self._room.set()

    async def _next(self) -> Message:
        message = await self._receive()
        self._is_complete = not message.get("more_body", False)
        return message

    async def _call_app(self) -> None:
        """The Trio side."""
        try:
            with self._cancel_scope:
                await self._app(self._scope, self._receive_from_trio, self._send_from_trio)
            self._result = outcome.Value(None)
        except Exception as error:
            self._result = outcome.Error(error)
        finally:
            if self._result is None:  # the whole run is being cancelled
                self._result = outcome.Value(None)
            self._news.set()

    async def _receive_from_trio(self) -> Message:
        if self._inbox:
            return self._inbox.popleft()
        if self._is_complete:
            await trio.sleep(WATCH_DELAY_SECONDS)
        return await _on_asyncio(self._loop, self._next)

    async def _send_from_trio(self, message: Message) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._outbox.append(message)
        self._news.set()
        while len(self._outbox) >= HIGH_WATER:
            self._room = trio.Event()
            await self._room.wait()


async def _on_asyncio(loop: asyncio.AbstractEventLoop, function: Callable[[], Awaitable[T]]) -> T:
    """Await an asyncio coroutine from a Trio task; Trio's cancellation becomes asyncio's."""
    trio_task = trio.lowlevel.current_task()
    raise_cancel: Callable[[], object] | None = None

    async def call() -> T:
        return await function()

    def resume(done: asyncio.Task[T]) -> None:
        if done.cancelled() and raise_cancel is not None:
            trio.lowlevel.reschedule(trio_task, outcome.capture(raise_cancel))
        else:
            trio.lowlevel.reschedule(trio_task, outcome.capture(done.result))

    def abort(cancel: Callable[[], object]) -> trio.lowlevel.Abort:
        nonlocal raise_cancel
        raise_cancel = cancel
        task.cancel()
        return trio.lowlevel.Abort.FAILED  # not yet: the asyncio side must have let go first

    task = loop.create_task(call())
    task.add_done_callback(resume)
    result: T = await trio.lowlevel.wait_task_rescheduled(abort)
    return result
