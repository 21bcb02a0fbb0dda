"""`trioqueue serve` for black-box tests: a process of its own, in real time, on a free port."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from trioqueue.config import LENIENT, PREFIX
from trioqueue.jobs.handlers import Handlers
from trioqueue.testing.errors import AlreadyRunning, HandlersNotFound, NoHandlers
from trioqueue.testing.place import Place

START_SECONDS = 30.0
STOP_SECONDS = 30.0
TRIES = 5
"""A port that is free may be taken before the server has it."""


class ServerUnderTest:
    """A running service. It can be stopped, killed, and started again on the same store and port."""

    def __init__(self, directory: Path, environment: Mapping[str, str], port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._environment = {**environment, "PORT": str(port)}
        self._directory = directory
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<ServerUnderTest {self.url}>"

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def output(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Start it again; returns once it listens.

        Raises `AlreadyRunning` when it has not ended, RuntimeError with its last words when it ends
        instead of listening.
        """
        if self.is_running:
            raise AlreadyRunning
        begin = len(self.output())
        command = [sys.executable, "-m", "trioqueue", "serve"]
        with self._log.open("ab") as log:
            process = self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=self._environment, cwd=self._directory
            )
        pause = threading.Event()
        for _ in range(int(START_SECONDS * 50)):
            if "trioqueue: listening on" in self.output()[begin:]:
                return
            if process.poll() is not None:
                break
            pause.wait(0.02)
        self.kill()
        raise RuntimeError(f"the server has not started:\n{self.output()[begin:]}")

    def stop(self) -> int:
        """Shut it down as SIGTERM does; returns its exit code.

        Raises `subprocess.TimeoutExpired` when it has not ended within 30 seconds; then it is killed.
        """
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """As kill -9 does: nothing is said, nothing is finished. Returns its exit code, -9.

        Raises `subprocess.TimeoutExpired` when it has not ended within 30 seconds.
        """
        return self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        process = self._process
        if process is None:
            raise RuntimeError("the server was never started")
        process.send_signal(number)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)
            raise


@contextmanager
def open_server(
    handlers: Handlers | None, place: Place, directory: Path, settings: Mapping[str, Any]
) -> Iterator[ServerUnderTest]:
    """A server of these handlers, until the block ends."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path),
        f"{PREFIX}HANDLERS": _name_of(handlers),
        f"{PREFIX}GRACE_SECONDS": "5",
        **{_variable(name): _text(value) for name, value in {**place.settings, **settings}.items()},
    }
    server = _start(directory, environment)
    try:
        yield server
    finally:
        if server.is_running:
            server.stop()


def _start(directory: Path, environment: Mapping[str, str]) -> ServerUnderTest:
    for last in (*[False] * (TRIES - 1), True):
        server = ServerUnderTest(directory, environment, _free_port())
        try:
            server.start()
        except RuntimeError as error:
            if last or "cannot listen" not in str(error):
                raise
        else:
            return server
    raise AssertionError("the last try raised or returned")


def _name_of(handlers: Handlers | None) -> str:
    """`module:name`, as TRIOQUEUE_HANDLERS takes it."""
    if handlers is None:
        raise NoHandlers
    for module_name, module in list(sys.modules.items()):
        if module_name == "__main__" or not re.fullmatch(r"[\w.]+", module_name):
            continue
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is handlers:
                return f"{module_name}:{name}"
    raise HandlersNotFound


def _variable(field: str) -> str:
    return field.upper() if field in LENIENT else PREFIX + field.upper()


def _text(value: object) -> str:
    if isinstance(value, timedelta):
        return str(value.total_seconds())
    return str(value).lower() if isinstance(value, bool) else str(value)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
