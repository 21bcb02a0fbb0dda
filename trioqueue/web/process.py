"""What belongs to the whole process: how it is told to end, and that it does end.

A handler may block the event loop, so being told and ending both work without the loop: in signal
handlers and in threads. Only a host that owns its process uses this, never an embedded app.
"""

import inspect
import math
import multiprocessing
import os
import queue
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from functools import partial
from multiprocessing.connection import wait
from types import FrameType
from typing import NoReturn

import trio

from trioqueue.web.hosted import Hosted
from trioqueue.web.limits import SERVER_SECONDS

Handler = Callable[[int, FrameType | None], None]

SPARE_SECONDS = 0.6
"""What the node gets after its grace period, to settle and to close the store."""

CUT_SECONDS = 1.6
"""What everything gets after the second signal."""

MANAGER_SECONDS = 0.1
"""How often a worker process looks whether its manager wants it to end. (A pipe tells if it died.)"""


class ExitCode(IntEnum):
    """What a process that hosts a node ends with."""

    DRAINED = 0
    GAVE_UP = 3
    CRASHED = 70
    BAD_CONFIG = 78


def end_process(code: ExitCode, last_words: str) -> NoReturn:
    """End now. Raised through a web server, an exit code would arrive as 0, or as a traceback."""
    with suppress(OSError, ValueError):
        if threading.current_thread() is threading.main_thread():
            sys.stdout.flush()  # elsewhere it could wait for the main thread, for ever
        if select.select([], [2], [], 0)[1]:  # as could writing into a full pipe
            os.write(2, f"trioqueue: {last_words}\n".encode(errors="backslashreplace"))
    os._exit(code)


def end_quietly(code: int) -> NoReturn:
    """End now, with everything written and no thread waited for."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def final_state(node: Hosted) -> tuple[ExitCode, str]:
    """What a node comes to whose process ends now, and how to say so."""
    left = node.leases_left
    if node.stopped.is_set() and left == 0:
        return ExitCode.DRAINED, "the work is drained, but the process held on and was ended"
    claims = f"{left} claim" if left == 1 else f"{left} claims"
    return (
        ExitCode.GAVE_UP,
        f"gave up with {claims} still held; a neighbour or the next start takes the jobs over",
    )


def is_hypercorns() -> bool:
    """Whether the hypercorn command owns this process: then we may end it, and hold its signals."""
    main = getattr(sys.modules["__main__"], "__spec__", None)
    return (
        multiprocessing.parent_process() is not None
        or "hypercorn.__main__" in sys.modules
        or (main is not None and main.name == "hypercorn.__main__")
    )


class Watchdog:
    """Ends the process when the time it was armed with is over, whatever still runs in it."""

    def __init__(self, node: Hosted) -> None:
        self._node = node
        # This kind of queue may be filled from a signal handler.
        self._deadlines: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        threading.Thread(target=self._watch, name="trioqueue-watchdog", daemon=True).start()

    def arm(self, seconds: float) -> None:
        """From now the process has this long at most. The earliest deadline counts."""
        self._deadlines.put(time.monotonic() + seconds)

    def dismiss(self) -> None:
        """Watch no more."""
        self._deadlines.put(None)

    def _watch(self) -> None:
        deadline = math.inf
        while True:
            left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
            try:
                asked = self._deadlines.get(timeout=left)
            except queue.Empty:
                end_process(*final_state(self._node))
            if asked is None:
                return
            deadline = min(deadline, asked)


class Ending:
    """The requests to end this process: the first drains, the second cuts."""

    def __init__(self, node: Hosted, watchdog: Watchdog, stop_server: Callable[[], None]) -> None:
        self.asked = trio.Event()
        self._node = node
        self._watchdog = watchdog
        self._stop_server = stop_server
        self._token = trio.lowlevel.current_trio_token()
        self._count = 0

    def ask(self, signum: int = 0, frame: FrameType | None = None) -> None:
        """Called from anywhere: a signal handler, a thread."""
        self._count += 1
        if self._count == 1:
            self._watchdog.arm(SERVER_SECONDS + self._node.grace_seconds + SPARE_SECONDS)
            self._run_soon(self._drain)
        else:
            self._watchdog.arm(CUT_SECONDS)
            self._run_soon(self._node.cut)

    def hurry(self) -> None:
        """The server has ended; from here on only the node needs time."""
        self._watchdog.arm(self._node.grace_seconds + SPARE_SECONDS)

    async def end_without_server(self) -> None:
        """Drain in time even if the server hangs, or cannot be told: claims are given back in any case."""
        await self.asked.wait()
        await trio.sleep(SERVER_SECONDS + SPARE_SECONDS / 4)
        self._node.stop()
        await self._node.stopped.wait()
        await trio.sleep(SPARE_SECONDS / 4)
        end_process(*final_state(self._node))

    def _drain(self) -> None:
        self.asked.set()
        self._node.close_intake()
        self._stop_server()

    def _run_soon(self, function: Callable[[], None]) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function)


def hold_process(node: Hosted, *, is_guest: bool) -> Ending:
    """For a worker of the hypercorn command: hear how it is told to end. For good, until it has ended."""
    watchdog = Watchdog(node)
    if multiprocessing.parent_process() is not None:
        ending = Ending(node, watchdog, stop_server=_do_nothing)  # hypercorn follows the manager as well
        signal.signal(signal.SIGTERM, _ignore)
        signal.signal(signal.SIGHUP, _ignore)
        follow_manager(ending)
    elif is_guest:
        ending = Ending(node, watchdog, stop_server=_do_nothing)  # the asyncio loop hears signals as well
        hold_signals(ending.ask)
    else:
        ending = Ending(
            node, watchdog, stop_server=partial(_interrupt_main_task, signal.getsignal(signal.SIGINT))
        )
        hold_signals(ending.ask)
    return ending


def hold_signals(handler: Handler) -> Callable[[], None]:
    """SIGINT, SIGTERM and the terminal's SIGHUP call `handler`, until the returned function is called.

    An event loop that listens to them as well still hears them: it reads them from a pipe.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # else somebody (nohup) wants it ignored
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}

    def let_go() -> None:
        for number, previous in before.items():
            signal.signal(number, previous)

    return let_go


def follow_manager(ending: Ending) -> None:
    """In a worker process of hypercorn's: end when the manager says so, and when it has died.

    Hypercorn's own worker listens to the same event, but on its loop; and it would outlive a killed
    manager, answering requests for ever.
    """
    manager = multiprocessing.parent_process()
    stop = getattr(multiprocessing.current_process(), "_kwargs", {}).get("shutdown_event")
    if manager is None or stop is None:
        return

    def follow() -> None:
        while not stop.is_set():
            if wait([manager.sentinel], timeout=MANAGER_SECONDS):
                stop.set()
        ending.ask()

    threading.Thread(target=follow, name="trioqueue-manager", daemon=True).start()


def _ignore(signum: int, frame: FrameType | None) -> None:
    """SIGTERM in a worker process, which its manager tells to end by an event.

    The signal comes besides: to the whole process group (systemd), or from the manager itself as soon
    as the first of several workers has ended. A function and not SIG_IGN, which subprocesses inherit.
    """


def _interrupt_main_task(trios_handler: object) -> None:
    """What hypercorn's Trio worker takes for "stop": a KeyboardInterrupt in Trio's main task.

    Trio runs this in a task that is protected from interrupts, so its own handler hands the interrupt
    to the main task, and to no user's code that happens to run.
    """
    if callable(trios_handler):
        trios_handler(signal.SIGINT, inspect.currentframe())


def _do_nothing() -> None:
    pass
