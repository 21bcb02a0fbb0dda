"""What a node asks of its machine for its handlers: threads and subprocesses. The only way to them."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import trio

from trioqueue.clock import held_clock
from trioqueue.runtime.processes import kill_orphans, run_process

T = TypeVar("T")


class Spawner(Protocol):
    """Starts what a handler runs outside of Trio."""

    async def run_in_thread(self, call: Callable[[], T], *, limiter: trio.CapacityLimiter) -> T:
        """Run a plain function to its end, however the waiting task is cancelled meanwhile."""

    async def run_process(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        stdin: bytes,
        check: bool,
        cwd: str | os.PathLike[str] | None,
        env: Mapping[str, str] | None,
        in_a_hurry: Callable[[], bool],
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end; cancelled, leave nothing of it alive. See `processes.run_process`."""

    def kill_orphans(self) -> None:
        """Kill the subprocesses that services of this machine have left behind when they died."""


class MachineSpawner:
    """This machine's own threads and subprocesses. Virtual time stands still while they work."""

    async def run_in_thread(self, call: Callable[[], T], *, limiter: trio.CapacityLimiter) -> T:
        with held_clock():
            return await trio.to_thread.run_sync(call, limiter=limiter)

    async def run_process(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        stdin: bytes,
        check: bool,
        cwd: str | os.PathLike[str] | None,
        env: Mapping[str, str] | None,
        in_a_hurry: Callable[[], bool],
    ) -> subprocess.CompletedProcess[bytes]:
        return await run_process(command, stdin=stdin, check=check, cwd=cwd, env=env, in_a_hurry=in_a_hurry)

    def kill_orphans(self) -> None:
        kill_orphans()
