"""Subprocesses of a handler: in a process group of their own, and none left alive afterwards."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import trio

from trioqueue.clock import held_clock, is_virtual

MARK = "TRIOQUEUE_PROCESS_MARK"
"""An environment variable that descendants inherit: it finds those that left the process group.

Its value names the service's process, so that whoever comes after a service that was killed can
tell its orphans: PID namespace, PID, start time in clock ticks, then a random part for the call.
"""

STDERR_CHARACTERS = 2_000
"""So much of the end of what a failed command wrote to stderr stands beside its error."""

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

    stdout and stderr are captured. With `check`, a non-zero exit raises CalledProcessError, with the
    end of stderr as a note.
    Cancelled, the process group gets SIGTERM, and SIGKILL two seconds later (0.3 when `in_a_hurry`);
    then, on Linux, every descendant that moved to another group or session is killed as well.
    What is left of the group of a command that ended by itself is killed too.
    """
    mark = f"{_process(os.getpid())}-{uuid4().hex}"
    environment = {**(os.environ if env is None else env), MARK: mark}
    leader: list[int] = []

    async def stop(process: trio.Process) -> None:
        with trio.CancelScope(shield=True):
            _signal_group(process.pid, signal.SIGTERM)
            with trio.move_on_after(_term_seconds(in_a_hurry())):
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
    if check and process.returncode != 0:
        error = subprocess.CalledProcessError(process.returncode, command[0], process.stdout, process.stderr)
        error.add_note(process.stderr[-STDERR_CHARACTERS:].decode(errors="replace").strip())
        raise error
    return process


def _term_seconds(hurried: bool) -> float:
    """Virtual time stands still while a subprocess works, so a wait in it would never end."""
    if is_virtual():
        return 0.0
    return HURRIED_TERM_SECONDS if hurried else TERM_SECONDS


def kill_orphans() -> None:
    """Kill what is left of subprocesses whose service has died, of this one's namespace on Linux.

    Their jobs run again; the commands of the attempts that were lost must not run beside them.
    """
    namespace, _, _ = _process(os.getpid()).partition("-")
    for pid, mark in _marks():
        owner_namespace, owner, started, *_ = [*mark.split("-"), "", "", ""]
        if owner_namespace != namespace or not owner.isdigit():
            continue
        if _process(int(owner)) != f"{namespace}-{owner}-{started}":
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


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
    """Live processes whose environment carries this mark."""
    return [pid for pid, other in _marks() if other == mark]


def _marks() -> Iterator[tuple[int, str]]:
    """Live processes that carry any mark. Only Linux shows them; elsewhere the process group must do."""
    if sys.platform != "linux":
        return
    prefix = f"{MARK}=".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it ended meanwhile, or is not ours to look at
                for variable in (entry / "environ").read_bytes().split(b"\0"):
                    if variable.startswith(prefix):
                        yield int(entry.name), variable.removeprefix(prefix).decode(errors="replace")


def _process(pid: int) -> str:
    """One process for good: a PID may be used again, its start time and namespace tell."""
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return f"0-{pid}-0"
    return f"{namespace}-{pid}-{started}"
