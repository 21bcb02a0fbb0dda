"""Subprocesses of a handler: in a process group of their own, and none left alive afterwards."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from uuid import uuid4

import trio

from trioqueue.clock import held_clock

MARK = "TRIOQUEUE_PROCESS_MARK"
"""An environment variable that descendants inherit: it finds those that left the process group."""

TERM_SECONDS = 2.0
"""How long a cancelled subprocess may clean up between SIGTERM and SIGKILL."""

HURRIED_TERM_SECONDS = 0.3
"""The same when the node's grace period is over already."""


async def run_process(
    command: Sequence[str | os.PathLike[str]],
    *,
    stdin: bytes = b"",
    check: bool = True,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    in_a_hurry: Callable[[], bool] = lambda: False,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end and return it with what it wrote; cancelled, leave nothing of it alive.

    stdout and stderr are captured. With `check`, a non-zero exit raises CalledProcessError.
    Cancelled, the process group gets SIGTERM, and SIGKILL two seconds later (0.3 when `in_a_hurry`);
    then, on Linux, every descendant that moved to another group or session is killed as well.
    What is left of the group of a command that ended by itself is killed too.
    """
    mark = uuid4().hex
    environment = {**(os.environ if env is None else env), MARK: mark}
    leader: list[int] = []

    async def stop(process: trio.Process) -> None:
        with trio.CancelScope(shield=True):
            _signal_group(process.pid, signal.SIGTERM)
            with trio.move_on_after(HURRIED_TERM_SECONDS if in_a_hurry() else TERM_SECONDS):
                await process.wait()
            _kill_all(process.pid, mark)

    async def run(task_status: trio.TaskStatus[trio.Process]) -> None:
        completed.append(
            await trio.run_process(
                [os.fspath(part) for part in command],
                stdin=stdin,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                cwd=cwd,
                env=environment,
                start_new_session=True,
                deliver_cancel=stop,
                task_status=task_status,
            )
        )

    completed: list[subprocess.CompletedProcess[bytes]] = []
    try:
        with held_clock():
            async with trio.open_nursery() as nursery:
                leader.append((await nursery.start(run)).pid)
    finally:
        for pid in leader:
            if completed:
                _signal_group(pid, signal.SIGKILL)
            else:
                _kill_all(pid, mark)
    [process] = completed
    if check:
        process.check_returncode()
    return process


def _kill_all(leader: int, mark: str) -> None:
    """SIGKILL for the group, then for every process that carries the mark, until there is none."""
    _signal_group(leader, signal.SIGKILL)
    for _ in range(10):  # a process may fork between the look and the kill
        marked = _marked(mark)
        if not marked:
            return
        for pid in marked:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _signal_group(leader: int, number: signal.Signals) -> None:
    try:
        os.killpg(leader, number)
    except (ProcessLookupError, PermissionError):
        return  # the group is empty


def _marked(mark: str) -> list[int]:
    """Live processes whose environment carries the mark. Only Linux shows it; elsewhere the group must do."""
    if sys.platform != "linux":
        return []
    needle = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if needle in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue  # it ended meanwhile, or is not ours to look at
    return found
