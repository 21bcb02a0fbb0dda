"""Several nodes on one store: real processes that are started, killed, paused and started again."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException

from tests.crash.audit import Kill
from tests.crash.kill import Ground, HostKind, ask, wait_ready
from tests.web.hosts import Host


@dataclass
class Node:
    """One place for a process. It is started again with a new port and a new name."""

    ground: Ground
    settings: dict[str, str]
    kind: HostKind = "serve"
    outputs: list[str] = field(default_factory=list)
    """What its processes that have ended had written."""
    port: int = 0
    """Of its latest process, also when that is gone: clients may ask at any time."""
    _host: Host | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def host(self) -> Host:
        assert self._host is not None, "it was not started"
        return self._host

    @property
    def pid(self) -> int:
        return self.host.process.pid

    @property
    def has_ended(self) -> bool:
        return self.host.process.poll() is not None

    @property
    def output(self) -> str:
        """Of all its processes."""
        return "".join([*self.outputs, self.host.output() if self._host else ""])

    def start(self) -> None:
        """Without waiting until it is ready."""
        self._host = self._stack.enter_context(self.ground.start(self.kind, **self.settings))
        self.port = self._host.port

    def kill(self) -> Kill:
        sent_at, pid = time.time(), self.pid
        self.host.kill()
        kill = Kill(sent_at, time.time(), pid)
        self.close()
        return kill

    def stop(self) -> int:
        """SIGTERM, as a deploy does it; the exit code."""
        code = self.host.stop().code
        self.close()
        return code

    def pause(self) -> None:
        self.host.signal(signal.SIGSTOP, to="group")

    def resume(self) -> None:
        self.host.signal(signal.SIGCONT, to="group")

    def readiness(self) -> tuple[bool | None, str]:
        """What /readyz says, and its words; None when nobody answers."""
        with suppress(OSError, HTTPException, ValueError):
            status, body = ask(self.host, "/readyz")
            return status == 200, str(body)
        return None, ""

    def close(self) -> None:
        """Whatever is left of its process is killed."""
        if self._host is not None:
            self.outputs.append(self._host.output())
            self._stack.close()
            self._host = None


@contextmanager
def start_nodes(
    ground: Ground, count: int, kind: HostKind = "serve", **settings: str
) -> Iterator[Sequence[Node]]:
    """So many nodes that are ready; whatever is left of them at the end is killed."""
    nodes = [Node(ground, settings, kind) for _ in range(count)]
    with ExitStack() as stack:
        for node in nodes:
            stack.callback(node.close)
            node.start()
        for node in nodes:
            assert wait_ready(node.host), f"not ready:\n{node.output}"
        yield nodes
