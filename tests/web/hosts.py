"""Starts the service as real processes, in every way that people start it, and ends it again.

with start_host("asyncio") as host:
    host.get("/health")
    ended = host.stop(signal.SIGTERM, to="group")
    assert ended.code == 0
"""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["asyncio", "trio", "asyncio-w2", "asyncio-w0", "trio-w0", "serve"]

HYPERCORN: dict[Kind, list[str]] = {
    "asyncio": [],
    "trio": ["-k", "trio"],
    "asyncio-w2": ["-w", "2"],
    "asyncio-w0": ["-w", "0"],
    "trio-w0": ["-w", "0", "-k", "trio"],
}

READY_SECONDS = 20.0
STOP_SECONDS = 15.0

PORTS = range(20_000, 32_000)
_chosen: set[int] = set()
_choosing = threading.Lock()


@dataclass(frozen=True)
class Ended:
    """How the host's first process ended, and how long after the first signal."""

    code: int
    seconds: float


@dataclass
class Host:
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def wait_ready(self, path: str = "/health") -> None:
        """Until an HTTP request gets any answer."""
        wait_until(lambda: self._answers(path), READY_SECONDS, lambda: f"not ready:\n{self.output()}")

    def connect(self, timeout: float = 10.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def send(self, data: bytes, timeout: float = 10.0) -> bytes:
        """Send raw bytes on a new connection and read until the server closes it."""
        with self.connect(timeout) as client:
            client.sendall(data)
            return read_all(client)

    def get(self, path: str) -> bytes:
        """The body of a plain GET on a connection of its own."""
        request = f"GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
        return self.send(request.encode()).partition(b"\r\n\r\n")[2]

    def stop(
        self,
        number: signal.Signals = signal.SIGTERM,
        *,
        to: Literal["parent", "group"] = "parent",
        times: int = 1,
        pause_seconds: float = 0.4,
    ) -> Ended:
        """Send the signal, once or more often, and wait for the end."""
        begin = time.monotonic()
        for index in range(times):
            if index:
                time.sleep(pause_seconds)
            self.signal(number, to=to)
        code = self.process.wait(STOP_SECONDS)
        return Ended(code, time.monotonic() - begin)

    def signal(self, number: signal.Signals, *, to: Literal["parent", "group"] = "parent") -> None:
        with suppress(ProcessLookupError):
            if to == "group":
                os.killpg(self.process.pid, number)
            else:
                os.kill(self.process.pid, number)

    def children(self) -> list[int]:
        """The worker processes of a hypercorn manager, without Python's resource tracker."""
        pids = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                command = (stat.parent / "cmdline").read_bytes()
                if parent == self.process.pid and b"resource_tracker" not in command:
                    pids.append(int(stat.parent.name))
        return pids

    def output(self) -> str:
        """What the processes have written to stdout and stderr so far."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """End the whole process group without asking."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_SECONDS)

    def _answers(self, path: str) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"ended with {self.process.returncode} instead:\n{self.output()}")
        try:
            return self.get(path) != b""
        except OSError:
            return False


@contextmanager
def start_host(
    kind: Kind,
    app: str = "trioqueue.app:app",
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    args: Sequence[str] = (),
    ready: str | None = "/health",
) -> Iterator[Host]:
    """The app under this host on a free port, in a process group of its own.

    Waits until `ready` answers, or not at all with None. Whatever is left at the end is killed.
    """
    port = free_port()
    address = f"127.0.0.1:{port}"
    if kind == "serve":
        command = [
            "-m",
            "trioqueue",
            "serve",
            app,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--access-log",
        ]
    else:
        command = ["-m", "hypercorn", app, "-b", address, "--access-logfile", "-", *HYPERCORN[kind], *args]
    with _start(command, port, env=env, cwd=cwd) as host:
        if ready is not None:
            host.wait_ready(ready)
        yield host


@contextmanager
def start_worker(
    app: str = "trioqueue.app:app", *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[Host]:
    """`trioqueue worker`, which has no port, once it is at work or has ended."""
    with _start(["-m", "trioqueue", "worker", app], 0, env=env, cwd=cwd) as host:
        wait_until(
            lambda: "at work" in host.output() or host.process.poll() is not None, READY_SECONDS, host.output
        )
        yield host


@contextmanager
def _start(
    command: Sequence[str], port: int, *, env: Mapping[str, str] | None, cwd: Path | None
) -> Iterator[Host]:
    """Python with this command, in a process group of its own; whatever is left at the end is killed."""
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "output"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=cwd,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        host = Host(process, port, log)
        try:
            yield host
        finally:
            host.kill()


def free_port() -> int:
    """A port that nobody has, and that is handed out to nobody else.

    Not one of those that the system chooses itself: it could give it to another, who asks at the same
    time, or to some client's connection before the host has bound it.
    """
    while True:
        port = random.choice(PORTS)
        with _choosing, socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _chosen:
                _chosen.add(port)
                return port


def read_all(client: socket.socket) -> bytes:
    """Until the other side closes; a reset counts as closing."""
    received = b""
    with suppress(ConnectionResetError):
        while data := client.recv(65536):
            received += data
    return received


def wait_until(
    condition: Callable[[], bool], seconds: float, explain: Callable[[], str] = lambda: "in vain"
) -> None:
    """Look again and again, for real processes that cannot tell."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.02)
